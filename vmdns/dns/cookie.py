"""DNS cookies (RFC 7873, RFC 9018): a client that sends ours back has the address that it queries from.

A server cookie is 16 bytes: version 1, three zero bytes, the Unix time of its making, and a keyed BLAKE2s of these, of
the client's cookie and of its address. RFC 9018 has SipHash-2-4 so that several servers can share a secret; ours is
never shared.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2s

COOKIE = 10  # the code of the EDNS option
BADCOOKIE = 23
CLIENT, FULL = 8, 24  # bytes of an option with the client's cookie alone, and with one of ours

# RFC 9018 sections 4.3 and 5, in seconds.
VALID_SECONDS = 3600
RENEW_SECONDS = 1800
EARLY_SECONDS = 300
ROLL_SECONDS = 86_400

_SECRET_BYTES = 16
_HEAD = struct.Struct("!B3xI")


def is_legal_length(length: int) -> bool:
    """Whether an option may have this length in bytes (RFC 7873 section 4); other lengths get FORMERR."""
    return length == CLIENT or 16 <= length <= 40


def make_cookie(client: bytes, address: str, when: int, secret: bytes) -> bytes:
    """The whole option's data for a client: its own cookie (8 bytes), and ours. when is Unix time in seconds."""
    head = _HEAD.pack(1, when & 0xFFFFFFFF)
    data = client + head + address.partition("%")[0].encode()
    return client + head + blake2s(data, digest_size=8, key=secret).digest()


def cookie_age(data: bytes, address: str, now: int, secret: bytes) -> int | None:
    """How many seconds ago we made this for the address (less than 0: by a clock that was ahead); None where it is
    too old, from the future, or not ours at all."""
    if len(data) != FULL or data[8:12] != b"\1\0\0\0":
        return None
    (when,) = struct.unpack_from("!I", data, 12)
    # Serial number arithmetic, as RFC 9018 section 4.3 has it: 32 bits end in 2106.
    age = (now - when + 0x80000000 & 0xFFFFFFFF) - 0x80000000
    if not -EARLY_SECONDS <= age <= VALID_SECONDS:
        return None
    return age if make_cookie(data[:8], address, when, secret) == data else None


class Cookies:
    """Makes and checks cookies by a secret that is rolled each day; cookies of the one before stay valid for their
    hour. now gives Unix time in seconds, random that many bytes."""

    def __init__(self, now: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._now = now
        self._random = random
        self._secrets: tuple[bytes, ...] = (random(_SECRET_BYTES),)
        self._rolled = now()

    def check(self, received: bytes, address: str) -> tuple[bytes, bool]:
        """Returns the option's data for the response, and whether what was received verifies the client's address."""
        now = self._now()
        if not 0 <= now - self._rolled < ROLL_SECONDS:
            self._secrets = (self._random(_SECRET_BYTES), self._secrets[0])
            self._rolled = now
        secrets = self._secrets if now < self._rolled + VALID_SECONDS else self._secrets[:1]
        ages = [cookie_age(received, address, int(now), secret) for secret in secrets]
        if ages[0] is not None and 0 <= ages[0] < RENEW_SECONDS:
            return received, True
        made = make_cookie(received[:CLIENT], address, int(now), self._secrets[0])
        return made, any(age is not None for age in ages)
