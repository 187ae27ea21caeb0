from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.session.schedule import Schedule


def take(schedule: Schedule, now_ns: int, sessions: int) -> list[tuple[int, bool]]:
    """The slots that are due, as (session, missed)."""
    missed, timely = schedule.take(now_ns)
    return [(slot % sessions, True) for slot in missed] + [(slot % sessions, False) for slot in timely]


def test_phases_are_spread_evenly_over_the_interval() -> None:
    schedule = Schedule(1000, 100, 4)
    assert take(schedule, 999, 4) == []
    dues = []
    for _ in range(6):
        due = schedule.next_due_ns
        dues.append((due, take(schedule, due, 4)))
    assert dues == [
        (1000, [(0, False)]),
        (1025, [(1, False)]),
        (1050, [(2, False)]),
        (1075, [(3, False)]),
        (1100, [(0, False)]),
        (1125, [(1, False)]),
    ]


def test_a_slot_more_than_an_interval_late_is_missed_and_never_sent_in_a_burst() -> None:
    schedule = Schedule(0, 100, 2)
    slots = take(schedule, 350, 2)
    assert [missed for _, missed in slots] == [True] * 5 + [False] * 3
    assert Counter(session for session, missed in slots if not missed) == {1: 2, 0: 1}
    assert schedule.next_due_ns == 400


def test_the_interval_need_not_divide_by_the_sessions_and_does_not_drift() -> None:
    schedule = Schedule(7, 100, 3)
    take(schedule, 7 + 100 * 1000 - 1, 3)
    assert schedule.next_due_ns == 7 + 100 * 1000


def test_a_long_stop_is_skipped_in_whole_rounds() -> None:
    schedule = Schedule(0, 100, 3)
    assert schedule.skip_rounds(59 * 100) == 0
    assert schedule.skip_rounds(1_000_050) == 10_000
    assert schedule.next_due_ns == 1_000_000
    assert take(schedule, 1_000_050, 3) == [(0, False), (1, False)]


@given(st.integers(1, 50), st.integers(1, 1000), st.lists(st.integers(0, 5000), max_size=30))
def test_every_slot_is_taken_once_whatever_the_timer_does(sessions: int, interval: int, waits: list[int]) -> None:
    schedule = Schedule(0, interval, sessions)
    now = slot = 0
    for wait in waits:
        now += wait
        for session, missed in take(schedule, now, sessions):
            due = slot * interval // sessions
            assert (session, missed) == (slot % sessions, now - due > interval)
            assert due <= now
            slot += 1
        assert schedule.next_due_ns == slot * interval // sessions > now


def test_many_sessions_begin_over_several_intervals() -> None:
    schedule = Schedule(0, 100, 4, start_spacing_ns=51)
    rounds = [[session for session, _ in take(schedule, now, 4)] for now in range(99, 600, 100)]
    assert rounds == [[0, 3], [0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert take(Schedule(0, 100, 4, start_spacing_ns=25), 99, 4) == [(session, False) for session in range(4)]


def test_what_a_session_would_have_sent_before_it_began_is_no_miss() -> None:
    taken = take(Schedule(0, 100, 4, start_spacing_ns=50), 175, 4)
    assert taken == [(0, True), (2, True), (0, False), (1, False), (2, False), (3, False)]


@given(st.integers(1, 50), st.integers(50, 1000), st.integers(0, 200), st.lists(st.integers(0, 500), max_size=30))
def test_a_session_begins_once_and_never_stops(sessions: int, interval: int, begin: int, waits: list[int]) -> None:
    plain, ramp = Schedule(0, interval, sessions), Schedule(0, interval, sessions, begin)
    now = 0
    withheld: set[int] = set(range(sessions))
    for wait in waits:
        now += wait
        everything, taken = take(plain, now, sessions), take(ramp, now, sessions)
        rest = iter([*taken, None])
        next_taken = next(rest)
        for slot in everything:
            if next_taken == slot:
                withheld.discard(slot[0])
                next_taken = next(rest)
            else:
                assert slot[0] in withheld
        assert next_taken is None
        assert ramp.next_due_ns == plain.next_due_ns
    rounds = -(-sessions * begin // interval)
    assert not withheld or now < (rounds + 1) * interval


@pytest.mark.parametrize(("interval", "sessions"), [(0, 1), (1, 0)])
def test_nothing_less_than_one_is_a_schedule(interval: int, sessions: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Schedule(0, interval, sessions)
