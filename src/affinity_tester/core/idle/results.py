"""What a whole measurement of silence came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from affinity_tester.core.idle.advice import KnownTimeout, keep_alive_ns
from affinity_tester.core.idle.estimate import Curve, curves
from affinity_tester.core.idle.grid import MAX_SAMPLES, refine
from affinity_tester.core.idle.model import Fate, Property, SampleResult, Step
from affinity_tester.core.idle.view import PathView
from affinity_tester.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleResult:
    """All samples, and what they say together."""

    results: tuple[SampleResult, ...]
    view: PathView
    curves: tuple[Curve, ...]
    longest_ns: int
    """The longest silence that was to be tried."""
    watched: bool
    """The pool was watched throughout, so that its changes are known."""
    planned: int
    """The samples of all rounds; those that have no result were cut off."""
    repeated: int = 0
    """Samples that stand in for void ones."""
    known: tuple[KnownTimeout, ...] = ()
    """The timeouts on the way that the watch, or the kernel's defaults, make known."""

    @classmethod
    def of(
        cls,
        results: Sequence[SampleResult],
        view: PathView,
        is_void: Callable[[SampleResult], bool],
        *,
        longest_ns: int,
        watched: bool,
        planned: int,
        repeated: int = 0,
        known: tuple[KnownTimeout, ...] = (),
    ) -> Self:
        """Return the result of these samples; `is_void` says of one whether a change of the pool touched it."""
        return cls(
            results=tuple(results),
            view=view,
            curves=curves(results, view, is_void),
            longest_ns=longest_ns,
            watched=watched,
            planned=planned,
            repeated=repeated,
            known=known,
        )

    @property
    def void(self) -> int:
        """The samples that a change of the pool touched."""
        return sum(step.void for curve in self.curves for step in curve.steps)

    @property
    def fates(self) -> Counter[Fate]:
        """How many samples ended in which way."""
        return Counter(result.fate for result in self.results)

    @property
    def is_unanswered(self) -> bool:
        """True if no sample got its first answer."""
        return nothing_answered(self.results)

    @property
    def is_conclusive(self) -> bool:
        """True if it says of any state how long a flow is kept."""
        return any(curve.estimate(Property.FLOW).is_known for curve in self.curves)

    @property
    def is_unbroken(self) -> bool:
        """True if no flow was lost over any silence that was tried, as far as can be seen."""
        known = [each for curve in self.curves if (each := curve.estimate(Property.FLOW)).is_known]
        return bool(known) and all(each.lost_ns is None for each in known)

    @property
    def keep_alive_ns(self) -> int | None:
        """The interval of keep-alives to choose; None where no silence is safe, or nothing is known."""
        return keep_alive_ns(self.curves)


GIVE_UP = 100
"""After so many samples that were never answered, and none that was, the others would say no more."""


def nothing_answered(results: Sequence[SampleResult]) -> bool:
    """True if samples have ended, and none of them was ever answered."""
    return bool(results) and all(result.fate is Fate.NOT_STARTED for result in results)


CHEAP_NS = 5 * NS_PER_S
"""A silence so short is tried again for any sample that said nothing."""


def second_round(found: Sequence[Curve], samples: int) -> tuple[tuple[Step, int], ...]:
    """Return the steps of the second round, and how many samples of each: finer ones where it breaks, and repetitions.

    A step has those samples again that said nothing, if that takes no longer than the finer steps do (`CHEAP_NS` without
    any), or if too few are left. What does not fit into `MAX_SAMPLES` is left out: finer steps, those where a whole flow
    breaks first, come before repetitions.
    """
    finer = {step: samples for wanted in Property for curve in found for step in _finer(curve, wanted)}
    longest_ns = max((step.silence_ns for step in finer), default=CHEAP_NS)

    again: dict[Step, int] = {}
    for summary in (summary for curve in found for summary in curve.steps):
        missing = (
            summary.void
            + summary.restarted
            + summary.ambiguous
            + sum(n for fate, n in summary.unusable if fate in _BY_CHANCE)
        )
        too_few = 2 * summary.usable < summary.samples
        if missing and (too_few or summary.step.silence_ns <= longest_ns):
            again[summary.step] = missing

    chosen: list[tuple[Step, int]] = []
    room = MAX_SAMPLES
    for step, count in (finer | again).items():
        if count <= room:
            chosen.append((step, count))
            room -= count
    return tuple(sorted(chosen))


def _finer(curve: Curve, wanted: Property) -> Iterator[Step]:
    """Yield the steps between the longest silence that kept a property and the first that did not."""
    found = curve.estimate(wanted)
    if found.kept_ns is not None and found.lost_ns is not None:
        for silence_ns in refine(found.kept_ns, found.lost_ns):
            yield Step(curve.direction, curve.state, silence_ns)


_BY_CHANCE = (Fate.PATH_SILENT, Fate.NOT_STARTED, Fate.LATE)
"""What another attempt may do without: a server that delays no reply will not do so the next time."""
