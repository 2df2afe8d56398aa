"""One query to an upstream and its response, over UDP or TCP. Used in the UDP thread alone."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ

from vmdns.dns import query
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.message import IN
from vmdns.dns.query import UDP_SIZE, Edns, Query
from vmdns.dns.response_validation import Rejected, ResponseFault
from vmdns.dns.upstreams import Upstream
from vmdns.server.io_thread import Timer
from vmdns.server.upstream_sockets import UpstreamSocket, UpstreamSockets

# We offer 1232 bytes; a well-behaved server sends no datagram longer than this.
MAX_DATAGRAM = 4096
_WSAEMSGSIZE = 10040
# This many datagrams that are no response mean that someone is guessing: then TCP is used, which cannot be guessed.
MAX_STRAYS = 50
_PORT_TRIES = 8

_RD, _AD, _CD = 0x0100, 0x0020, 0x0010
_PLAIN, _SIGNED = (Edns(UDP_SIZE, 0, signed, frozenset()) for signed in (False, True))
_LETTERS = bytes(0x20 if 0x61 <= byte <= 0x7A else 0 for byte in range(256))  # the bit of its case

Validate = Callable[[bytes, Query, bool], Forwarded | Rejected]
# A validated response, or why there is none: OSError where the server cannot be reached or does not respond in time,
# another exception for a fault of ours.
Result = Forwarded | Rejected | Exception


def encode_query(question: Question, *, edns: bool, mix_case: bool) -> tuple[bytes, Query]:
    """Returns the bytes of a query with a random id, and the query.

    mix_case: each letter of the name has a random case, which the response has to repeat (draft-vixie-dnsext-dns0x20).
    AD requests the AD bit of the answer without DNSSEC records (RFC 6840 section 5.7).
    """
    key, kind, signed, unchecked = question
    flags = _RD | _AD | (_CD if unchecked else 0)
    random = secrets.token_bytes(2 + len(key))
    ident, name = int.from_bytes(random[:2], "big"), key
    if mix_case:
        bits = int.from_bytes(random[2:], "big") & int.from_bytes(key.translate(_LETTERS), "big")
        name = (int.from_bytes(key, "big") ^ bits).to_bytes(len(key), "big")
    packet = query.encode_query(ident, name, kind, flags=flags, dnssec_ok=signed, edns=edns)
    opt = (_SIGNED if signed else _PLAIN) if edns else None
    return packet, Query(ident, flags, name, key, kind, IN, packet[12 : 16 + len(name)], opt)


class Exchange:
    """Sends queries, one at a time; `receive` gets the result of each, unless it is closed first.

    validate validates a message as the response to a query; its last argument says whether it arrived over TCP.
    """

    stream = False  # whether the next query is sent over TCP
    began = 0.0  # when the query was sent, of time.monotonic
    _socket: UpstreamSocket | None = None
    _timer: Timer | None = None

    def __init__(self, sockets: UpstreamSockets, validate: Validate) -> None:
        self._sockets = sockets
        self._validate = validate

    def receive(self, result: Result) -> None:
        """Takes the result of the query."""
        raise NotImplementedError

    def send(self, upstream: Upstream, packet: bytes, sent: Query, timeout: float | None = None) -> None:
        """Sends a query; without a timeout (in seconds) it is in flight until it is closed.

        Datagrams that are no response are ignored, and the wait continues (RFC 5452 section 9.1).
        """
        self._sent = sent
        self._strays = 0
        self.began = time.monotonic()
        thread = self._sockets.thread
        try:
            ready = self._send_stream if self.stream else self._receive
            self._socket = self._sockets.take(upstream, self.stream, ready)
            if self.stream:
                self._buffer = len(packet).to_bytes(2, "big") + packet
            else:
                self._socket.sock.send(packet)
        except OSError as error:
            self._timer = thread.call_at(0.0, partial(self._finish, error))  # not before the caller is done
        else:
            if timeout is not None:
                self._timer = thread.call_at(self.began + timeout, partial(self._finish, TimeoutError("no response")))

    def close(self) -> None:
        """Ends the query that is in flight."""
        if self._timer is not None:
            self._timer.call = None
        if self._socket is not None:
            self._sockets.close(self._socket)
            self._socket = None

    def _finish(self, result: Result) -> None:
        if self._socket is not None and not (self.stream or self._strays or isinstance(result, Exception)):
            self._sockets.release(self._socket)
            self._socket = None
        self.close()
        self.receive(result)

    def _send_stream(self) -> None:
        """Sends the query over TCP (RFC 7766), once it is connected."""
        if self._socket is None:  # closed in this round
            return
        try:
            sock, thread = self._socket.sock, self._sockets.thread
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            self._buffer = self._buffer[sock.send(self._buffer) :]
            if not self._buffer:
                thread.unwatch(sock)
                thread.watch(sock, EVENT_READ, self._receive)
        except OSError as error:
            self._finish(error)

    def _receive(self) -> None:
        if self._socket is None:
            return
        try:
            message = self._socket.sock.recv(MAX_DATAGRAM)
            if self.stream:
                if not message:
                    raise ConnectionError("the connection was closed before the whole answer came")
                self._buffer += message
                size = 2 + int.from_bytes(self._buffer[:2], "big")
                if len(self._buffer) < size:
                    return
                message = self._buffer[2:size]
            result: Result = self._validate(message, self._sent, self.stream)
        except BlockingIOError:
            return
        except Exception as error:
            # A longer datagram, which is no response of a server that keeps to UDP_SIZE, is cut elsewhere.
            too_long = getattr(error, "winerror", 0) == _WSAEMSGSIZE
            result = Rejected(ResponseFault.IGNORE, "too long") if too_long else error
        if isinstance(result, Rejected) and result.verdict is ResponseFault.IGNORE and not self.stream:
            self._strays += 1
            if self._strays < MAX_STRAYS:
                return
            result = Rejected(ResponseFault.TRUNCATED, f"{MAX_STRAYS} datagrams that are no response")
        self._finish(result)
