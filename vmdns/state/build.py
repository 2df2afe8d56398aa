"""Builds a snapshot from the facts: a pure function, run again as a whole after each change.

With 300 VMs a build takes a few milliseconds, which is less than one debounce; `tests/bench/churn.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from vmdns.dns.message import AAAA, CNAME, PTR, A
from vmdns.dns.name import reverse_name, to_wire
from vmdns.state.addresses import ADDITIONS, FORWARD, NEIGHBOUR, find_addresses, find_forward_hints
from vmdns.state.facts import Fact, HostName, Lease, Machine, NatNetwork, Neighbour
from vmdns.state.guests import Guest, find_shared_addresses
from vmdns.state.name_assignment import assign_names
from vmdns.state.name_rules import Owners
from vmdns.state.networks import index_networks
from vmdns.state.reachability import find_rules
from vmdns.state.snapshot import Policy, Snapshot
from vmdns.state.static_records import HostsIndex, StaticRecords, build_static_records, index_hosts, names_above

_CLAIMED = (ADDITIONS, NEIGHBOUR, FORWARD)


def build(
    facts: Iterable[Fact],
    policy: Policy,
    now: float,
    serial: int = 0,
    owners: Owners | None = None,
    hosts: HostsIndex | None = None,
) -> Snapshot:
    """Builds the snapshot that these facts mean at this Unix time, in whatever order they come.

    owners: `name_owners` of the snapshot before. hosts: the hosts file, if its lines are not among the facts.
    """
    facts = list(facts)
    if hosts is None:
        lines = [fact for fact in facts if isinstance(fact, HostName)]
        hosts = index_hosts(lines, policy.apexes, policy.ttl)
    static = build_static_records(replace(policy, resolvers=(), wildcards=True, lan="", looked=True), hosts)
    machines = sorted((fact for fact in facts if isinstance(fact, Machine)), key=lambda one: one.uuid)
    many = [fact for fact in facts if isinstance(fact, Lease | Neighbour)]
    few = sorted((fact for fact in facts if not isinstance(fact, Machine | Lease | Neighbour | HostName)), key=repr)
    networks = index_networks([*machines, *few, *many], policy.resolvers, now)
    addresses = {machine.uuid: find_addresses(machine, networks) for machine in machines}
    reachable = {
        uuid: frozenset(one.address for one in found if one.network.kind != "nat")
        for uuid, (found, _) in addresses.items()
    }
    naming = assign_names(machines, static.reserved, policy.zones, owners, reachable)
    forwards = {fact.name: fact.forwards for fact in few if isinstance(fact, NatNetwork) and fact.enabled}
    guests: dict[str, Guest] = {}
    for machine in machines:
        named = naming.by_uuid.get(machine.uuid)
        if named is not None:
            known, wrong = addresses[machine.uuid]
            label = next(relative[0] for relative in named.names if len(relative) == 1)
            known += tuple(find_forward_hints(machine, label, known, forwards, networks))
            rules = find_rules(machine, known, forwards) if machine.online else ()
            guests[machine.uuid] = Guest(machine, named, known, wrong, rules)
    shared = find_shared_addresses(guests.values())
    refused = [f"VM {guest.machine.name!r}: {one}" for guest in guests.values() for one in guest.refused]
    owned, absent = _index_owners(guests, static, policy)
    pointers = _index_pointers(guests, static)
    return Snapshot(
        serial=serial,
        policy=policy,
        nodes=static.nodes,
        late=static.late,
        above=frozenset(above for owner in (*owned, *pointers) for above in names_above(owner, policy.apexes)),
        owned=owned,
        pointers=pointers,
        outside=hosts.outside,
        absent=absent,
        by_uuid=guests,
        host_networks=networks.host,
        shared=shared,
        problems=(*naming.problems, *refused, *map(str, shared.values())),
        name_owners=naming.owners,
        valid_until=min((lease.until for leases in networks.leases.values() for lease in leases), default=0.0),
    )


def _index_owners(
    guests: Mapping[str, Guest], static: StaticRecords, policy: Policy
) -> tuple[dict[bytes, str], dict[bytes, str]]:
    """Which VM has which name (wire), and of the names of VMs that do not run why they are not there."""
    owned: dict[bytes, str] = {}
    absent: dict[bytes, str] = {}
    for uuid, guest in guests.items():
        is_known = guest.forwards or guest.reachable_addresses
        for relative in guest.named.names:
            below = to_wire(".".join(relative))[:-1]
            for owner in (below + zone for zone in policy.own):
                if not guest.machine.online:
                    absent[owner] = f"VM {guest.machine.name!r} is not running ({guest.machine.state})"
                elif not is_known and {A, AAAA} & static.late.get(owner, {}).keys():
                    continue  # what the user wrote into the hosts file is better than no address at all
                elif not {CNAME, A, AAAA} & static.nodes.get(owner, {}).keys():
                    owned[owner] = uuid
    return owned, absent


def _index_pointers(guests: Mapping[str, Guest], static: StaticRecords) -> dict[bytes, tuple[tuple[str, str], ...]]:
    """The VMs at each address by the name of its reverse record: what DHCP gave comes before what guests claim."""
    found: dict[bytes, list[tuple[bool, str, str]]] = {}
    for uuid, guest in guests.items():
        claimed: dict[str, bool] = {}
        for one in guest.reachable_addresses:
            claimed[one.address] = claimed.get(one.address, True) and one.source in _CLAIMED
        for address, is_claimed in claimed.items():
            pointer = reverse_name(address)
            if PTR not in static.nodes.get(pointer, {}):
                found.setdefault(pointer, []).append((is_claimed, address, uuid))
    return {pointer: tuple(one[1:] for one in sorted(among)) for pointer, among in found.items()}
