"""What the samples say of each step, and of the longest silence that is kept.

1. A sample counts if it was answered before the silence, this machine sent on time, and no change of the pool touched it.
2. A step is *kept* if no flow that counts came back changed, and no more were dead than lost packets explain: the lower
   bound of their share (exact, 95 %) is at most `TOLERATED`, or what the loss before the silences makes likely.
   It is *lost* if the lower bound of all that was not kept is above `TOLERATED`; else it is *mixed*.
   It is *unknown* if fewer than half of its samples count, or fewer than `FEWEST`, or if expired flows could look alike by
   chance with a probability above `MAX_CHANCE`.
3. The longest silence kept is the longest step that is kept. A timeout does not come back, so shorter steps that are not kept
   had another cause (a moment's trouble on the way): they are named, and do not count.
4. The first silence not kept is the first step above that which is mixed or lost; without one, it is longer than the longest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.exact import binomial_interval
from affinity_tester.core.identity import Kind
from affinity_tester.core.idle.model import Direction, Fate, FlowState, Property, SampleResult, Step
from affinity_tester.core.idle.view import PathView

TOLERATED = 0.05
"""Two probes in a row that are lost are no expired flow: so large a share of a step's flows may be."""

FEWEST = 10
"""Of so many samples none lost means at most 26 % (95 %); a measurement that was cut off has fewer."""

MAX_CHANCE = 0.001
"""That expired flows all look like the ones from before, over a whole step."""


class Standing(StrEnum):
    """What a step says of one property."""

    KEPT = "kept"
    MIXED = "mixed"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCount:
    """How many samples of a step kept one property."""

    wanted: Property
    standing: Standing
    kept: int
    of: int
    """Those that count, and could show a loss."""
    alike: float = 0.0
    """The share of expired flows that looks kept by chance, on average; 0: none."""

    @property
    def most_lost(self) -> float:
        """The largest share (0 to 1) of flows not kept that this count is no accident of, at 95 %."""
        return binomial_interval(self.of - self.kept, self.of)[1]

    @property
    def expired(self) -> float:
        """The share of flows that expired: what changed, with those that met the old pod again by chance."""
        changed = (self.of - self.kept) / self.of if self.of else 0.0
        return min(1.0, changed / (1 - self.alike)) if self.alike < 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """What became of one step's samples."""

    step: Step
    samples: int
    """All that ended."""
    void: int = 0
    """Those that a change of the pool touched."""
    unusable: tuple[tuple[Fate, int], ...] = ()
    """Those that say nothing for another reason."""
    restarted: int = 0
    """Those whose pod was restarted in the meantime."""
    ambiguous: int = 0
    """Those that may have expired between a lost probe and the next one."""
    new_pod: int = 0
    new_node: int = 0
    new_port: int = 0
    new_address: int = 0
    dead: int = 0
    """Not answered, though a new flow was."""
    unheard: int = 0
    """The pod's own packet did not arrive."""
    resent: int = 0
    """The first probe after the silence was lost."""
    counts: tuple[KeptCount, ...] = ()
    """One for each property."""

    def count(self, wanted: Property) -> KeptCount:
        """Return how many kept this."""
        return next(count for count in self.counts if count.wanted is wanted)

    @property
    def usable(self) -> int:
        """How many samples count."""
        return self.samples - self.void - self.restarted - self.ambiguous - sum(count for _, count in self.unusable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The longest silence over which one property is kept."""

    wanted: Property
    kept_ns: int | None
    """The longest step that is kept; None: not even the shortest."""
    lost_ns: int | None
    """The first step above it that is not; None: no longer one was tried."""
    odd_ns: tuple[int, ...] = ()
    """Shorter steps that were not kept: not for their silence."""

    @property
    def is_known(self) -> bool:
        """True if any step said something."""
        return self.kept_ns is not None or self.lost_ns is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """All steps of one state and direction, shortest first."""

    direction: Direction
    state: FlowState
    steps: tuple[StepSummary, ...]
    estimates: tuple[Estimate, ...]

    def estimate(self, wanted: Property) -> Estimate:
        """Return the estimate of this property."""
        return next(estimate for estimate in self.estimates if estimate.wanted is wanted)


def curves(
    results: Sequence[SampleResult], view: PathView, is_void: Callable[[SampleResult], bool]
) -> tuple[Curve, ...]:
    """Return what all samples say together. `is_void` says of one whether a change of the pool touched it."""
    loss = _loss(results)
    by_step: dict[Step, list[SampleResult]] = {}
    for result in results:
        by_step.setdefault(result.step, []).append(result)
    summaries = [_summarise(step, by_step[step], view, is_void, loss) for step in sorted(by_step)]

    found: dict[tuple[Direction, FlowState], list[StepSummary]] = {}
    for summary in summaries:
        found.setdefault((summary.step.direction, summary.step.state), []).append(summary)
    return tuple(
        Curve(
            direction=direction,
            state=state,
            steps=tuple(steps),
            estimates=tuple(estimate(steps, wanted) for wanted in Property),
        )
        for (direction, state), steps in found.items()
    )


def estimate(steps: Sequence[StepSummary], wanted: Property) -> Estimate:
    """Return the estimate that steps, shortest first, make of a property."""
    standings = [(each.step.silence_ns, each.count(wanted).standing) for each in steps]
    kept_ns = max((ns for ns, standing in standings if standing is Standing.KEPT), default=None)
    broken = [ns for ns, standing in standings if standing in (Standing.MIXED, Standing.LOST)]
    above = [ns for ns in broken if kept_ns is None or ns > kept_ns]
    return Estimate(
        wanted=wanted,
        kept_ns=kept_ns,
        lost_ns=min(above, default=None),
        odd_ns=tuple(ns for ns in broken if kept_ns is not None and ns < kept_ns),
    )


def _loss(results: Iterable[SampleResult]) -> float:
    """Return the share of probes before the silences that were not answered."""
    started = [result for result in results if result.before is not None]
    sent = sum(result.sent for result in started)
    return 1 - sum(result.answered for result in started) / sent if sent else 0.0


def _summarise(
    step: Step,
    results: Sequence[SampleResult],
    view: PathView,
    is_void: Callable[[SampleResult], bool],
    loss: float,
) -> StepSummary:
    valid = [result for result in results if not is_void(result)]
    usable = [result for result in valid if result.counts]
    excused = [result for result in valid if result.restarted or result.ambiguous]
    unusable = Counter(result.fate for result in valid if result.fate not in (Fate.ANSWERED, Fate.DEAD))
    changed = Counter(kind for result in usable for kind in result.differs)
    return StepSummary(
        step=step,
        samples=len(results),
        void=len(results) - len(valid),
        unusable=tuple(sorted(unusable.items())),
        restarted=sum(result.restarted for result in excused),
        ambiguous=sum(not result.restarted for result in excused),
        new_pod=changed[Kind.POD],
        new_node=changed[Kind.NODE],
        new_port=changed[Kind.REFLEXIVE_PORT],
        new_address=changed[Kind.REFLEXIVE_IP],
        dead=sum(result.fate is Fate.DEAD for result in usable),
        unheard=sum(result.heard is False for result in usable),
        resent=sum(result.resent for result in usable),
        counts=tuple(_count(usable, len(results), wanted, view, loss) for wanted in Property),
    )


def _count(usable: Sequence[SampleResult], samples: int, wanted: Property, view: PathView, loss: float) -> KeptCount:
    """Return how many samples kept a property, and what the step is by it (rules 1 and 2)."""
    chances = [view.chance_alike(result, wanted) for result in usable]
    # One that could not look different says nothing by looking alike; but if it does look different, it does say so.
    seen = [(r, chance) for r, chance in zip(usable, chances, strict=True) if chance < 1 or not r.kept(wanted)]
    lost = [result for result, _ in seen if not result.kept(wanted)]
    silent = sum(result.fate is Fate.DEAD or result.heard is False for result in lost)
    kept, of = len(seen) - len(lost), len(seen)

    tolerated = max(TOLERATED, 2 * (loss if any(r.heard is not None for r, _ in seen) else loss**2))
    if of and binomial_interval(len(lost), of)[0] > tolerated:
        standing = Standing.LOST
    elif 2 * of < samples or of < FEWEST or math.prod(chance for _, chance in seen) > MAX_CHANCE:
        standing = Standing.UNKNOWN
    elif len(lost) == silent:
        standing = Standing.KEPT
    else:
        standing = Standing.MIXED
    alike = sum(chance for _, chance in seen) / of if of else 0.0
    return KeptCount(wanted=wanted, standing=standing, kept=kept, of=of, alike=alike)
