"""Ranks and several tests at once: against every way to draw, and by how seldom they err."""

from __future__ import annotations

from itertools import combinations
from math import comb
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.comparison.holm import PValue, reject
from affinity_tester.core.comparison.ranks import (
    MIN_BLOCKS,
    comparable_blocks,
    least_shift,
    median_interval,
    rank_test,
    spread,
)
from affinity_tester.core.exact import chance_of_at_least

VALUES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=7)


def midranks(values: list[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def assert_is_every_way_to_draw(before: list[float], after: list[float]) -> None:
    ranks = midranks([*before, *after])
    seen = sum(ranks[len(before) :])
    sums = [sum(each) for each in combinations(ranks, len(after))]
    below, above = (sum(each <= seen for each in sums), sum(each >= seen for each in sums))
    rarest = min(sums.count(min(sums)), sums.count(max(sums)))
    test = rank_test(before, after)
    assert test.p == pytest.approx(min(1.0, 2 * min(below, above) / len(sums)))
    assert test.least_p == pytest.approx(min(1.0, 2 * rarest / len(sums)))
    assert test.is_more == (seen / len(after) > sum(ranks[: len(before)]) / len(before))


@given(VALUES, VALUES)
def test_counts_every_way_to_draw_the_one_series_from_all_values(before: list[float], after: list[float]) -> None:
    assert_is_every_way_to_draw(before, after)


def test_counts_every_way_to_draw_where_many_are_alike() -> None:
    random = Random(1)
    for _ in range(100):
        one, other = (random.choices([0.0, 1.0, 2.0], k=random.randint(1, 5)) for _ in range(2))
        assert_is_every_way_to_draw(one, other)


def test_tells_series_that_do_not_overlap_as_surely_as_so_few_can() -> None:
    low, high = [1.0, 2, 3, 4, 5, 6, 7, 8], [11.0, 12, 13, 14, 15, 16, 17, 18]
    assert rank_test(low, high) == (2 / comb(16, 8), 2 / comb(16, 8), True)
    assert rank_test(high, low) == (2 / comb(16, 8), 2 / comb(16, 8), False)


def test_makes_blocks_longer_until_neighbours_are_no_more_alike_than_others() -> None:
    slow = [float(index // 32 % 2) for index in range(192)]
    blocks = comparable_blocks(slow, slow, 0.1)
    assert blocks is not None
    assert [len(series) for series in blocks] == [12, 12]
    assert set(blocks[0]) == {0.0, 1.0}


def test_eight_blocks_are_enough() -> None:
    values = [1000.0, 1001, 1000, 1001, 1000, 1001, 1000, 1001]
    assert comparable_blocks(values, values, 1) == (values, values)
    assert comparable_blocks(values, values[1:], 1) is None


def test_compares_nothing_where_neighbours_stay_alike() -> None:
    drifting = [float(index) for index in range(60)]
    assert comparable_blocks(drifting, drifting, 0.1) is None


def test_does_not_see_a_drift_within_a_grain() -> None:
    drifting = [index / 1000 for index in range(60)]
    blocks = comparable_blocks(drifting, [value + 5 for value in drifting], 0.5)
    assert blocks is not None
    assert rank_test(*blocks).p < 1e-6


def test_takes_a_long_series_thinner_and_not_longer_than_the_short_one_bears() -> None:
    blocks = comparable_blocks(
        [float(index * 7 % 10) for index in range(9)], [float(index * 7 % 10) for index in range(500)], 1
    )
    assert blocks is not None
    assert [len(series) for series in blocks] == [9, 48]


def test_spreads_from_the_first_to_the_last() -> None:
    assert spread(range(100), 4) == [0, 33, 66, 99]
    assert spread([1.0, 2.0], 4) == [1.0, 2.0]


def test_finds_the_smallest_shift_that_would_have_shown() -> None:
    values = [float(index) for index in range(MIN_BLOCKS)]
    shift = least_shift(values, values, 0.01)
    assert shift is not None
    assert rank_test(values, [value + shift for value in values]).p <= 0.01
    assert rank_test(values, [value + shift - 1 for value in values]).p > 0.01
    assert least_shift(values[:3], values[:3], 0.01) is None
    assert least_shift(values, [*values[:7], 100.0], 0.001) is not None


@pytest.mark.parametrize("level", [0.01, 0.05, 2 / comb(16, 8)])
@pytest.mark.parametrize(("scale", "offset", "lower"), [(1.0, 0.0, 0.0), (0.01, 0.0, 0.02), (1.0, -20.0, 2.0)])
def test_the_smallest_shift_is_as_exact_as_a_person_reads_it(
    level: float, scale: float, offset: float, lower: float
) -> None:
    before = [offset + scale * index for index in range(MIN_BLOCKS)]
    after = [value - lower for value in before]
    shift = least_shift(before, after, level)
    assert shift is not None
    assert shift > 0
    assert rank_test(before, [value + shift for value in after]).p <= level
    grain = (max(before) - min(after) + max(1.0, abs(max(before)))) / 1_000
    assert rank_test(before, [value + shift - grain for value in after]).p > level


def test_few_values_have_an_interval_at_a_low_confidence() -> None:
    assert median_interval([3.0, 1.0, 2.0], 0.74) == (1.0, 3.0)
    assert median_interval([3.0, 1.0, 2.0], 0.76) is None


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_has_the_median_within_its_interval(seed: int, of: int) -> None:
    random = Random(seed)
    values = [random.random() for _ in range(of)]
    interval = median_interval(values, 0.95)
    if interval is None:
        assert of < 6
        return
    below = sorted(values).index(interval[0])
    assert 2 * chance_of_at_least(of, of - below, 0.5) <= 0.05 < 2 * chance_of_at_least(of, of - below - 1, 0.5)
    assert interval[0] <= median(values) <= interval[1]


# --- several at once ----------------------------------------------------------------------------------------------------


def test_lets_tests_that_cannot_come_out_small_cost_nothing() -> None:
    hopeless = [PValue(1.0, 1.0)] * 100
    assert reject([*hopeless, PValue(0.04, 0.01)], 0.05) == ([*[False] * 100, True], 0.05)


def test_asks_more_of_each_of_many_and_less_once_some_count() -> None:
    tests = [PValue(0.012, 0.001), PValue(0.02, 0.001), PValue(0.04, 0.001), PValue(0.9, 0.001)]
    assert reject(tests, 0.05) == ([True, False, False, False], pytest.approx(0.05 / 3))
    assert reject(tests[:1] + tests[2:3], 0.05) == ([True, True], 0.05)
    assert reject([], 0.05) == ([], 0.05)


def test_errs_in_all_of_many_as_seldom_as_it_says() -> None:
    random, erred = Random(7), 0
    for _ in range(2_000):
        tests = [PValue(random.random(), 0.0) for _ in range(20)]
        erred += any(reject(tests, 0.05)[0])
    assert erred <= 2_000 * 0.05 + 3 * (2_000 * 0.05 * 0.95) ** 0.5
