"""How many datagrams a session's full socket buffer dropped, when that was noticed, and how many losses it explains.

The kernel only counts drops: it does not say when they happened, or what was dropped. So one drop explains at most one
lost probe, and only a probe that was sent before the drop was noticed. A flood at the client's port then cannot explain
losses in the network at another time.
"""

from __future__ import annotations

from collections import deque

MAX_SAMPLES = 256
"""Samples kept: those of the last minute, since a session's drops are read four times a second at most."""


class DropSample:
    """The drops that were noticed at one reading of the socket's counter."""

    __slots__ = ("at_ns", "count", "unclaimed")

    def __init__(self, at_ns: int, count: int) -> None:
        self.at_ns = at_ns
        self.count = count
        self.unclaimed = count
        """Drops that explain no lost probe yet."""


class DropHistory:
    """The drops of one session's socket over time."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        """Start without drops."""
        self._samples: deque[DropSample] = deque(maxlen=MAX_SAMPLES)

    def record(self, now_ns: int, count: int) -> None:
        """Record that `count` more datagrams were dropped since the last reading."""
        self._samples.append(DropSample(now_ns, count))

    def claim(self, lost: int, sent_ns: int) -> int:
        """Return how many of `lost` probes, sent at `sent_ns` or later, drops explain; each drop is used up by that."""
        left = lost
        for sample in self._samples:
            if sample.at_ns >= sent_ns:
                taken = min(left, sample.unclaimed)
                sample.unclaimed -= taken
                left -= taken
        return lost - left

    def since(self, at_ns: int) -> list[tuple[int, int]]:
        """Return the drops noticed at `at_ns` or later, as (time noticed, number of drops)."""
        return [(sample.at_ns, sample.count) for sample in self._samples if sample.at_ns >= at_ns]
