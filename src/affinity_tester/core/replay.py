"""A recorded run, judged again by the code that judges a live one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    CaseJudged,
    Event,
    IncidentClosed,
    IncidentOngoing,
    RunDiagnosed,
    RunEnded,
    RunStarted,
    Verdict,
    WrongPool,
)
from affinity_tester.core.judging.rules import DEFAULT_RULES, Rules

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
    """A recorded run, judged anew by the rules it was given, or by what `change_rules` makes of them.

    A record that breaks off (its run was killed) is ended where it breaks off; what was open then is unknown.
    """
    analysis: RunAnalysis | None = None
    at_ns = 0
    ended = False
    for event in events:
        if isinstance(event, DERIVED):
            continue

        at_ns = max(at_ns, event.at_ns)
        ended = isinstance(event, RunEnded)
        if analysis is None:
            rules = event.rules if isinstance(event, RunStarted) else DEFAULT_RULES
            analysis = RunAnalysis(change_rules(rules))
        yield event
        yield from analysis.feed(event)

    if analysis is not None and not ended:
        end = RunEnded(at_ns, aborted=True)
        yield end
        yield from analysis.feed(end)
