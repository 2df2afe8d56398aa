"""Those who ask during an endurance run: each a thread, from the host or a guest, by UDP or TCP; all is judged."""

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

from tests.contract.endurance import upstream
from tests.contract.endurance.lab import KINDS, Vms, reverse
from tests.contract.endurance.oracle import GRACE, Oracle, Truth

TRIES, TRY_SECONDS = 3, 2.0  # as resolvers do
TCP_SECONDS = 8.0
MOST_WRONG = 20  # that are told
KINDS_OF_NAMES = ("t0-", "t1-", "t5-", "x-", "no-", "cut-") * 6 + ("lost-",)
FORWARDED = [f"{kind}{n:04d}.example" for n, kind in enumerate(KINDS_OF_NAMES * 40)]
_CLONE_NEWNET = 0x40000000


class Asked(NamedTuple):
    """A question: its name as asked, its type, whether vmdns forwards it."""

    name: str
    kind: str
    forwarded: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.name.lower(), self.kind


class Asker(threading.Thread):
    """Asks until it is stopped, `rate` questions a second at most, in bursts."""

    def __init__(self, title: str, door: str, oracle: Oracle, vms: Vms, rate: float, namespace: str = "") -> None:
        super().__init__(name=title, daemon=True)
        self._door, self._oracle, self._vms, self._rate, self._namespace = door, oracle, vms, rate, namespace
        self._lots = random.Random(title)
        self.over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.late: list[float] = []
        self.longest = 0.0

    def run(self) -> None:
        if self._namespace:
            self._enter()
        while not self.over.is_set():
            asked = [self._draw() for _ in range(self._lots.choice((1, 1, 2, 20)))]
            began = time.monotonic()
            self._ask(asked)
            self.over.wait(max(0.0, began + len(asked) / self._rate - time.monotonic()))

    def _enter(self) -> None:
        """A namespace is a thread's own (setns(2))."""
        handle = os.open(self._namespace, os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)

    def _draw(self) -> Asked:
        lots = self._lots
        what = lots.random()
        if what < 0.25:
            return Asked(lots.choice(FORWARDED), lots.choice(("A", "A", "AAAA")), True)
        one = lots.choice(self._vms.all)
        if what < 0.40 and one.address:
            return Asked(reverse(one.address), "PTR", False)
        if what < 0.45:
            return Asked(f"www.no{one.number}.local", lots.choice(KINDS), False)
        label = lots.choice((one.label, one.label, f"vm{one.number:05d}", f"shop{one.number:05d}", one.uuid))
        zone = "local" if label == one.uuid else lots.choice(("local", "local", "vm.internal"))
        name = f"{label}.{zone}"
        kind = lots.choice(("A", "A", "A", *KINDS))
        return Asked(name.upper() if lots.random() < 0.1 else name, kind, False)

    def _ask(self, asked: list[Asked]) -> None:
        raise NotImplementedError

    def _packet(self, one: Asked, number: int) -> bytes:
        query = dns.message.make_query(one.name, one.kind, use_edns=self._lots.random() < 0.5)
        query.id = number
        return query.to_wire()

    def _judge(self, one: Asked, packet: bytes, sent: float) -> None:
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
            if len(self.wrong) < MOST_WRONG:
                said = "never true" if late is None else f"true {late:.2f} s before"
                self.wrong.append(f"{self.name}: {one.name} {one.kind}: {found.rcode} {sorted(found.data)}: {said}")
        elif late:
            self.late.append(late)


class ByUdp(Asker):
    """A burst from one socket, each asked again as resolvers do when no answer comes."""

    def _ask(self, asked: list[Asked]) -> None:
        first = self._lots.randrange(60000)
        waiting = {first + at: one for at, one in enumerate(asked)}
        began: dict[int, float] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((self._door, 5301))
            for turn in range(TRIES):
                for number, one in waiting.items():
                    began[number] = time.monotonic()
                    client.send(self._packet(one, number))
                    self.counts["asked" if turn == 0 else "asked again"] += 1
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
                        self._judge(one, packet, began[number])
                if not waiting:
                    return
        self.counts["unanswered"] += len(waiting)
        self.wrong += [f"{self.name}: {one.name} {one.kind}: no answer" for one in waiting.values()][:3]


class ByTcp(Asker):
    """A burst pipelined on one connection, whose answers come as they are ready (RFC 7766 section 6.2.1.1)."""

    _connection: socket.socket | None = None

    def _ask(self, asked: list[Asked]) -> None:
        if self._connection is None:
            self._connection = socket.create_connection((self._door, 5301), timeout=TCP_SECONDS)
            self._connection.settimeout(TCP_SECONDS)
            self.counts["connections"] += 1
        waiting = {100 + at: one for at, one in enumerate(asked)}
        sent = time.monotonic()
        try:
            packets = [self._packet(one, number) for number, one in waiting.items()]
            self._connection.sendall(b"".join(struct.pack("!H", len(one)) + one for one in packets))
            self.counts["asked"] += len(asked)
            while waiting:
                head = self._connection.recv(2, socket.MSG_WAITALL)
                packet = self._connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL) if head else b""
                if len(packet) < 12:
                    raise ConnectionError("closed with answers missing")
                self._judge(waiting.pop(int.from_bytes(packet[:2], "big")), packet, sent)
        except (OSError, KeyError) as error:
            self.counts["dropped by TCP"] += len(waiting)
            self.wrong.append(f"{self.name}: {len(waiting)} answers missing: {error!r}"[:200])
            self._close()
        else:
            if self._lots.random() < 0.2:
                self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
