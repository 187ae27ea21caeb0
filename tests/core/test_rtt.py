from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.events import Counts, Losses, RttStats
from affinity_tester.core.session.rtt import RttHistogram

US = 1_000


def histogram(times: list[int]) -> RttHistogram:
    filled = RttHistogram()
    for seq, time in enumerate(times):
        filled.add(seq, time)
    return filled


def test_nothing_answered_has_no_times() -> None:
    assert RttHistogram().stats() == RttStats()
    assert RttHistogram().percentile_ns(50) is None
    assert RttHistogram.merged([RttHistogram()]).stats() == RttStats()


def test_one_time_is_all_figures_and_has_no_jitter() -> None:
    one = 123_456
    assert histogram([one]).stats() == RttStats(1, one, one, one, one, one, one, None)


def test_jitter_is_between_consecutive_probes_only() -> None:
    times = RttHistogram()
    for seq, time in ((0, 100), (1, 300), (3, 10_000), (4, 10_400)):
        times.add(seq, time)
    assert times.stats().jitter_ns == (200 + 400) // 2


@given(st.lists(st.integers(0, 10**14), min_size=1, max_size=200), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_within_six_percent_of_the_nearest_rank(times: list[int], percent: int) -> None:
    found = histogram(times).percentile_ns(percent)
    exact = sorted(times)[max(1, math.ceil(percent * len(times) / 100)) - 1]
    assert found is not None
    limit = min(exact, (1 << 36) * US)
    assert found == pytest.approx(limit, rel=0.0626, abs=1 * US) or found in (min(times), max(times))


@given(st.lists(st.lists(st.integers(0, 10**9), max_size=20), min_size=1, max_size=5))
def test_merged_parts_are_as_if_counted_together(parts: list[list[int]]) -> None:
    merged = RttHistogram.merged(histogram(part) for part in parts).stats()
    together = histogram([time for part in parts for time in part]).stats()
    assert (merged.count, merged.min_ns, merged.mean_ns, merged.max_ns) == (
        together.count,
        together.min_ns,
        together.mean_ns,
        together.max_ns,
    )
    assert (merged.p50_ns, merged.p90_ns, merged.p99_ns) == (together.p50_ns, together.p90_ns, together.p99_ns)


def test_merged_jitter_stays_within_each_part() -> None:
    merged = RttHistogram.merged([histogram([0, 100]), histogram([1000, 1300])])
    assert merged.stats().jitter_ns == 200


def test_counts_and_losses_add_up_and_differ() -> None:
    one, two = Counts(sent=5, lost=1), Counts(sent=7, lost=1, late=2)
    assert one + two == Counts(sent=12, lost=2, late=2)
    assert two - one == Counts(sent=2, late=2)
    assert Losses(1, 2, 3) + Losses(4, 0, 1) == Losses(5, 2, 4)
    assert Losses(1, 2, 3).total == 6


def test_more_of_one_length_than_16_bits_hold_are_counted() -> None:
    times = RttHistogram()
    for seq in range(70_000):
        times.add(seq, 5_000)
    times.add(70_000, 9_000)
    stats = times.stats()
    assert (stats.count, stats.p50_ns, stats.max_ns) == (70_001, 5_500, 9_000)


def test_what_is_longer_than_any_bucket_goes_into_the_last() -> None:
    times = RttHistogram()
    for seq in range(2):
        times.add(seq, 1 << 50)
    assert (times.stats().count, times.stats().max_ns) == (2, 1 << 50)
