"""Several comparisons at once: how small a p-value has to be, so that all of them together seldom err.

Holm's procedure (1979) with what Tarone (1990) adds for counts: a test that cannot come out small whatever its counts are
(0 of 24 and 0 of 24) can never err, and costs the others nothing. Step by step this keeps the chance of any error below the
doubt, whatever the tests have to do with each other (Hommel and Krummenauer 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class PValue(NamedTuple):
    """A test's outcome."""

    p: float
    least_p: float
    """The smallest p-value that it could have had with the same totals."""


def reject(tests: Sequence[PValue], doubt: float) -> tuple[list[bool], float]:
    """Return for each test whether its difference counts, and the level that decided over those that do not."""
    counts = [False] * len(tests)
    while True:
        level = _level([test for test, done in zip(tests, counts, strict=True) if not done], doubt)
        more = [done or test.p <= level for test, done in zip(tests, counts, strict=True)]
        if more == counts:
            return counts, level
        counts = more


def _level(tests: Sequence[PValue], doubt: float) -> float:
    """Return the doubt by the number of tests that could reach it."""
    share = 1
    while sum(test.least_p <= doubt / share for test in tests) > share:
        share += 1
    return doubt / share
