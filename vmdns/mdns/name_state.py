"""State of one name in multicast DNS: probing, announced, or yielded to another host.

vmdns answers for VMs that may answer for themselves. A host with the same address for the name is taken for the VM, and
keeps the name; there is no dispute with a host that has another address either (RFC 6762 sections 8 and 9, except for
the renaming).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmdns.dns.message import ANY, NSEC, PTR, ParsedRecord, Record
from vmdns.mdns.packets import nsec_rdata

TTL = 120  # seconds, of records that hold a host's name or address (section 10)
PROBES, PROBE_GAP = 3, 0.25  # section 8.1
ANNOUNCEMENTS, GAP = 2, 1.0  # section 8.3; no record is multicast more often than once in this time (section 6)
LOST_SECONDS = 1.0  # section 8.2
YIELD_SECONDS = 120.0  # how long a name is yielded to another host, which may leave without a goodbye

KnownAnswer = tuple[bytes, int, bytes]  # owner, type, rdata
Records = Mapping[int, tuple[bytes, ...]]
DrawRandom = Callable[[float, float], float]


class NameState(Enum):
    PROBING, ANNOUNCED, YIELDED = range(3)


@dataclass(slots=True)
class OwnedName:
    """A VM's name with its addresses by type, or an address's name with its PTR record.

    due is when its next step is, None for never; left how many probes or announcements are to follow; last when each
    type was multicast. was_multicast: whether caches may have its records from us; conflict_seen: whether another host
    sent other records before; conflict_reported: whether the user was notified.
    """

    name: bytes
    records: Records
    due: float | None = None
    state: NameState = NameState.PROBING
    left: int = PROBES
    was_multicast: bool = False
    conflict_seen: bool = False
    conflict_reported: bool = False
    last: dict[int, float] = field(default_factory=dict)

    @property
    def is_host(self) -> bool:
        return PTR not in self.records

    @property
    def record_set(self) -> set[tuple[int, bytes]]:
        return {(kind, rdata) for kind, rdatas in self.records.items() for rdata in rdatas}

    def answer_types(self, kind: int) -> tuple[int, ...]:
        """The types that answer a question for a type: NSEC if there are no records (section 6.1)."""
        if kind == ANY:
            return tuple(self.records)
        return (kind,) if kind in self.records else (NSEC,)

    def records_of(self, kind: int, ttl: int = TTL) -> list[Record]:
        rdatas = (nsec_rdata(self.name, self.records),) if kind == NSEC else self.records.get(kind, ())
        return [Record(self.name, kind, ttl, rdata) for rdata in rdatas]

    def all_records(self, ttl: int = TTL) -> list[Record]:
        return [record for kind in self.records for record in self.records_of(kind, ttl)]

    def is_known(self, kind: int, known: Container[KnownAnswer]) -> bool:
        """Whether a client has all records of that type: with only some of them, the cache-flush bit would drop the
        others."""
        return all((self.name, kind, record.rdata) in known for record in self.records_of(kind))

    def last_multicast(self, kind: int) -> float:
        return self.last.get(kind, float("-inf"))

    def set_records(self, records: Records, now: float) -> None:
        """Changes its records; they are announced at once if it was announced before (section 8.4)."""
        self.records, self.conflict_seen, self.conflict_reported = records, False, False
        if self.state is NameState.ANNOUNCED:
            self.announce(now)
        else:
            self.probe(now)

    def probe(self, at: float) -> None:
        self.state, self.left, self.due = NameState.PROBING, PROBES, at

    def announce(self, now: float) -> None:
        self.state, self.left, self.due = NameState.ANNOUNCED, ANNOUNCEMENTS, now

    def yield_name(self, now: float) -> None:
        self.state, self.left, self.due, self.was_multicast = NameState.YIELDED, 0, now + YIELD_SECONDS, False

    def on_probe(self, proposed: Iterable[ParsedRecord], now: float) -> bool:
        """Another host probes for this name with these records. Returns whether the name is to be defended."""
        theirs = {(one.type, one.rdata) for one in proposed}
        if theirs & self.record_set or self.state is NameState.YIELDED:
            return False  # the VM itself, or the host that has the name
        if not self.is_host:
            # The VM has another name; defending the address's name would make it rename itself.
            self.yield_name(now)
        elif self.state is NameState.PROBING and sorted(theirs) > sorted(self.record_set):
            self.probe(now + LOST_SECONDS)  # section 8.2
        return self.state is NameState.ANNOUNCED

    def on_response(self, records: Iterable[ParsedRecord], itself: bool, now: float, draw: DrawRandom) -> bytes | None:
        """Another host sent these records of this name; itself: the sender has one of its addresses.

        Returns the other host's rdata if the name is yielded for that and it was not reported before.
        """
        live = [one for one in records if one.ttl]
        ours = self.record_set
        if not live:
            if self.state is NameState.YIELDED and self.due is not None:
                self.due = min(self.due, now + GAP)  # a goodbye; caches drop the name after a second (section 10.1)
            elif self.state is NameState.ANNOUNCED and any((one.type, one.rdata) in ours for one in records):
                self.announce(now)  # only vmdns may send a goodbye for it
            return None
        if itself or any((one.type, one.rdata) in ours for one in live):
            self.yield_name(now)
            return None
        against = [one for one in live if one.type in self.records]
        if not against:
            return None
        if self.is_host and self.state is NameState.ANNOUNCED and not self.conflict_seen:
            # It may be a mistake, or forged (section 9). A second response is believed: some hosts defend no name.
            self.conflict_seen = True
            self.probe(now + draw(0, PROBE_GAP))
            return None
        self.yield_name(now)
        if self.conflict_reported or not self.is_host:
            return None
        self.conflict_reported = True
        return against[0].rdata
