"""`vmdns run` under a service manager: socket activation (sd_listen_fds(3)) and notifications (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest

from tests.contract.test_run import PATIENCE, Run
from vmdns.daemon import process
from vmdns.host.systemd import ServiceNotifier
from vmdns.server.listeners import bind, pair, take

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX") or sys.platform == "win32", reason="POSIX only")


def opened(kind: int, address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    one.bind((address, port))
    if kind == socket.SOCK_STREAM:
        one.listen()
    return one


def both(address: str = "127.0.0.1") -> list[socket.socket]:
    for _ in range(20):
        udp = opened(socket.SOCK_DGRAM, address)
        try:
            return [udp, opened(socket.SOCK_STREAM, address, udp.getsockname()[1])]
        except OSError:
            udp.close()
    raise AssertionError("no port is free for both")


def test_a_pair_is_a_listener() -> None:
    udp, tcp = both()
    found, troubles = pair([("dns", tcp), ("dns", udp)])
    assert troubles == []
    assert [(one.address, one.port) for one in found] == [udp.getsockname()]
    assert (found[0].udp, found[0].tcp) == (udp, tcp)
    assert not udp.getblocking()
    found[0].close()


@pytest.mark.parametrize(
    ("kinds", "address", "words"),
    [
        ([socket.SOCK_DGRAM], "127.0.0.1", "the socket dns for 127.0.0.1 port N .*ListenStream=127.0.0.1:N as well"),
        ([socket.SOCK_STREAM], "127.0.0.1", "the socket dns .*ListenDatagram=127.0.0.1:N as well"),
        ([socket.SOCK_DGRAM], "0.0.0.0", r"of no use: 0\.0\.0\.0 means every address; name the addresses"),
        ([socket.SOCK_STREAM], "::", "of no use: :: means every address"),
    ],
)
def test_unusable_sockets(kinds: list[int], address: str, words: str) -> None:
    sockets = [opened(kind, address) for kind in kinds]
    port = sockets[0].getsockname()[1]
    found, (trouble,) = pair([("dns", one) for one in sockets])
    assert found == []
    assert re.search(words.replace("N", str(port)), trouble), trouble
    assert all(one.fileno() == -1 for one in sockets), "it is closed"


def test_sockets_that_serve_no_dns() -> None:
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    silent = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    silent.bind(("127.0.0.1", 0))
    found, troubles = pair([("unknown", unix), ("", silent)])
    assert found == []
    prefix = "a socket that was handed over is of no use: "
    assert troubles == [f"{prefix}it is no internet socket", f"{prefix}it does not listen (Accept=no is needed)"]


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "2", "LISTEN_PID": "1"}, {"LISTEN_PID": "7"}])
def test_sockets_of_another_process_are_left_alone(environ: dict[str, str]) -> None:
    assert take(environ, pid=7) == ([], [])
    assert environ == {}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000"}, 3.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, 0.0),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "3000000"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_interval(environ: dict[str, str], seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert ServiceNotifier(environ).seconds == seconds
    assert environ == {}


def test_a_missing_service_manager_is_no_error() -> None:
    ServiceNotifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready("x")
    ServiceNotifier({}).alive()


def test_ready_is_sent_once_queries_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(process, "RETRY_SECONDS", 0.01)
    notifier = ServiceNotifier({})
    notifier.seconds = 0.02
    sent: list[str] = []
    monkeypatch.setattr(notifier, "_send", lambda text: sent.append(text.partition("=")[0]))

    async def main() -> None:
        listener = bind("127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(process.notify_manager(notifier, lambda: [listener], "x"))
        for _ in range(3):
            await loop.sock_recvfrom(listener.udp, 4096)
            assert sent == []
        monkeypatch.setattr(process, "ANSWER_SECONDS", PATIENCE)  # no more timeouts, however slow this machine is
        for expected in ([], ["READY"], ["READY", "WATCHDOG"]):
            query, peer = await loop.sock_recvfrom(listener.udp, 4096)
            assert sent == expected
            listener.udp.sendto(query, peer)
        task.cancel()
        listener.close()

    asyncio.run(main())


class Manager:
    """A service manager: starts vmdns with sockets, and receives its notifications."""

    def __init__(self, folder: Path, *options: str, sockets: list[socket.socket], abstract: bool = False) -> None:
        self.received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"@vmdns-test-{os.getpid()}" if abstract else str(folder / "notify")
        self._socket.bind(address.replace("@", "\0"))
        self._socket.settimeout(PATIENCE)
        # The shell gives them the numbers from 3 on, and becomes vmdns under its own process id.
        moved = "".join(f"exec {at}<&{one.fileno()}; " for at, one in enumerate(sockets, 900))
        moved += "".join(f"exec {at - 897}<&{at}; exec {at}<&-; " for at in range(900, 900 + len(sockets)))
        script = moved + 'export LISTEN_PID=$$; exec "$@"'

        def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
            fds = [one.fileno() for one in sockets]
            return subprocess.Popen(["bash", "-c", script, "bash", *command], pass_fds=fds, **how)

        names = ":".join("dns" for _ in sockets)
        wanted = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "LISTEN_FDNAMES": names}
        self.run = Run(folder, *options, environ={**wanted, "LISTEN_FDS": str(len(sockets))}, start=start)

    def wait_for(self, text: str, times: int = 1) -> None:
        while sum(text in one for one in self.received) < times:
            self.received.append(self._socket.recv(4096).decode())

    def close(self) -> None:
        self.run.process.kill()
        self.run.process.wait()
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=pytest.mark.skipif(
    sys.platform != "linux", reason="abstract sockets are Linux's"))])  # fmt: skip
def test_sockets_are_used_and_the_manager_is_notified(tmp_path: Path, abstract: bool) -> None:
    sockets = [*both("127.0.0.1"), *both("127.0.0.2")] if sys.platform == "linux" else both()
    wild = opened(socket.SOCK_DGRAM, "0.0.0.0")
    places = [one.getsockname() for one in sockets if one.type == socket.SOCK_DGRAM]
    # A query that is sent before vmdns starts waits in the socket.
    early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    early.settimeout(PATIENCE)
    early.connect(places[0])
    early.send(dns.message.make_query("local.", "SOA").to_wire())
    manager = Manager(tmp_path, sockets=[*sockets, wild], abstract=abstract)
    for one in (*sockets, wild):
        one.close()
    try:
        assert dns.message.from_wire(early.recv(4096)).answer, "the early query is answered"
        manager.wait_for("READY=1\nSTATUS=ready: names in local and vm.internal are answered at 127.0.0.1 port ")
        manager.wait_for("WATCHDOG=1", times=2)
        assert not any("WATCHDOG" in one for one in manager.received[:1])
        for address, port in places:
            query = dns.message.make_query("local.", "SOA")
            assert dns.query.udp(query, address, port=port, timeout=PATIENCE).answer
            assert dns.query.tcp(query, address, port=port, timeout=PATIENCE).answer
        assert any("0.0.0.0 means every address" in line for line in manager.run.lines)
        # Not at the default addresses.
        listening = [line for line in manager.run.lines if line.startswith("listening on ")]
        assert listening == [f"listening on {address} port {port} (UDP and TCP)" for address, port in places]
        manager.run.process.terminate()
        manager.wait_for("STOPPING=1")
        assert manager.run.process.wait(PATIENCE) == 0
    finally:
        manager.close()
