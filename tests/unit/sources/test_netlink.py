"""The host's addresses and neighbours as Linux tells them, in namespaces of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.sources.twohosts import GUEST_MAC, TwoHosts, missing, two_hosts

pytestmark = pytest.mark.skipif(bool(reason := missing()), reason=reason)
PATIENCE = 30.0

# Reports as the worker does, and which reported addresses could not be bound at once.
PROGRAM = """
import json, socket, sys
from vmdns.sources.host_network import HostWatcher
from vmdns.sources.worker import WorkerOutput

class Output(WorkerOutput):
    def report(self, source, facts):
        for fact in facts.values() if source == "addresses" else ():
            address = fact.prefix.partition("/")[0]
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
                try:
                    probe.bind((address, 0))
                except OSError as error:
                    self.send({"unbound": fact.prefix})
        super().report(source, facts)

watcher = HostWatcher(Output(sys.stdout.buffer))
watcher.start()
for line in sys.stdin:
    watcher.request_look(line.strip())
"""


class Watched:
    """A watcher in the host's namespace: its messages, and the facts that they make."""

    def __init__(self, namespace: str) -> None:
        self.messages: list[dict[str, Any]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            with self._news:
                self.messages.append(message)
                for key, fact in message.get("facts", {}).items():
                    if fact is None:
                        del self.facts[key]
                    else:
                        self.facts[key] = fact
                self._news.notify_all()

    def until(self, condition: Callable[[], object]) -> object:
        with self._news:
            assert self._news.wait_for(condition, PATIENCE), self.messages[-5:]
        return condition()

    def ask(self, source: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(source + "\n")
        self.process.stdin.flush()

    def addresses(self, interface: str) -> list[str]:
        found = [one for one in self.facts.values() if one["is"] == "HostAddress"]
        return sorted(one["prefix"] for one in found if one["interface"] == interface)

    def neighbours(self, interface: str = "lan0") -> list[tuple[str, str]]:
        found = [one for one in self.facts.values() if one["is"] == "Neighbour"]
        return sorted((one["mac"], one["address"]) for one in found if one["interface"] == interface)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


@pytest.fixture
def watched(hosts: TwoHosts) -> Iterator[Watched]:
    made = Watched(hosts.host)
    try:
        made.until(lambda: [one for one in made.messages if "put" in one][1:])
        yield made
    finally:
        made.process.send_signal(signal.SIGCONT)
        made.close()


def test_addresses_come_and_go(hosts: TwoHosts, watched: Watched) -> None:
    assert watched.addresses("lo") == ["127.0.0.1/8", "::1/128"]
    assert watched.addresses("lan0") == []  # its link-local one is none
    hosts.ip(hosts.host, "addr", "add", "198.18.53.1/32", "dev", "lo")
    watched.until(lambda: "198.18.53.1/32" in watched.addresses("lo"))
    hosts.ip(hosts.host, "addr", "add", "192.0.2.1/24", "dev", "lan0")
    hosts.ip(hosts.host, "addr", "add", "2001:db8::1/64", "dev", "lan0")
    watched.until(lambda: watched.addresses("lan0") == ["192.0.2.1/24", "2001:db8::1/64"])
    hosts.ip(hosts.host, "link", "set", "lan0", "down")
    watched.until(lambda: watched.addresses("lan0") == [])
    hosts.ip(hosts.host, "link", "set", "lan0", "name", "lan1")
    hosts.ip(hosts.host, "link", "set", "lan1", "up")
    watched.until(lambda: watched.addresses("lan1") == ["192.0.2.1/24"])
    hosts.ip(hosts.host, "addr", "del", "198.18.53.1/32", "dev", "lo")
    watched.until(lambda: watched.addresses("lo") == ["127.0.0.1/8", "::1/128"])
    hosts.ip(hosts.host, "link", "del", "lan1")
    watched.until(lambda: watched.addresses("lan1") == [])
    assert [one for one in watched.messages if "unbound" in one or "trouble" in one] == []


def test_a_duplicate_address_is_none(hosts: TwoHosts, watched: Watched) -> None:
    hosts.ip(hosts.guest, "addr", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
    hosts.ip(hosts.host, "addr", "add", "2001:db8::9/64", "dev", "lan0")
    hosts.ip(hosts.host, "addr", "add", "2001:db8::1/64", "dev", "lan0")  # takes as long
    watched.until(lambda: "2001:db8::1/64" in watched.addresses("lan0"))
    assert watched.addresses("lan0") == ["2001:db8::1/64"]


def test_a_guest_is_known_by_its_first_packet(hosts: TwoHosts, watched: Watched) -> None:
    for name, one in ((hosts.host, "lan0"), (hosts.guest, "eth0")):
        number = 1 if one == "lan0" else 2
        hosts.ip(name, "addr", "add", f"192.0.2.{number}/24", "dev", one)
        hosts.ip(name, "addr", "add", f"2001:db8::{number}/64", "dev", one, "nodad")
    assert watched.neighbours() == []
    for own, address in (("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")):
        began = time.time()
        packet = "import socket, sys; f = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET; "
        packet += "socket.socket(f, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 53))"
        hosts.run(hosts.guest, sys.executable, "-c", packet, address)
        watched.until(lambda own=own: (GUEST_MAC, own) in watched.neighbours())
        (seen,) = [one["since"] for one in watched.facts.values() if one.get("address") == own]
        print(f"{own}: known {1000 * (seen - began):.1f} ms after a Python that sends a packet was started")
    assert watched.neighbours() == [(GUEST_MAC, "192.0.2.2"), (GUEST_MAC, "2001:db8::2")]

    def neigh(*arguments: str) -> None:
        hosts.ip(hosts.host, "neigh", *arguments, "dev", "lan0")

    before = dict(watched.facts)
    neigh("change", "192.0.2.2", "nud", "stale")
    neigh("replace", "192.0.2.3", "lladdr", "08:00:27:00:00:03", "nud", "stale")
    neigh("replace", "169.254.1.1", "lladdr", "08:00:27:00:00:03", "nud", "stale")
    watched.until(lambda: ("080027000003", "192.0.2.3") in watched.neighbours())
    neigh("replace", "192.0.2.3", "lladdr", "08:00:27:00:00:04", "nud", "reachable")
    watched.until(lambda: ("080027000004", "192.0.2.3") in watched.neighbours())
    neigh("change", "192.0.2.3", "nud", "failed")
    watched.until(lambda: watched.neighbours() == [(GUEST_MAC, "192.0.2.2"), (GUEST_MAC, "2001:db8::2")])
    assert watched.facts == before  # seen first when they were
    neigh("del", "192.0.2.2")
    watched.until(lambda: watched.neighbours() == [(GUEST_MAC, "2001:db8::2")])
    hosts.ip(hosts.guest, "link", "set", "eth0", "down")
    hosts.ip(hosts.host, "link", "set", "lan0", "down")
    watched.until(lambda: watched.neighbours() == [])


def test_a_requested_look_is_confirmed(hosts: TwoHosts, watched: Watched) -> None:
    for source in ("neighbours", "addresses", "neighbours", "weather"):
        watched.messages.clear()
        watched.ask(source)
        watched.until(lambda source=source: {"looked": source} in watched.messages)
    assert watched.messages == [{"looked": "weather"}]


def test_messages_that_the_kernel_dropped_are_made_good(hosts: TwoHosts, watched: Watched) -> None:
    hosts.ip(hosts.host, "addr", "add", "192.0.2.1/16", "dev", "lan0")
    watched.until(lambda: watched.addresses("lan0"))
    os.kill(watched.process.pid, signal.SIGSTOP)
    lines = [f"192.0.{at // 200}.{at % 200 + 2} lladdr 08:00:27:01:{at // 256:02x}:{at % 256:02x}" for at in range(800)]
    for verb in ("add", "del", "add"):  # several times what the socket's buffer holds
        rest = " dev lan0 nud reachable\n" if verb == "add" else " dev lan0\n"
        hosts.ip(hosts.host, "-batch", "-", feed="".join(f"neigh {verb} {line}{rest}" for line in lines))
    os.kill(watched.process.pid, signal.SIGCONT)
    watched.until(lambda: len(watched.neighbours()) == 800)
    assert [one for one in watched.messages if "trouble" in one] == []
