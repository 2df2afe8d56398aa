"""What is listened on, with binding that fails as the kernel would."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests import clock
from vmdns.daemon import listen_addresses as listening
from vmdns.daemon.listen_addresses import ListenAddresses
from vmdns.host.system_settings import ListenAddress


class Ports:
    """Stands for the kernel: `errors` has the errno with which a port cannot be bound."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **errors: int) -> None:
        self.errors = {int(port.removeprefix("p")): error for port, error in errors.items()}
        self.lines: list[str] = []
        self.open: list[Any] = []
        server: Any = SimpleNamespace(open=self.open.append, close=self.open.remove, listeners=self.open)
        monkeypatch.setattr(listening, "bind", self._bind)
        monkeypatch.setattr(listening, "bind_wildcard", self._bind_wildcard)
        monkeypatch.setattr(
            listening, "explain_bind_error", lambda error, address, port: f"{address} port {port} {error.strerror}"
        )
        self.listening = ListenAddresses(server, self.lines.append, lambda: None)

    def _bind(self, address: str, port: int) -> Any:
        if error := self.errors.get(port):
            raise OSError(error, os.strerror(error))
        return SimpleNamespace(address=address, port=port)

    def _bind_wildcard(self, address: str, port: int, others: list[Any]) -> Any:
        assert others is self.open
        one = self._bind(address, port)
        one.wildcard = True
        return one

    @property
    def wildcards(self) -> list[tuple[str, int]]:
        return [(one.address, one.port) for one in self.open if getattr(one, "wildcard", False)]

    @property
    def ports(self) -> list[int]:
        return [one.port for one in self.open]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENOBUFS])
@clock.in_loop
async def test_a_port_is_taken_once_it_can_be_bound(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    ports = Ports(monkeypatch, p53=error)
    ports.listening.want((ListenAddress("127.0.0.1", 53),))
    assert ports.ports == ([] if error == errno.EADDRNOTAVAIL else [5300])
    await asyncio.sleep(60)
    trouble = f"127.0.0.1 port 53 {os.strerror(error)}"
    assert [one["detail"] for one in ports.listening.status()] == [trouble]
    assert ports.lines.count(trouble) == 1
    del ports.errors[53]
    await asyncio.sleep(listening.RETRY_SECONDS + 0.1)
    # The port that served until then goes on: `vmdns host` may have configured it on this computer.
    assert ports.ports == ([53] if error == errno.EADDRNOTAVAIL else [5300, 53])
    assert [one["port"] for one in ports.listening.status()] == [53]
    assert ports.listening.status()[0]["detail"] == ""
    ports.listening.want((ListenAddress("127.0.0.1", 5353),))
    assert ports.ports == [5353]
    ports.listening.close()


@clock.in_loop
async def test_another_reason_is_logged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right was given, and now it shows that another program has the port."""
    ports = Ports(monkeypatch, p53=errno.EACCES)
    ports.listening.want((ListenAddress("127.0.0.1", 53),))
    ports.errors[53] = errno.EADDRINUSE
    await asyncio.sleep(60)
    in_use = f"127.0.0.1 port 53 {os.strerror(errno.EADDRINUSE)}"
    assert ports.lines.count(in_use) == 1
    assert ports.listening.status()[0]["detail"] == in_use
    ports.listening.close()


@clock.in_loop
async def test_one_reason_of_several_addresses_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = Ports(monkeypatch, p53=errno.EACCES)
    ports.listening.want((), ("192.168.56.1",))
    assert ports.lines == [
        f"127.0.0.1 port 53 (also ::1 port 53, 192.168.56.1 port 53) {os.strerror(errno.EACCES)}",
        "listening on 127.0.0.1 port 5300 instead of 53 (UDP and TCP)",
        "listening on ::1 port 5300 instead of 53 (UDP and TCP)",
    ]
    assert [one["state"] for one in ports.listening.status()] == ["listening", "listening", "failed"]
    assert ports.listening.status()[1]["detail"] == f"::1 port 53 {os.strerror(errno.EACCES)}"
    ports.listening.close()


@clock.in_loop
async def test_a_host_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = Ports(monkeypatch, p1053=errno.EADDRNOTAVAIL)
    real = ports._bind
    monkeypatch.setattr(listening, "bind", lambda address, port: real(address, 1053 if address == "::1" else port))
    ports.listening.want(())
    assert ports.lines == ["listening on 127.0.0.1 port 53 (UDP and TCP)"]
    assert len(ports.listening.status()) == 1
    ports.listening.want((ListenAddress("::1", 53),))
    assert ports.lines[-1] == f"::1 port 53 {os.strerror(errno.EADDRNOTAVAIL)}"
    ports.listening.close()


@pytest.mark.parametrize(
    ("platform", "user", "binding", "port", "wildcard"),
    [
        ("darwin", 501, "auto", 53, True),
        ("darwin", 501, "auto", 5300, False),
        ("darwin", 501, "address", 53, False),
        ("darwin", 0, "auto", 53, False),
        ("linux", 1000, "auto", 53, False),
        ("linux", 1000, "wildcard", 53, True),
        ("linux", 0, "wildcard", 5300, True),
        ("win32", None, "auto", 53, False),
    ],
)
@clock.in_loop
async def test_all_addresses_are_bound_at_once_where_nothing_else_is_allowed(
    monkeypatch: pytest.MonkeyPatch, platform: str, user: int | None, binding: str, port: int, wildcard: bool
) -> None:
    ports = Ports(monkeypatch)
    monkeypatch.setattr(listening.sys, "platform", platform)
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    ports.listening.want((ListenAddress("127.0.0.1", port),), (), binding)
    assert ports.wildcards == [("127.0.0.1", port)] * wildcard
    ports.listening.close()


@clock.in_loop
async def test_another_way_to_bind_reopens_all_but_passed_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = Ports(monkeypatch)
    passed = ports._bind("127.0.0.9", 53)
    ports.listening.give([passed])
    listens = (ListenAddress("127.0.0.1", 53), ListenAddress("127.0.0.2", 53))
    ports.listening.want(listens)
    assert (len(ports.open), ports.wildcards) == (3, [])
    ports.listening.want(listens, (), "wildcard")
    assert (len(ports.open), ports.wildcards) == (3, [("127.0.0.1", 53), ("127.0.0.2", 53)])
    assert passed in ports.open
    ports.listening.want(listens, (), "address")
    assert (len(ports.open), ports.wildcards) == (3, [])
    ports.listening.close()
