"""What one asker may cost: the law of amplification, of questions a second, and of who is cut or left without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmdns.server.rate_limit import (
    ALLOWANCE,
    ALLOWANCE_BURST,
    FACTOR,
    MAKING,
    Bucket,
    ClientAccount,
    SendDecision,
    to_stranger,
)

RATE = 1000.0


@given(st.lists(st.tuples(st.floats(-5, 60), st.integers(12, 512), st.integers(12, 1232)), max_size=300))
def test_no_more_goes_out_than_the_law_allows(steps: list[tuple[float, int, int]]) -> None:
    account, now, latest, received, sent = ClientAccount(RATE, 0.0), 0.0, 0.0, 0, 0
    passed = 0.0
    for later, asked, answered in steps:
        passed += max(0.0, later)
        now += later  # a clock that goes back counts as none
        received += asked
        match account.release(now, asked, answered):
            case SendDecision.SEND:
                sent += answered
            case SendDecision.TRUNCATE:
                sent += asked
            case SendDecision.DROP:
                pass
        assert sent <= FACTOR * received + ALLOWANCE_BURST + ALLOWANCE * passed + 1e-6
        latest = max(latest, now)


def test_what_is_too_much_is_cut_and_left_in_turns() -> None:
    account = ClientAccount(RATE, 0.0)
    verdicts = [account.release(0.0, 40, 1200) for _ in range(100)]
    over = [one for one in verdicts if one is not SendDecision.SEND]
    assert verdicts[:54] == [SendDecision.SEND] * 54
    assert over[:4] == [SendDecision.TRUNCATE, SendDecision.DROP] * 2
    assert verdicts.count(SendDecision.SEND) * 1200 <= ALLOWANCE_BURST + FACTOR * 40 * len(verdicts)


def test_old_musl_lives_on_what_each_second_allows() -> None:
    account = ClientAccount(RATE, 0.0)
    while account.release(0.0, 40, 500) is SendDecision.SEND:
        pass
    # Four answers of 500 bytes a second, without TCP and without end.
    verdicts = {account.release(1.0 + count / 4, 40, 500) for count in range(1000)}
    assert verdicts == {SendDecision.SEND}


def test_answers_of_three_times_their_question_are_never_cut() -> None:
    account = ClientAccount(RATE, 0.0)
    while account.release(0.0, 40, 1200) is not SendDecision.DROP:
        pass
    assert {account.release(0.0, 40, 120) for _ in range(1000)} == {SendDecision.SEND}


def test_strangers() -> None:
    assert to_stranger(40, 120) is SendDecision.SEND
    assert to_stranger(40, 121) is SendDecision.TRUNCATE


@given(st.lists(st.tuples(st.floats(0, 0.01), st.booleans()), max_size=500))
def test_no_more_questions_than_the_rate(steps: list[tuple[float, bool]]) -> None:
    account, now, cost = ClientAccount(100.0, 0.0), 0.0, 0.0
    for later, made in steps:
        now += later
        if account.admit(now) is SendDecision.SEND:
            cost += 1
            if made:
                account.work.charge(MAKING)
                cost += MAKING
        # The last one may go below zero.
        assert cost <= 100.0 + 100.0 * now + MAKING + 1e-6


def test_of_what_is_too_much_one_in_three_is_answered_empty() -> None:
    account = ClientAccount(100.0, 0.0)
    verdicts = [account.admit(0.0) for _ in range(400)]
    assert verdicts[:100] == [SendDecision.SEND] * 100
    assert verdicts[100:] == [SendDecision.DROP, SendDecision.DROP, SendDecision.TRUNCATE] * 100


def test_a_crawler_is_not_noticed() -> None:
    account = ClientAccount(5000.0, 0.0)
    for count in range(60_000):  # a thousand a second for a minute, none of which stands ready
        assert account.admit(count / 1000) is SendDecision.SEND
        account.work.charge(MAKING)


def test_a_bucket_whose_clock_stands_still() -> None:
    bucket = Bucket(10.0, 3.0, 100.0)
    assert [bucket.take(50.0, 1) for _ in range(4)] == [True, True, True, False]
