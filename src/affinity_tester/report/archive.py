"""A recorded run as a whole, for the forms that show it after its end: `render`, `junit`, `html`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from affinity_tester.core import events as ev
from affinity_tester.errors import UserError
from affinity_tester.report import words
from affinity_tester.report.clock import RunClock
from affinity_tester.report.lines import pool_lines, run_lines
from affinity_tester.report.results import RunResults

MOST_MARKS = 10_000
"""Changes, outages, losses and cluster events kept each; more than that no page can show, and the counts have them all."""


@dataclass(slots=True)
class Mark:
    """A change or an outage of one session, with its judgement once there is one."""

    session: str
    at_ns: int
    """When it was seen (a change) or began (an outage)."""
    until_ns: int | None
    """When an outage was over, None if it never was; a change's is its `at_ns`."""
    facts: tuple[str, ...]
    """What happened, in words."""
    change: ev.Change | None
    """None for an outage."""
    judged: ev.CaseJudged | None = None

    @property
    def judgement(self) -> str:
        """Its class; `not judged` where the record ends before."""
        return "not judged" if self.judged is None else self.judged.judgement.value

    @property
    def verdict(self) -> str:
        """`explained: pod "…" left the pool 0.8 s before, unavoidable`."""
        return self.judgement if self.judged is None else words.judged(self.judged)


@dataclass(slots=True)
class Archive:
    """Everything about a run that is shown after it; built by `gather`."""

    clock: RunClock
    started: ev.RunStarted
    results: RunResults
    end_ns: int
    """The time of the latest event."""
    sessions: list[str] = field(default_factory=list)
    """All of them, as they started."""
    marks: list[Mark] = field(default_factory=list)
    """Changes and outages by time."""
    losses: list[ev.ProbesLost] = field(default_factory=list)
    around: list[tuple[int, str]] = field(default_factory=list)
    """(at_ns, text): what happened in the cluster, or was injected."""
    incidents: list[ev.Incident] = field(default_factory=list)
    left_out: int = 0
    """Changes and outages beyond `MOST_MARKS`."""


class _Gatherer:
    """Takes events one by one; a revised change stays one mark."""

    def __init__(self, started: ev.RunStarted) -> None:
        self.archive = Archive(RunClock.of(started), started, RunResults(), started.at_ns)
        self._marks: dict[tuple[str, bool, int], Mark] = {}
        self._pool_known = False

    def add(self, event: ev.Event) -> None:
        archive = self.archive
        archive.results.add(event)
        archive.end_ns = max(archive.end_ns, event.at_ns)
        match event:
            case ev.SessionStarted(session=session):
                archive.sessions.append(session)
            case ev.ChangeSeen(session=session, change=change) | ev.ChangeRevised(session=session, change=change):
                facts = tuple(words.change_facts(change))
                self._put((session, False, change.number), Mark(session, change.seen_ns, change.seen_ns, facts, change))
            case ev.ChangeWithdrawn(session=session, change=change):
                self._marks.pop((session, False, change.number), None)
            case ev.OutageStarted(session=session, since_seq=seq, since_ns=since_ns):
                self._put((session, True, seq), Mark(session, since_ns, None, ("unanswered",), None))
            case ev.OutageEnded(session=session, since_seq=seq):
                self._close(self._marks.get((session, True, seq)), event)
            case ev.CaseJudged(session=session, case=ev.Change(number=number)):
                self._judge((session, False, number), event)
            case ev.CaseJudged(session=session, case=ev.OutageCase(since_seq=seq)):
                self._judge((session, True, seq), event)
            case ev.ProbesLost():
                if len(archive.losses) < MOST_MARKS:
                    archive.losses.append(event)
            case ev.IncidentClosed(incident=incident):
                if len(archive.incidents) < MOST_MARKS:
                    archive.incidents.append(incident)
            case ev.PoolObserved():
                first, self._pool_known = not self._pool_known, True
                self._near(event, [line.text for line in pool_lines(event, first=first)])
            case ev.PoolUnobserved() | ev.ClusterEvent() | ev.Injected() | ev.WrongPool():
                self._near(event, [line.text for line in run_lines(event, archive.clock)])

    def done(self) -> Archive:
        self.archive.marks = sorted(self._marks.values(), key=lambda mark: mark.at_ns)
        return self.archive

    def _put(self, key: tuple[str, bool, int], mark: Mark) -> None:
        if key in self._marks or len(self._marks) < MOST_MARKS:
            self._marks[key] = mark
        else:
            self.archive.left_out += 1

    def _close(self, mark: Mark | None, event: ev.OutageEnded) -> None:
        if mark is not None:
            mark.until_ns = event.at_ns
            mark.facts = (f"unanswered for {words.plural(event.probes, 'probe')}",)

    def _judge(self, key: tuple[str, bool, int], event: ev.CaseJudged) -> None:
        if key in self._marks:
            self._marks[key].judged = event

    def _near(self, event: ev.Event, texts: list[str]) -> None:
        if len(self.archive.around) < MOST_MARKS:
            self.archive.around += [(event.at_ns, text) for text in texts]


def gather(events: Iterable[ev.Event]) -> Archive:
    """Read all events of a run. Raises `UserError` if they do not begin with a start that makes sense."""
    iterator = iter(events)
    started = next(iterator, None)
    if not isinstance(started, ev.RunStarted):
        raise UserError("the record has no run in it: its first event must be the run's start")
    try:
        gatherer = _Gatherer(started)
    except ValueError as error:
        raise UserError(f"the record is damaged: {error}") from error
    gatherer.archive.results.add(started)
    for event in iterator:
        gatherer.add(event)
    return gatherer.done()
