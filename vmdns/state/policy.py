"""What the user decided, as far as answers depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vmdns.dns.message import Record
from vmdns.dns.name import BUILT_IN, to_wire


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
