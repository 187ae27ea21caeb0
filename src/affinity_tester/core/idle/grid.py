"""The silences that are tried, and when each sample starts.

The grid is 1 s, and each next step 1.25 times the one before, to three digits: 1, 1.25, 1.56, ... 28.4, 35.5, ... up to the
longest, which is a step itself. Where flows break off between two steps, `REFINED` finer steps between them are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from affinity_tester.core.idle.model import Direction, FlowState, Step
from affinity_tester.units import NS_PER_MS, NS_PER_S

SHORTEST_NS = NS_PER_S
RATIO = 1.25
MIN_DISTANCE = 1.05
"""The last step of the grid is left out where the longest silence is longer by no more than this factor."""

REFINED = 4
"""Steps between the two where it breaks: they find the timeout to 5 %."""

SPACING_NS = 10 * NS_PER_MS
"""Between the starts of two samples: 100 new flows a second, which no connection tracking minds."""

OVERHEAD_NS = 12 * NS_PER_S
"""What a sample takes beside its silence at most: its start, two probes, and the check of a new flow."""

MAX_SAMPLES = 20_000
"""Each is a socket, and all are open at once."""


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One sample of a round."""

    step: Step
    start_ns: int
    """When it starts, counted from the round's begin."""


def grid(longest_ns: int) -> tuple[int, ...]:
    """Return the silences to try, in nanoseconds. Raises `ValueError` where the longest is shorter than the shortest."""
    if longest_ns < SHORTEST_NS:
        raise ValueError(f"a silence of {longest_ns} ns is shorter than the shortest that is tried")
    steps: list[int] = []
    silence = float(SHORTEST_NS)
    while (step_ns := _rounded(silence)) * MIN_DISTANCE < longest_ns:
        steps.append(step_ns)
        silence *= RATIO
    return (*steps, longest_ns)


def refine(kept_ns: int, lost_ns: int) -> tuple[int, ...]:
    """Return the finer steps between the longest silence that was kept and the first that was not."""
    ratio = lost_ns / kept_ns
    found = (_rounded(kept_ns * ratio ** (number / (REFINED + 1))) for number in range(1, REFINED + 1))
    return tuple(dict.fromkeys(step_ns for step_ns in found if kept_ns < step_ns < lost_ns))


def steps_of(
    silences_ns: Iterable[int], directions: Sequence[Direction], states: Sequence[FlowState] = tuple(FlowState)
) -> tuple[Step, ...]:
    """Return each silence in each direction and state."""
    return tuple(
        Step(direction, state, silence_ns) for silence_ns in silences_ns for direction in directions for state in states
    )


def plan_round(wanted: Sequence[tuple[Step, int]]) -> tuple[PlannedSample, ...]:
    """Return the samples of a round, so many of each step, in the order of their starts.

    Steps take turns: what happens for a moment on the way meets few samples of any step. Raises `ValueError` for more
    samples than sockets can be had.
    """
    total = sum(count for _, count in wanted)
    if total > MAX_SAMPLES:
        raise ValueError(f"{total:,} samples are more than {MAX_SAMPLES:,}")
    most = max((count for _, count in wanted), default=0)
    turns = [step for turn in range(most) for step, count in wanted if turn < count]
    return tuple(PlannedSample(step, number * SPACING_NS) for number, step in enumerate(turns))


def round_ns(planned: Sequence[PlannedSample]) -> int:
    """Return how long a round takes at most, with what its last samples wait for."""
    return max((each.start_ns + each.step.silence_ns for each in planned), default=0) + OVERHEAD_NS


def _rounded(silence: float) -> int:
    """Round to three digits, and to a millisecond at least."""
    return max(NS_PER_MS, int(float(f"{silence:.3g}")))
