"""Two series of measurements by their ranks: the exact permutation test of Wilcoxon, with ties, on blocks of time.

Probes that follow each other are not independent: they are lost in bursts, and a queue that is long stays long for a while.
So what is ranked is blocks of time, and blocks are made longer until neighbours are no more alike than others ("batch
means", Fishman 1978). Where that does not come to pass, nothing is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import comb, sqrt
from statistics import fmean
from typing import NamedTuple

from affinity_tester.core.exact import chance_of_at_least

MIN_BLOCKS = 8
"""In each series: 8 against 8 can tell a difference at 1 in 6,435, and whether neighbours are alike."""

MOST_BLOCKS = 24
"""In the shorter series; of more, neighbours are taken together, which keeps the test exact and quick."""

_MOST_OTHERS = 2 * MOST_BLOCKS
"""In the longer series."""

_STEPS = 12
"""Halvings in which the smallest shift is looked for: as exact as a person reads it."""


class RankTest(NamedTuple):
    """How two series differ."""

    p: float
    """Two-sided, the smaller tail doubled."""
    least_p: float
    """If all of the one were above all of the other, as far as ties let them."""
    is_more: bool
    """AFTER ranks higher in the mean."""


def rank_test(before: Sequence[float], after: Sequence[float]) -> RankTest:
    """Return the exact chance of ranks so different, given all values (Wilcoxon 1945; Lehmann 1975 on ties).

    The ways to draw one series from all values are counted by their sum of ranks. Neither series may be empty.
    """
    drawn, others = sorted((before, after), key=len)
    ranks = _doubled_ranks([*drawn, *others])
    total, lowest = sum(ranks[: len(drawn)]), min(ranks)
    width = comb(len(ranks), len(drawn)).bit_length() + 1

    # ways[n] holds, `width` bits for each sum, how many ways there are to draw n values with that sum of ranks.
    ways = [1] + [0] * len(drawn)
    for rank in ranks:
        shift = width * (rank - lowest)
        for count in range(len(drawn), 0, -1):
            ways[count] += ways[count - 1] << shift

    every = comb(len(ranks), len(drawn))
    at_most = ways[-1] & ((1 << width * (total - lowest * len(drawn) + 1)) - 1)
    fewer = _sum_fields(at_most, width)
    here = at_most >> width * (total - lowest * len(drawn))
    lower, upper = fewer / every, (every - fewer + here) / every

    ordered = sorted(ranks)
    extremes = (sum(ordered[: len(drawn)]), sum(ordered[-len(drawn) :]))
    mask = (1 << width) - 1
    rarest = min((ways[-1] >> width * (extreme - lowest * len(drawn))) & mask for extreme in extremes)
    excess = total * len(others) - (sum(ranks) - total) * len(drawn)
    return RankTest(
        min(1.0, 2 * min(lower, upper)),
        min(1.0, 2 * rarest / every),
        is_more=excess > 0 if drawn is after else excess < 0,
    )


def comparable_blocks(
    before: Sequence[float], after: Sequence[float], grain: float
) -> tuple[list[float], list[float]] | None:
    """Return both series in blocks of one length whose neighbours are not alike; None where there is no such length.

    Values within one `grain` are the same, so that a drift too small to matter is none. Each series has `MIN_BLOCKS` values.
    """
    length = max(1, -(-min(len(before), len(after)) // MOST_BLOCKS))
    while min(len(before), len(after)) // length >= MIN_BLOCKS:
        pair = [[round(value / grain) * grain for value in _merged(series, length)] for series in (before, after)]
        if not any(map(_is_alike, pair)):
            return spread(pair[0]), spread(pair[1])
        length *= 2
    return None


def spread(values: Sequence[float], most: int = _MOST_OTHERS) -> list[float]:
    """Return at most so many values, evenly from the first to the last."""
    if len(values) <= most:
        return list(values)
    return [values[index * (len(values) - 1) // (most - 1)] for index in range(most)]


def least_shift(before: Sequence[float], after: Sequence[float], level: float) -> float | None:
    """Return by how much more each of AFTER would have had to be for a p-value of this level; None where no shift does.

    As they are, the p-value is above the level.
    """
    low, high = 0.0, max(before) - min(after) + max(1.0, abs(max(before)))
    if rank_test(before, [value + high for value in after]).p > level:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if rank_test(before, [value + middle for value in after]).p <= level:
            high = middle
        else:
            low = middle
    return high


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Return the order statistics between which the true median lies; None where too few have none (Thompson 1936)."""
    ordered, of = sorted(values), len(values)
    within = [
        rank for rank in range(1, of // 2 + 1) if 2 * chance_of_at_least(of, of - rank + 1, 0.5) <= 1 - confidence
    ]
    if not within:
        return None
    return ordered[max(within) - 1], ordered[of - max(within)]


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the mean rank of each value, a whole number."""
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for rank, value in enumerate(sorted(values), 1):
        first.setdefault(value, rank)
        last[value] = rank
    return [first[value] + last[value] for value in values]


def _sum_fields(packed: int, width: int) -> int:
    """Return the sum of the fields of `width` bits: modulo 2^width - 1 each field counts alike (as digits do modulo 9)."""
    return packed % ((1 << width) - 1)


def _merged(values: Sequence[float], length: int) -> list[float]:
    """Return the means of so many neighbours each; what is left over at the end is dropped."""
    return [fmean(values[start : start + length]) for start in range(0, len(values) - length + 1, length)]


def _is_alike(values: Sequence[float]) -> bool:
    """True if neighbours correlate by more than one standard error of independent ones, which 1 of these in 10 do."""
    mean = fmean(values)
    variance = sum((value - mean) ** 2 for value in values)
    together = sum((one - mean) * (other - mean) for one, other in pairwise(values))
    return together * sqrt(len(values)) > variance
