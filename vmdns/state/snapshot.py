"""The snapshot: all data that queries are answered from at one time, and the user's decisions behind it.

What a view can use of a VM is computed at the first query and kept as long as the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TypeVar

from vmdns.dns.message import PTR, SOA, SRV, Node, Record, RRset, address_record, soa_rdata, srv_rdata
from vmdns.dns.name import BUILT_IN, reverse_name, to_wire
from vmdns.state.facts import Network
from vmdns.state.findings import Problem
from vmdns.state.guests import Guest
from vmdns.state.name_rules import Owners
from vmdns.state.reachability import VmView, build_vm_view
from vmdns.state.views import HostNetworks, View

T = TypeVar("T")

_MAX_CLIENTS = 10_000  # cached pairs of client and address
# SOA timers (RFC 1035 section 3.3.13, values of RFC 6303 section 3); nothing transfers these zones.
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604_800


class AccessRight(Enum):
    """What a client may query: nothing, our zones, or everything. UNKNOWN: it may turn out to be a VM."""

    NOTHING, NAMES, ALL, UNKNOWN = range(4)


@dataclass(frozen=True)
class Policy:
    """What the user decided. zones as text; wildcards: whether names below a VM are answered as the VM's.

    resolvers are the addresses of the host's own name servers, which may be vmdns itself: VirtualBox passes them on
    to guests. lan: which clients on a LAN are answered: off, guests, names or all. looked is False until VirtualBox was
    looked at once: until then a name that is not there may yet be.
    """

    zones: tuple[str, ...] = ("local", "vm.internal")
    ttl: int = 5
    records: tuple[Record, ...] = ()
    reserved_allowed: frozenset[str] = frozenset()
    resolvers: tuple[str, ...] = ()
    wildcards: bool = True
    lan: str = "guests"
    forwarded: frozenset[bytes] = frozenset()
    looked: bool = True

    @cached_property
    def own(self) -> tuple[bytes, ...]:
        """The apexes (wire names) of the zones that VM names live in."""
        return tuple(to_wire(zone) for zone in self.zones)

    @cached_property
    def apexes(self) -> frozenset[bytes]:
        """The apexes (wire names) of all zones that are answered here."""
        return (BUILT_IN - self.forwarded) | frozenset(self.own)


@dataclass(frozen=True)
class Snapshot:
    """Everything that is answered at one time. Immutable; readers keep the one they took.

    nodes maps wire names to what is there for everybody and comes before VMs (without the SOA of an apex), late what
    comes after them; a name without records of its own that has names below it is there with none (an empty
    non-terminal), above counts those that VMs make. owned are the names of VMs that run, pointers the names of their
    reverse records, with the address and each VM that has it; both identify VMs by UUID. outside has those names of
    the hosts file that are in no zone of ours. absent maps missing names to the reason (wire name -> text).
    shared are the addresses that several VMs have on one network. name_owners maps names to VMs, for the next
    assignment of names. valid_until is the Unix time at which the facts alone make another snapshot, 0 for never.
    """

    serial: int = 0
    policy: Policy = field(default_factory=Policy)
    nodes: Mapping[bytes, Node] = field(default_factory=dict)
    late: Mapping[bytes, Node] = field(default_factory=dict)
    above: frozenset[bytes] = frozenset()
    owned: Mapping[bytes, str] = field(default_factory=dict)
    pointers: Mapping[bytes, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    outside: Mapping[bytes, Node] = field(default_factory=dict)
    absent: Mapping[bytes, str] = field(default_factory=dict)
    by_uuid: Mapping[str, Guest] = field(default_factory=dict)
    host_networks: HostNetworks = field(default_factory=HostNetworks)
    shared: Mapping[tuple[str, Network], Problem] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    name_owners: Owners = field(default_factory=dict)
    valid_until: float = 0.0
    _views: dict[tuple[str, str], View] = field(default_factory=dict, init=False, repr=False, compare=False)
    _rights: dict[tuple[str, str], AccessRight] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seen: dict[tuple[str, View], VmView] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def soa(self) -> bytes:
        """The data of the SOA records of all zones."""
        zone = self.policy.own[0]
        server, mailbox = b"\x05vmdns" + zone, b"\x0ahostmaster" + zone
        return soa_rdata(server, mailbox, self.serial, _REFRESH, _RETRY, _EXPIRE, self.policy.ttl)

    @cached_property
    def guests(self) -> tuple[Guest, ...]:
        """The VMs by their UUIDs' order."""
        return tuple(guest for _, guest in sorted(self.by_uuid.items()))

    def view(self, local: str, peer: str) -> View:
        """The view of a client that asked from `peer` at the host's address `local`."""
        return _find_cached(self._views, local, peer, self.host_networks.view)

    def right(self, local: str, peer: str) -> AccessRight:
        """What a client may query that asked from `peer` at the host's address `local`."""
        return _find_cached(self._rights, local, peer, self._decide)

    def _decide(self, local: str, peer: str) -> AccessRight:
        trusted, lan = self.host_networks.is_trusted(local, peer), self.policy.lan
        if trusted or self.is_guest(peer):
            return AccessRight.ALL
        if lan == "names":
            return AccessRight.NAMES
        if lan == "all":
            return AccessRight.NAMES if trusted is False else AccessRight.ALL
        return AccessRight.UNKNOWN if trusted is None and lan == "guests" else AccessRight.NOTHING

    def is_guest(self, address: str) -> bool:
        """Whether a VM has this address."""
        return bool(self.vm_at(address))

    def vm_at(self, address: str) -> str:
        """The UUID of the VM that has this address, of the likeliest where several claim it; '' for none."""
        try:
            pairs = self.pointers.get(reverse_name(address), ())
        except ValueError:
            return ""
        return pairs[0][1] if pairs else ""

    def vm_view(self, guest: Guest, view: View) -> VmView:
        """What this view can use of a VM."""
        key = guest.machine.uuid, view
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = build_vm_view(guest, view, self.host_networks)
        return found

    def owner(self, key: bytes) -> Guest | None:
        """The VM that runs and has this wire name (lower case)."""
        uuid = self.owned.get(key)
        return None if uuid is None else self.by_uuid[uuid]

    def find(self, key: bytes, view: View) -> Node | None:
        """What is at a wire name (lower case) for a view; None where there is no such name."""
        guest = self.owner(key)
        if guest is not None:
            return {**self.find_addresses(guest, view), **self.nodes.get(key, {})}
        for address, uuid in self.pointers.get(key, ()):
            seen = self.vm_view(self.by_uuid[uuid], view)
            if address in seen.addresses and not seen.forwarded:
                name = to_wire(self.by_uuid[uuid].named.label)[:-1] + self.policy.own[0]
                return {PTR: RRset(self.policy.ttl, (name,))}
        node = self.nodes.get(key)
        if not node:
            node = self.late.get(key, node)
        if node is None:
            return {} if key in self.above else self._find_services(key, view)
        if key in self.policy.apexes:
            return {**node, SOA: RRset(self.policy.ttl, (self.soa,))}
        if key[:6] == b"\x05vmdns" and key[6:] in self.policy.own:
            kind, rdata = address_record(view.local)
            return {**node, kind: RRset(self.policy.ttl, (rdata,))}
        return node

    def find_addresses(self, guest: Guest, view: View) -> Node:
        """The addresses of a VM, which a name below it has too that has nothing of its own."""
        found: dict[int, list[bytes]] = {}
        for address in self.vm_view(guest, view).addresses:
            kind, rdata = address_record(address)
            found.setdefault(kind, []).append(rdata)
        return {kind: RRset(self.policy.ttl, tuple(rdatas)) for kind, rdatas in found.items()}

    def _find_services(self, key: bytes, view: View) -> Node | None:
        """`_ssh._tcp.web.local`, or the empty non-terminal `_tcp.web.local` above it (RFC 2782)."""
        if key[1:2] != b"_":
            return None
        first, rest = key[1 : 1 + key[0]].decode("ascii", "replace"), key[1 + key[0] :]
        guest = self.owner(rest)
        if guest is not None:
            return {} if any(f"_{one.protocol}" == first for one in self.vm_view(guest, view).services) else None
        second, owner = rest[1 : 1 + rest[0]].decode("ascii", "replace"), rest[1 + rest[0] :]
        guest = self.owner(owner) if owner else None
        services = self.vm_view(guest, view).services if guest is not None else ()
        targets = [
            srv_rdata(one.port, owner) for one in services if f"_{one.name}" == first and f"_{one.protocol}" == second
        ]
        return {SRV: RRset(self.policy.ttl, tuple(dict.fromkeys(targets)))} if targets else None


def _find_cached(cache: dict[tuple[str, str], T], local: str, peer: str, find: Callable[[str, str], T]) -> T:
    found = cache.get((local, peer))
    if found is None:
        if len(cache) >= _MAX_CLIENTS:
            cache.clear()
        found = cache[local, peer] = find(local, peer)
    return found


def list_names(guest: Guest, zones: Sequence[str]) -> list[str]:
    """All names of a VM as text, the one of PTR records first."""
    return [".".join((*relative, zone)) for relative in guest.named.names for zone in zones]
