"""`vmdns run` under a service manager: sockets handed over, and what the manager is told (sd_listen_fds, sd_notify)."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
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
def test_sockets_of_no_use(kinds: list[int], address: str, words: str) -> None:
    ones = [opened(kind, address) for kind in kinds]
    port = ones[0].getsockname()[1]
    found, troubles = pair([("dns", one) for one in ones])
    assert found == []
    assert len(troubles) == 1
    assert re.search(words.replace("N", str(port)), troubles[0]), troubles
    assert all(one.fileno() == -1 for one in ones), "it is closed"


def test_other_sockets_of_no_use(tmp_path: Path) -> None:
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    silent = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    silent.bind(("127.0.0.1", 0))
    found, troubles = pair([("unknown", unix), ("", silent)])
    assert found == []
    assert [one.partition(": ")[2] for one in troubles] == [
        "it is no internet socket", "it does not listen (Accept=no is needed)",
    ]  # fmt: skip
    assert all(one.startswith("a socket that was handed over is of no use") for one in troubles)


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
def test_what_the_manager_wants(environ: dict[str, str], seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert ServiceNotifier(environ).seconds == seconds
    assert environ == {}


def test_nobody_to_tell_is_no_error() -> None:
    ServiceNotifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready("x")
    ServiceNotifier({}).alive()


class Told(ServiceNotifier):
    """What would be told."""

    def __init__(self, seconds: float) -> None:
        super().__init__({})
        self.seconds = seconds
        self.told: list[str] = []

    def _send(self, text: str) -> None:
        self.told.append(text.partition("=")[0])


def test_ready_means_that_questions_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(process, "RETRY_SECONDS", 0.01)

    async def main() -> None:
        listener, told = bind("127.0.0.1", 0), Told(0.02)
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(process.notify_manager(told, lambda: [listener], "x"))
        for _ in range(3):
            await loop.sock_recvfrom(listener.udp, 4096)
            assert told.told == []
        # From here on nothing is given up, however slow this machine is.
        monkeypatch.setattr(process, "ANSWER_SECONDS", PATIENCE)
        for expected in ([], ["READY"], ["READY", "WATCHDOG"]):
            question, peer = await loop.sock_recvfrom(listener.udp, 4096)
            assert told.told == expected
            listener.udp.sendto(question, peer)
        task.cancel()
        listener.close()

    asyncio.run(main())


class Manager:
    """A service manager: starts vmdns with sockets, and hears what it is told."""

    def __init__(self, folder: Path, *options: str, sockets: list[socket.socket], abstract: bool = False) -> None:
        self.heard: list[str] = []
        self._fresh = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"@vmdns-test-{os.getpid()}" if abstract else str(folder / "notify")
        self._socket.bind(address.replace("@", "\0"))
        threading.Thread(target=self._hear, daemon=True).start()
        # The shell puts them where a service manager puts them, and becomes vmdns under its own process id.
        # By way of numbers that none of them has.
        moved = "".join(f"exec {at}<&{one.fileno()}; " for at, one in enumerate(sockets, 900))
        moved += "".join(f"exec {at - 897}<&{at}; exec {at}<&-; " for at in range(900, 900 + len(sockets)))
        script = moved + 'export LISTEN_PID=$$; exec "$@"'

        def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
            fds = [one.fileno() for one in sockets]
            return subprocess.Popen(["bash", "-c", script, "bash", *command], pass_fds=fds, **how)

        names = ":".join("dns" for _ in sockets)
        wanted = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "LISTEN_FDNAMES": names}
        self.run = Run(folder, *options, environ={**wanted, "LISTEN_FDS": str(len(sockets))}, start=start)

    def _hear(self) -> None:
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except OSError:
                return
            with self._fresh:
                self.heard.append(text)
                self._fresh.notify_all()

    def hears(self, text: str, times: int = 1) -> None:
        with self._fresh:
            enough = lambda: sum(text in one for one in self.heard) >= times  # noqa: E731
            assert self._fresh.wait_for(enough, PATIENCE), f"no {text!r} in {self.heard}; {self.run.lines}"

    def close(self) -> None:
        self.run.process.kill()
        self.run.process.wait()
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=pytest.mark.skipif(
    sys.platform != "linux", reason="abstract sockets are Linux's"))])  # fmt: skip
def test_sockets_are_used_and_the_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    sockets = [*both("127.0.0.1"), *both("127.0.0.2")] if sys.platform == "linux" else both()
    wild = opened(socket.SOCK_DGRAM, "0.0.0.0")
    places = [one.getsockname() for one in sockets if one.type == socket.SOCK_DGRAM]
    # Asked before vmdns is there: the question waits in the socket.
    early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    early.settimeout(PATIENCE)
    early.connect(places[0])
    early.send(dns.message.make_query("local.", "SOA").to_wire())
    manager = Manager(tmp_path, sockets=[*sockets, wild], abstract=abstract)
    for one in (*sockets, wild):
        one.close()
    try:
        assert dns.message.from_wire(early.recv(4096)).answer, "the early question is answered"
        manager.hears("READY=1\nSTATUS=ready: names in local and vm.internal are answered at 127.0.0.1 port ")
        manager.hears("WATCHDOG=1", times=2)
        assert not any("WATCHDOG" in one for one in manager.heard[:1])
        for address, port in places:
            question = dns.message.make_query("local.", "SOA")
            assert dns.query.udp(question, address, port=port, timeout=PATIENCE).answer
            assert dns.query.tcp(question, address, port=port, timeout=PATIENCE).answer
        said = manager.run.lines
        assert any("0.0.0.0 means every address" in line for line in said)
        # The default addresses are for whoever is handed nothing.
        listening = [line for line in said if line.startswith("listening on ")]
        assert listening == [f"listening on {address} port {port} (UDP and TCP)" for address, port in places]
        manager.run.process.terminate()
        manager.hears("STOPPING=1")
        assert manager.run.process.wait(PATIENCE) == 0
    finally:
        manager.close()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="capabilities need Linux and root")
def test_the_right_to_low_ports_is_not_passed_on() -> None:
    """A process with an ambient capability keeps the capability and hands nothing to its children."""
    show = "grep -E 'Cap(Eff|Amb)' /proc/{}/status"
    code = (
        "import os, subprocess; from vmdns.host.systemd import drop_ambient_capabilities as keep\n"
        f"def shown(): return [subprocess.getoutput({show!r}.format(pid)) for pid in (os.getpid(), 'self')]\n"
        "print(shown()); keep(); print(shown())"
    )
    right = ["--inh-caps=-all,+net_bind_service", "--ambient-caps=+net_bind_service"]
    command = ["setpriv", "--reuid=65534", "--clear-groups", *right, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"as another user with this right: {done.stderr.splitlines()[-1]}")
    before, after = (eval(line) for line in done.stdout.splitlines())
    right_bit, none = f"{1 << 10:016x}", "0" * 16
    assert before == [f"CapEff:\t{right_bit}\nCapAmb:\t{right_bit}"] * 2
    assert after == [f"CapEff:\t{right_bit}\nCapAmb:\t{none}", f"CapEff:\t{none}\nCapAmb:\t{none}"]
