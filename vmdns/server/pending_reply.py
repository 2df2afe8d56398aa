"""One who waits for the answer to a datagram about what is not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmdns.dns.forwarded_answer import Failure, Forwarded, render
from vmdns.dns.message import parse_query
from vmdns.server.listeners import Listener
from vmdns.state.common_forward import Foreign, respond_to

Peer = tuple[Any, ...]
Make = Callable[[Forwarded | Failure], bytes]
Post = Callable[[Listener, Peer, bytes], None]


class Asked:
    """Makes the response once it is told what is known, and posts it. A waiter of `flights`."""

    __slots__ = ("_listener", "_make", "_peer", "_post")

    def __init__(self, make: Make, listener: Listener, peer: Peer, post: Post) -> None:
        self._make = make
        self._listener = listener
        self._peer = peer
        self._post = post

    def __call__(self, found: Forwarded | Failure) -> None:
        self._post(self._listener, self._peer, self._make(found))


def response(asked: Foreign, found: Forwarded | Failure) -> bytes:
    """What is said to a common question."""
    made = respond_to(asked, found) if isinstance(found, Forwarded) else None
    return made or render(parse_query(asked.packet), found, asked.limit)
