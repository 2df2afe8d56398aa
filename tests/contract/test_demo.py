"""`vmdns demo`, as a user meets it: what it prints can be typed, and every command says that it is a simulation."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.reversename
import pytest

from tests.contract.test_run import Run
from tests.fakeprogram import write_program
from vmdns import cli_format
from vmdns.commands import command_name
from vmdns.server.listeners import bind

STANDING = ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4")
KOREAN = "xn--hk3b17f.local."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="v", dir=None if sys.platform == "win32" else "/tmp") as place:
        yield Path(place)


def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
    """Starts `vmdns demo` where `Run` starts `vmdns run`."""
    at = command.index("run")
    return subprocess.Popen([*command[:at], "demo", *command[at + 1 :]], **more)


@pytest.fixture(scope="module")
def demo(folder: Path) -> Iterator[Run]:
    """A demo on free ports, in an environment where dig is found, and answers nothing."""
    try:
        bind(STANDING[0], 0).close()
    except OSError:
        pytest.skip(f"{STANDING[0]} is no address of this computer")
    programs = folder / "bin"
    programs.mkdir()
    for name in ("dig", "dig.exe"):
        (programs / name).write_text("")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    one = Run(folder, "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9", environ={"PATH": path}, start=start)
    try:
        one.saw("Ctrl-C ends it")
        yield one
    finally:
        one.stop()


def dig(line: str) -> list[str]:
    """The data that a DNS client gets for this command line of dig."""
    server, port, *rest = shlex.split(line, comments=True)[1:]
    assert (server[0], port) == ("@", "-p")
    number, *words = rest
    words = [word for word in words if not word.startswith("+")]
    query = (
        dns.message.make_query(dns.reversename.from_address(words[1]), "PTR")
        if words[0] == "-x"
        else dns.message.make_query(words[0], "A")
    )
    reply = dns.query.udp(query, server[1:], port=int(number), timeout=5)
    return [str(rdata) for rrset in reply.answer for rdata in rrset]


def test_the_printed_lines_work_as_printed(demo: Run) -> None:
    lines = [line for line in demo.lines if line.startswith("  dig ")]
    assert [dig(line) for line in lines] == [["192.168.56.110"], ["10.0.2.10"], [KOREAN]]


def test_loopback_addresses_stand_for_networks(demo: Run) -> None:
    def found(name: str, address: str) -> list[str]:
        return dig(f"dig @{address} -p {demo.port} {name}")

    assert {where: found("web.local", where) for where in ("127.0.0.1", *STANDING)} == {
        "127.0.0.1": ["127.0.0.1"],  # by a port-forward rule of the NAT Network
        "127.0.1.1": ["10.0.2.4"],
        "127.0.1.2": ["198.18.53.2"],
        "127.0.1.3": ["192.168.56.1"],
        "127.0.1.4": ["192.168.1.20"],
    }
    assert dig(f"dig @127.0.1.1 -p {demo.port} -x 10.0.2.4") == ["web.local."]
    assert dig(f"dig @127.0.1.2 -p {demo.port} -x 10.0.2.4") == [KOREAN]


@pytest.mark.parametrize(
    "words",
    [("names",), ("ask", "db"), ("status",), ("doctor",), ("config",), ("hosts",)],
    ids=lambda words: words[0],
)
def test_each_command_says_that_it_is_a_simulation(demo: Run, words: tuple[str, ...]) -> None:
    text = demo.command(*words)
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.lstrip("# ").startswith("This is a simulation (vmdns demo)")
    told = json.loads(demo.command(*words, "--json").stdout)
    assert told["simulation"].startswith("This is a simulation")


def test_it_says_so_itself(demo: Run) -> None:
    assert demo.lines[0].startswith("This is a simulation")
    assert "this is a simulation" in demo.saw("ready:")
    assert not [line for line in demo.lines if "multicast" in line]


def test_the_watch_says_so_and_shows_the_changes(demo: Run) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "vmdns", "names", "--watch"],
        env={**demo.environ, "PYTHONIOENCODING": "utf-8"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        lines = (line.decode() for line in watch.stdout)
        assert next(lines).startswith("This is a simulation")
        assert next(line for line in lines if re.match(r"\d\d:\d\d:\d\d [-+~] ", line))
    finally:
        watch.kill()
        watch.communicate(timeout=10)


@pytest.mark.parametrize("words", [("host",), ("host", "--apply"), ("hosts", "--apply"), ("hosts", "--keep")])
def test_nothing_of_this_computer_is_changed_for_it(demo: Run, words: tuple[str, ...]) -> None:
    done = demo.command(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert "this is a simulation (vmdns demo), for which nothing is changed" in done.stderr


def test_ask_takes_the_loopback_addresses(demo: Run) -> None:
    assert "10.0.2.10" in demo.command("ask", "db", "--as", "127.0.1.1").stdout
    assert "192.168.56.110" in demo.command("ask", "db", "--as", "127.0.1.2").stdout
    assert "10.0.2.10" in demo.command("ask", "db", "--as", "web").stdout


def test_a_real_vmdns_comes_first_and_demo_names_the_other(demo: Run, folder: Path) -> None:
    real = Run(folder, "--listen", "127.0.0.1:0")
    try:
        real.saw("ready:")
        assert "simulation" not in real.command("status").stdout
        assert "simulation" in real.command("status", "--demo").stdout
        assert "192.168.56.110" in real.command("ask", "db", "--demo").stdout
    finally:
        real.stop()
    assert "simulation" in demo.command("status").stdout


def test_run_names_the_demo_where_no_virtualbox_is(short: Path) -> None:
    if any(Path(place, "VBoxSVC").exists() for place in ("/usr/lib/virtualbox", "/opt/VirtualBox")):
        pytest.skip("a real VirtualBox is installed here")
    run = Run(short, "--listen", "127.0.0.1:0")
    try:
        assert run.saw("VirtualBox is not installed here").endswith(
            "(to see vmdns work without VirtualBox: vmdns demo)"
        )
    finally:
        run.stop()


def test_without_dig_the_lines_are_commands_of_vmdns(short: Path) -> None:
    one = Run(short, "--listen", "127.0.0.1:0", "--wire", environ={"PATH": str(short)}, start=start)
    try:
        one.saw("Ctrl-C ends it")
        assert "--wire does nothing in a simulation" in one.lines
        lines = [shlex.split(line, comments=True) for line in one.lines if line.startswith("  vmdns ask ")]
        told = [one.command(*words[1:], "--json").stdout for words in lines]
        found = [json.loads(text)["answer"][0].split()[-1] for text in told]
        assert found == ["192.168.56.110", "10.0.2.10", KOREAN]
    finally:
        assert one.stop() == 0


def test_without_a_demo_none_is_asked(short: Path) -> None:
    real = Run(short, "--listen", "127.0.0.1:0")
    try:
        real.saw("ready:")
        done = real.command("status", "--demo")
        assert (done.returncode, done.stdout) == (3, "")
        assert "no vmdns demo runs; start one with: vmdns demo" in done.stderr
    finally:
        real.stop()


@pytest.mark.parametrize(
    ("called", "in_path", "name"),
    [(".venv/bin/vmdns", False, ".venv/bin/vmdns"), ("/v/bin/vmdns", True, "vmdns"), ("__main__.py", False, "vmdns")],
)
def test_messages_name_the_command_as_the_user_called_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, called: str, in_path: bool, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [called, "run"])
    if in_path:
        write_program(tmp_path / "vmdns", "")
    assert command_name() == name
    finding = {"subject": "vmdns", "level": "problem", "text": "no vmdns runs", "command": "vmdns run"}
    assert f"      {name} run" in cli_format.doctor({"findings": [finding], "verdict": "1 problem"})


@pytest.mark.skipif(sys.platform != "win32", reason="the launcher of Windows")
def test_the_path_of_the_command_is_short_below_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for called, name in (
        (os.path.abspath(r".venv\Scripts\vmdns"), r".venv\Scripts\vmdns"),
        (r"C:\v\vmdns", r"C:\v\vmdns"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert command_name() == name
