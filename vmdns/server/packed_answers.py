"""The form of cached queries and responses: common ones have one length, so that a batch is looked up and laid out in
one step.

The key of a query is what follows its id, padded with zero bytes, and the length of the datagram. A packed response is
its length with the id, room for the id, what follows the id, and zero bytes. Longer ones are not padded.
"""

from __future__ import annotations

import struct

QUERY = 60  # bytes of the longest datagram with a common key; 58 of them follow the id
KEY = QUERY - 2 + 4
SENT = 128  # bytes of a packed response of the common length, with its head
ID = 8  # where the id is in it
BODY = ID + 2

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<Q2x")
_HEADS = [_HEAD.pack(2 + length) for length in range(SENT - BODY + 1)]

NO_RESPONSE = bytes(SENT)  # for a query that gets no response


def key_of(query: bytes) -> bytes:
    """Returns the key of a query without its id."""
    length = len(query)
    if length <= QUERY - 2:
        return query.ljust(QUERY - 2, b"\0") + _LENGTH.pack(2 + length)
    return query + b"\xff"  # no common key ends so: the lengths in them are small


def packed(response: bytes) -> bytes:
    """Packs a response without its id."""
    length = len(response)
    if length <= SENT - BODY:
        return (_HEADS[length] + response).ljust(SENT, b"\0")
    return _HEAD.pack(2 + length) + response


def unpacked(response: bytes) -> bytes:
    """Returns the response without its id."""
    return response[BODY : ID + int.from_bytes(response[:ID], "little")]
