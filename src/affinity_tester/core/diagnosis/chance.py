"""The chance of accidents among sessions; of losses upper bounds, which hold however these are distributed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, exp, log

_STEPS = 80
"""Halvings of the range in which the best exponent is looked for: far beyond the precision of a float."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Some members of a group were drawn without looking, as a chance would have it, and these are the values of them."""

    values: tuple[float, ...]
    """Of all members of the group."""
    drawn: tuple[float, ...]
    """Of those drawn, which are among them."""


def chance_of_sum(draws: Sequence[Draw]) -> float:
    """Return a bound for the chance that random draws, each independent of the others, have so high a sum in all.

    It is the least of the exponential moment's bounds: P(S >= s) <= E exp(aS) / exp(as) for every a >= 0. Drawing without
    replacement has no higher moment than drawing with it (Hoeffding 1963, theorem 4), so nothing is assumed of the values.
    """
    draws = [draw for draw in draws if draw.drawn and any(value != draw.values[0] for value in draw.values)]
    total = sum(sum(draw.drawn) for draw in draws)
    spread = max((max(draw.values) - min(draw.values) for draw in draws), default=0.0)
    if not spread:
        return 1.0

    groups = [(Counter(draw.values), len(draw.values), len(draw.drawn)) for draw in draws]

    def bound(a: float) -> float:
        """Return the logarithm of the bound, a convex function."""
        moments = 0.0
        for values, of, drawn in groups:
            most = max(values)
            mean = sum(count * exp(a * (value - most)) for value, count in values.items()) / of
            moments += drawn * (log(mean) + a * most)
        return moments - a * total

    low, high = 0.0, 50.0 / spread
    for _ in range(_STEPS):
        third = (high - low) / 3
        if bound(low + third) < bound(high - third):
            high -= third
        else:
            low += third
    return min(1.0, exp(bound(low)))


def chance_of_whole_groups(sizes: Iterable[int], drawn: int) -> float:
    """Return the chance that so many members drawn at random are all the members of some groups of these sizes."""
    ways = Counter({0: 1})
    for size in sizes:
        for total, count in list(ways.items()):
            ways[total + size] += count
    return ways[drawn] / comb(max(ways), drawn)


def chance_in_one_group(sizes: Iterable[int], drawn: int) -> float:
    """Return the chance that so many members drawn at random are all of one group."""
    sizes = list(sizes)
    return sum(comb(size, drawn) for size in sizes) / comb(sum(sizes), drawn)
