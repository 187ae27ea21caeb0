"""The two clocks: packets are stamped by the wall clock, and everything here is counted by the clock of the run."""

from __future__ import annotations

from time import time_ns

from affinity_tester import clock

_CLOSE_NS = 2_000
"""Two readings so near each other are one moment, for round-trip times in microseconds."""


def wall_to_run_ns() -> int:
    """What to add to a wall-clock time of now to have it on the clock of the run, in nanoseconds.

    Sampled at each reading of packets, so a step of the wall clock harms at most the packets queued then. (After a sleep of
    the machine both clocks have gone on.) A sample that was interrupted is taken again, at most twice.
    """
    for _ in range(3):
        before_ns = clock.now_ns()
        wall_ns = time_ns()
        after_ns = clock.now_ns()
        if after_ns - before_ns < _CLOSE_NS:
            break
    return (before_ns + after_ns) // 2 - wall_ns
