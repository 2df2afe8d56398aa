"""Asks others on the host's links for a name that vmdns does not know: a printer's, or the host's own.

A client that has vmdns as its DNS server may ask it by unicast for all of `.local` and multicast nothing more
(nss-mdns does, once `local` has a SOA record).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

from vmdns.core.mdns_links import Link
from vmdns.core.mdns_message import NSEC, Heard, parse, query
from vmdns.core.wire import AAAA, A

ANSWER_SECONDS = 1.0
AGAIN_SECONDS = 0.25  # a packet may be lost
MEMORY_SECONDS = 5.0  # also what keeps questions from going round in circles
MOST_WAITING, MOST_REMEMBERED = 64, 1024

Key = tuple[bytes, int]


class Relay:
    """Questions under way, and what was found lately. ask(packet) multicasts it on all links."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._waiting: dict[Key, asyncio.Future[tuple[str, ...]]] = {}
        self._memory: dict[Key, tuple[float, tuple[str, ...]]] = {}

    async def find(self, name: bytes, kind: int) -> tuple[str, ...]:
        """The addresses that the first who answers says; none after a second, or where too much is asked already.

        name: wire form, lower case; kind: A or AAAA.
        """
        loop = asyncio.get_running_loop()
        key = name, kind
        until, found = self._memory.get(key, (0.0, ()))
        if until > loop.time():
            return found
        answer = self._waiting.get(key)
        if answer is None:
            if len(self._waiting) >= MOST_WAITING:
                return ()
            answer = self._waiting[key] = loop.create_future()
            self._again(key)
            loop.call_later(AGAIN_SECONDS, self._again, key)
            loop.call_later(ANSWER_SECONDS, self._end, key, answer, ())
        return await asyncio.shield(answer)

    def _again(self, key: Key) -> None:
        if key in self._waiting:
            self._ask(query([key]))

    def _end(self, key: Key, answer: asyncio.Future[tuple[str, ...]], found: tuple[str, ...]) -> None:
        if answer.done():
            return
        del self._waiting[key]
        answer.set_result(found)
        self._memory.pop(key, None)
        if len(self._memory) >= MOST_REMEMBERED:
            del self._memory[next(iter(self._memory))]
        self._memory[key] = asyncio.get_running_loop().time() + MEMORY_SECONDS, found

    def hear(self, packet: bytes, link: Link) -> None:
        """A packet that came in on that link from port 5353 of somebody on it."""
        message = parse(packet) if self._waiting else None
        if message is None or not message.response:
            return
        told = [one for one in (*message.answers, *message.additionals) if one.ttl]
        for key, answer in list(self._waiting.items()):
            name, kind = key
            about = [one for one in told if one.key == name]
            found = tuple(address for one in about if one.type == kind and link.holds(address := _text(one)))
            usable = tuple(one for one in found if not ip_address(one).is_link_local)
            if usable or any(one.type == NSEC and not _has(one, kind) for one in about):
                self._end(key, answer, tuple(dict.fromkeys(usable)))


def _text(record: Heard) -> str:
    return str(ip_address(record.rdata)) if record.type in (A, AAAA) else ""


def _has(nsec: Heard, kind: int) -> bool:
    """Whether the NSEC record has that type, A or AAAA, in the first block of its bitmap (RFC 4034 section 4.1.2)."""
    bitmap = nsec.rdata[len(nsec.key) :]
    if not nsec.rdata.startswith(nsec.key) or bitmap[:1] != b"\0" or len(bitmap) < 2:
        return True  # nothing that this could be read from
    block = bitmap[2 : 2 + bitmap[1]]
    return kind >> 3 < len(block) and bool(block[kind >> 3] & 0x80 >> (kind & 7))
