"""The forms in which queries and responses stand ready: the common ones are all of one length, so that what comes and
goes by the dozen is told apart and laid out in one step.

A query is told by its key: what follows its id, filled up with zero bytes, and the length of the datagram. A response
is held as it is sent: its length with the id, room for the id, what follows that, and zero bytes. Longer ones are not
filled up.
"""

from __future__ import annotations

import struct

QUERY = 60  # bytes of a datagram that is told by a key of the one length; 58 of them follow the id
KEY = QUERY - 2 + 4
SENT = 128  # bytes of a held response of the one length, its head with them
ID = 8  # where the id is in it
BODY = ID + 2

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<Q2x")
_HEADS = [_HEAD.pack(2 + length) for length in range(SENT - BODY + 1)]

NOTHING = bytes(SENT)  # for who gets no response


def key_of(query: bytes) -> bytes:
    """The key of a query without its id."""
    length = len(query)
    if length <= QUERY - 2:
        return query.ljust(QUERY - 2, b"\0") + _LENGTH.pack(2 + length)
    return query + b"\xff"  # no key of the one length ends so: the lengths in those are small


def packed(response: bytes) -> bytes:
    """A response without its id, as it is held."""
    length = len(response)
    if length <= SENT - BODY:
        return (_HEADS[length] + response).ljust(SENT, b"\0")
    return _HEAD.pack(2 + length) + response


def unpacked(held: bytes) -> bytes:
    """The response without its id."""
    return held[BODY : ID + int.from_bytes(held[:ID], "little")]
