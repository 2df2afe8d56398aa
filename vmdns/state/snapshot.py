"""The snapshot: all data that queries are answered from at one time.

What a view can use of a VM is computed at the first query and kept as long as the snapshot: a build costs the same
for one network and for ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from vmdns.dns.builtin_zones import reverse_name
from vmdns.dns.message import PTR, SOA, SRV, Node, RRset, address_record, srv_rdata
from vmdns.dns.name import join_labels
from vmdns.state.guests import Guest
from vmdns.state.name_rules import Owners
from vmdns.state.reachability import Choice, VmView, build_vm_view, explain_choices
from vmdns.state.views import HostNetworks, View

_MOST_VIEWS = 10_000  # cached pairs of client and address


class AccessRight(Enum):
    """What a client may query: nothing, our zones, or everything. UNKNOWN: it may turn out to be a VM."""

    NOTHING, NAMES, ALL, UNKNOWN = range(4)


@dataclass(frozen=True)
class Snapshot:
    """Everything that is answered at one time. Immutable; readers keep the one they took.

    nodes maps wire names to what is there for everybody and comes before VMs (without the SOA of an apex), late what
    comes after them; a name without records of its own that has names below it is there with none (an empty
    non-terminal), above counts those that VMs make. owned are the names of VMs that run, pointers the names of their
    reverse records, with the address and each VM that has it; both identify VMs by UUID. outside has those names of
    the hosts file that are in no zone of ours. zones are the apexes (wire) of the zones that are answered here and
    never forwarded, own those of them that have VMs. absent maps missing names to the reason (wire name -> text).
    name_owners maps names to VMs, for the next assignment of names.
    valid_until is the Unix time at which the facts alone make another snapshot, 0 for never.
    """

    serial: int = 0
    ttl: int = 5
    own: tuple[bytes, ...] = ()
    zones: frozenset[bytes] = frozenset()
    forwarded: frozenset[bytes] = frozenset()
    nodes: Mapping[bytes, Node] = field(default_factory=dict)
    late: Mapping[bytes, Node] = field(default_factory=dict)
    above: frozenset[bytes] = frozenset()
    owned: Mapping[bytes, str] = field(default_factory=dict)
    pointers: Mapping[bytes, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    outside: Mapping[bytes, Node] = field(default_factory=dict)
    soa: bytes = b""
    absent: Mapping[bytes, str] = field(default_factory=dict)
    by_uuid: Mapping[str, Guest] = field(default_factory=dict)
    ways: HostNetworks = field(default_factory=HostNetworks)
    problems: tuple[str, ...] = ()
    name_owners: Owners = field(default_factory=dict)
    wildcards: bool = True
    lan: str = "guests"
    looked: bool = True
    valid_until: float = 0.0
    _views: dict[tuple[str, str], View] = field(default_factory=dict, init=False, repr=False, compare=False)
    _rights: dict[tuple[str, str], AccessRight] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seen: dict[tuple[str, View], VmView] = field(default_factory=dict, init=False, repr=False, compare=False)

    def numbered(self, serial: int) -> Snapshot:
        """The same with another serial."""
        return replace(self, serial=serial, soa=set_serial(self.soa, serial))

    @cached_property
    def guests(self) -> tuple[Guest, ...]:
        """The VMs by their UUIDs' order."""
        return tuple(self.by_uuid[uuid] for uuid in sorted(self.by_uuid))

    def view(self, local: str, peer: str) -> View:
        """The view of a client that asked from `peer` at the host's address `local`."""
        found = self._views.get((local, peer))
        if found is None:
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            found = self._views[local, peer] = self.ways.view(local, peer)
        return found

    def right(self, local: str, peer: str) -> AccessRight:
        """What a client may query that asked from `peer` at the host's address `local`."""
        found = self._rights.get((local, peer))
        if found is None:
            if len(self._rights) >= _MOST_VIEWS:
                self._rights.clear()
            found = self._rights[local, peer] = self._decide(local, peer)
        return found

    def _decide(self, local: str, peer: str) -> AccessRight:
        trusted = self.ways.is_trusted(local, peer)
        if trusted or self.is_guest(peer):
            return AccessRight.ALL
        if self.lan == "names":
            return AccessRight.NAMES
        if self.lan == "all":
            return AccessRight.NAMES if trusted is False else AccessRight.ALL
        return AccessRight.UNKNOWN if trusted is None and self.lan == "guests" else AccessRight.NOTHING

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
            if len(self._seen) >= 10 * _MOST_VIEWS:
                self._seen.clear()
            found = self._seen[key] = build_vm_view(guest, view, self.ways)
        return found

    def choices(self, guest: Guest, view: View) -> tuple[Choice, ...]:
        """Why this view gets some addresses of a VM and not its others, the chosen ones first."""
        return explain_choices(guest, self.vm_view(guest, view), view, self.ways)

    def owner(self, key: bytes) -> Guest | None:
        """The VM that runs and has this wire name (lower case)."""
        uuid = self.owned.get(key)
        return None if uuid is None else self.by_uuid[uuid]

    def find(self, key: bytes, view: View) -> Node | None:
        """What is at a wire name (lower case) for a view; None where there is no such name."""
        guest = self.owner(key)
        if guest is not None:
            return {**self._addresses(guest, view), **self.nodes.get(key, {})}
        if key in self.pointers:
            for address, uuid in self.pointers[key]:
                one = self.by_uuid[uuid]
                if address in self.vm_view(one, view).addresses and not self.vm_view(one, view).forwarded:
                    name = [part.encode("ascii") for part in one.named.names[0]]
                    pointed = join_labels(name)[:-1] + self.own[0]
                    return {PTR: RRset(self.ttl, (pointed,))}
        node = self.nodes.get(key)
        if not node:
            node = self.late.get(key, node)
        if node is None:
            if key in self.above:
                return {}
            return self._services(key, view) if key[1:2] == b"_" else None
        if key in self.zones:
            return {**node, SOA: RRset(self.ttl, (self.soa,))}
        if key[:6] == b"\x05vmdns" and key[6:] in self.own:
            kind, rdata = address_record(view.local)
            return {**node, kind: RRset(self.ttl, (rdata,))}
        return node

    def below(self, guest: Guest, view: View) -> Node:
        """What a name below a VM has that has nothing of its own: the VM's addresses."""
        return self._addresses(guest, view)

    def _addresses(self, guest: Guest, view: View) -> Node:
        found: dict[int, list[bytes]] = {}
        for address in self.vm_view(guest, view).addresses:
            kind, rdata = address_record(address)
            found.setdefault(kind, []).append(rdata)
        return {kind: RRset(self.ttl, tuple(rdatas)) for kind, rdatas in found.items()}

    def _services(self, key: bytes, view: View) -> Node | None:
        """`_ssh._tcp.web.local`, or the empty non-terminal `_tcp.web.local` above it (RFC 2782)."""
        first, rest = key[1 : 1 + key[0]].decode("ascii", "replace"), key[1 + key[0] :]
        guest = self.owner(rest)
        if guest is not None:
            services = self.vm_view(guest, view).services
            return {} if any(f"_{one.protocol}" == first for one in services) else None
        second, owner = rest[1 : 1 + rest[0]].decode("ascii", "replace"), rest[1 + rest[0] :]
        guest = self.owner(owner) if owner else None
        if guest is None:
            return None
        services = self.vm_view(guest, view).services
        targets = [
            srv_rdata(one.port, owner) for one in services if f"_{one.name}" == first and f"_{one.protocol}" == second
        ]
        return {SRV: RRset(self.ttl, tuple(dict.fromkeys(targets)))} if targets else None


def set_serial(soa: bytes, serial: int) -> bytes:
    """The data of a SOA record with another serial."""
    return soa[:-20] + (serial & 0xFFFFFFFF).to_bytes(4, "big") + soa[-16:]


def list_names(guest: Guest, zones: Sequence[str]) -> list[str]:
    """All names of a VM as text, the one of PTR records first."""
    return [".".join((*relative, zone)) for relative in guest.named.names for zone in zones]
