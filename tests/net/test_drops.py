"""Which lost probes the drops of a socket account for; no socket here, and time is passed in."""

from __future__ import annotations

from affinity_tester.net.drops import MAX_SAMPLES, DropHistory

S = 1_000_000_000


def test_drops_account_for_as_many_lost_probes_as_they_are_and_for_each_once() -> None:
    drops = DropHistory()
    drops.record(10 * S, 3)
    assert drops.claim(2, 9 * S) == 2
    assert drops.claim(2, 9 * S) == 1
    assert drops.claim(2, 9 * S) == 0
    drops.record(11 * S, 137_000)  # a flood
    assert drops.claim(5, 9 * S) == 5


def test_drops_of_another_time_account_for_nothing() -> None:
    drops = DropHistory()
    drops.record(10 * S, 1_000)
    assert drops.claim(50, 10 * S + 1) == 0  # sent after it
    drops.record(12 * S, 7)
    assert drops.claim(50, 10 * S + 1) == 7
    assert drops.claim(50, 10 * S) == 50


def test_what_was_dropped_since_some_time_is_counted_whatever_it_accounted_for() -> None:
    drops = DropHistory()
    assert drops.since(0) == []
    drops.record(10 * S, 3)
    drops.record(12 * S, 4)
    drops.claim(5, 0)
    assert drops.since(10 * S) == [(10 * S, 3), (12 * S, 4)]
    assert drops.since(10 * S + 1) == [(12 * S, 4)]
    assert drops.since(12 * S + 1) == []


def test_what_is_remembered_is_bounded() -> None:
    drops = DropHistory()
    for second in range(10 * MAX_SAMPLES):
        drops.record(second * S, 1)
    assert len(drops.since(0)) == MAX_SAMPLES
    assert drops.claim(10 * MAX_SAMPLES, 0) == MAX_SAMPLES
