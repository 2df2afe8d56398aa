"""A stream of queries while something breaks: every answer is checked, and the time of a recovery noted.

Used by tests here and by those of a real VirtualBox. Nothing is asserted about how long it takes, but a bound.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

# What was measured, for the summary at the end of the run (tests/conftest.py).
NOTES: list[str] = []
NOBODY = frozenset({"NXDOMAIN"})
ASK_SECONDS = 3.0
OUTSIDE = "93.184.216.34"  # what an upstream answers
Answer = frozenset[str]  # the addresses, or the RCODE where it is an error


def note(fault: str, text: str) -> None:
    """Prints the effect of a fault, here and in the summary."""
    NOTES.append(f"{fault}: {text}")
    print(NOTES[-1])


def ask(name: str, where: str, port: int, kind: str = "A", seconds: float = ASK_SECONDS) -> Answer:
    """One query by UDP. Raises `dns.exception.Timeout`."""
    response = dns.query.udp(dns.message.make_query(name, kind), where, port=port, timeout=seconds)
    if response.rcode():
        return frozenset({dns.rcode.to_text(response.rcode())})
    wanted = dns.rdatatype.from_text(kind)
    return frozenset(str(rdata) for rrset in response.answer if rrset.rdtype == wanted for rdata in rrset)


class Stream(threading.Thread):
    """Queries names in turn until it is stopped. right: the right answers for each name."""

    def __init__(self, where: str, port: int, right: Mapping[str, frozenset[Answer]], pause: float = 0.01) -> None:
        super().__init__(daemon=True)
        self._where, self._port, self._right, self._pause = where, port, right, pause
        self._over = threading.Event()
        self.answered = 0
        self.unanswered = 0
        self.wrong: list[str] = []
        self.longest = 0.0  # seconds that an answer took

    def run(self) -> None:
        while not self._over.is_set():
            for name, right in self._right.items():
                began = time.monotonic()
                try:
                    found = ask(name, self._where, self._port)
                except (dns.exception.Timeout, OSError):
                    self.unanswered += 1
                    continue
                self.answered += 1
                self.longest = max(self.longest, time.monotonic() - began)
                if found not in right:
                    self.wrong.append(f"{name}: {sorted(found)}")
                self._over.wait(self._pause)

    def stop(self) -> None:
        self._over.set()
        self.join(ASK_SECONDS + 2)


@contextmanager
def streaming(
    fault: str, where: str, port: int, right: Mapping[str, frozenset[Answer]], unanswered: int = 0
) -> Iterator[Stream]:
    """Sends queries meanwhile; no answer may be wrong, and at most `unanswered` may be missing."""
    stream = Stream(where, port, right)
    stream.start()
    try:
        yield stream
        after, end = stream.answered + 20, time.monotonic() + 20
        while stream.answered < after and time.monotonic() < end:
            time.sleep(0.01)
        assert stream.answered >= after, "answers ceased"
    finally:
        stream.stop()
    assert not stream.wrong, stream.wrong[:5]
    assert stream.unanswered <= unanswered, f"{stream.unanswered} questions were not answered"
    lost = f", {stream.unanswered} not" if stream.unanswered else ""
    longest = f"{stream.longest * 1000:.0f} ms at most"
    note(fault, f"{stream.answered} queries answered meanwhile{lost}, none wrong, {longest}")


def recovery(fault: str, good: Callable[[], object], most: float) -> float:
    """Waits until it is good again, and notes how many seconds that took. Fails after `most`."""
    began = time.monotonic()
    while True:
        try:
            value = good()
        except (dns.exception.Timeout, OSError):
            value = None
        took = time.monotonic() - began
        if value:
            note(fault, f"recovered after {took:.2f} s")
            return took
        assert took < most, f"{fault}: no recovery within {most} s"
        time.sleep(0.01)


class Upstream(threading.Thread):
    """Gives every name one address, by UDP. mood: well, dead, servfail, or slow by `delay` seconds. queries are the
    names of queries for type A."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0, answer: str = OUTSIDE, ttl: int = 1) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.port = int(self.socket.getsockname()[1])
        self.mood, self.delay = "well", 0.0
        self.queries: list[str] = []
        self._answer, self._ttl = answer, ttl
        self.start()

    def run(self) -> None:
        while True:
            try:
                packet, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            if len(packet) < 12:
                return
            query = dns.message.from_wire(packet)
            if query.question[0].rdtype == dns.rdatatype.A:
                self.queries.append(query.question[0].name.to_text(omit_final_dot=True).lower())
            if self.mood != "dead":
                threading.Timer(self.delay, self._respond, (query, peer)).start()

    def _respond(self, query: dns.message.Message, peer: Any) -> None:
        question = query.question[0]
        reply = dns.message.make_response(query, recursion_available=True)
        if self.mood == "servfail":
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif question.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(question.name, self._ttl, "IN", "A", self._answer))
        with contextlib.suppress(OSError):  # the test is over
            self.socket.sendto(reply.to_wire(), peer)
