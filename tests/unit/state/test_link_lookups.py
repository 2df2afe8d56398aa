"""Which names are looked up on the host's links, within which budgets, by a clock that is set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.name import to_wire
from vmdns.state.link_lookups import (
    ABSENT_SECONDS,
    ACTIVE_SECONDS,
    ALL_QUERIES,
    CLIENT_LOOKUPS,
    CLIENT_QUERIES,
    FOUND_SECONDS,
    MOST_RESULTS,
    MOST_WAITERS,
    SILENT_WAIT_SECONDS,
    WAIT_SECONDS,
    LinkLookups,
    LookupState,
)

PRINTER = to_wire("printer.local")
FOUND = ("192.168.1.9",)


def name(number: int) -> bytes:
    return to_wire(f"no{number}.local")


def begun(lookups: LinkLookups, client: str, numbers: range, now: float, *, end: bool = False) -> int:
    """How many of these lookups the budgets allow; end: each is over at once."""
    count = 0
    for number in numbers:
        if lookups.state(name(number), client, now) is LookupState.LOOKUP:
            lookups.begin(name(number), client, now)
            count += 1
            if end:
                lookups.end(name(number), (), now)
    return count


def test_what_nobody_has_is_known_for_a_minute_and_what_somebody_has_for_seconds() -> None:
    lookups = LinkLookups()
    for found, seconds, state in (((), ABSENT_SECONDS, LookupState.ABSENT), (FOUND, FOUND_SECONDS, LookupState.LOOKUP)):
        assert lookups.state(PRINTER, "", 100.0) is LookupState.LOOKUP
        lookups.begin(PRINTER, "", 100.0)
        lookups.end(PRINTER, found, 100.0)
        assert lookups.result(PRINTER, 100.0 + seconds - 0.01) == found
        assert lookups.state(PRINTER, "", 100.0 + seconds - 0.01) is state
        assert lookups.result(PRINTER, 100.0 + seconds) is None
        lookups.forget_results()


def test_a_changed_link_and_a_late_answer_end_what_is_known() -> None:
    lookups = LinkLookups()
    lookups.begin(PRINTER, "", 0.0)
    lookups.end(PRINTER, (), 0.0)
    lookups.appeared(name(1))  # not this one
    assert lookups.state(PRINTER, "", 1.0) is LookupState.ABSENT
    lookups.appeared(PRINTER)
    assert lookups.state(PRINTER, "", 1.0) is LookupState.LOOKUP
    lookups.begin(PRINTER, "", 2.0)
    lookups.end(PRINTER, (), 2.0)
    lookups.forget_results()
    assert lookups.state(PRINTER, "", 2.0) is LookupState.LOOKUP
    lookups.begin(PRINTER, "", 3.0)
    lookups.end(PRINTER, FOUND, 3.0)
    lookups.appeared(PRINTER)
    assert lookups.result(PRINTER, 3.0) == FOUND


def test_each_client_has_so_many_lookups_at_once() -> None:
    lookups = LinkLookups()
    assert begun(lookups, "a", range(50), 0.0) == CLIENT_LOOKUPS
    assert lookups.state(name(0), "b", 0.0) is LookupState.LOOKUP  # another client waits for the same one
    lookups.end(name(0), (), 1.0)
    assert begun(lookups, "a", range(300, 350), 1.0) == 1


@pytest.mark.parametrize(("clients", "least"), [(2, 28), (8, 14)])
def test_a_client_that_counts_as_several_leaves_others_a_share(clients: int, least: int) -> None:
    """One client, from several addresses, asks 100 unknown names a second from each for 6 s; another one asks for 30
    printers, five a second, and finds at least so many."""
    lookups, found = LinkLookups(), 0
    ends: list[tuple[float, bytes, tuple[str, ...]]] = []
    for tick in range(600):
        now = tick / 100
        for one in [one for one in ends if one[0] <= now]:
            ends.remove(one)
            lookups.end(one[1], one[2], now)
        for client in map(str, range(clients)):
            unknown = to_wire(f"unknown{tick}-{client}.local")
            if lookups.state(unknown, client, now) is LookupState.LOOKUP:
                lookups.begin(unknown, client, now)
                ends.append((now + WAIT_SECONDS, unknown, ()))
        printer = to_wire(f"printer{tick}.local")
        if tick % 20 == 0 and lookups.state(printer, "office", now) is LookupState.LOOKUP:
            lookups.begin(printer, "office", now)
            ends.append((now + 0.1, printer, FOUND))
            found += 1
    assert found >= least


@given(st.lists(st.tuples(st.floats(0, 0.4), st.sampled_from("abc"), st.booleans()), max_size=300))
def test_no_second_has_more_queries_than_the_budgets(steps: list[tuple[float, str, bool]]) -> None:
    lookups, now, sent = LinkLookups(), 0.0, list[tuple[float, str]]()
    for number, (later, client, again) in enumerate(steps):
        now += later
        if lookups.state(name(number), client, now) is LookupState.LOOKUP:
            lookups.begin(name(number), client, now)
            sent.append((now, client))
            if again and lookups.repeat(name(number), now):
                sent.append((now, client))
            lookups.end(name(number), (), now)
        last = [one for at, one in sent if at > now - 1.0]
        assert len(last) <= ALL_QUERIES
        assert all(last.count(one) <= CLIENT_QUERIES for one in "abc")
    assert len(sent) >= min(len(steps), CLIENT_QUERIES)


def test_a_flood_of_unknown_names_leaves_another_client_its_printers() -> None:
    """One client asks 100 unknown names a second for 6 s; another one asks 30 that exist, five a second."""
    lookups, queries, over = LinkLookups(), 0, 0
    ends: list[tuple[float, bytes, tuple[str, ...]]] = []
    for tick in range(600):
        now = tick / 100
        for one in [one for one in ends if one[0] <= now]:
            ends.remove(one)
            lookups.end(one[1], one[2], now)
        if lookups.state(name(tick), "flood", now) is LookupState.LOOKUP:
            lookups.begin(name(tick), "flood", now)
            ends.append((now + WAIT_SECONDS, name(tick), ()))
            queries += 1
        else:
            over += 1
        if tick % 20 == 0:
            printer = to_wire(f"printer{tick}.local")
            assert lookups.state(printer, "office", now) is LookupState.LOOKUP
            lookups.begin(printer, "office", now)
            ends.append((now + 0.1, printer, FOUND))
    assert queries <= 6 * CLIENT_QUERIES
    assert queries + over == 600


def test_a_silent_link_is_waited_for_less() -> None:
    lookups = LinkLookups()
    assert lookups.wait(0.0) == SILENT_WAIT_SECONDS
    lookups.response(10.0)
    assert lookups.wait(10.0 + ACTIVE_SECONDS - 1) == WAIT_SECONDS
    assert lookups.wait(10.0 + ACTIVE_SECONDS) == SILENT_WAIT_SECONDS


def test_no_more_is_kept_than_the_bounds() -> None:
    lookups = LinkLookups()
    for number in range(MOST_RESULTS + 50):
        lookups.begin(name(number), "", number / 10)
        lookups.end(name(number), FOUND, number / 10)
    assert len(lookups._results) == MOST_RESULTS
    assert lookups.result(name(MOST_RESULTS + 49), 0.0) == FOUND
    lookups.waiters = MOST_WAITERS
    assert lookups.state(PRINTER, "", 1e6) is LookupState.OVER_BUDGET
    assert lookups.state(name(MOST_RESULTS + 49), "", 0.0) is LookupState.LOOKUP  # what is known waits for nobody
