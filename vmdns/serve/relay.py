"""Asks others on the host's links for a name that vmdns does not know: a printer's, or the host's own.

A client that has vmdns as its DNS server may ask it by unicast for all of `.local` and multicast nothing more
(nss-mdns does, once `local` has a SOA record).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from vmdns.core.mdns_links import Link
from vmdns.core.mdns_message import NSEC, Heard, parse, query
from vmdns.core.wire import AAAA, A

ANSWER_SECONDS = 1.0
AGAIN_SECONDS = 0.25  # a packet may be lost
REST_SECONDS = 0.1  # from the addresses of one family to those of the other
MEMORY_SECONDS = 5.0  # also what keeps questions from going round in circles
MOST_WAITING, MOST_REMEMBERED = 64, 1024


@dataclass(slots=True)
class _Asked:
    """A name that others were asked for, and what they said so far."""

    answer: asyncio.Future[tuple[str, ...]]
    addresses: dict[str, None] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)  # types that were given or denied


class Relay:
    """Questions under way, and what was found lately. ask(packet) multicasts it on all links."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._asked: dict[bytes, _Asked] = {}
        self._memory: dict[bytes, tuple[float, tuple[str, ...]]] = {}

    async def find(self, name: bytes) -> tuple[str, ...]:
        """The addresses that the first who answers says; none after a second, or where too much is asked already.

        name is in wire form, lower case.
        """
        loop = asyncio.get_running_loop()
        until, found = self._memory.get(name, (0.0, ()))
        if until > loop.time():
            return found
        asked = self._asked.get(name)
        if asked is None:
            if len(self._asked) >= MOST_WAITING:
                return ()
            asked = self._asked[name] = _Asked(loop.create_future())
            self._again(name, asked)
            loop.call_later(AGAIN_SECONDS, self._again, name, asked)
            loop.call_later(ANSWER_SECONDS, self._end, name, asked)
        return await asyncio.shield(asked.answer)

    def worth(self, name: bytes) -> bool:
        """Whether `find` would ask, or knows something: not where nobody had the name a moment ago, nor where too much
        is asked already. Of any thread."""
        until, found = self._memory.get(name, (0.0, ()))
        if until > time.monotonic():  # which is the clock of the event loop
            return bool(found)
        return name in self._asked or len(self._asked) < MOST_WAITING

    def _again(self, name: bytes, asked: _Asked) -> None:
        if not asked.addresses and not asked.answer.done():
            self._ask(query([(name, A), (name, AAAA)]))

    def _end(self, name: bytes, asked: _Asked) -> None:
        if asked.answer.done():
            return
        del self._asked[name]
        found = tuple(asked.addresses)
        asked.answer.set_result(found)
        self._memory.pop(name, None)
        if len(self._memory) >= MOST_REMEMBERED:
            del self._memory[next(iter(self._memory))]
        self._memory[name] = asyncio.get_running_loop().time() + MEMORY_SECONDS, found

    def hear(self, packet: bytes, link: Link) -> None:
        """A packet that came in on that link from port 5353 of somebody on it."""
        message = parse(packet) if self._asked else None
        if message is None or not message.response:
            return
        for record in (*message.answers, *message.additionals):
            asked = self._asked.get(record.key)
            if asked is not None and record.ttl:
                self._note(record, asked, link)
        for name in dict.fromkeys(record.key for record in (*message.answers, *message.additionals)):
            asked = self._asked.get(name)
            if asked is not None and asked.settled >= {A, AAAA}:
                self._end(name, asked)
            elif asked is not None and asked.addresses:
                asyncio.get_running_loop().call_later(REST_SECONDS, self._end, name, asked)

    def _note(self, record: Heard, asked: _Asked, link: Link) -> None:
        if record.type == NSEC:
            asked.settled |= {kind for kind in (A, AAAA) if not _has(record, kind)}
        elif record.type in (A, AAAA):
            address = ip_address(record.rdata)
            # One of IPv6 that is valid on a link alone is of no use to who is not on it.
            if link.holds(str(address)) and not address.is_link_local:
                asked.addresses[str(address)] = None
                asked.settled.add(record.type)


def _has(nsec: Heard, kind: int) -> bool:
    """Whether the NSEC record has that type, A or AAAA, in the first block of its bitmap (RFC 4034 section 4.1.2)."""
    bitmap = nsec.rdata[len(nsec.key) :]
    if not nsec.rdata.startswith(nsec.key) or bitmap[:1] != b"\0" or len(bitmap) < 2:
        return True  # nothing that this could be read from
    block = bitmap[2 : 2 + bitmap[1]]
    return kind >> 3 < len(block) and bool(block[kind >> 3] & 0x80 >> (kind & 7))
