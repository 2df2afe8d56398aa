"""Which names the host's links are asked for by multicast DNS, within which budgets, and what the lookups found.

A lookup is one name, for both address types; it takes one query, and a second one where nobody answers at once. Times
are seconds of one monotonic clock, passed in by the caller. `state` may be called by any thread.
"""

from __future__ import annotations

from enum import Enum

from vmdns.dns.name import split_labels
from vmdns.state.name_assignment import RESERVED

# Queries a second, first and repeated ones alike, and lookups pending at once.
CLIENT_QUERIES, ALL_QUERIES = 10, 20
CLIENT_LOOKUPS = 8
EXCESSIVE_SECONDS = 5.0  # how long a client that exceeded its budget is limited
MOST_REFUSED = 256
MOST_WAITERS = 256  # clients' queries that wait for all lookups together

ABSENT_SECONDS = 60.0
FOUND_SECONDS = 5.0
MOST_RESULTS = 2048  # ABSENT_SECONDS of ALL_QUERIES, and some; about 200 bytes each

WAIT_SECONDS = 1.0
SILENT_WAIT_SECONDS = 0.3  # where nobody has answered any query for ACTIVE_SECONDS
ACTIVE_SECONDS = 300.0


class LookupState(Enum):
    """What a query for a name needs: nothing, as nobody has the name; a lookup, or one's result; or a lookup that the
    budgets do not allow now."""

    ABSENT, LOOKUP, OVER_BUDGET = range(3)


class LinkLookups:
    """Pending lookups, their budgets, and recent results. Names are wire names in lower case."""

    def __init__(self) -> None:
        self._results: dict[bytes, tuple[float, tuple[str, ...]]] = {}
        self._pending: dict[bytes, str] = {}  # and the client that each is charged to
        self._sent: tuple[tuple[float, str], ...] = ()  # queries of the last second, with their clients
        self._active_until = float("-inf")
        self._refused: dict[str, tuple[float, int]] = {}  # lookups of a client in the second that began then
        self._excessive_until: dict[str, float] = {}
        self.waiters = 0

    def __len__(self) -> int:
        """How many lookups are pending."""
        return len(self._pending)

    def state(self, name: bytes, client: str, now: float) -> LookupState:
        """What a query of this client for the name needs."""
        found = self.result(name, now)
        if found is not None:
            return LookupState.LOOKUP if found else LookupState.ABSENT
        if self.waiters >= MOST_WAITERS:
            return LookupState.OVER_BUDGET
        if name in self._pending:
            return LookupState.LOOKUP
        few = sum(one == client for one in tuple(self._pending.values())) < CLIENT_LOOKUPS
        return LookupState.LOOKUP if few and self._may_send(client, now) else self._refuse(client, now)

    def result(self, name: bytes, now: float) -> tuple[str, ...] | None:
        """The addresses that a recent lookup found, () for nobody; None where there was no lookup."""
        until, found = self._results.get(name, (now, ()))
        return found if until > now else None

    def begin(self, name: bytes, client: str, now: float) -> None:
        """A lookup that `state` allowed begins: its first query is sent now."""
        self._pending[name] = client
        self._charge(client, now)

    def repeat(self, name: bytes, now: float) -> bool:
        """Whether the query of a pending lookup may be sent once more, now."""
        client = self._pending.get(name)
        if client is None or not self._may_send(client, now):
            return False
        self._charge(client, now)
        return True

    def end(self, name: bytes, addresses: tuple[str, ...], now: float) -> None:
        """A lookup is over, with what it found."""
        del self._pending[name]
        self._results.pop(name, None)
        if len(self._results) >= MOST_RESULTS:
            del self._results[next(iter(self._results))]
        self._results[name] = now + (FOUND_SECONDS if addresses else ABSENT_SECONDS), addresses

    def wait(self, now: float) -> float:
        """For how long a lookup that begins now waits for an answer."""
        return WAIT_SECONDS if now < self._active_until else SILENT_WAIT_SECONDS

    def response(self, now: float) -> None:
        """Somebody on a link has sent a response, to whatever query."""
        self._active_until = now + ACTIVE_SECONDS

    def appeared(self, name: bytes) -> bool:
        """A host on a link has announced an address of this name. Returns whether the name was absent before."""
        _, found = self._results.get(name, (0.0, ("",)))
        if not found:
            del self._results[name]
        return not found

    def forget_results(self) -> None:
        """Removes all results, when a link has changed."""
        self._results = {}

    def _may_send(self, client: str, now: float) -> bool:
        """Whether a client may cause one more query.

        One that exceeded its budget lately may use no more than what it leaves to all other clients. So several clients
        that flood, or one that counts as several (by two addresses, or by UDP and TCP), leave a share to the rest.
        """
        recent = [one for at, one in self._sent if at > now - 1.0]
        used, left = recent.count(client), ALL_QUERIES - len(recent)
        return used < CLIENT_QUERIES and left > (used if self._is_excessive(client, now) else 0)

    def _is_excessive(self, client: str, now: float) -> bool:
        return now < self._excessive_until.get(client, now)

    def _refuse(self, client: str, now: float) -> LookupState:
        """Counts a refused lookup: a client that wanted as many as its budget within a second wants too much."""
        begun, refused = self._refused.get(client, (now, 0))
        if now - begun >= 1.0:
            begun, refused = now, 0
        if len(self._refused) >= MOST_REFUSED:
            self._refused, self._excessive_until = {}, {}
        self._refused[client] = begun, refused + 1
        if refused + 1 >= CLIENT_QUERIES:
            self._excessive_until[client] = now + EXCESSIVE_SECONDS
        return LookupState.OVER_BUDGET

    def _charge(self, client: str, now: float) -> None:
        self._sent = (*(one for one in self._sent if one[0] > now - 1.0), (now, client))


def is_lookup_allowed(name: bytes) -> bool:
    """Whether this name may be looked up by multicast DNS: two labels below `local`, no service, and none of the names
    that a stranger must not have for guests either (`wpad`)."""
    parts = split_labels(name)
    if len(parts) != 2 or parts[1] != b"local" or parts[0].startswith(b"_"):
        return False
    return parts[0].decode("latin-1") not in RESERVED
