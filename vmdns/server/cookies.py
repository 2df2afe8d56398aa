"""Server side of DNS cookies (RFC 7873, RFC 9018): the secret, which is rolled each day, and recently checked
cookies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from vmdns.dns.cookie import CLIENT, COOKIE, FULL, RENEW_SECONDS, VALID_SECONDS, cookie_age, make_cookie
from vmdns.dns.query import Query, encode_option
from vmdns.server.rate_limit import Bucket

SECRET_BYTES = 16
ROLL_SECONDS = 86_400  # RFC 9018 section 5: cookies of the secret before are good for their hour
MAX_REMEMBERED = 4096  # valid ones, and as many invalid ones; some 300 bytes each: 1.2 MB twice
# Unknown cookies checked a second for clients beyond their rate: a flood of invented cookies must neither take the
# processor nor push out valid ones.
CHECKS = 1000.0


class Cookies:
    """Makes and checks cookies. now is Unix time in seconds, random gives secrets. Any thread may use it.

    A checked cookie is remembered until it is to be renewed, as the hash takes some 20 microseconds.
    """

    def __init__(self, now: Callable[[], float] = time.time, random: Callable[[int], bytes] = os.urandom) -> None:
        self._now = now
        self._random = random
        self._secrets: tuple[bytes, ...] = (random(SECRET_BYTES),)
        self._rolled = now()
        self._valid: dict[tuple[str, bytes], tuple[bytes, float, float]] = {}
        self._invalid: dict[tuple[str, bytes], tuple[bytes, float, float]] = {}
        self._checks = Bucket(CHECKS, CHECKS, self._rolled)

    def check(self, received: bytes, address: str) -> tuple[bytes, bool]:
        """Returns the cookie to send back to a client with this one, and whether this one verifies the client's
        address."""
        now = self._now()
        for met in (self._valid, self._invalid):
            data, since, until = met.get((address, received), (b"", 0.0, 0.0))
            if since <= now < until:
                return data, met is self._valid
        self._roll(now)
        return self._verify(received, address, now)

    def is_valid(self, received: bytes, address: str) -> bool:
        """Whether a cookie verifies its client's address. Of unknown cookies, CHECKS a second are checked; the rest
        counts as invalid."""
        now = self._now()
        _, since, until = self._valid.get((address, received), (b"", 0.0, 0.0))
        if since <= now < until:
            return True
        return len(received) == FULL and self._checks.take(now, 1) and self.check(received, address)[1]

    def with_cookie(self, query: Query, address: str) -> Query:
        """Returns the query with the cookie for its response; it is proven where its own cookie is valid."""
        if query.edns is None or not query.edns.cookie:
            return query
        data, proves = self.check(query.edns.cookie, address)
        return replace(query, response_options=query.response_options + encode_option(COOKIE, data), verified=proves)

    def _verify(self, received: bytes, address: str, now: float) -> tuple[bytes, bool]:
        secrets = self._secrets if now < self._rolled + VALID_SECONDS else self._secrets[:1]
        ages = [cookie_age(received, address, int(now), secret) for secret in secrets]
        old = next((one for one in ages if one is not None), None)
        if ages[0] is not None and 0 <= ages[0] < RENEW_SECONDS:
            data, left = received, RENEW_SECONDS - ages[0]
        else:
            data, left = make_cookie(received[:CLIENT], address, int(now), self._secrets[0]), RENEW_SECONDS
        met = self._invalid if old is None else self._valid
        if len(met) >= MAX_REMEMBERED:
            met.clear()
        met[address, received] = data, now, now + min(left, VALID_SECONDS - max(old or 0, 0))
        return data, old is not None

    def _roll(self, now: float) -> None:
        if not 0 <= now - self._rolled < ROLL_SECONDS:
            self._secrets = (self._random(SECRET_BYTES), self._secrets[0])
            self._rolled = now
            self._valid.clear()
            self._invalid.clear()
