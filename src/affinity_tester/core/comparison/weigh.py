"""Weighs comparisons: each by its exact test, all of them together by what so many cost, and `same` by its strength."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from affinity_tester.core.comparison.holm import PValue, reject
from affinity_tester.core.comparison.ranks import least_shift, median_interval, rank_test
from affinity_tester.core.comparison.results import Direction, Figure, Measure, Row, Unit, Why
from affinity_tester.core.exact import (
    binomial_interval,
    least_rates_differ,
    least_shares_differ,
    poisson_interval,
    rates_differ,
    shares_differ,
)

_MOST_COUNT = 1 << 20
"""A count that would have been called worse is looked for up to this."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A comparison with its test, before it is weighed beside the others. More is worse, in all of them."""

    row: Row
    tested: PValue
    is_more: bool
    """AFTER has more."""
    matters: bool
    """The difference is large enough to matter."""
    seen_from: Callable[[float], float | None]
    """Returns what AFTER would have had to be to be called worse at a level; None where nothing would have been."""


def weigh(candidates: Sequence[Candidate], confidence: float) -> tuple[tuple[Row, ...], float]:
    """Return the rows with their directions, and the level that a p-value had to reach."""
    doubt = 1 - confidence
    counts, level = reject([candidate.tested for candidate in candidates], doubt)
    one_more = 1 / (1 / level + 1 / doubt)
    rows = (_weighed(each, is_no_chance, one_more) for each, is_no_chance in zip(candidates, counts, strict=True))
    return tuple(rows), level


def _weighed(candidate: Candidate, is_no_chance: bool, level: float) -> Row:
    row = candidate.row
    if not is_no_chance:
        return replace(row, seen_from=candidate.seen_from(level))
    if not candidate.matters:
        return replace(row, is_small=True)
    return replace(row, direction=Direction.WORSE if candidate.is_more else Direction.BETTER)


# --- the kinds of comparisons -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Of:
    """What a comparison is of."""

    measure: Measure
    confidence: float
    where: str = ""
    name: str = ""


def share_figure(hits: int, of: int, unit: Unit, confidence: float) -> Figure:
    """Return a share with its exact interval."""
    if not of:
        return Figure(unit, None, None, None, 0, 0)
    low, high = binomial_interval(hits, of, confidence)
    return Figure(unit, hits / of, low, high, hits, of)


def rate_figure(count: int, hours: float, confidence: float) -> Figure:
    """Return a rate by the hour with its exact interval."""
    if hours <= 0:
        return Figure(Unit.PER_HOUR, None, None, None, count, 0)
    low, high = poisson_interval(count, confidence)
    return Figure(Unit.PER_HOUR, count / hours, low / hours, high / hours, count, hours)


def median_figure(values: Sequence[float], unit: Unit, confidence: float) -> Figure:
    """Return the median of some values with its exact interval, where there are enough for one."""
    if not values:
        return Figure(unit, None, None, None, 0, 0)
    low, high = median_interval(values, confidence) or (None, None)
    return Figure(unit, median(values), low, high, len(values), len(values))


def mean_figure(values: Sequence[float], unit: Unit) -> Figure:
    """Return the mean of some values; they are too unlike for an interval that assumes nothing."""
    if not values:
        return Figure(unit, None, None, None, 0, 0)
    return Figure(unit, fmean(values), None, None, len(values), len(values))


def shares(of: Of, unit: Unit, before: tuple[int, int], after: tuple[int, int]) -> Candidate:
    """Compare two shares, (hits, of) each, by Fisher's exact test."""
    figures = share_figure(*before, unit, of.confidence), share_figure(*after, unit, of.confidence)
    tested = PValue(shares_differ(*before, *after), least_shares_differ(*before, *after))
    is_more = after[0] * before[1] > before[0] * after[1]

    def seen_from(level: float) -> float | None:
        first = before[0] * after[1] // before[1] + 1 if before[1] else 1
        hits = range(first, after[1] + 1)
        at = bisect_left(hits, True, key=lambda count: shares_differ(*before, count, after[1]) <= level)
        return None if at == len(hits) else one_sided_share(hits[at] - 1, after[1], of.confidence)

    return Candidate(_row(of, *figures, tested.p), tested, is_more, matters=True, seen_from=seen_from)


def rates(of: Of, before: tuple[int, float], after: tuple[int, float]) -> Candidate:
    """Compare two rates, (count, hours) each, by the conditional binomial test. Hours are not 0."""
    figures = rate_figure(*before, of.confidence), rate_figure(*after, of.confidence)
    tested = PValue(rates_differ(*before, *after), least_rates_differ(*before, *after))
    is_more = after[0] * before[1] > before[0] * after[1]

    def seen_from(level: float) -> float | None:
        counts = range(int(before[0] * after[1] / before[1]) + 1, _MOST_COUNT)
        at = bisect_left(counts, True, key=lambda count: rates_differ(*before, count, after[1]) <= level)
        return one_sided_mean(counts[at] - 1, of.confidence) / after[1] if at < len(counts) else None

    return Candidate(_row(of, *figures, tested.p), tested, is_more, matters=True, seen_from=seen_from)


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured, and what is ranked of it."""

    figure: Figure
    """Its value is not None."""
    ranked: Sequence[float]
    """Blocks, or sessions; never empty."""


def series(of: Of, before: Series, after: Series, *, floor: float) -> Candidate:
    """Compare two series by their ranks. Values that differ by less than `floor` do not matter.

    Nor do those that differ the other way round than the ranks: a single block makes them differ.
    """
    test = rank_test(before.ranked, after.ranked)
    values = before.figure.value or 0.0, after.figure.value or 0.0
    more = values[1] - values[0] if test.is_more else values[0] - values[1]

    def seen_from(level: float) -> float | None:
        shift = least_shift(before.ranked, after.ranked, level)
        return None if shift is None else max(values[0] + floor, values[1] + shift)

    row = _row(of, before.figure, after.figure, test.p)
    return Candidate(row, PValue(test.p, test.least_p), test.is_more, matters=more >= floor, seen_from=seen_from)


def told(of: Of, before: Figure, after: Figure, *, why: Why) -> Row:
    """Return a row that is told and not tested."""
    return Row(of.where, of.measure, of.name, before, after, Direction.TOLD, why=why)


def not_compared(of: Of, before: Figure, after: Figure, *, why: Why) -> Row:
    """Return a row that would have been compared."""
    return Row(of.where, of.measure, of.name, before, after, Direction.NOT_COMPARED, why=why)


def one_sided_share(hits: int, of: int, confidence: float) -> float:
    """Return the share at which more than so many hits come with this confidence."""
    return binomial_interval(hits, of, confidence if hits == 0 else 2 * confidence - 1)[1]


def one_sided_mean(count: int, confidence: float) -> float:
    """Return the mean at which more than so many come with this confidence."""
    return poisson_interval(count, confidence if count == 0 else 2 * confidence - 1)[1]


def _row(of: Of, before: Figure, after: Figure, p: float) -> Row:
    return Row(of.where, of.measure, of.name, before, after, Direction.SAME, p=p)
