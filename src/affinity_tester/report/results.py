"""What a run came to: gathered from its events, for every form of the end of a run."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from affinity_tester.core import events as ev

REVISABLE = 100_000
"""Judgements remembered one by one, as a later one for the same change replaces the earlier. Only changes of the last
minute (the kept history) can be judged again, so the oldest may be forgotten; their counts stay."""

AnyJudged = ev.ChangeJudged | ev.OutageJudged | ev.StrayJudged

_Key = tuple[str, str, int]
"""Session, what is judged, and its number: a change's, an outage's first probe, or when a reply was heard."""


class Tally:
    """Counts judgements by class, each change, outage and stray reply once, in bounded memory."""

    def __init__(self, limit: int = REVISABLE) -> None:
        self._limit = limit
        self._latest: OrderedDict[_Key, AnyJudged] = OrderedDict()
        self._counts: Counter[tuple[str, ev.Judgement]] = Counter()
        self.avoidable = 0
        """Explained ones whose old pod was still serving."""

    def add(self, judged: AnyJudged) -> None:
        """Count it in place of an earlier judgement of the same."""
        key = judged_key(judged)
        self._forget(key)
        self._counts[key[1], judged.judgement] += 1
        self.avoidable += _is_avoidable(judged)
        self._latest[key] = judged
        if len(self._latest) > self._limit:
            self._latest.popitem(last=False)

    def withdraw(self, event: ev.ChangeWithdrawn) -> None:
        """Count this change no more: another one tells it."""
        self._forget((event.session, "change", event.change.number))

    def _forget(self, key: _Key) -> None:
        replaced = self._latest.pop(key, None)
        if replaced is not None:
            self._counts[key[1], replaced.judgement] -= 1
            self.avoidable -= _is_avoidable(replaced)

    def changes(self, judgement: ev.Judgement) -> int:
        """How many changes are of this class."""
        return self._counts["change", judgement]

    def outages(self, judgement: ev.Judgement) -> int:
        """How many outages are of this class."""
        return self._counts["outage", judgement]

    def strays(self, judgement: ev.Judgement) -> int:
        """How many replies that arrived elsewhere are of this class."""
        return self._counts["stray", judgement]


def judged_key(judged: AnyJudged) -> _Key:
    """What a judgement is about."""
    match judged:
        case ev.ChangeJudged():
            return judged.session, "change", judged.change.number
        case ev.OutageJudged():
            return judged.session, "outage", judged.since_seq
        case ev.StrayJudged():
            return judged.session, "stray", judged.heard_ns


def _is_avoidable(judged: AnyJudged) -> bool:
    return not isinstance(judged, ev.StrayJudged) and judged.avoidable is True


@dataclass(slots=True)
class RunResults:
    """The end of a run, as far as its events have told it. A field is None while its event has not come."""

    started: ev.RunStarted | None = None
    foreign: ev.ForeignServer | None = None
    sessions: dict[str, ev.SessionSummary] = field(default_factory=dict)
    """By name, in the order in which they ended."""
    run: ev.RunSummary | None = None
    verdict: ev.Verdict | None = None
    tally: Tally = field(default_factory=Tally)

    def add(self, event: ev.Event) -> None:
        """Take what this event says of the end; most say nothing of it."""
        match event:
            case ev.ChangeJudged() | ev.OutageJudged() | ev.StrayJudged():
                self.tally.add(event)
            case ev.ChangeWithdrawn():
                self.tally.withdraw(event)
            case ev.SessionSummary():
                self.sessions[event.session] = event
            case ev.RunStarted():
                self.started = event
            case ev.ForeignServer():
                self.foreign = event
            case ev.RunSummary():
                self.run = event
            case ev.Verdict():
                self.verdict = event

    def worst(self, count: int) -> list[ev.SessionSummary]:
        """So many sessions, the worst first: most lost, then most changes, then the longest gap."""
        return heapq.nlargest(
            count, self.sessions.values(), key=lambda s: (s.total.lost, s.total.changes, s.longest_gap_ns)
        )
