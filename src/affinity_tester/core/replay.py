"""A recorded run, judged again by the code that judges a live one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    ChangeJudged,
    Event,
    IncidentClosed,
    IncidentOngoing,
    OutageJudged,
    RulesGiven,
    RunDiagnosed,
    RunEnded,
    RunStarted,
    StrayJudged,
    Verdict,
    WrongPool,
)
from affinity_tester.core.judging.rules import Rules

DERIVED = (
    ChangeJudged,
    OutageJudged,
    StrayJudged,
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
    """A recorded run, judged anew by the rules it was given, or by what `change_rules` makes of them.

    A record that breaks off (its run was killed) is ended where it breaks off; what was open then is unknown.
    """
    analysis: RunAnalysis | None = None
    before: list[Event] = []
    at_ns = 0
    ended = False
    for event in events:
        if isinstance(event, DERIVED):
            continue
        at_ns = max(at_ns, event.at_ns)
        ended = isinstance(event, RunEnded)
        if analysis is None and not isinstance(event, RunStarted):
            # The rules stand right after the start; a record of before they were recorded has none.
            analysis = RunAnalysis(change_rules(Rules.of(event) if isinstance(event, RulesGiven) else Rules()))
            for early in before:
                yield from analysis.feed(early)
        yield event
        if analysis is None:
            before.append(event)
        else:
            yield from analysis.feed(event)
    if analysis is not None and not ended:
        end = RunEnded(at_ns, aborted=True)
        yield end
        yield from analysis.feed(end)
