"""Exact intervals and tests: against published examples, and against sums of fractions, which round nothing."""

from __future__ import annotations

from fractions import Fraction
from math import comb, exp, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.exact import (
    binomial_interval,
    chance_of_at_least,
    chance_of_at_most,
    least_rates_differ,
    least_shares_differ,
    poisson_interval,
    rates_differ,
    shares_differ,
    strata_differ,
)

SHARES = st.fractions(0, 1, max_denominator=50)


def at_least(of: int, least: int, share: Fraction) -> Fraction:
    """Sum the binomial terms from `least` on."""
    return sum(
        (comb(of, hits) * share**hits * (1 - share) ** (of - hits) for hits in range(max(0, least), of + 1)),
        Fraction(0),
    )


# --- published examples ---------------------------------------------------------------------------------------------


def test_gives_the_interval_of_r_s_example_of_binom_test() -> None:
    """R, ?binom.test: 682 of 925 (Conover 1971)."""
    assert binomial_interval(682, 925) == pytest.approx((0.7076683, 0.7654066), abs=1e-7)


def test_gives_the_interval_of_r_s_example_of_poisson_test() -> None:
    """R, ?poisson.test: 137 in 24.19893."""
    low, high = poisson_interval(137)
    assert (low / 24.19893, high / 24.19893) == pytest.approx((4.753125, 6.692709), abs=1e-6)


def test_doubles_the_smaller_tail_of_the_lady_tasting_tea() -> None:
    """Fisher 1935: 3 of 4 cups are told right with a chance of 17/70 or better."""
    assert shares_differ(3, 4, 1, 4) == pytest.approx(34 / 70)


def test_compares_two_rates_as_the_conditional_binomial_does() -> None:
    """R, ?poisson.test: 11 cases at 800 against 21 at 3,011; its p is 0.0797, of both less probable sides."""
    upper = at_least(32, 11, Fraction(800, 3811))
    assert rates_differ(21, 3011.0, 11, 800.0) == pytest.approx(2 * float(upper), rel=1e-9)
    assert rates_differ(11, 800.0, 21, 3011.0) == pytest.approx(2 * float(upper), rel=1e-9)
    assert float(upper) < 0.0797 < 2 * float(upper)


# --- what is said of none and of all ----------------------------------------------------------------------------------


def test_leaves_all_of_the_doubt_on_one_side_where_none_or_all_were_hit() -> None:
    assert binomial_interval(0, 20) == (0.0, pytest.approx(1 - 0.05 ** (1 / 20)))
    assert binomial_interval(20, 20) == (pytest.approx(0.05 ** (1 / 20)), 1.0)
    assert binomial_interval(0, 0) == (0.0, 1.0)
    assert poisson_interval(0) == (0.0, pytest.approx(2.9957323))
    assert poisson_interval(0, 0.99) == (0.0, pytest.approx(4.6051702))


def test_says_nothing_of_what_was_not_looked_at() -> None:
    assert rates_differ(0, 10.0, 0, 10.0) == 1
    assert rates_differ(3, 10.0, 0, 0.0) == 1
    assert rates_differ(3, 0.0, 2, 1.0) == 1
    assert shares_differ(0, 0, 3, 5) == 1
    assert shares_differ(0, 24, 0, 24) == 1


def test_holds_at_the_ends() -> None:
    assert [chance_of_at_least(5, least, 0.5) for least in (-1, 0, 6)] == [1, 1, 0]
    assert [chance_of_at_least(5, 5, rate) for rate in (0.0, 1.0)] == [0, 1]
    assert [chance_of_at_most(most, 0.0) for most in (-1, 0, 3)] == [0, 1, 1]
    assert chance_of_at_most(-1, 2.0) == 0


# --- against fractions ------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(-1, 61), SHARES)
def test_sums_a_binomial_tail_as_fractions_do(of: int, least: int, share: Fraction) -> None:
    assert isclose(chance_of_at_least(of, least, float(share)), at_least(of, least, share), rel_tol=1e-9, abs_tol=1e-12)


@given(st.integers(0, 40), st.fractions(0, 60, max_denominator=10))
def test_sums_a_poisson_tail_as_fractions_do(most: int, mean: Fraction) -> None:
    term = total = Fraction(1)
    for count in range(1, most + 1):
        term *= mean / count
        total += term
    assert isclose(chance_of_at_most(most, float(mean)), float(total) * exp(-mean), rel_tol=1e-9, abs_tol=1e-12)


@given(st.data(), st.integers(1, 30), st.integers(1, 30))
def test_sums_fisher_s_tails_as_fractions_do(data: st.DataObject, of_a: int, of_b: int) -> None:
    hits_a, hits_b = data.draw(st.integers(0, of_a)), data.draw(st.integers(0, of_b))
    hits = hits_a + hits_b
    ways = [
        Fraction(comb(of_a, count) * comb(of_b, hits - count), comb(of_a + of_b, hits)) for count in range(hits + 1)
    ]
    expected = min(Fraction(1), 2 * min(sum(ways[: hits_a + 1]), sum(ways[hits_a:])))
    assert isclose(shares_differ(hits_a, of_a, hits_b, of_b), expected, rel_tol=1e-9)


@given(st.data(), st.integers(2, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_gives_ends_at_which_the_count_has_just_half_of_the_doubt(
    data: st.DataObject, of: int, confidence: float
) -> None:
    hits = data.draw(st.integers(1, of - 1))
    low, high = map(Fraction, binomial_interval(hits, of, confidence))
    assert isclose(at_least(of, hits, low), (1 - confidence) / 2, rel_tol=1e-6)
    assert isclose(1 - at_least(of, hits + 1, high), (1 - confidence) / 2, rel_tol=1e-6)


@given(st.integers(1, 300), st.sampled_from([0.8, 0.95, 0.99]))
def test_gives_means_at_which_the_count_has_just_half_of_the_doubt(count: int, confidence: float) -> None:
    low, high = poisson_interval(count, confidence)
    assert isclose(1 - chance_of_at_most(count - 1, low), (1 - confidence) / 2, rel_tol=1e-6)
    assert isclose(chance_of_at_most(count, high), (1 - confidence) / 2, rel_tol=1e-6)
    assert low < count < high


def test_takes_counts_of_millions() -> None:
    low, high = binomial_interval(1_000_000, 36_000_000)
    assert (low, high) == pytest.approx((0.0277241, 0.0278315), abs=1e-6)
    assert shares_differ(1_000, 1_000_000, 2_000, 1_000_000) < 1e-70
    assert rates_differ(0, 1.0, 2_000_000, 1.0) == 0
    assert poisson_interval(1_000_000) == pytest.approx((998_041, 1_001_962), abs=1)
    assert chance_of_at_least(10_000, 5_000, 0.5) == pytest.approx(0.50398936, abs=1e-6)


# --- several strata, and the smallest p-values ----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(4, 5), st.integers(0, 4), st.integers(4, 5)), max_size=3))
def test_sums_strata_as_every_combination_of_their_tables_does(strata: list[tuple[int, int, int, int]]) -> None:
    chances = {0: Fraction(1)}
    for hits_a, of_a, hits_b, of_b in strata:
        hits = hits_a + hits_b
        table = {
            count: Fraction(comb(of_a, count) * comb(of_b, hits - count), comb(of_a + of_b, hits))
            for count in range(max(0, hits - of_b), min(hits, of_a) + 1)
        }
        sums: dict[int, Fraction] = {}
        for one, chance in chances.items():
            for other, more in table.items():
                sums[one + other] = sums.get(one + other, Fraction(0)) + chance * more
        chances = sums
    seen = sum(stratum[0] for stratum in strata)
    below, above = (sum(c for n, c in chances.items() if n <= seen), sum(c for n, c in chances.items() if n >= seen))
    least = min(chances[min(chances)], chances[max(chances)])
    p, least_p = strata_differ(strata)
    assert p == pytest.approx(min(1.0, 2 * float(min(below, above))))
    assert least_p == pytest.approx(min(1.0, 2 * float(least)))


@given(st.integers(0, 12), st.integers(12, 15), st.integers(0, 12), st.integers(12, 15))
def test_no_table_with_the_same_totals_is_rarer_than_the_rarest(hits_a: int, of_a: int, hits_b: int, of_b: int) -> None:
    hits = hits_a + hits_b
    tables = range(max(0, hits - of_b), min(hits, of_a) + 1)
    rarest = min(shares_differ(count, of_a, hits - count, of_b) for count in tables)
    assert least_shares_differ(hits_a, of_a, hits_b, of_b) == pytest.approx(rarest)


@given(st.integers(0, 12), st.integers(1, 9), st.integers(0, 12), st.integers(1, 9))
def test_no_split_of_a_count_is_rarer_than_the_rarest(count_a: int, time_a: int, count_b: int, time_b: int) -> None:
    total = count_a + count_b
    rarest = min(rates_differ(count, time_a, total - count, time_b) for count in range(total + 1))
    assert least_rates_differ(count_a, time_a, count_b, time_b) == pytest.approx(rarest)
