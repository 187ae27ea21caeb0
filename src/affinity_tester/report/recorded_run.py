"""A recorded run, loaded for the forms that show it after its end: `render`, `junit`, `html`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from affinity_tester.core import events as ev
from affinity_tester.errors import UserError
from affinity_tester.report.clock import RunClock
from affinity_tester.report.lines import STRAYS, pool_lines, run_lines
from affinity_tester.report.places import Places
from affinity_tester.report.recorded_experiment import RecordedExperiment
from affinity_tester.report.results import RunResults
from affinity_tester.report.text import change_facts, judgement_text
from affinity_tester.units import plural

MOST_ENTRIES = 10_000
"""So many changes and outages, losses, incidents and cluster events are kept. No page can show more; the counts have all."""


@dataclass(slots=True)
class TimelineEntry:
    """A change or an outage of one session, with its judgement if it has one."""

    session: str
    at_ns: int
    """When it was seen (a change), began (an outage) or was received (a reply that arrived elsewhere)."""
    until_ns: int | None
    """When an outage was over, None if it never was; of all others the same as `at_ns`."""
    facts: tuple[str, ...]
    """What happened, as text."""
    change: ev.Change | None
    """The change; None for an outage and a stray reply."""
    judged: ev.CaseJudged | None = None
    is_stray: bool = False
    """It is a reply that arrived elsewhere than it should have."""

    @property
    def judgement(self) -> str:
        """Return the class of its judgement, or `not judged` where the record ends before that."""
        return "not judged" if self.judged is None else self.judged.judgement.value

    @property
    def verdict(self) -> str:
        """Return the judgement as text, such as `explained by: pod "…" left the pool 0.8 s before; old pod gone`."""
        return self.judgement if self.judged is None else judgement_text(self.judged)


@dataclass(slots=True)
class RecordedRun:
    """Everything about a run that is shown after its end; built by `load`."""

    clock: RunClock
    started: ev.RunStarted
    results: RunResults
    end_ns: int
    """The time of the latest event."""
    places: Places
    """When and where cases, losses and times were."""
    sessions: list[str] = field(default_factory=list)
    """Names, in the order in which they started."""
    entries: list[TimelineEntry] = field(default_factory=list)
    """Changes, outages and replies that arrived elsewhere, by time."""
    losses: list[ev.ProbesLost] = field(default_factory=list)
    context: list[tuple[int, str]] = field(default_factory=list)
    """(at_ns, text): what happened in the cluster, was injected, or was done by an experiment."""
    incidents: list[ev.Incident] = field(default_factory=list)
    diagnoses: tuple[ev.Diagnosis, ...] = ()
    """What the run as a whole shows and no incident does."""
    watch: list[str] = field(default_factory=list)
    """Whether the pool was watched, as text."""
    left_out: int = 0
    """Entries beyond `MOST_ENTRIES`."""
    experiment: RecordedExperiment = field(default_factory=RecordedExperiment)
    """What an experiment did beside the run, if there was one."""


_Key = tuple[str, str, int]
"""What it is, the session, and its number: a change's, an outage's first probe, or when a stray reply was received."""


class _Loader:
    """Builds a `RecordedRun` from events; a revised change stays one entry."""

    def __init__(self, started: ev.RunStarted) -> None:
        self.recorded = RecordedRun(RunClock.of(started), started, RunResults(), started.at_ns, Places(started.at_ns))
        self._entries: dict[_Key, TimelineEntry] = {}
        self._pool_known = False

    def add(self, event: ev.Event) -> None:
        recorded = self.recorded
        recorded.results.add(event)
        recorded.places.add(event)
        recorded.experiment.add(event)
        recorded.end_ns = max(recorded.end_ns, event.at_ns)

        match event:
            case ev.SessionStarted(session=session):
                recorded.sessions.append(session)
            case ev.ChangeSeen(session=session, change=change) | ev.ChangeRevised(session=session, change=change):
                facts = tuple(change_facts(change))
                self._add_entry(
                    ("change", session, change.number),
                    TimelineEntry(session, change.seen_ns, change.seen_ns, facts, change),
                )
            case ev.ChangeWithdrawn(session=session, change=change):
                self._entries.pop(("change", session, change.number), None)
            case ev.OutageStarted(session=session, since_seq=seq, since_ns=since_ns):
                self._add_entry(("outage", session, seq), TimelineEntry(session, since_ns, None, ("unanswered",), None))
            case ev.OutageEnded(session=session, since_seq=seq):
                self._close(self._entries.get(("outage", session, seq)), event)
            case ev.CaseJudged(session=session, case=ev.Change(number=number)):
                self._judge(("change", session, number), event)
            case ev.CaseJudged(session=session, case=ev.OutageCase(since_seq=seq)):
                self._judge(("outage", session, seq), event)
            case ev.CaseJudged(session=session, case=ev.StrayCase(stray=stray, heard_ns=heard_ns)):
                facts = (f"got a reply {STRAYS[stray]}",)
                entry = TimelineEntry(session, heard_ns, heard_ns, facts, None, event, is_stray=True)
                self._add_entry((stray, session, heard_ns), entry)
            case ev.ProbesLost():
                if len(recorded.losses) < MOST_ENTRIES:
                    recorded.losses.append(event)
            case ev.IncidentClosed(incident=incident):
                if len(recorded.incidents) < MOST_ENTRIES:
                    recorded.incidents.append(incident)
            case ev.RunDiagnosed(diagnoses=diagnoses):
                recorded.diagnoses = diagnoses
            case ev.PoolWatchStarted() | ev.PoolNotWatched():
                recorded.watch += [line.text for line in run_lines(event, recorded.clock)]
            case ev.PoolObserved():
                first, self._pool_known = not self._pool_known, True
                self._add_context(event, [line.text for line in pool_lines(event, first=first)])
            case (
                ev.PoolUnobserved()
                | ev.ClusterEvent()
                | ev.FaultInjected()
                | ev.WrongPool()
                | ev.ExperimentStarted()
                | ev.PhaseStarted()
                | ev.ActionStep()
            ):
                self._add_context(event, [line.text for line in run_lines(event, recorded.clock)])

    def done(self) -> RecordedRun:
        self.recorded.entries = sorted(self._entries.values(), key=lambda entry: entry.at_ns)
        return self.recorded

    def _add_entry(self, key: _Key, entry: TimelineEntry) -> None:
        if key in self._entries or len(self._entries) < MOST_ENTRIES:
            self._entries[key] = entry
        else:
            self.recorded.left_out += 1

    def _close(self, entry: TimelineEntry | None, event: ev.OutageEnded) -> None:
        if entry is not None:
            entry.until_ns = event.at_ns
            entry.facts = (f"unanswered for {plural(event.probes, 'probe')}",)

    def _judge(self, key: _Key, event: ev.CaseJudged) -> None:
        if key in self._entries:
            self._entries[key].judged = event

    def _add_context(self, event: ev.Event, texts: list[str]) -> None:
        if len(self.recorded.context) < MOST_ENTRIES:
            self.recorded.context += [(event.at_ns, text) for text in texts]


def load(events: Iterable[ev.Event]) -> RecordedRun:
    """Read all events of a run. Raises `UserError` if they do not begin with a start that makes sense."""
    iterator = iter(events)
    started = next(iterator, None)
    if not isinstance(started, ev.RunStarted):
        raise UserError("the record has no run in it: its first event must be the run's start")
    try:
        loader = _Loader(started)
    except ValueError as error:
        raise UserError(f"the record is damaged: {error}") from error

    loader.recorded.results.add(started)
    loader.recorded.experiment.add(started)
    for event in iterator:
        loader.add(event)
    return loader.done()
