"""Whether a requirement held, why not, and what the sessions of an experiment suffice to claim.

First match wins:

    cannot tell  the experiment itself came to nothing: no action, a step that failed, no steady state before it, or a pool
                 that was not watched all the time, so that nobody knows what had to move
    broken       a session moved that need not have; one stayed silent though flows could be answered; another violation
    cannot tell  a move that the cluster may not have made, or that may have had to be, a silence whose cause is not known or
                 is another one, or too few sessions: none was where the action struck, or all that no other cause excuses are
                 fewer than FEWEST
    held         otherwise
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from affinity_tester.core.exact import binomial_interval
from affinity_tester.core.experiment.findings import Findings
from affinity_tester.core.experiment.results import Held
from affinity_tester.units import format_percent, plural

FEWEST = 5
"""Of fewer sessions, a fault that moves every second one leaves all in place more often than once in 20 times."""

_NAMED = 3
"""Sessions that are named in a text."""


def hold(findings: Findings) -> tuple[Held, tuple[str, ...]]:
    """Return whether the requirement held, and the reasons; none where it held."""
    if findings.blocked:
        return Held.UNKNOWN, findings.blocked
    broken = tuple(_broken(findings))
    if broken:
        return Held.NO, broken
    doubts = tuple(_doubts(findings))
    return (Held.UNKNOWN, doubts) if doubts else (Held.YES, ())


def _broken(findings: Findings) -> Iterator[str]:
    had_to = findings.had_to
    needless = [name for name in findings.beyond if name not in had_to]
    again = [name for name in findings.beyond if name in had_to]
    if needless:
        yield f"{plural(len(needless), 'session')} moved that need not have: {_named(needless)}"
    if again:
        yield f"{plural(len(again), 'session')} that had to move moved at another time, or again: {_named(again)}"
    if findings.silent:
        yield f"{plural(len(findings.silent), 'session')} stayed silent: {_named(findings.silent)}"
    if findings.violations:
        yield f"{plural(len(findings.violations), 'session')} had another violation: {_named(findings.violations)}"


def _doubts(findings: Findings) -> Iterator[str]:
    if findings.edited:
        yield f"the Service was edited meanwhile, by none of this: {findings.edited}"
    if findings.unclear:
        settles = "the reference did not settle it" if findings.asked_reference else "--reference HOST may settle it"
        why = "" if findings.edited else f", and it may not be the cluster that moved them ({settles})"
        yield f"{plural(len(findings.unclear), 'session')} moved{why}: {_named(findings.unclear)}"
    if findings.unsure:
        yield (
            f"{plural(len(findings.unsure), 'session')} moved, and it is not known whether they had to, as their ingress node"
            f" is not known or left only later, or the pool does not show their pod: {_named(findings.unsure)}"
        )
    if findings.dead:
        yield f"{plural(len(findings.dead), 'session')} left a pod that answered nobody: {_named(findings.dead)}"
    if findings.stranded:
        silent = plural(len(findings.stranded), "session")
        yield (
            f"{silent} silent at the end, whose ingress node has no ready pod: policy Local sends them nowhere else:"
            f" {_named(findings.stranded)}"
        )
    if findings.untold:
        silent = plural(len(findings.untold), "session")
        yield f"{silent} silent at the end, the cause is not known: {_named(findings.untold)}"
    if findings.aside:
        aside = plural(len(findings.aside), "session")
        yield f"{aside} broken or silent since something else went away: {_named(findings.aside)}"
    if findings.untested:
        yield f"{findings.untested}: nothing was tested"
    left = len(findings.sessions) - len(set(findings.excused) - findings.had_to)
    if left < FEWEST:
        of = " that nothing else excused" if findings.excused else ""
        yield f"only {plural(left, 'session')}{of}: a fault that moves every second one may have missed them"


def _named(sessions: Sequence[str]) -> str:
    more = len(sessions) - _NAMED
    return ", ".join(sessions[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def claim(findings: Findings) -> str:
    """Return what the sessions suffice to claim, with exact bounds; and what they are too few for."""
    if findings.blocked:
        return "nothing can be claimed"
    had_to, beyond = findings.had_to, set(findings.beyond)
    parts = []
    stayed = findings.had_to_stay
    if stayed:
        parts.append(_share(len(beyond - had_to), stayed, "session", "that had to stay moved", "would"))
    if had_to:
        bad = (beyond | set(findings.silent)) & had_to
        moved = _share(len(bad), len(had_to), "session", "that had to move did so wrongly or stayed silent", "would")
        parts.append(moved)
    return "; ".join([*parts, *_unclaimed(findings)]) if parts else "no session was left to claim anything of"


def _unclaimed(findings: Findings) -> Iterator[str]:
    """Yield of how many sessions nothing is claimed, and why."""
    excused = len(set(findings.excused) - findings.had_to)
    if excused:
        yield f"{plural(excused, 'other')} excused"
    unknown = len(findings.sessions) - findings.had_to_stay - len(findings.had_to) - excused
    if unknown:
        yield f"of {plural(unknown, 'other')} it is not known whether they had to move"


def _share(hits: int, of: int, noun: str, did: str, would: str) -> str:
    """Return `0 of 24 sessions moved: at most 12 % would (95 %)`."""
    low, high = binomial_interval(hits, of)
    if hits == 0:
        bounds = f"at most {format_percent(high)}"
    elif hits == of:
        bounds = f"at least {format_percent(low)}"
    else:
        bounds = f"{format_percent(low)} to {format_percent(high)}"
    return f"{hits:,} of {plural(of, noun)} {did}: {bounds} {would} (95 %)"
