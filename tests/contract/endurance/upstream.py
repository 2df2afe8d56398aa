"""A local upstream for endurance runs: what it answers follows from the name alone.

`tN-...example` has a TTL of N seconds; `cut-` needs TCP, `lost-` is answered the second time only, `no-` is
NXDOMAIN.
"""

from __future__ import annotations

import socket
import struct
import threading
import zlib

from tests.contract.endurance.oracle import ABSENT, NOTHING, Truth

A, TXT, TTL = 1, 16, 30
_SOA = b"\0\0\6\0\1\0\0\0\5\0\x16\0\0\0\0\0\0\0\1\0\0\0\5\0\0\0\5\0\0\0\5\0\0\0\5"


def address(name: str) -> str:
    """What this name's A record holds: a public address."""
    number = zlib.crc32(name.lower().encode())
    return f"93.184.{number >> 8 & 255}.{1 + number % 250}"


def truth(name: str, kind: str) -> Truth:
    """What is right for this name and type."""
    if name.startswith("no-"):
        return ABSENT
    return Truth(0, frozenset({address(name)})) if kind == "A" else NOTHING


class Upstream:
    """Answers at a port of 127.0.0.1 by UDP and TCP, from threads of its own."""

    def __init__(self) -> None:
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.port = self._udp.getsockname()[1]
        self._tcp = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._lost: set[bytes] = set()
        for work in (self._datagrams, self._connections):
            threading.Thread(target=work, daemon=True).start()

    def _datagrams(self) -> None:
        while True:
            packet, peer = self._udp.recvfrom(4096)
            reply = self._reply(packet, tcp=False)
            if reply:
                self._udp.sendto(reply, peer)

    def _connections(self) -> None:
        while True:
            one, _ = self._tcp.accept()
            with one:
                one.settimeout(2.0)
                try:
                    head = one.recv(2, socket.MSG_WAITALL)
                    packet = one.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                    if len(packet) < 12:
                        continue  # the client has an answer to an earlier try, and left
                    reply = self._reply(packet, tcp=True)
                    one.sendall(struct.pack("!H", len(reply)) + reply)
                except OSError:
                    continue

    def _reply(self, packet: bytes, *, tcp: bool) -> bytes:
        end = 12
        labels = []
        while packet[end]:
            labels.append(packet[end + 1 : end + 1 + packet[end]].decode())
            end += 1 + packet[end]
        end += 5
        name = ".".join(labels).lower()
        kind = int.from_bytes(packet[end - 4 : end - 2], "big")
        if name.startswith("lost-") and not tcp:
            if packet[12:end].lower() not in self._lost:
                self._lost.add(packet[12:end].lower())
                return b""
            self._lost.discard(packet[12:end].lower())
        question, flags, answers = packet[12:end], 0x8180, b""
        if name.startswith("no-"):
            flags |= 3
        elif name.startswith("cut-") and not tcp:
            flags |= 0x0200
        elif kind == A:
            ttl = int(name[1 : name.index("-")]) if name[0] == "t" else TTL
            answers = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", ttl, 4) + socket.inet_aton(address(name))
        authority = b"" if answers or flags & 0x0200 else _SOA
        counts = struct.pack("!4H", 1, int(bool(answers)), int(bool(authority)), 0)
        return packet[:2] + struct.pack("!H", flags) + counts + question + answers + authority
