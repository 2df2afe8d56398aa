"""Builds a snapshot from the facts: a pure function, run again as a whole after each change.

With 300 VMs a build takes a few milliseconds, which is less than one debounce; `tests/bench/churn.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from vmdns.dns.builtin_zones import reverse_name
from vmdns.dns.message import AAAA, CNAME, PTR, A, soa_rdata
from vmdns.dns.name import join_labels
from vmdns.state.addresses import ADDITIONS, FORWARD, NEIGHBOUR, find_addresses, find_forward_hints
from vmdns.state.facts import Fact, HostName, Lease, Machine, NatNetwork, Neighbour
from vmdns.state.guests import Guest, find_shared_address
from vmdns.state.hosts_names import HostsIndex, index_hosts
from vmdns.state.name_assignment import assign_names
from vmdns.state.name_rules import Owners, Relative
from vmdns.state.networks import index_networks
from vmdns.state.policy import Policy
from vmdns.state.reachability import find_rules
from vmdns.state.snapshot import Snapshot, set_serial
from vmdns.state.static_records import StaticRecords, build_static_records, names_above

# SOA timers (RFC 1035 section 3.3.13, values of RFC 6303 section 3); nothing transfers these zones.
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604_800
_CLAIMED = (ADDITIONS, NEIGHBOUR, FORWARD)
_CACHED_VMS = 1024

_Pointers = dict[bytes, list[tuple[str, str]]]


@dataclass(frozen=True)
class Base:
    """Records of the policy and the hosts file. Kept between builds: a block list takes a second."""

    policy: Policy
    hosts: HostsIndex
    common: StaticRecords


def build_base(policy: Policy, hosts: HostsIndex, before: Base | None = None) -> Base:
    """The base of this policy and hosts file; `before` if they are unchanged."""
    if before is not None and before.hosts is hosts and _base_inputs(before.policy) == _base_inputs(policy):
        return Base(policy, hosts, before.common)
    return Base(policy, hosts, build_static_records(policy, hosts))


def _base_inputs(policy: Policy) -> object:
    return policy.zones, policy.ttl, policy.records, policy.reserved_allowed, policy.forwarded


def build(
    facts: Iterable[Fact],
    policy: Policy,
    now: float,
    serial: int,
    on: Base | None = None,
    owners: Owners | None = None,
) -> Snapshot:
    """Builds the snapshot that these facts mean at this Unix time, in whatever order they come.

    on: the base, where it was made before; otherwise the lines of the hosts file are among the facts.
    owners: `name_owners` of the snapshot before.
    """
    facts = list(facts)
    if on is None:
        lines = [fact for fact in facts if isinstance(fact, HostName)]
        on = build_base(policy, index_hosts(lines, policy.apexes, policy.ttl))
    machines = sorted((fact for fact in facts if isinstance(fact, Machine)), key=lambda one: one.uuid)
    many = [fact for fact in facts if isinstance(fact, Lease | Neighbour)]
    few = sorted((fact for fact in facts if not isinstance(fact, Machine | Lease | Neighbour | HostName)), key=repr)
    networks = index_networks([*machines, *few, *many], policy.resolvers, now)
    found_addresses = {machine.uuid: find_addresses(machine, networks) for machine in machines}
    reachable = {
        uuid: frozenset(one.address for one in found if one.network.kind != "nat")
        for uuid, (found, _) in found_addresses.items()
    }
    naming = assign_names(machines, on.common.reserved, policy.zones, owners, reachable)
    forwards = {fact.name: fact.forwards for fact in facts if isinstance(fact, NatNetwork) and fact.enabled}
    guests: dict[str, Guest] = {}
    for machine in machines:
        named = naming.by_uuid.get(machine.uuid)
        if named is None:
            continue
        found, refused = found_addresses[machine.uuid]
        own = next(relative[0] for relative in named.names if len(relative) == 1)
        hints = find_forward_hints(machine, own, found, forwards, networks)
        known = (*found, *hints)
        led = find_rules(machine, known, forwards) if machine.online else ()
        guests[machine.uuid] = Guest(machine, named, known, refused, led)
    owned, absent = _index_owners(guests, on)
    pointers = _index_pointers(guests, on)
    return Snapshot(
        serial=serial,
        ttl=policy.ttl,
        own=policy.own,
        zones=policy.apexes,
        forwarded=policy.forwarded,
        nodes=on.common.nodes,
        late=on.common.late,
        above=frozenset(above for owner in (*owned, *pointers) for above in names_above(owner, policy.apexes)),
        owned=owned,
        pointers={pointer: tuple(pairs) for pointer, pairs in pointers.items()},
        outside=on.hosts.outside,
        soa=set_serial(_make_soa(policy), serial),
        absent=absent,
        by_uuid=guests,
        ways=networks.host,
        wildcards=policy.wildcards,
        lan=policy.lan,
        problems=(*naming.problems, *_find_problems(guests, pointers)),
        name_owners=naming.owners,
        looked=policy.looked,
        valid_until=min((lease.until for leases in networks.leases.values() for lease in leases), default=0.0),
    )


def _index_owners(guests: Mapping[str, Guest], on: Base) -> tuple[dict[bytes, str], dict[bytes, str]]:
    """Which VM has which name (wire), and of the names of VMs that do not run why they are not there."""
    owned: dict[bytes, str] = {}
    absent: dict[bytes, str] = {}
    for uuid, guest in guests.items():
        is_known = guest.forwards or guest.reachable_addresses
        for owner in wire_names(guest.named.names, on.policy.own):
            if not guest.machine.online:
                absent[owner] = f"VM {guest.machine.name!r} is not running ({guest.machine.state})"
            elif not is_known and {A, AAAA} & on.common.late.get(owner, {}).keys():
                continue  # what the user wrote into the hosts file is better than no address at all
            elif not {CNAME, A, AAAA} & on.common.nodes.get(owner, {}).keys():
                owned[owner] = uuid
    return owned, absent


def _index_pointers(guests: Mapping[str, Guest], on: Base) -> _Pointers:
    """The VMs at each address by the name of its reverse record: what DHCP gave comes before what guests claim."""
    found: _Pointers = {}
    for uuid, guest in guests.items():
        for address in dict.fromkeys(one.address for one in guest.reachable_addresses):
            pointer = reverse_name(address)
            if PTR not in on.common.nodes.get(pointer, {}):
                found.setdefault(pointer, []).append((address, uuid))
    for pairs in found.values():
        if len(pairs) > 1:
            pairs.sort(key=lambda pair: (_is_claimed(guests[pair[1]], pair[0]), pair))
    return found


def _is_claimed(guest: Guest, address: str) -> bool:
    return all(one.source in _CLAIMED for one in guest.addresses if one.address == address)


def _find_problems(guests: Mapping[str, Guest], pointers: _Pointers) -> list[str]:
    """Which addresses are not taken for a VM's, and which one several VMs have on one network."""
    found = [f"VM {guest.machine.name!r}: {text}" for guest in guests.values() for text in guest.refused]
    shared = sorted((pointer, pairs) for pointer, pairs in pointers.items() if len(pairs) > 1)
    doubles = (find_shared_address(pairs[0][0], [guests[uuid] for _, uuid in pairs]) for _, pairs in shared)
    return [*found, *(str(one) for one in doubles if one)]


@lru_cache(maxsize=_CACHED_VMS)
def wire_names(names: tuple[Relative, ...], zones: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The wire names of a VM in all zones."""
    below = [join_labels([part.encode("ascii") for part in relative])[:-1] for relative in names]
    return tuple(relative + zone for relative in below for zone in zones)


def _make_soa(policy: Policy) -> bytes:
    server, mailbox = b"\x05vmdns" + policy.own[0], b"\x0ahostmaster" + policy.own[0]
    return soa_rdata(server, mailbox, 0, _REFRESH, _RETRY, _EXPIRE, policy.ttl)
