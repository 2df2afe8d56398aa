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


@pytest.mark.parametrize(("age", "ttls"), [(0, (60, 90)), (0.9, (60, 90)), (1, (59, 89)), (59.9, (1, 31)), (60, None)])
def test_ttls_count_down_and_the_least_ends_it(age: float, ttls: tuple[int, int] | None) -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), positive(60), 1000.0)
    found = cache.get(question(), 1000.0 + age)
    assert (None if found is None else tuple(one.ttl for one in found.answer)) == ttls


@pytest.mark.parametrize(
    ("asked", "hit"),
    [
        (question(), True),
        (question(kind=message.AAAA), False),
        (question("example"), False),
        (question(do=True), False),
        (question(cd=True), False),
    ],
)
def test_do_cd_name_and_type_tell_answers_apart(asked: Question, hit: bool) -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), positive(), 0.0)
    assert (cache.get(asked, 0.0) is not None) is hit


def test_nxdomain_holds_for_every_type_and_nodata_for_one() -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), negative(), 0.0)
    assert cache.get(question(kind=message.TXT), 5.0) == negative().aged(5)
    cache = ForwardedCache(Limits())
    cache.put(question(), negative(message.NOERROR), 0.0)
    assert cache.get(question(), 5.0) is not None
    assert cache.get(question(kind=message.TXT), 5.0) is None


def test_nxdomain_at_the_end_of_an_alias_says_nothing_of_other_types() -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), replace(negative(), answer=(record(60, kind=message.CNAME),)), 0.0)
    assert cache.get(question(), 0.0) is not None
    assert cache.get(question(kind=message.TXT), 0.0) is None


def test_what_comes_later_takes_the_place_of_what_was_known() -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), positive(), 0.0)
    cache.put(question(), negative(), 1.0)
    assert cache.get(question(), 2.0) == negative().aged(1)
    cache.put(question(), positive(), 3.0)
    found = cache.get(question(), 3.0)
    assert found is not None
    assert found.rcode == message.NOERROR
    assert len(cache) == 1
    cache.put(question(), positive(0), 4.0)
    assert cache.get(question(), 4.0) is None
    assert (len(cache), cache.size) == (0, 0)


def test_an_expired_answer_does_not_hide_a_later_nxdomain() -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), positive(5), 0.0)
    cache.put(question(kind=message.AAAA), negative(), 10.0)
    assert cache.get(question(), 11.0) == negative().aged(1)
    stale = cache.stale(question(), 100.0, "why")
    assert stale is not None
    assert stale.rcode == message.NXDOMAIN


@pytest.mark.parametrize(("age", "given"), [(61, True), (3600, True), (60 + DAY - 1, True), (60 + DAY, False)])
def test_stale_answers_for_a_day_with_ttl_30(age: float, given: bool) -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), replace(positive(60), authentic=True), 0.0)
    assert cache.get(question(), age) is None
    stale = cache.stale(question(), age, "upstream is dead")
    assert (stale is not None) is given
    if stale is not None:
        assert [one.ttl for one in stale.answer] == [30, 30]
        assert (stale.error, stale.authentic) == ((3, "upstream is dead"), False)


def test_a_stale_nxdomain_has_a_code_of_its_own() -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), negative(), 0.0)
    stale = cache.stale(question(), 100.0, "why")
    assert stale is not None
    assert stale.error == (19, "why")


def test_failures_are_kept_for_their_time_beside_what_was_known() -> None:
    cache = ForwardedCache(Limits())
    cache.put(question(), positive(60), 0.0)
    cache.put_failure(question(), (22, "dead"), 100.0, 5.0)
    assert cache.failure(question(), 104.9) == (22, "dead")
    assert cache.stale(question(), 104.9, "dead") is not None
    assert cache.failure(question(kind=message.AAAA), 104.9) is None
    assert cache.failure(question(), 105.0) is None
    cache.put_failure(question(), (22, "dead"), 106.0, 5.0)
    cache.put(question(), positive(), 107.0)
    assert cache.failure(question(), 107.0) is None
    cache.put_failure(question(), (22, "dead"), 108.0, 5.0)
    cache.forget_failures()
    assert cache.failure(question(), 108.0) is None


def test_the_number_of_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_FAILURES", 3)
    cache = ForwardedCache(Limits())
    for at in range(5):
        cache.put_failure(question(f"{at}.example"), (22, ""), 0.0, 5.0)
    assert [cache.failure(question(f"{at}.example"), 0.0) is not None for at in range(5)] == [False] * 2 + [True] * 3


def test_the_oldest_go_first() -> None:
    cache = ForwardedCache(Limits(cache_entries=3))
    for name in "abcad":
        cache.put(question(name), positive(), 0.0)
    assert [cache.get(question(name), 2.0) is not None for name in "abcd"] == [True, False, True, True]


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


def test_an_answer_larger_than_all_the_room_is_not_kept() -> None:
    cache = ForwardedCache(Limits(cache_entries=10))
    cache.put(question(), positive(size=60_000), 0.0)
    assert (len(cache), cache.size) == (0, 0)


def test_a_cache_of_0_entries_keeps_nothing_and_smaller_limits_apply_to_the_next() -> None:
    cache = ForwardedCache(Limits(cache_entries=5))
    for name in "abcde":
        cache.put(question(name), positive(), 0.0)
    cache.limits = Limits(cache_entries=2)
    cache.put(question("f"), positive(), 0.0)
    assert len(cache) == 2
    cache.limits = Limits(cache_entries=0)
    cache.put(question("f"), positive(), 0.0)
    assert (len(cache), cache.size) == (0, 0)
