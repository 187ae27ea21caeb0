"""Round-trip times in bounded memory: exact count, minimum, mean, maximum and jitter; percentiles to within 6 %."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from affinity_tester.core.events import RttStats

_SUB_BITS = 3
_SUB = 1 << _SUB_BITS
_LINEAR = 2 * _SUB
BUCKETS = _LINEAR + (36 - _SUB_BITS - 1) * _SUB
"""They reach to about 19 h: no round-trip time is longer than a run's loss threshold."""

_NO_TIME_NS = 1 << 62
"""Longer than any time: the minimum while nothing is counted."""


def bucket_of(us: int) -> int:
    """Return the bucket of a time in whole microseconds; one of 2^k begins with that time.

    Log-linear, as in HdrHistogram: exact to 1 us below 16 us, then 8 buckets an octave.
    """
    shift = us.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (us >> shift) if shift > 0 else us


_SHORT_BUCKETS = bytes(map(bucket_of, range(1 << 12)))
"""The buckets of up to 4 ms, looked up: most times are so short, and each reply pays for it."""


_NOBODYS = array("Q", bytes(8 * BUCKETS))
"""Where times are counted that are counted nowhere else."""


def _middle_ns(bucket: int) -> int:
    """Return the middle of a bucket, in nanoseconds."""
    if bucket < _LINEAR:
        return bucket * 1000 + 500
    shift, sub = divmod(bucket - _LINEAR, _SUB)
    shift += 1
    return (((_SUB + sub) << shift) + (1 << (shift - 1))) * 1000


def percentile_ns(buckets: Sequence[int], percent: float) -> int | None:
    """Return the middle of the bucket of the time that `percent` of those counted did not exceed (nearest rank), or None."""
    count = sum(buckets)
    if count == 0:
        return None
    rank = max(1, -int(-percent * count // 100))
    bucket = -1
    while rank > 0:
        bucket += 1
        rank -= buckets[bucket]
    return _middle_ns(bucket)


class RttHistogram:
    """The round-trip times of one session, or of several merged."""

    __slots__ = ("_breaks", "_buckets", "_ipdv_sum", "_last_ns", "_last_seq", "max_ns", "min_ns", "shared", "sum_ns")

    def __init__(self) -> None:
        """Start empty; the buckets grow to the largest time seen."""
        self.sum_ns = 0
        self.min_ns = _NO_TIME_NS
        self.max_ns = 0
        self._buckets = array("H")
        self._last_seq = -2
        self._last_ns = 0
        self._ipdv_sum = 0
        self._breaks = 0
        """Times with none of the probe before to compare with: the first, those after a loss, and those out of order."""
        self.shared = _NOBODYS
        """Buckets in which each time is counted too: those of all sessions that one pod serves (`breakdown`)."""

    @property
    def count(self) -> int:
        """How many times were counted."""
        return sum(self._buckets)

    def add(self, seq: int, rtt_ns: int) -> None:
        """Count the round-trip time of the answered probe `seq`."""
        if rtt_ns < self.min_ns:  # noqa: PLR1730 - a third of what min() costs, for each reply
            self.min_ns = rtt_ns
        if rtt_ns > self.max_ns:  # noqa: PLR1730 - likewise
            self.max_ns = rtt_ns
        self.sum_ns += rtt_ns

        if seq == self._last_seq + 1:
            self._ipdv_sum += abs(rtt_ns - self._last_ns)
        else:
            self._breaks += 1
        self._last_seq = seq
        self._last_ns = rtt_ns

        us = rtt_ns // 1000
        bucket = _SHORT_BUCKETS[us] if us < 1 << 12 else min(bucket_of(us), BUCKETS - 1)
        self.shared[bucket] += 1
        try:
            self._buckets[bucket] += 1
        except IndexError:
            self._grow(bucket)
        except OverflowError:  # 65,535 of one length: few sessions come so far
            self._buckets = array("Q", self._buckets)
            self._buckets[bucket] += 1

    def share(self, buckets: array[int], seq: int) -> None:
        """Count in these buckets too from now on, and from probe `seq` on if that was the one counted last."""
        if self._last_seq == seq:
            bucket = min(bucket_of(self._last_ns // 1000), BUCKETS - 1)
            self.shared[bucket] -= 1
            buckets[bucket] += 1
        self.shared = buckets

    def is_newest(self, seq: int) -> bool:
        """True if the time of probe `seq` was counted last."""
        return self._last_seq == seq

    def _grow(self, bucket: int) -> None:
        """Make room up to a bucket that there is not yet, and count one there."""
        missing = bucket + 1 - len(self._buckets)
        self._buckets.frombytes(bytes(self._buckets.itemsize * missing))
        self._buckets[bucket] += 1

    @classmethod
    def merged(cls, parts: Iterable[RttHistogram]) -> RttHistogram:
        """Return all parts' times together; jitter is compared within each part only."""
        whole = cls()
        sums = [0] * BUCKETS
        for part in parts:
            whole.min_ns = min(whole.min_ns, part.min_ns)
            whole.max_ns = max(whole.max_ns, part.max_ns)
            whole.sum_ns += part.sum_ns
            whole._ipdv_sum += part._ipdv_sum  # noqa: SLF001 - its own class
            whole._breaks += part._breaks  # noqa: SLF001 - its own class
            for bucket, count in enumerate(part._buckets):  # noqa: SLF001 - its own class
                sums[bucket] += count
        # 64 bits: a sum over many sessions.
        whole._buckets = array("Q", sums)
        return whole

    def percentile_ns(self, percent: float) -> int | None:
        """Return the time that `percent` of the answered probes did not exceed: nearest rank, within minimum and maximum."""
        middle_ns = percentile_ns(self._buckets, percent)
        return None if middle_ns is None else min(max(middle_ns, self.min_ns), self.max_ns)

    def stats(self) -> RttStats:
        """Return all figures."""
        count = self.count
        if count == 0:
            return RttStats()
        steps = count - self._breaks
        return RttStats(
            count=count,
            min_ns=self.min_ns,
            mean_ns=self.sum_ns // count,
            p50_ns=self.percentile_ns(50),
            p90_ns=self.percentile_ns(90),
            p99_ns=self.percentile_ns(99),
            max_ns=self.max_ns,
            jitter_ns=self._ipdv_sum // steps if steps else None,
        )
