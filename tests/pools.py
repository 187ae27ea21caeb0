"""Pools for tests: what the cluster's watch works out where it makes a snapshot, and the words of judgements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeGuard, TypeVar

from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import Case, CaseJudged, Event, PoolObserved
from affinity_tester.core.judging.reasons import Reason
from affinity_tester.core.pool import PoolSnapshot, differences
from affinity_tester.core.pool_timeline import PoolChange, PoolTimeline
from affinity_tester.report.reason_text import reason_texts

C = TypeVar("C", bound=Case)


class ComparingAnalysis(RunAnalysis):
    """An analysis whose snapshots need not say how they differ."""

    _newest: PoolSnapshot | None = None

    def feed(self, event: Event) -> list[Event]:
        if isinstance(event, PoolObserved):
            changes = () if self._newest is None else differences(self._newest, event.snapshot)
            self._newest = event.snapshot
            event = replace(event, changes=changes)
        return super().feed(event)


def observe(
    timeline: PoolTimeline, since_ns: int, until_ns: int, snapshot: PoolSnapshot, asked_ns: int | None = None
) -> PoolChange | None:
    before = timeline.snapshot
    changes = () if before is None else differences(before, snapshot)
    return timeline.observed(since_ns, until_ns, snapshot, changes, asked_ns)


def texts(reasons: tuple[Reason, ...]) -> tuple[str, ...]:
    return tuple(reason_texts(reasons))


def is_judged(event: Event, kind: type[Case]) -> TypeGuard[CaseJudged]:
    """Whether it judges a case of this sort."""
    return isinstance(event, CaseJudged) and isinstance(event.case, kind)


def judged_cases(events: Iterable[Event], kind: type[C]) -> list[tuple[C, CaseJudged]]:
    """The cases of one sort that were judged, each with its judgement."""
    return [(event.case, event) for event in events if isinstance(event, CaseJudged) and isinstance(event.case, kind)]


class ChangesChecker:
    """Hold that each snapshot says how it differs from the one before, and leave that out: tests need not repeat it."""

    def __init__(self) -> None:
        self._newest: PoolSnapshot | None = None

    def check(self, event: Event) -> Event:
        if not isinstance(event, PoolObserved):
            return event
        assert event.changes == (() if self._newest is None else differences(self._newest, event.snapshot))
        self._newest = event.snapshot
        return replace(event, changes=())
