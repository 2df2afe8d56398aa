"""The cache of forwarded answers, by a clock of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmdns.dns import forwarded_answer as cache_module
from vmdns.dns import message
from vmdns.dns.forwarded_answer import Forwarded, ForwardedCache, Question
from vmdns.dns.limits import Limits
from vmdns.dns.name import to_wire

DAY = 86_400


def question(name: str = "www.example", kind: int = message.A, *, do: bool = False, cd: bool = False) -> Question:
    return Question(to_wire(name), kind, do, cd)


def record(ttl: int, size: int = 4, kind: int = message.A) -> message.Record:
    return message.Record(to_wire("www.example"), kind, ttl, bytes(size))


def positive(ttl: int = 60, size: int = 4) -> Forwarded:
    return Forwarded(message.NOERROR, (record(ttl, size), record(ttl + 30, size)), (), ttl)


def negative(rcode: int = message.NXDOMAIN, ttl: int = 20) -> Forwarded:
    return Forwarded(rcode, (), (record(ttl, 40, message.SOA),), ttl)


@pytest.fixture
def cache() -> ForwardedCache:
    return ForwardedCache(Limits())


@pytest.mark.parametrize(
    ("reply", "age", "ttls"),
    [
        (positive(60), 0, [60, 90]),
        (positive(60), 0.9, [60, 90]),
        (positive(60), 1, [59, 89]),
        (positive(60), 59.9, [1, 31]),
        (positive(60), 60, None),
        (negative(ttl=20), 19, [1]),
        (negative(ttl=20), 21, None),
    ],
)
def test_x01_ttls_count_down_and_the_least_ends_it(
    cache: ForwardedCache, reply: Forwarded, age: float, ttls: list[int] | None
) -> None:
    cache.put(question(), reply, 1000.0)
    found = cache.get(question(), 1000.0 + age)
    assert (None if found is None else [one.ttl for one in (*found.answer, *found.authority)]) == ttls


CHAIN = replace(negative(), answer=(record(60, kind=message.CNAME),))


@pytest.mark.parametrize(
    ("cached", "query", "hit"),
    [
        (positive(), question(), True),
        (positive(), question(kind=message.AAAA), False),
        (positive(), question("example"), False),
        (positive(), question(do=True), False),
        (positive(), question(cd=True), False),
        (negative(), question(kind=message.TXT), True),
        (negative(message.NOERROR), question(), True),
        (negative(message.NOERROR), question(kind=message.TXT), False),
        (CHAIN, question(), True),  # NXDOMAIN of the alias's target
        (CHAIN, question(kind=message.TXT), False),
    ],
)
def test_queries_that_a_cached_reply_answers(
    cache: ForwardedCache, cached: Forwarded, query: Question, hit: bool
) -> None:
    cache.put(question(), cached, 0.0)
    assert (cache.get(query, 5.0) is not None) is hit


def test_a_later_reply_replaces_the_former_one(cache: ForwardedCache) -> None:
    for at, reply in enumerate((positive(), negative(), positive())):
        cache.put(question(), reply, float(at))
        assert cache.get(question(), float(at)) == reply
        assert len(cache) == 1
    cache.put(question(), positive(0), 4.0)
    assert cache.get(question(), 4.0) is None
    assert (len(cache), cache.size) == (0, 0)


def test_an_expired_answer_does_not_hide_a_later_nxdomain(cache: ForwardedCache) -> None:
    cache.put(question(), positive(5), 0.0)
    cache.put(question(kind=message.AAAA), negative(), 10.0)
    assert cache.get(question(), 11.0) == negative().aged(1)
    stale = cache.stale(question(), 100.0, "why")
    assert stale is not None
    assert (stale.rcode, stale.error) == (message.NXDOMAIN, (19, "why"))


@pytest.mark.parametrize(("age", "given"), [(61, True), (3600, True), (60 + DAY - 1, True), (60 + DAY, False)])
def test_stale_answers_for_a_day_with_ttl_30(cache: ForwardedCache, age: float, given: bool) -> None:
    cache.put(question(), replace(positive(60), authentic=True), 0.0)
    assert cache.get(question(), age) is None
    stale = cache.stale(question(), age, "upstream is dead")
    assert (stale is not None) is given
    if stale is not None:
        assert [one.ttl for one in stale.answer] == [30, 30]
        assert (stale.error, stale.authentic) == ((3, "upstream is dead"), False)


def test_failures_are_kept_for_their_time_beside_the_known_reply(cache: ForwardedCache) -> None:
    cache.put(question(), positive(60), 0.0)
    cache.put_failure(question(), (22, "dead"), 100.0, 5.0)
    assert cache.failure(question(), 104.9) == (22, "dead")
    assert cache.stale(question(), 104.9, "dead") is not None
    assert cache.failure(question(kind=message.AAAA), 104.9) is None
    assert cache.failure(question(), 105.0) is None
    for forget in (lambda: cache.put(question(), positive(), 107.0), cache.forget_failures):
        cache.put_failure(question(), (22, "dead"), 106.0, 5.0)
        forget()
        assert cache.failure(question(), 107.0) is None


def test_the_number_of_failures_is_bounded(cache: ForwardedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_FAILURES", 3)
    for at in range(5):
        cache.put_failure(question(f"{at}.example"), (22, ""), 0.0, 5.0)
    assert [cache.failure(question(f"{at}.example"), 0.0) is not None for at in range(5)] == [False] * 2 + [True] * 3


def test_many_names_stay_within_entries_and_bytes() -> None:
    cache = ForwardedCache(Limits(cache_entries=100))
    for at in range(2000):
        cache.put(question(f"{at}.example"), positive(), 0.0)
        cache.put(question(f"{at}.neg.example"), negative(), 0.0)
    assert len(cache) == 100
    for at in range(50):
        cache.put(question(f"{at}.big.example"), positive(size=30_000), 0.0)
        assert cache.size <= 100 * cache_module.BYTES_AN_ENTRY
    assert 1 <= len(cache) <= 4
    cache.put(question("huge.example"), positive(size=600_000), 0.0)
    assert (len(cache), cache.size) == (0, 0)


def test_the_oldest_entries_go_first_and_none_is_kept_by_a_cache_of_0_entries() -> None:
    cache = ForwardedCache(Limits(cache_entries=3))
    for name in "abcad":
        cache.put(question(name), positive(), 0.0)
    assert [cache.get(question(name), 2.0) is not None for name in "abcd"] == [True, False, True, True]
    for entries, left in ((2, 2), (0, 0)):
        cache.limits = Limits(cache_entries=entries)
        cache.put(question("f"), positive(), 0.0)
        assert len(cache) == left
    assert cache.size == 0
