"""Timelines in small text files beside this one: VirtualBox does this, then a name means that.

A line is a step; `at SECONDS` before it says when (else at once). Words with blanks are quoted. A VM is known by a
number, which is its UUID's order; MACs are shortened to their last digits.

    machine N NAME STATE [KIND NETWORK MAC]...   VirtualBox reports the VM so from now on
    group N /GROUP    names N NAME,...           its group and its extra names
    gone N                                       it is registered no more
    lease NETWORK MAC ADDRESS SECONDS            VirtualBox's DHCP acknowledged it now (by the network's name)
    release NETWORK MAC ADDRESS                  its entry is no more in the file
    fixed NETWORK MAC [ADDRESS]                  a fixed address in the DHCP server; without one, it is taken away
    reports N MAC [ADDRESS]                      Guest Additions report it now; without one, nothing any more
    host ADDRESS NAME    unhost ADDRESS NAME     a line of the hosts file, and its removal
    forward N MAC NAME PROTOCOL HOST PORT PORT   a port-forward rule of plain NAT (- for any address of the host)
    unforward N MAC NAME                         it is taken away
    netforward NETWORK NAME PROTOCOL HOST PORT ADDRESS PORT   one of a NAT Network; with no more than the name, none
    hands NETWORK ADDRESS...                     the DHCP server of a NAT Network hands out these name servers
    address INTERFACE PREFIX                     the host has this address from now on
    neighbour INTERFACE MAC ADDRESS              the host's neighbour table has it from now on
    resolver ADDRESS...                          the name servers of the host itself
    set N [ADDRESS,...]                          the user sets its addresses (vmdns/address)
    as host | nat | KIND NETWORK | everywhere    which client queries from now on (first: on all networks at once)
    expect NAME TYPE VALUE...                    the answer, or NODATA or NXDOMAIN
    why NAME WORDS                               `vmdns ask` prints a line with these words for it
    printed LINES...                             what `vmdns run` printed since the last `printed`, in any order
"""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest

from tests import clock
from tests.facts import EVERYWHERE, NOW, mac, uuid
from vmdns.control import requests
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, encode_response, parse_query
from vmdns.state.authoritative import answer_query
from vmdns.state.facts import (
    Adapter,
    DhcpServer,
    Fact,
    GuestReport,
    HostAddress,
    HostInterface,
    HostName,
    Lease,
    Machine,
    NatNetwork,
    Neighbour,
    Network,
    PortForward,
)
from vmdns.state.guests import VmChange
from vmdns.state.snapshot import Policy
from vmdns.state.static_records import index_hosts
from vmdns.state.typed_name import explain
from vmdns.state.views import View
from vmdns.store import Store

FILES = sorted(Path(__file__).parent.glob("*.txt"))
ZONES = Policy().zones
WORLD: dict[str, Fact] = {
    "natnetwork:lab": NatNetwork("lab", "10.0.2.0/24"),
    "natnetwork:other": NatNetwork("other", "10.0.2.0/24"),
    "dhcp:lab": DhcpServer("lab", "10.0.2.3", "255.255.255.0"),
    "dhcp:other": DhcpServer("other", "10.0.2.3", "255.255.255.0"),
    "interface:vboxnet0": HostInterface("vboxnet0", "192.168.56.1/24"),
    "vboxnet0 192.168.56.1/24": HostAddress("vboxnet0", "192.168.56.1/24"),
    "address:eth0": HostAddress("eth0", "192.168.1.5/24"),
}


class Stage:
    """VirtualBox, the guests and the store, while a scenario is played."""

    def __init__(self) -> None:
        self.facts = dict(WORLD)
        self.leases: dict[str, Lease] = {}
        self.hosts: dict[str, HostName] = {}
        self.lines: list[str] = []
        self.client: tuple[str, ...] = ("everywhere",)
        self.store = Store(Policy(), self.wall, clock.inline)
        self.store.put("virtualbox", self.facts)
        self.store.subscribe(self.print_changes)

    def print_changes(self, changes: list[VmChange]) -> None:
        self.lines += [requests.format_change(requests.describe_change(one, ZONES, self.wall())) for one in changes]

    def wall(self) -> float:
        return NOW + asyncio.get_running_loop().time()

    async def play(self, story: str) -> None:
        for number, line in enumerate(story.splitlines(), 1):
            words = shlex.split(line, comments=True)
            if words[:1] == ["at"]:
                later = float(words[1]) - asyncio.get_running_loop().time()
                assert later > -0.5, f"line {number}: time does not run backwards"
                await asyncio.sleep(max(later, 0.0))
                words = words[2:]
            if words:
                await self.step(number, *words)
        self.store.close()

    async def step(self, number: int, verb: str, *words: str) -> None:
        try:
            if verb in ("expect", "why", "printed"):
                await self.store.wait_until_published()
                getattr(self, verb)(*words)
            else:
                getattr(self, "as_" if verb == "as" else verb)(*words)
                self.store.put("virtualbox", self.facts)
                self.store.put("leases", self.leases)
                self.store.put_hosts(index_hosts(self.hosts.values(), Policy().apexes, Policy().ttl))
        except AssertionError as error:
            raise AssertionError(f"line {number}, {verb} {' '.join(words)}: {error}") from None

    def change(self, key: str, **fields: object) -> None:
        self.facts[key] = replace(self.facts[key], **fields)  # type: ignore[arg-type]

    def vm(self, number: str) -> Machine:
        machine = self.facts[number]
        assert isinstance(machine, Machine)
        return machine

    # -- what happens ------------------------------------------------------------------------------------------

    def machine(self, number: str, name: str, state: str, *attached: str) -> None:
        self.facts.setdefault(number, Machine(uuid(int(number)), name))
        self.change(number, name=name, state=state)
        if state not in ("Running", "Paused", "Saved"):
            self.change(number, reports=())  # VirtualBox deletes the guest's properties when the VM is off
        if attached:
            groups = [attached[at : at + 3] for at in range(0, len(attached), 3)]
            adapters = [
                Adapter(slot, _mac(mac), Network(kind, network.strip("-")))
                for slot, (kind, network, mac) in enumerate(groups)
            ]
            self.change(number, adapters=tuple(adapters))

    def group(self, number: str, group: str) -> None:
        self.change(number, groups=(group,))

    def names(self, number: str, names: str) -> None:
        self.change(number, names=tuple(names.split(",")))

    def set(self, number: str, addresses: str = "") -> None:
        self.change(number, set_addresses=tuple(addresses.split(",")) if addresses else ())

    def gone(self, number: str) -> None:
        del self.facts[number]

    def lease(self, network: str, mac: str, address: str, seconds: str) -> None:
        now = self.wall()
        self.leases[f"{network} {mac} {address}"] = Lease(network, _mac(mac), address, now, now + float(seconds))

    def release(self, network: str, mac: str, address: str) -> None:
        del self.leases[f"{network} {mac} {address}"]

    def fixed(self, network: str, mac: str, address: str = "") -> None:
        self.change(f"dhcp:{network}", fixed=((_mac(mac), address),) if address else ())

    def reports(self, number: str, mac: str, address: str = "") -> None:
        others = tuple(one for one in self.vm(number).reports if one.mac != _mac(mac))
        new = (GuestReport(_mac(mac), address, self.wall()),) if address else ()
        self.change(number, reports=others + new)

    def forward(
        self, number: str, mac: str, name: str, protocol: str, host: str, host_port: str, guest_port: str
    ) -> None:
        rule = PortForward(name, protocol, host.strip("-"), int(host_port), "", int(guest_port))
        self.change_rules(number, mac, name, rule)

    def unforward(self, number: str, mac: str, name: str) -> None:
        self.change_rules(number, mac, name)

    def change_rules(self, number: str, mac: str, name: str, *rules: PortForward) -> None:
        adapters = list(self.vm(number).adapters)
        (at,) = (at for at, one in enumerate(adapters) if one.mac == _mac(mac))
        others = (rule for rule in adapters[at].forwards if rule.name != name)
        adapters[at] = replace(adapters[at], forwards=(*others, *rules))
        self.change(number, adapters=tuple(adapters))

    def netforward(self, network: str, name: str, *rule: str) -> None:
        nat_network = self.facts[f"natnetwork:{network}"]
        assert isinstance(nat_network, NatNetwork)
        rules = tuple(one for one in nat_network.forwards if one.name != name)
        if rule:
            protocol, host, host_port, guest, guest_port = rule
            rules += (PortForward(name, protocol, host.strip("-"), int(host_port), guest, int(guest_port)),)
        self.change(f"natnetwork:{network}", forwards=rules)

    def hands(self, network: str, *addresses: str) -> None:
        self.change(f"dhcp:{network}", name_servers=addresses)

    def address(self, interface: str, prefix: str) -> None:
        self.facts[f"{interface} {prefix}"] = HostAddress(interface, prefix)

    def neighbour(self, interface: str, mac: str, address: str) -> None:
        self.facts[f"neighbour {interface} {address}"] = Neighbour(interface, _mac(mac), address, self.wall())

    def resolver(self, *addresses: str) -> None:
        self.store.configure(Policy(resolvers=addresses))

    def host(self, address: str, name: str) -> None:
        self.hosts[f"{name} {address}"] = HostName(name, address)

    def unhost(self, address: str, name: str) -> None:
        del self.hosts[f"{name} {address}"]

    def as_(self, *client: str) -> None:
        self.client = client

    # -- what is seen ------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        if self.client == ("everywhere",):
            return EVERYWHERE
        network = Network(*self.client)
        host = self.store.snapshot.host_networks
        local = host.find_address_towards(network)
        assert local, f"{network} has no way to ask"
        hidden = network.kind in ("host", "nat", "natnetwork")
        return host.view(local, local if hidden else local.rpartition(".")[0] + ".250")

    def expect(self, name: str, kind: str, *values: str) -> None:
        query = parse_query(encode_query(1, to_wire(name), int(dns.rdatatype.from_text(kind))))
        reply = answer_query(query, self.store.snapshot, self.view)
        assert reply is not None, "it would be forwarded"
        out = encode_response(query, reply.rcode, limit=65_535, answer=reply.answer, authority=reply.authority)
        read = dns.message.from_wire(out)
        found = sorted(rdata.to_text() for rrset in read.answer for rdata in rrset)
        if not found:
            assert read.authority, "a negative answer has a SOA"
            found = ["NODATA" if read.rcode() == 0 else read.rcode().name]
        assert found == sorted(values)

    def why(self, name: str, words: str) -> None:
        lines = explain(self.store.snapshot, to_wire(name), self.wall(), self.view)
        assert any(words in line for line in lines), lines

    def printed(self, *lines: str) -> None:
        seen, self.lines = self.lines, []
        assert sorted(seen) == sorted(lines)


def _mac(digits: str) -> str:
    return mac(int(digits, 16))


@clock.in_loop
async def play(story: str) -> None:
    await Stage().play(story)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_scenario(file: Path) -> None:
    play(file.read_text(encoding="utf-8"))


def test_each_scenario_expects_something() -> None:
    assert len(FILES) >= 10
    assert all("expect" in file.read_text(encoding="utf-8") for file in FILES)


@pytest.mark.parametrize(
    "line",
    ["expect web.local A 10.0.2.5", "expect web.local A NXDOMAIN", "why web.local no", "printed x", "at 0 gone 1"],
)
def test_a_false_scenario_fails(line: str) -> None:
    story = (
        f"machine 1 web Running natnetwork lab 1\nlease lab 1 10.0.2.4 600\nat 5 expect web.local A 10.0.2.4\n{line}"
    )

    with pytest.raises(AssertionError, match="line 4"):
        play(story)
