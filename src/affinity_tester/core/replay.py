"""A recorded run, judged again by the code that judges a live one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    CaseJudged,
    Event,
    IncidentClosed,
    IncidentOngoing,
    PoolObserved,
    RunDiagnosed,
    RunEnded,
    RunStarted,
    Verdict,
    WrongPool,
)
from affinity_tester.core.judging.rules import DEFAULT_RULES, Rules
from affinity_tester.core.pool import PoolSnapshot, differences

DERIVED = (
    CaseJudged,
    IncidentOngoing,
    IncidentClosed,
    RunDiagnosed,
    WrongPool,
    Verdict,
)
"""What an analysis tells; all other events are observed."""


def judge_again(
    events: Iterable[Event], change_rules: Callable[[Rules], Rules] = lambda rules: rules
) -> Iterator[Event]:
    """Judge a recorded run anew by the rules it was given, or by what `change_rules` makes of them.

    A record that breaks off (its run was killed) is ended where it breaks off; what was open then is unknown. One may lack
    events that its reader did not take, so how snapshots of the pool differ is worked out from those that are there.
    """
    analysis: RunAnalysis | None = None
    pool: PoolSnapshot | None = None
    at_ns = 0
    for recorded in events:
        if isinstance(recorded, DERIVED):
            continue

        event = recorded
        if isinstance(recorded, PoolObserved):
            changes = () if pool is None else differences(pool, recorded.snapshot)
            event, pool = replace(recorded, changes=changes), recorded.snapshot
        at_ns = max(at_ns, event.at_ns)
        if analysis is None:
            rules = event.rules if isinstance(event, RunStarted) else DEFAULT_RULES
            analysis = RunAnalysis(change_rules(rules))
        yield event
        yield from analysis.feed(event)
        if isinstance(event, RunEnded):
            return

    if analysis is not None:
        end = RunEnded(at_ns, aborted=True)
        yield end
        yield from analysis.feed(end)
