"""Limits the lines of each category in one second of the run, and counts the rest, so that a storm stays readable."""

from __future__ import annotations

from collections import Counter

LINES_A_SECOND = 50
"""More than a person can read, few enough for a slow terminal not to hold up the probes."""


class LineLimiter:
    """Counts the lines of the current second by category. Seconds are those of the run, so that its record replays alike."""

    def __init__(self, limit: int = LINES_A_SECOND) -> None:
        self._limit = limit
        self._second: int | None = None
        self._seen: Counter[str] = Counter()

    def start_second(self, second: int) -> list[tuple[str, int]]:
        """Begin this second if it is later than the current one; return what was left out of that, by category.

        A line that is older than the one before it counts in the current second: time does not run backwards here.
        """
        if self._second is not None and second <= self._second:
            return []
        self._second = second
        return self.drain()

    def allow(self, category: str) -> bool:
        """Count a line of this category, and return whether it may still be shown."""
        self._seen[category] += 1
        return self._seen[category] <= self._limit

    def drain(self) -> list[tuple[str, int]]:
        """Return how many lines were left out, by category, and count from zero again."""
        hidden = [(category, seen - self._limit) for category, seen in self._seen.items() if seen > self._limit]
        self._seen.clear()
        return hidden
