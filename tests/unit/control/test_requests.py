"""The responses to commands: names, changes and reasons as JSON values and lines; `ask`; and doctor's findings."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.facts import EVERYWHERE, HOSTONLY, NAT, NETWORKS, NOW, OTHER, lease, mac, report, uuid, vm
from tests.unit.state.test_diagnosis import STATUS, WORLD
from vmdns.control import requests
from vmdns.control.requests import Requests, query_server
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_response, parse_query
from vmdns.state.authoritative import answer_query
from vmdns.state.build import build
from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, HostName, NatNetwork, PortForward
from vmdns.state.guests import VmChange
from vmdns.state.snapshot import Policy, Snapshot
from vmdns.state.static_records import index_hosts
from vmdns.state.typed_name import explain
from vmdns.state.views import View
from vmdns.store import Store

ZONES = ("local", "vm.internal")


def snapshot_of(*facts: Fact) -> Snapshot:
    return build((*NETWORKS, *facts), Policy(), NOW, 7)


def test_names() -> None:
    facts = (
        vm(2, "web", names=("www",)), vm(1, "db", state="Paused"), vm(3, "off", state="Saved"),
        lease(2, "10.0.2.4"), HostName("nas", "192.168.1.9"),
    )  # fmt: skip
    value = requests.names(snapshot_of(*facts), NOW)
    assert json.loads(json.dumps(value)) == value
    assert (value["zones"], value["serial"], value["problems"]) == (["local", "vm.internal"], 7, [])
    db, web = value["names"]
    assert (db["name"], db["state"], db["addresses"]) == ("db.local", "Paused", [])
    assert db["note"] == "it runs, but no address of it is known yet"
    address = {
        "address": "10.0.2.4", "network": {"kind": "natnetwork", "name": "lab"}, "mac": mac(2), "source": "lease",
        "why": "DHCP lease of lab, 540 s left", "since": NOW - 60,
    }  # fmt: skip
    assert web == {
        "name": "web.local", "shown": "web.local", "vm": "web", "uuid": uuid(2), "state": "Running", "here": [],
        "also": ["web.vm.internal", "www.local", "www.vm.internal", f"{uuid(2)}.local", f"{uuid(2)}.vm.internal"],
        "note": "", "addresses": [address], "forwards": [],
    }  # fmt: skip


WEB = (vm(1), lease(1, "10.0.2.4"))
RULES = PortForward("Rule 1", "tcp", "", 2222, "", 22), PortForward("x", "udp", "127.0.0.1", 5353, "", 53)


def behind_nat(number: int, name: str, *rules: PortForward) -> Fact:
    one = vm(number, name, NAT)
    return replace(one, adapters=(replace(one.adapters[0], forwards=rules),))


WHERE = "10.0.2.4 (NAT Network lab, lease)"
BOTH = vm(1, "web", HOSTONLY, NAT), lease(1, "192.168.56.101", HOSTONLY), lease(1, "10.0.2.4")
ON_NAT = (vm(1, "db", NAT, reports=(report(1, "10.0.2.15"),)),)


@pytest.mark.parametrize(
    ("before", "after", "kind", "line"),
    [
        (None, WEB, "appeared", f"+ web.local  {WHERE}"),
        (WEB, None, "gone", "- web.local"),
        (WEB, (vm(1, names=("www",)), WEB[1]), "changed", f"~ web.local  {WHERE}"),
        (WEB, ON_NAT, "changed", "~ db.local (was web.local)  10.0.2.15 (NAT, guest additions) (was 10.0.2.4)"),
        (None, BOTH, "appeared", "+ web.local  192.168.56.101 (host-only vboxnet0, lease)"),
        (None, (behind_nat(1, "web", *RULES),), "appeared",
         "+ web.local  host:2222 -> 22 ssh, 127.0.0.1:5353/udp -> 53 domain"),
    ],
)  # fmt: skip
def test_a_change(before: tuple[Fact, ...] | None, after: tuple[Fact, ...] | None, kind: str, line: str) -> None:
    was = snapshot_of(*before).guests[0] if before else None
    now = snapshot_of(*after).guests[0] if after else None
    value = requests.describe_change(VmChange(was, now), ZONES, NOW)
    assert json.loads(json.dumps(value)) == value
    assert value["change"] == kind
    assert value["at"] == NOW
    assert requests.format_change(value) == line
    if after is WEB:
        assert value["why"] == "DHCP lease of lab, 540 s left"


@pytest.mark.parametrize("name", ["web.local", "web.vm.internal", "www.local", f"{uuid(1)}.local"])
def test_a_name_is_explained(name: str) -> None:
    snapshot = snapshot_of(vm(1, "Web", names=("www",)), lease(1, "10.0.2.4"))
    assert explain(snapshot, to_wire(name), NOW, EVERYWHERE) == [
        f"{name} is VM 'Web' ({uuid(1)}), which is Running",
        "10.0.2.4 is chosen: it is on NAT Network lab, which guests on NAT Network lab can reach "
        "(DHCP lease of lab, 540 s left)",
    ]


def test_an_address_is_explained_with_each_vm_that_has_it() -> None:
    snapshot = snapshot_of(vm(1, "web"), lease(1, "10.0.2.4"), vm(2, "db", OTHER), lease(2, "10.0.2.4", OTHER))
    assert explain(snapshot, to_wire("4.2.0.10.in-addr.arpa"), NOW, View()) == [
        f"10.0.2.4 is VM 'web' ({uuid(1)}) on NAT Network lab",
        f"10.0.2.4 is VM 'db' ({uuid(2)}) on NAT Network other",
    ]


@pytest.mark.parametrize("name", ["nope.local", "local", "web", "web.example.org", ".", "5.2.0.10.in-addr.arpa"])
def test_nothing_to_explain(name: str) -> None:
    assert explain(snapshot_of(*WEB), to_wire(name), NOW, EVERYWHERE) == []


# -- ask --------------------------------------------------------------------------------------------------------

ASK = build(
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
LAB_CLIENT, LAN_CLIENT = ("198.18.53.1", "198.18.53.1"), ("192.168.1.5", "192.168.1.5")


def ask_as(client: str | None, kind: str = "A") -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The response, and from which address to which the query was sent."""
    sent: list[tuple[str, str]] = []

    async def resolve(packet: bytes, peer: str, local: str) -> bytes:
        sent.append((peer, local))
        return encode_response(parse_query(packet), limit=65_535)

    response = asyncio.run(query_server(resolve, ASK, {"name": "db.local", "type": kind, "as": client}))
    return response, sent[0] if sent else None


@pytest.mark.parametrize(
    ("client", "addresses"),
    [
        *((one, ("127.0.0.1", "127.0.0.1")) for one in (None, "")),
        *((one, LAB_CLIENT) for one in ("Web 1", "web-1", "web-1.local", "WEB-1.vm.internal.", "10.0.2.4")),
        *((one, ("192.168.56.102", "192.168.56.1")) for one in ("db", "192.168.56.102")),
        ("192.168.56.200", ("192.168.56.200", "192.168.56.1")),  # no VM's, but of that network
        ("192.168.1.77", ("192.168.1.77", "192.168.1.5")),
        *((one, LAN_CLIENT) for one in ("192.168.1.5", "behind", "elsewhere")),
    ],
)
def test_ask_as_a_client(client: str | None, addresses: tuple[str, str]) -> None:
    response, sent = ask_as(client)
    assert "error" not in response
    assert sent == addresses


@pytest.mark.parametrize(
    ("client", "error"),
    [
        ("nobody", "--as nobody: neither an address nor a VM that runs"),
        ("off", "--as off: neither an address nor a VM that runs"),
        ("203.0.113.9", "203.0.113.9 has no way to ask"),
    ],
)
def test_ask_as_a_client_that_cannot_query(client: str, error: str) -> None:
    response, sent = ask_as(client)
    assert response["error"].startswith(error)
    assert sent is None


def ask(name: str, kind: str | None = None, snapshot: Snapshot = ASK, rcode: int = 0) -> dict[str, Any]:
    """The response to `vmdns ask NAME` where names outside of our zones get this RCODE."""

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
    response = ask(name, kind, rcode=rcode)
    assert not response["found"]
    assert response["summary"].startswith(summary)


def test_names_and_services_below_a_vm() -> None:
    rule = PortForward("web", "tcp", "", 8080, "", 80)
    snapshot = build((behind_nat(3, "behind", rule),), Policy(wildcards=False), NOW, 7)
    assert ask("shop.behind", snapshot=snapshot)["summary"] == (
        "shop.behind.local lies below VM 'behind', and names below VMs are switched off (wildcards = false) (NXDOMAIN)"
    )
    assert ask("_ssh._tcp.behind", snapshot=snapshot)["summary"] == (
        "VM 'behind' has no service _ssh._tcp.behind.local; it has _http._tcp (NXDOMAIN)"
    )


def test_an_answer_comes_with_the_name_that_was_queried_instead() -> None:
    response = ask("DB")
    assert (response["found"], response["summary"], response["note"]) == (True, "", "")
    assert response["answer"] == ["db.local. 5 IN A 192.168.56.102"]
    response = ask("Web 1", "txt")
    assert response["note"] == "'Web 1' is asked for as web-1.local"
    response = ask("shop.db")
    assert response["answer"] == ["shop.db.local. 5 IN A 192.168.56.102"]
    assert response["note"].startswith("shop.db is taken for shop.db.local")
    assert "db.local is VM" in response["why"][0] or "shop.db.local is VM" in response["why"][0]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        *(({"name": "db", "type": kind}, f"{kind!r} is no record type; use one like A, AAAA, PTR, SRV or TXT")
          for kind in ("A9", "BOGUS", "1", "TYPE65536", "TYPE-1")),
        ({"name": ""}, "'' is no name: nothing of it can be in a DNS name; write it like web"),
        *(({"name": name}, f"not a domain name: {name!r}; write it like web, web.local or 10.0.2.4")
          for name in ("...", "a..b", "x" * 64 + ".com")),
    ],
)  # fmt: skip
def test_ask_for_an_invalid_name_or_type(message: dict[str, Any], error: str) -> None:
    assert asyncio.run(query_server(lambda *_: None, ASK, message)) == {"error": error}


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "HTTPS", "ANY", "SRV"])
def test_no_address_is_called_chosen_for_a_type_that_it_does_not_answer(kind: str) -> None:
    response, _ = ask_as(None, kind)
    assert response["why"] == [f"db.local is VM 'db' ({uuid(2)}), which is Running"]
    assert "192.168.56.102 is chosen" in ask_as(None)[0]["why"][1]


# -- doctor -----------------------------------------------------------------------------------------------------


async def answer_commands(*hosts: HostName) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The responses to names, doctor and status of a server with one VM named web, and this hosts file."""
    table = Store(Policy(), wall=lambda: NOW)
    table.put_hosts(index_hosts(list(hosts), Policy().apexes, Policy().ttl))
    table.put("virtualbox", {str(number): fact for number, fact in enumerate((*WORLD, vm(1, "web")))})
    table.put("leases", {"1": lease(1, "10.0.2.4")})
    await table.wait_until_published()
    requests = Requests(lambda: table.snapshot, lambda: table.facts, lambda *_: None, lambda: dict(STATUS), dict)
    found = [await requests.handle({"do": do}) for do in ("names", "doctor", "status")]  # type: ignore[misc]
    table.close()
    return found[0], found[1], found[2]


def test_doctor_uses_the_names_of_the_server() -> None:
    """The hosts file has the name of a running VM for another machine: doctor says what `names` says."""
    names, doctor, status = asyncio.run(answer_commands(HostName("web", "192.0.2.80")))
    (web,) = names["names"]
    assert web["name"] == "web-2.local"
    (found,) = [one for one in doctor["findings"] if one["subject"] == "VM 'web'"]
    assert found["level"] == "warning"
    assert "hosts file" in found["text"]
    assert "web-2" in found["text"]
    assert status["verdict"] == "1 warning: run vmdns doctor"


def test_all_is_well() -> None:
    _, doctor, status = asyncio.run(answer_commands())
    assert {one["level"] for one in doctor["findings"]} == {"ok"}
    assert [one["text"] for one in doctor["findings"] if one["subject"] == "VM 'web'"] == ["is web at 10.0.2.4"]
    assert status["verdict"] == "All well"
