"""One name that is answered for by multicast DNS, through its life: probing, announced, or left to somebody else.

vmdns speaks for VMs that may well speak for themselves. Whoever has the same address for the name is taken for the VM,
and has it; with whoever has another one there is no fight either (RFC 6762 sections 8 and 9, but for the renaming).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmdns.dns.mdns_message import ReceivedRecord, nsec_rdata
from vmdns.dns.message import ANY, Record
from vmdns.dns.record_parser import NSEC
from vmdns.dns.rrset import address_record

TTL = 120  # seconds, of records that hold a host's name or address (section 10)
PROBES, PROBE_GAP = 3, 0.25  # section 8.1
ANNOUNCEMENTS, GAP = 2, 1.0  # section 8.3; no record is multicast more often than once in this time (section 6)
DEFENCE_GAP = 0.25  # but where a probe must be answered (section 6)
LOST_SECONDS = 1.0  # section 8.2
YIELD_SECONDS = 120.0  # how long a name is left to somebody else, who may have gone without a word

Records = Mapping[int, tuple[bytes, ...]]
Lots = Callable[[float, float], float]


def host_records(addresses: Iterable[str]) -> dict[int, tuple[bytes, ...]]:
    """The records of a name that has these addresses."""
    records: dict[int, tuple[bytes, ...]] = {}
    for address in dict.fromkeys(addresses):
        kind, rdata = address_record(address)
        records[kind] = (*records.get(kind, ()), rdata)
    return records


def pointers(names: Mapping[bytes, tuple[str, ...]]) -> dict[str, bytes]:
    """What addresses point to: the first name that has them."""
    found: dict[str, bytes] = {}
    for name, addresses in names.items():
        for address in addresses:
            found.setdefault(address, name)
    return found


class State(Enum):
    PROBING, ANNOUNCED, YIELDED = range(3)


@dataclass(slots=True)
class Owner:
    """A name and its records by type. host: whether it is a VM's name, else that of an address.

    due is when its next step is, None for never; planned for when that was noted; left how many probes or announcements
    are still to come. last says of each type when it was multicast. spoken: whether others may remember its records
    from us; doubted: whether somebody said something else before; told: whether the user knows of it.
    """

    name: bytes
    host: bool
    records: Records
    due: float | None
    planned: float | None = None
    state: State = State.PROBING
    left: int = PROBES
    spoken: bool = False
    doubted: bool = False
    told: bool = False
    last: dict[int, float] = field(default_factory=dict)

    @property
    def speaks(self) -> bool:
        return self.state is State.ANNOUNCED

    @property
    def facts(self) -> set[tuple[int, bytes]]:
        return {(kind, rdata) for kind, rdatas in self.records.items() for rdata in rdatas}

    def types(self, asked: int) -> tuple[int, ...]:
        """With which types a question is answered: NSEC where there is nothing else (section 6.1)."""
        if asked == ANY:
            return tuple(self.records)
        return (asked,) if asked in self.records else (NSEC,)

    def given(self, kind: int, ttl: int = TTL) -> list[Record]:
        """The records of that type."""
        rdatas = (nsec_rdata(self.name, self.records),) if kind == NSEC else self.records.get(kind, ())
        return [Record(self.name, kind, ttl, rdata) for rdata in rdatas]

    def everything(self, ttl: int = TTL) -> list[Record]:
        return [record for kind in self.records for record in self.given(kind, ttl)]

    def known(self, kind: int, to: Container[ReceivedRecord]) -> bool:
        """Whether an asker has all records of that type: fewer, with the cache-flush bit, would make it forget some."""
        return all(ReceivedRecord(self.name, kind, 0, record.rdata) in to for record in self.given(kind))

    def since(self, kind: int, now: float) -> float:
        """Seconds since that type was multicast."""
        return now - self.last[kind] if kind in self.last else float("inf")

    # -- changes of its life ----------------------------------------------------------------------------------

    def become(self, records: Records, now: float) -> None:
        """It has other records from now on: told at once where it was announced (section 8.4)."""
        self.records, self.doubted, self.told = records, False, False
        if self.state is State.ANNOUNCED:
            self.left, self.due = ANNOUNCEMENTS, now
        else:
            self.probe(now)

    def probe(self, at: float) -> None:
        self.state, self.left, self.due = State.PROBING, PROBES, at

    def announce(self, now: float) -> None:
        self.state, self.left, self.due = State.ANNOUNCED, ANNOUNCEMENTS, now

    def give_way(self, now: float) -> None:
        self.state, self.left, self.due, self.spoken = State.YIELDED, 0, now + YIELD_SECONDS, False

    def multicast(self, kind: int, now: float) -> None:
        """Its records of that type go out now."""
        self.last[kind], self.spoken = now, True

    # -- others -----------------------------------------------------------------------------------------------

    def probed(self, proposed: Iterable[ReceivedRecord], now: float) -> bool:
        """Somebody wants to take this name with these records. Whether the name is to be defended."""
        theirs = {(one.type, one.rdata) for one in proposed}
        if theirs & self.facts:
            return False  # the VM itself
        if self.state is State.YIELDED:
            return False
        if not self.host:
            # The VM calls itself otherwise; who defended the address's name would have it rename itself.
            self.give_way(now)
            return False
        if self.state is State.PROBING and sorted(theirs) > sorted(self.facts):
            self.probe(now + LOST_SECONDS)  # section 8.2
        return self.speaks

    def heard(self, told: Iterable[ReceivedRecord], itself: bool, now: float, lots: Lots) -> bytes | None:
        """Somebody says these records of this name; itself: the sender has one of its addresses.

        Returns what they say instead of ours, where the name is left to them for that and it was not said before.
        """
        live = [one for one in told if one.ttl]
        ours = self.facts
        if not live:
            if self.state is State.YIELDED and self.due is not None:
                self.due = min(self.due, now + GAP)  # they take leave; others forget it after a second (section 10.1)
            elif self.state is State.ANNOUNCED and any((one.type, one.rdata) in ours for one in told):
                self.announce(now)  # nobody but us may do that
            return None
        if itself or any((one.type, one.rdata) in ours for one in live):
            self.give_way(now)
            return None
        against = [one for one in live if one.type in self.records]
        if not against:
            return None
        if self.host and self.state is State.ANNOUNCED and not self.doubted:
            # It may have been a mistake, or forged (section 9). Who says it again means it: some defend no name.
            self.doubted = True
            self.probe(now + lots(0, PROBE_GAP))
            return None
        self.give_way(now)
        if self.told or not self.host:
            return None
        self.told = True
        return against[0].rdata
