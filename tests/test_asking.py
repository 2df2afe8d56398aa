"""`vmdns ask --as`: the question is put as the VM, or the machine with the address, would put it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.facts import HOSTONLY, NAT, NOW, OTHER, lease, vm
from vmdns.asking import ask
from vmdns.core.builder import build
from vmdns.core.model import DhcpServer, HostAddress, HostInterface, NatNetwork
from vmdns.core.policy import Policy
from vmdns.core.wire import parse_query, respond

SNAPSHOT = build(
    (
        HostAddress("lo", "198.18.53.1/32"), HostAddress("vboxnet0", "192.168.56.1/24"),
        HostInterface("vboxnet0", "192.168.56.1/24"), HostAddress("eth0", "192.168.1.5/24"),
        NatNetwork("lab", "10.0.2.0/24"), NatNetwork("other", "10.0.2.0/24"),
        DhcpServer("lab", "10.0.2.2", "255.255.255.0", name_servers=("198.18.53.1",)),
        vm(1, "Web 1"), lease(1, "10.0.2.4"), vm(2, "db", HOSTONLY), lease(2, "192.168.56.102", HOSTONLY),
        vm(3, "behind", NAT), vm(4, "elsewhere", OTHER), vm(5, "off", state="Saved"),
    ),
    Policy(resolvers=("192.168.1.1",)), NOW, 7,
)  # fmt: skip


def asked(asker: str | None) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The response, and from where to where the question was put."""
    put: list[tuple[str, str]] = []

    def handle(packet: bytes, peer: str, local: str, tcp: bool) -> bytes | Awaitable[bytes] | None:
        put.append((peer, local))
        return respond(parse_query(packet), limit=65_535)

    response = asyncio.run(ask(handle, SNAPSHOT, {"name": "db.local", "type": "A", "as": asker}))
    return response, put[0] if put else None


@pytest.mark.parametrize(
    ("asker", "put"),
    [
        (None, ("127.0.0.1", "127.0.0.1")),
        ("", ("127.0.0.1", "127.0.0.1")),
        ("Web 1", ("198.18.53.1", "198.18.53.1")),
        ("web-1", ("198.18.53.1", "198.18.53.1")),
        ("10.0.2.4", ("198.18.53.1", "198.18.53.1")),
        ("db", ("192.168.56.102", "192.168.56.1")),
        ("192.168.56.102", ("192.168.56.102", "192.168.56.1")),
        ("192.168.56.200", ("192.168.56.200", "192.168.56.1")),  # no VM's, but of that network
        ("192.168.1.77", ("192.168.1.77", "192.168.1.5")),
        ("192.168.1.5", ("192.168.1.5", "192.168.1.5")),
        ("behind", ("192.168.1.5", "192.168.1.5")),
        ("elsewhere", ("192.168.1.5", "192.168.1.5")),  # by whatever it can reach
    ],
)
def test_who_asks_where(asker: str | None, put: tuple[str, str]) -> None:
    response, found = asked(asker)
    assert "error" not in response
    assert found == put


@pytest.mark.parametrize(
    ("asker", "error"),
    [
        ("nobody", "--as nobody: neither an address nor a VM that runs"),
        ("off", "--as off: neither an address nor a VM that runs"),
        ("203.0.113.9", "203.0.113.9 has no way to ask"),
    ],
)
def test_who_cannot_ask(asker: str, error: str) -> None:
    response, found = asked(asker)
    assert response["error"].startswith(error)
    assert found is None
