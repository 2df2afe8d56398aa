"""The clients of an endurance run: each a thread, on the host or a guest, by UDP or TCP; all responses are checked."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from typing import NamedTuple

import dns.message
import dns.rdatatype

from tests.bench.world import reverse_name
from tests.contract.endurance import upstream
from tests.contract.endurance.lab import KINDS, Vms
from tests.contract.endurance.oracle import GRACE, Oracle, Truth

TRIES, TRY_SECONDS = 3, 2.0  # as resolvers do
TCP_SECONDS = 8.0
MAX_WRONG = 20  # that are reported
KINDS_OF_NAMES = ("t0-", "t1-", "t5-", "x-", "no-", "cut-") * 6 + ("lost-",)
FORWARDED = [f"{kind}{n:04d}.example" for n, kind in enumerate(KINDS_OF_NAMES * 40)]
_CLONE_NEWNET = 0x40000000


class Query(NamedTuple):
    """A name in this spelling, a type, whether vmdns forwards it."""

    name: str
    kind: str
    forwarded: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.name.lower(), self.kind


class Client(threading.Thread):
    """Sends queries until it is stopped, `rate` a second at most, in bursts."""

    def __init__(self, title: str, target: str, oracle: Oracle, vms: Vms, rate: float, namespace: str = "") -> None:
        super().__init__(name=title, daemon=True)
        host, port = target.split(":")
        self._address = host, int(port)
        self._oracle, self._vms, self._rate, self._namespace = oracle, vms, rate, namespace
        self._rng = random.Random(title)
        self.over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.late: list[float] = []
        self.longest = 0.0

    def run(self) -> None:
        if self._namespace:
            self._enter()
        while not self.over.is_set():
            burst = [self._draw() for _ in range(self._rng.choice((1, 1, 2, 20)))]
            began = time.monotonic()
            self._send_burst(burst)
            self.over.wait(max(0.0, began + len(burst) / self._rate - time.monotonic()))

    def _enter(self) -> None:
        """A namespace is a thread's own (setns(2))."""
        handle = os.open(self._namespace, os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)

    def _draw(self) -> Query:
        rng = self._rng
        what = rng.random()
        if what < 0.25:
            return Query(rng.choice(FORWARDED), rng.choice(("A", "A", "AAAA")), True)
        one = rng.choice(self._vms.all)
        if what < 0.40 and one.address:
            return Query(reverse_name(one.address), "PTR", False)
        if what < 0.45:
            return Query(f"www.no{one.number}.local", rng.choice(KINDS), False)
        label = rng.choice((one.label, one.label, f"vm{one.number:05d}", f"shop{one.number:05d}", one.uuid))
        zone = "local" if label == one.uuid else rng.choice(("local", "local", "vm.internal"))
        name = f"{label}.{zone}"
        kind = rng.choice(("A", "A", "A", *KINDS))
        return Query(name.upper() if rng.random() < 0.1 else name, kind, False)

    def _send_burst(self, burst: list[Query]) -> None:
        raise NotImplementedError

    def _packet(self, one: Query, number: int) -> bytes:
        query = dns.message.make_query(one.name, one.kind, use_edns=self._rng.random() < 0.5)
        query.id = number
        return query.to_wire()

    def _check(self, one: Query, packet: bytes, sent: float) -> None:
        message = dns.message.from_wire(packet)
        kind = dns.rdatatype.from_text(one.kind)
        data = [str(rdata) for rrset in message.answer if rrset.rdtype == kind for rdata in rrset]
        found = Truth(int(message.rcode()), frozenset(data))
        self.counts["answered"] += 1
        self.longest = max(self.longest, time.monotonic() - sent)
        if one.forwarded:
            late = 0.0 if found == upstream.truth(one.name, one.kind) else None
        else:
            late = self._oracle.lateness(one.key, found, sent)
        if late is None or late > GRACE:
            self.counts["wrong"] += 1
            if len(self.wrong) < MAX_WRONG:
                verdict = "never true" if late is None else f"true {late:.2f} s before"
                self.wrong.append(f"{self.name}: {one.name} {one.kind}: {found.rcode} {sorted(found.data)}: {verdict}")
        elif late:
            self.late.append(late)


class ByUdp(Client):
    """A burst from one socket, each query sent again as resolvers do when no answer comes."""

    def _send_burst(self, burst: list[Query]) -> None:
        first = self._rng.randrange(60000)
        waiting = {first + at: one for at, one in enumerate(burst)}
        began: dict[int, float] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(self._address)
            for turn in range(TRIES):
                for number, one in waiting.items():
                    began[number] = time.monotonic()
                    client.send(self._packet(one, number))
                    self.counts["sent" if turn == 0 else "sent again"] += 1
                end = time.monotonic() + TRY_SECONDS
                while waiting and (left := end - time.monotonic()) > 0:
                    client.settimeout(left)
                    try:
                        packet = client.recv(4096)
                    except TimeoutError:
                        break
                    one = waiting.get(int.from_bytes(packet[:2], "big"))
                    if one is not None:
                        number = int.from_bytes(packet[:2], "big")
                        del waiting[number]
                        self._check(one, packet, began[number])
                if not waiting:
                    return
        self.counts["unanswered"] += len(waiting)
        self.wrong += [f"{self.name}: {one.name} {one.kind}: no answer" for one in waiting.values()][:3]


class ByTcp(Client):
    """A burst pipelined on one connection, whose answers come as they are ready (RFC 7766 section 6.2.1.1)."""

    _connection: socket.socket | None = None

    def _send_burst(self, burst: list[Query]) -> None:
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=TCP_SECONDS)
            self._connection.settimeout(TCP_SECONDS)
            self.counts["connections"] += 1
        waiting = {100 + at: one for at, one in enumerate(burst)}
        sent = time.monotonic()
        try:
            packets = [self._packet(one, number) for number, one in waiting.items()]
            self._connection.sendall(b"".join(struct.pack("!H", len(one)) + one for one in packets))
            self.counts["sent"] += len(burst)
            while waiting:
                head = self._connection.recv(2, socket.MSG_WAITALL)
                packet = self._connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL) if head else b""
                if len(packet) < 12:
                    raise ConnectionError("closed with answers missing")
                self._check(waiting.pop(int.from_bytes(packet[:2], "big")), packet, sent)
        except (OSError, KeyError) as error:
            self.counts["dropped by TCP"] += len(waiting)
            self.wrong.append(f"{self.name}: {len(waiting)} answers missing: {error!r}"[:200])
            self._close()
        else:
            if self._rng.random() < 0.2:
                self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
