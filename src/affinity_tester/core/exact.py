"""Exact probabilities, intervals and tests for counts: binomial, Poisson and hypergeometric, without approximation.

Every test is two-sided by doubling its smaller tail, as the intervals leave half of the doubt at each end: a test at 5 %
and the intervals at 95 % speak alike. Counts are discrete, so all err on the safe side: more seldom than they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

CONFIDENCE = 0.95
"""That an interval has the true value, where no other confidence is asked for."""

_NEGLIGIBLE = 1e-17
"""Of a sum: terms that only fall from here on add nothing that a float could hold."""


@lru_cache(maxsize=1024)  # a matrix has the same few counts in most of its cells
def binomial_interval(hits: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the lowest and the highest share that make so many hits no accident (Clopper and Pearson 1934).

    Where nothing was hit, or all, one end is known to be 0 or 1, and the other has all of the doubt: `0 of 20` is at most
    1 - 0.05**(1/20) = 14 % at 95 % (with half of the doubt it would be 17 %). That is what is said of a count of 0
    everywhere in this tool (the rule of three). Of none, anything may be: (0, 1).
    """
    if not of:
        return 0.0, 1.0
    doubt = 1 - confidence
    if hits == 0:
        return 0.0, -math.expm1(math.log(doubt) / of)
    if hits == of:
        return math.exp(math.log(doubt) / of), 1.0

    low = _first(lambda share: chance_of_at_least(of, hits, share) > doubt / 2, 0.0, hits / of)
    high = _first(lambda share: _chance_of_fewer(of, hits + 1, share) < doubt / 2, hits / of, 1.0)
    return low, high


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the lowest and the highest mean that make this count no accident (Garwood 1936).

    A rate is the mean by the time, or what else the count was found in. Of a count of 0 the high end has all of the doubt:
    2.996 at 95 %, the rule of three.
    """
    doubt = 1 - confidence
    if count == 0:
        return 0.0, -math.log(doubt)
    low = _first(lambda mean: 1 - chance_of_at_most(count - 1, mean) > doubt / 2, 0.0, float(count))
    most = 2.0 * count
    while chance_of_at_most(count, most) >= doubt / 2:
        most *= 2
    return low, _first(lambda mean: chance_of_at_most(count, mean) < doubt / 2, float(count), most)


def rates_differ(count_a: int, exposure_a: float, count_b: int, exposure_b: float) -> float:
    """Return the p-value of two counts that came at the same rate (Przyborowski and Wilenski 1940, conditional binomial).

    Exposures are times, or whatever the rates are by; of none nothing can be said (1). The counted must come independently.
    """
    total = count_a + count_b
    if not total or exposure_a <= 0 or exposure_b <= 0:
        return 1.0
    share = exposure_b / (exposure_a + exposure_b)
    return min(1.0, 2 * min(chance_of_at_least(total, count_b, share), _chance_of_fewer(total, count_b + 1, share)))


def least_rates_differ(count_a: int, exposure_a: float, count_b: int, exposure_b: float) -> float:
    """Return the smallest p-value that so many in all can have: with all of them on one side."""
    total = count_a + count_b
    return min(rates_differ(total, exposure_a, 0, exposure_b), rates_differ(0, exposure_a, total, exposure_b))


def shares_differ(hits_a: int, of_a: int, hits_b: int, of_b: int) -> float:
    """Return the p-value of two samples with the same share of hits (Fisher's exact test, the smaller tail doubled)."""
    hits = hits_a + hits_b
    rarest, commonest = _possible_hits(hits, of_a, of_b)

    def up(count: int) -> float:
        """Return how much more probable `count` + 1 hits of the first are than `count`."""
        return (hits - count) * (of_a - count) / ((count + 1) * (of_b - hits + count + 1))

    first = _hypergeometric_term(hits_a, of_a, hits_b, of_b)
    upper = _sum_terms(first, map(up, range(hits_a, commonest)))
    lower = _sum_terms(first, (1 / up(count - 1) for count in range(hits_a, rarest, -1)))
    return min(1.0, 2 * min(upper, lower))


def least_shares_differ(hits_a: int, of_a: int, hits_b: int, of_b: int) -> float:
    """Return the smallest p-value that so many hits in all can have: with as many of them as can be in one sample."""
    hits = hits_a + hits_b
    return min(shares_differ(end, of_a, hits - end, of_b) for end in _possible_hits(hits, of_a, of_b))


def strata_differ(strata: Sequence[tuple[int, int, int, int]]) -> tuple[float, float]:
    """Return the p-value of samples that have the same share of hits within each stratum, and the smallest it can be.

    A stratum is (hits_a, of_a, hits_b, of_b). The sum of the first samples' hits is compared with all that it can be
    (the exact form of the test of Mantel and Haenszel 1959), so that strata may differ from each other.
    """
    ways, least = [1.0], 0
    for hits_a, of_a, hits_b, of_b in strata:
        hits = hits_a + hits_b
        rarest, commonest = _possible_hits(hits, of_a, of_b)
        chances = [_hypergeometric_term(count, of_a, hits - count, of_b) for count in range(rarest, commonest + 1)]
        ways = _convolved(ways, chances)
        least += rarest
    seen = sum(hits_a for hits_a, *_ in strata) - least
    tails = math.fsum(ways[: seen + 1]), math.fsum(ways[seen:])
    return min(1.0, 2 * min(tails)), min(1.0, 2 * min(ways[0], ways[-1]))


def chance_of_at_least(of: int, at_least: int, rate: float) -> float:
    """Return the probability that at least so many of `of` are hit when each is hit at this rate, independently."""
    if at_least <= 0 or rate >= 1:
        return float(at_least <= of)
    if at_least > of or rate <= 0:
        return 0.0
    if at_least <= of * rate:
        return 1 - _chance_of_fewer(of, at_least, rate)
    odds = rate / (1 - rate)
    ratios = (odds * (of - hits) / (hits + 1) for hits in range(at_least, of))
    return _sum_terms(_binomial_term(of, at_least, rate), ratios)


def chance_of_at_most(most: int, mean: float) -> float:
    """Return the chance of at most so many accidents where so many are usual, and each comes independently (Poisson)."""
    if most < 0 or mean <= 0:
        return float(most >= 0)
    if most >= mean:
        ratios = (mean / (count + 1) for count in _from(most + 1))
        return 1 - _sum_terms(_poisson_term(most + 1, mean), ratios)
    return _sum_terms(_poisson_term(most, mean), (count / mean for count in range(most, 0, -1)))


def _chance_of_fewer(of: int, than: int, rate: float) -> float:
    """Return the probability that fewer than so many of `of` are hit."""
    if than > of * rate + 1 or than <= 0 or not 0 < rate < 1:
        return 1 - chance_of_at_least(of, than, rate)
    odds = (1 - rate) / rate
    ratios = (odds * hits / (of - hits + 1) for hits in range(than - 1, 0, -1))
    return _sum_terms(_binomial_term(of, than - 1, rate), ratios)


def _binomial_term(of: int, hits: int, rate: float) -> float:
    return math.exp(_log_comb(of, hits) + hits * math.log(rate) + (of - hits) * math.log1p(-rate))


def _poisson_term(count: int, mean: float) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


def _hypergeometric_term(hits_a: int, of_a: int, hits_b: int, of_b: int) -> float:
    return math.exp(_log_comb(of_a, hits_a) + _log_comb(of_b, hits_b) - _log_comb(of_a + of_b, hits_a + hits_b))


def _possible_hits(hits: int, of_a: int, of_b: int) -> tuple[int, int]:
    """Return how few and how many of all hits can be in the first sample."""
    return max(0, hits - of_b), min(hits, of_a)


def _convolved(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the chances of sums of two independent counts."""
    sums = [0.0] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            sums[i + j] += a * b
    return sums


def _log_comb(of: int, drawn: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(drawn + 1) - math.lgamma(of - drawn + 1)


def _sum_terms(first: float, ratios: Iterator[float]) -> float:
    """Return the sum of terms of which each is the one before it by the next ratio, as far as a float can hold it."""
    total = term = first
    for ratio in ratios:
        term *= ratio
        total += term
        if ratio < 1 and term <= total * _NEGLIGIBLE:
            break
    return min(1.0, total)


def _from(count: int) -> Iterator[int]:
    while True:
        yield count
        count += 1


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition begins to hold that does not hold at `low`, and holds at `high`, by halving."""
    while low < (middle := (low + high) / 2) < high:
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
