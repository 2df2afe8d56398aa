"""Texts that steer a terminal, from every place that strangers write to, through the real exits of a `vmdns run`.

A played worker reports them: names of VMs, networks, interfaces, port-forward rules, values of guest properties, what
VirtualBox says in its errors. Nothing of them comes out raw, of the server or of any command, or gets into a block for
the hosts file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.edns
import dns.message
import dns.query
import pytest

from tests.contract.test_run import Run
from tests.facts import mac, uuid
from vmdns.state.facts import (
    Adapter,
    DhcpServer,
    Fact,
    GuestReport,
    HostAddress,
    HostInterface,
    Lease,
    Machine,
    NatNetwork,
    Network,
    PortForward,
    to_json,
)

EVIL = "x\n127.0.0.1 bank.example\r\x1b]0;t\x07\x1b[2J\x9b31m\u2028y\u2029\u202ez\u2066\x00\x85\u200b\ud800\x7f"

WORKER = """
import json, sys
sys.stdin.readline()
for line in open(sys.argv[1], "rb"):
    sys.stdout.buffer.write(line)
sys.stdout.flush()
sys.stdin.read()
"""
SERVER = """
import sys
from functools import partial
from vmdns import cli
from vmdns.daemon import app
app.run = partial(app.run, worker=[sys.executable, "-c", {worker!r}, {told!r}])
sys.exit(cli.main(sys.argv[1:]))
"""


def world() -> list[Fact]:
    wire, other = Network("hostonly", "vboxnet0" + EVIL), Network("natnetwork", EVIL)
    rule = PortForward(EVIL, "tcp", "", 2222, "", 22)
    return [
        HostAddress("vboxnet0" + EVIL, "192.168.56.1/24"),
        HostInterface("vboxnet0" + EVIL, "192.168.56.1/24"),
        DhcpServer("HostInterfaceNetworking-vboxnet0" + EVIL, "192.168.56.100", "255.255.255.0"),
        NatNetwork(EVIL, "10.0.2.0/24", forwards=(PortForward(EVIL, "tcp", "", 2223, "10.0.2.4", 80),)),
        Machine(uuid(1), EVIL, "Running", ("/" + EVIL,), (Adapter(0, mac(1), wire), Adapter(1, mac(2), other)),
                (GuestReport(mac(1), "8.8.8.8", time.time()), GuestReport(mac(2), EVIL, time.time())), (EVIL,)),
        Machine(uuid(2), EVIL, "Running", adapters=(Adapter(0, mac(3), Network("nat"), forwards=(rule,)),)),
        Machine(uuid(3), "off" + EVIL, "PoweredOff"),
        Machine(uuid(4), "wpad", "Running", adapters=(Adapter(0, mac(4), wire, cable=False),)),
        Lease("HostInterfaceNetworking-vboxnet0" + EVIL, mac(1), "192.168.56.101", time.time() - 5, time.time() + 600),
    ]  # fmt: skip


def told() -> list[dict[str, Any]]:
    facts = [to_json(one) for one in world()]
    return [
        {"found": {"version": EVIL, "reader": "api", "home": "/" + EVIL}, "detail": EVIL},
        {"put": "addresses", "facts": {str(at): one for at, one in enumerate(facts) if one["is"] == "HostAddress"}},
        {"put": "leases", "facts": {str(at): one for at, one in enumerate(facts) if one["is"] == "Lease"}},
        {"put": "virtualbox", "facts": {str(at): one for at, one in enumerate(facts)}},
        {"trouble": "leases", "text": f"{EVIL} cannot be read"},
        {"put": "virtualbox", "facts": {"bad": {"is": EVIL}}},
        {"patch": "virtualbox", "facts": {"1": None}},
        {"patch": "virtualbox", "facts": {"1": facts[1]}},
    ]


@pytest.fixture
def run(short: Path) -> Iterator[Run]:
    file = short / "told"
    file.write_text("".join(json.dumps(one) + "\n" for one in told()))
    code = SERVER.format(worker=WORKER, told=str(file))

    def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, *command[3:]], **more)

    one = Run(short, "--listen", "127.0.0.1:0", start=start)
    try:
        one.saw("ready:")
        one.saw("cannot be read")
        one.saw("made no sense")
        yield one
    finally:
        one.stop()


def steering(text: str) -> list[str]:
    """The characters of an output that steer, but for the ends of its own lines."""
    return [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\n"]


COMMANDS = [
    ["names"], ["status"], ["ask", "x"], ["ask", "off-x"], ["ask", uuid(3) + ".local"], ["ask", EVIL.replace("\0", "")],
    ["ask", "web.local", "--as", EVIL.replace("\0", "")], ["hosts"], ["doctor"],
    ["wire", "--network", "\x1b[31m\u202e"],
]  # fmt: skip


def test_nothing_of_it_comes_out_raw(run: Run) -> None:
    printed = []
    for words in COMMANDS:
        # What no system passes on a command line comes by other ways only.
        done = run.command(*(word.replace("\ud800", "") for word in words))
        printed.append((words, done.stdout + done.stderr))
        assert done.stdout + done.stderr, words
    run.stop()
    printed.append((["run"], "\n".join(run.lines)))
    for words, text in printed:
        own = text.replace("\t", "") if words == ["hosts"] else text
        assert not steering(own), (words, text)
        assert not [line for line in text.split("\n") if line.startswith("127.0.0.1 bank")], (words, text)
    everything = "".join(text for _, text in printed)
    assert everything.count("\\x1b") > 10, "they were shown, escaped"


def test_json_is_ascii_and_whole(run: Run) -> None:
    for words in (["names"], ["status"], ["ask", "x"], ["doctor"], ["hosts"]):
        done = run.command(*words, "--json")
        assert done.stdout.isascii()
        assert not steering(done.stdout)
        json.loads(done.stdout)
    names = json.loads(run.command("names", "--json").stdout)["names"]
    assert EVIL in {one["vm"] for one in names}, "JSON tells it as it is"


def test_a_watch_shows_it_escaped(run: Run) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "vmdns", "names", "--watch"],
        env=run.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        first = watch.stdout.readline().decode()
        assert first.startswith("NAME")
        run.stop()
        text = watch.stdout.read().decode().replace(os.linesep, "\n")
    finally:
        watch.kill()
        watch.wait()
    assert "192.168.56.101" in text
    assert not steering(text)


def test_the_block_of_the_hosts_file_has_names_alone(run: Run) -> None:
    block = json.loads(run.command("hosts", "--json").stdout)["block"]
    assert block
    for line in block:
        assert re.fullmatch(r"[0-9a-f.:]+\t[a-z0-9.-]+( [a-z0-9.-]+)*", line, re.ASCII), line
        assert not re.search(r"\sbank", line)


def test_what_askers_are_told_is_escaped(run: Run) -> None:
    texts = []
    for number in (3, 2, 4):
        question = dns.message.make_query(f"{uuid(number)}.local", "A", use_edns=True)
        found = dns.query.udp(question, "127.0.0.1", port=run.port, timeout=5)
        texts += [option.text or "" for option in found.options if isinstance(option, dns.edns.EDEOption)]
    assert texts
    assert not steering("".join(texts))
