"""Reads and answers the datagrams of all listeners, in the UDP thread.

On Linux it reads IPv4 datagrams in batches while many arrive, elsewhere one by one.
"""

from __future__ import annotations

import socket
import sys
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

from vmdns.server import udp_linux, wildcard
from vmdns.server.answer_cache import NO_RESPONSE, Answers, find, find_other_case, pack
from vmdns.server.client_limits import MUTE_SECONDS
from vmdns.server.io_thread import IoThread
from vmdns.server.listeners import Listener
from vmdns.server.query_handler import QueryHandler
from vmdns.server.udp_linux import ROOM, Batch, FloodFilter
from vmdns.state.findings import explain_refusal

MANY = 4  # datagrams read at once: more are likely to follow
MAX_CLIENTS = 4096
_ROUNDS = 4  # reads of one listener before others have their turn
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

Peer = tuple[Any, ...]


class UdpListener:
    """The UDP side of one listener."""

    def __init__(self, listener: Listener, thread: IoThread, *, batched: bool) -> None:
        self.address = listener.address
        self.socket = listener.udp
        self.batched = batched
        self.many = False  # whether the last read found many datagrams
        # The cached answers for each client that needs no check, None for others, by address: as text or as four bytes.
        self.clients: dict[str | bytes, Answers | None] = {}
        self._thread = thread
        self.filter = FloodFilter(listener.udp)
        self._source = wildcard.encode_source(listener.address) if listener.wildcard else []

    def send(self, peer: Peer, response: bytes) -> None:
        """Sends a response. Raises OSError."""
        if self._source:
            wildcard.send(self.socket, response, self._source, _DONT_WAIT, peer)
        else:
            self.socket.sendto(response, _DONT_WAIT, peer)

    def mute(self, network: str) -> bool:
        """Has the kernel drop most datagrams from a network for a moment. Returns False where it cannot."""
        if not self.filter.mute(network):
            return False
        self._thread.call_at(time.monotonic() + MUTE_SECONDS, partial(self.filter.unmute, network))
        return True


class UdpServer:
    """Answers the datagrams of all listeners."""

    def __init__(self, thread: IoThread, handler: QueryHandler) -> None:
        self._thread = thread
        self._handler = handler
        self._cache = handler.answer_cache
        self._counts = handler.counts
        self._batch = Batch() if udp_linux.POSSIBLE else None
        self._open: dict[Listener, UdpListener] = {}
        # Listeners by address, for each socket that is bound to all addresses.
        self._wildcards: dict[socket.socket, dict[str, UdpListener]] = {}
        # Why this computer itself refused to send a response, and when (time.monotonic).
        self.refusal = "", 0.0
        # Recent clients: (peer, the host's address that it queried) -> time of the query, in seconds of time.monotonic.
        self.recent_clients: dict[tuple[str, str], float] = {}

    @property
    def path(self) -> str:
        """How datagrams are read: in batches, one by one, or both."""
        return " and ".join(sorted({"in batches" if one.batched else "one by one" for one in self._open.values()}))

    def open(self, listener: Listener) -> None:
        """Starts answering on a listener."""
        batched = self._batch is not None and listener.udp.family == socket.AF_INET and not listener.wildcard
        others = self._wildcards.setdefault(listener.udp, {}) if listener.wildcard else {}
        one = self._open[listener] = UdpListener(listener, self._thread, batched=batched)
        for other in others.values():
            one.filter = other.filter  # a socket has one
        # Sending waits while the buffer is full, where a read need not wait.
        listener.udp.setblocking(_DONT_WAIT != 0)
        others[listener.address] = one
        if len(others) == 1:
            read = partial(self._read_wildcard, listener.udp, others) if listener.wildcard else partial(self._read, one)
            self._thread.submit(partial(self._thread.watch, listener.udp, EVENT_READ, read))

    def close(self, listener: Listener) -> None:
        """Stops answering on a listener."""
        one = self._open.pop(listener)
        if listener.wildcard:
            del self._wildcards[listener.udp][listener.address]
            if self._wildcards[listener.udp]:
                return
            del self._wildcards[listener.udp]

        def stop() -> None:
            self._thread.unwatch(one.socket)
            one.filter.clear()

        self._thread.run(stop)

    def forget_clients(self) -> None:
        """Drops what is known of clients, which a new snapshot may change. Any thread may call this."""
        for one in self._open.values():
            one.clients = {}

    def _read(self, one: UdpListener) -> None:
        """Answers what has arrived: one datagram, where few are expected, which is the fastest then, and the rest in
        batches where the system has them."""
        self._cache.expire()
        try:
            for _ in range(_ROUNDS if not one.batched else 0 if one.many else 1):
                packet, peer = one.socket.recvfrom(ROOM, _DONT_WAIT)
                self._send(one, peer, self._answer(one, packet, peer))
        except OSError:
            # No more datagrams, or an ICMP error that an earlier response caused: ECONNREFUSED, and on Windows
            # WSAECONNRESET, also of sockets that are not connected. The socket still works.
            pass
        for _ in range(_ROUNDS if one.batched else 0):
            self._answer_batch(one)
            if not one.many:
                break

    def _read_wildcard(self, sock: socket.socket, listeners: dict[str, UdpListener]) -> None:
        """Answers some datagrams that have arrived at a socket which these share."""
        self._cache.expire()
        try:
            for _ in range(_ROUNDS):
                packet, local, peer = wildcard.receive(sock, ROOM, _DONT_WAIT)
                one = listeners.get(local)
                if one is not None:
                    self._send(one, peer, self._answer(one, packet, peer))
        except OSError:
            pass  # as in _read

    def _answer(self, one: UdpListener, packet: bytes, peer: Peer) -> bytes | None:
        """Returns the response, b"" or None for none now."""
        try:
            answers = self._answers_for(one, peer[0])
            found = find(answers, packet) if answers else None
            if found is None:
                send = partial(self._send, one, peer)
                return self._handler.answer_datagram(packet, peer, one.address, send, one.mute)
        except Exception:
            return self._handler.report_fault(packet)
        self._counts.queries += 1
        self._counts.answered += 1
        return found

    def _answers_for(self, one: UdpListener, client: str | bytes) -> Answers | None:
        clients = one.clients  # before the lookup: what is found by an old snapshot goes with the dict
        try:
            return clients[client]
        except KeyError:
            pass
        if len(clients) >= MAX_CLIENTS:
            clients.clear()
        if len(self.recent_clients) >= MAX_CLIENTS:
            self.recent_clients.clear()
        peer = client if isinstance(client, str) else socket.inet_ntoa(client)
        self.recent_clients[peer, one.address] = time.monotonic()
        try:
            found = clients[client] = self._handler.find_answers(peer, one.address)
        except Exception:
            return None  # the query itself meets the same fault, which is reported then
        return found

    def _answer_batch(self, one: UdpListener) -> None:
        """Answers a batch. Takes few steps for each datagram, since a busy server spends its time here."""
        batch = self._batch
        assert batch is not None
        count = batch.receive(one.socket)
        one.many = count >= MANY
        if count <= 0:
            return
        packed: list[Any] = []
        uncached = 0
        clients, keys, known = batch.clients(count), batch.keys(count), one.clients
        for client, key in zip(clients, keys, strict=True):
            answers = known.get(client) or self._answers_for(one, client)
            packed.append((answers.get(key) or find_other_case(answers, key)) if answers else None)
        if None in packed:
            for at in [at for at, cached in enumerate(packed) if cached is None]:
                response = self._answer(one, batch.packet(at), batch.peer(at))
                packed[at] = pack(response) if response else NO_RESPONSE
                uncached += 1
        self._counts.queries += count - uncached
        self._counts.answered += count - uncached
        batch.send(one.socket, packed, self._count_failure)

    def _send(self, one: UdpListener, peer: Peer, response: bytes | None) -> None:
        if not response:
            return
        try:
            try:
                one.send(peer, response)
            except ConnectionResetError:  # about an earlier response (WSAECONNRESET of sendto); this one was not sent
                one.send(peer, response)
        except OSError as error:
            self._count_failure(error)

    def _count_failure(self, error: OSError) -> None:
        self._counts.failed += 1  # a full buffer, or a peer that went away: the client retries
        if reason := explain_refusal(error, sys.platform):
            self.refusal = reason, time.monotonic()
