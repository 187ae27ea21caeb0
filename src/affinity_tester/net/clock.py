"""Converts between the wall clock, which the kernel stamps packets with, and the clock of the run."""

from __future__ import annotations

from time import time_ns

from affinity_tester import clock

_CLOSE_NS = 2_000
"""Two readings this close count as one moment, since round-trip times are given in microseconds."""


def wall_to_run_ns() -> int:
    """Return what to add to a wall-clock time of now to get the run's time, in nanoseconds.

    It is sampled whenever packets are read, so a step of the wall clock affects at most the packets that are queued then.
    (While the machine sleeps, both clocks go on.) A sample that was interrupted is taken again, at most twice.
    """
    for _ in range(3):
        before_ns = clock.now_ns()
        wall_ns = time_ns()
        after_ns = clock.now_ns()
        if after_ns - before_ns < _CLOSE_NS:
            break
    return (before_ns + after_ns) // 2 - wall_ns
