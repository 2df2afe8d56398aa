"""DNS cookies (RFC 7873, RFC 9018): a client that sends ours back gets what we send to its address.

A server cookie is 16 bytes: version 1, three zero bytes, when it was made (Unix time), and a keyed hash of these, of
the client's cookie and of its address. The hash is BLAKE2s: RFC 9018 has SipHash-2-4 so that several servers can share
a secret, and ours is never shared.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from ipaddress import ip_address

COOKIE = 10  # the code of the EDNS option
BADCOOKIE = 23
CLIENT, FULL = 8, 24  # bytes of an option with the client's cookie alone, and with one of ours

# RFC 9018 section 4.3, in seconds.
VALID_SECONDS = 3600
RENEW_SECONDS = 1800
EARLY_SECONDS = 300

_HEAD = struct.Struct("!B3xI")


def is_legal_length(length: int) -> bool:
    """Whether an option may have this length in bytes (RFC 7873 section 4); other lengths get FORMERR."""
    return length == CLIENT or 16 <= length <= 40


def make_cookie(client: bytes, address: str, when: int, secret: bytes) -> bytes:
    """The whole option's data for a client: its own cookie (8 bytes), and ours. secret has 16 bytes.

    address is the client's, when in seconds of Unix time.
    """
    head = _HEAD.pack(1, when & 0xFFFFFFFF)
    data = client + head + ip_address(address.partition("%")[0]).packed
    return client + head + blake2s(data, digest_size=8, key=secret).digest()


def cookie_age(data: bytes, address: str, now: int, secret: bytes) -> int | None:
    """How many seconds ago we made this for the address (less than 0: by a clock that was ahead); None where it is
    too old, from the future, or not ours at all."""
    if len(data) != FULL or data[8:12] != b"\1\0\0\0":
        return None
    (when,) = struct.unpack_from("!I", data, 12)
    # Serial number arithmetic, as RFC 9018 section 4.3 has it: 32 bits end in 2106.
    old = (now - when + 0x80000000 & 0xFFFFFFFF) - 0x80000000
    if not -EARLY_SECONDS <= old <= VALID_SECONDS:
        return None
    return old if make_cookie(data[:8], address, when, secret) == data else None
