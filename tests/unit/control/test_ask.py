"""`vmdns ask`: the query is sent as the client that is named would send it, and the result is told in words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.facts import HOSTONLY, NAT, NOW, OTHER, lease, uuid, vm
from vmdns.control.requests import query_server
from vmdns.dns.query import encode_response, parse_query
from vmdns.state.authoritative import answer_query
from vmdns.state.build import build
from vmdns.state.facts import DhcpServer, HostAddress, HostInterface, NatNetwork, PortForward
from vmdns.state.policy import Policy
from vmdns.state.snapshot import Snapshot

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


def asked(asker: str | None, name: str = "db.local", kind: str = "A") -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The response, and from where to where the question was put."""
    put: list[tuple[str, str]] = []

    async def resolve(packet: bytes, peer: str, local: str) -> bytes:
        put.append((peer, local))
        return encode_response(parse_query(packet), limit=65_535)

    response = asyncio.run(query_server(resolve, SNAPSHOT, {"name": name, "type": kind, "as": asker}))
    return response, put[0] if put else None


@pytest.mark.parametrize(
    ("asker", "put"),
    [
        (None, ("127.0.0.1", "127.0.0.1")),
        ("", ("127.0.0.1", "127.0.0.1")),
        ("Web 1", ("198.18.53.1", "198.18.53.1")),
        ("web-1", ("198.18.53.1", "198.18.53.1")),
        ("web-1.local", ("198.18.53.1", "198.18.53.1")),  # as `vmdns names` shows it
        ("WEB-1.vm.internal.", ("198.18.53.1", "198.18.53.1")),
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


def answered(name: str, kind: str | None = None, snapshot: Snapshot = SNAPSHOT, rcode: int = 0) -> dict[str, Any]:
    """What `vmdns ask NAME` gets where names outside are answered with rcode."""

    async def resolve(packet: bytes, peer: str, local: str) -> bytes:
        query = parse_query(packet)
        reply = answer_query(query, snapshot, snapshot.view(local, peer))
        if reply is None:
            return encode_response(query, rcode, limit=65_535)
        more = {"answer": reply.answer, "authority": reply.authority, "extended_error": reply.extended_error}
        return encode_response(query, reply.rcode, limit=65_535, **more)  # type: ignore[arg-type]

    return asyncio.run(query_server(resolve, snapshot, {"do": "ask", "name": name, "type": kind, "as": None}))


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "summary"),
    [
        ("dbb", None, 0, "No VM is called dbb. Did you mean db? (NXDOMAIN)"),
        ("dbb.local", None, 0, "No VM is called dbb. Did you mean db? (NXDOMAIN)"),
        ("shop.wbe-1.local", None, 0, "No VM is called shop.wbe-1. Did you mean web-1? (NXDOMAIN)"),
        ("something", None, 0, "No VM is called something. (NXDOMAIN)"),
        ("db", "MX", 0, "db.local has no MX record (NODATA)"),
        ("db", "aaaa", 0, "db.local has no AAAA record (NODATA)"),
        ("off", None, 0, "off.local is not answered (NXDOMAIN): VM 'off' is not running (Saved)"),
        ("behind", None, 0, "behind.local has no A record (NODATA): VM 'behind' is on NAT alone, where nobody can"),
        ("_http._tcp.db", None, 0, "VM 'db' has no service _http._tcp.db.local; it has none: they come from port-"),
        ("192.168.56.77", None, 3, "No name is known for 192.168.56.77 (NXDOMAIN)"),
        ("9.9.in-addr.arpa", None, 3, "There is no name 9.9.in-addr.arpa (NXDOMAIN)"),
        ("10.0.2.4", None, 3, "No VM that this client can reach has the address 10.0.2.4 (NXDOMAIN)"),
        ("fd00::77", None, 3, "No name is known for fd00::77 (NXDOMAIN)"),
        ("www.example.org", None, 3, "There is no name www.example.org (NXDOMAIN)"),
        ("www.example.org", None, 5, "vmdns refuses to answer (REFUSED)"),
        ("www.example.org", None, 2, "vmdns has no answer for www.example.org (SERVFAIL); vmdns status shows how"),
    ],
)
def test_why_there_is_no_answer(name: str, kind: str | None, rcode: int, summary: str) -> None:
    response = answered(name, kind, rcode=rcode)
    assert not response["found"]
    assert response["summary"].startswith(summary)


def test_names_and_services_below_a_vm() -> None:
    rule = PortForward("web", "tcp", "", 8080, "", 80)
    behind = replace(vm(3, "behind", NAT), adapters=(replace(vm(3, "behind", NAT).adapters[0], forwards=(rule,)),))
    snapshot = build((behind,), Policy(wildcards=False), NOW, 7)
    assert answered("shop.behind", snapshot=snapshot)["summary"] == (
        "shop.behind.local lies below VM 'behind', and names below VMs are switched off (wildcards = false) (NXDOMAIN)"
    )
    assert answered("_ssh._tcp.behind", snapshot=snapshot)["summary"] == (
        "VM 'behind' has no service _ssh._tcp.behind.local; it has _http._tcp (NXDOMAIN)"
    )


def test_an_answer_is_told_with_what_was_asked_instead() -> None:
    response = answered("DB")
    assert (response["found"], response["summary"], response["note"]) == (True, "", "")
    assert response["answer"] == ["db.local. 5 IN A 192.168.56.102"]
    response = answered("Web 1", "txt")
    assert response["note"] == "'Web 1' is asked for as web-1.local"
    response = answered("shop.db")
    assert response["answer"] == ["shop.db.local. 5 IN A 192.168.56.102"]
    assert response["note"].startswith("shop.db is taken for shop.db.local")
    assert "db.local is VM" in response["why"][0] or "shop.db.local is VM" in response["why"][0]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        *(
            ({"name": "db", "type": kind}, f"{kind!r} is no record type; use one like A, AAAA, PTR, SRV or TXT")
            for kind in ("A9", "BOGUS", "1", "TYPE65536", "TYPE-1")
        ),
        ({"name": ""}, "'' is no name: nothing of it can be in a DNS name; write it like web"),
        ({"name": "..."}, "not a domain name: '...'; write it like web, web.local or 10.0.2.4"),
        ({"name": "a..b"}, "not a domain name: 'a..b'; write it like web, web.local or 10.0.2.4"),
        (
            {"name": "x" * 64 + ".com"},
            "not a domain name: '" + "x" * 64 + ".com'; write it like web, web.local or 10.0.2.4",
        ),
    ],
)
def test_what_cannot_be_asked(message: dict[str, Any], error: str) -> None:
    assert asyncio.run(query_server(lambda *_: None, SNAPSHOT, message)) == {"error": error}


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "HTTPS", "ANY", "SRV"])
def test_no_address_is_called_chosen_for_a_type_that_it_does_not_answer(kind: str) -> None:
    response, _ = asked(None, kind=kind)
    assert response["why"] == [f"db.local is VM 'db' ({uuid(2)}), which is Running"]
    assert "192.168.56.102 is chosen" in asked(None)[0]["why"][1]
