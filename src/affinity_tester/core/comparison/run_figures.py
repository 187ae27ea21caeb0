"""What of a run is compared, collected from its events: incidents, and series over blocks of time.

Only the time counts in which the pool stood still and somebody was answered: what a change of the pool does depends on what
was done, and is an experiment's matter.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field

from affinity_tester.core import events as ev
from affinity_tester.units import NS_PER_MS, NS_PER_S

BLOCK_NS = 10 * NS_PER_S
"""A block of time: twice as long as a silence that is an outage, so that a shorter burst of losses lies in one or two."""

_REMEMBERED_NS = 30 * NS_PER_S
"""Losses are remembered for so long, to be taken back when they turn out to be an outage's: it is told after 5 s."""

_BAD = frozenset({ev.Judgement.VIOLATION, ev.Judgement.UNKNOWN, ev.Judgement.POD_SILENT})
"""Judgements of what neither the pool's changes nor the client explain."""


@dataclass(slots=True)
class _Whole:
    """An incident with those that went on with it."""

    judgements: set[ev.Judgement] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    has_outage: bool = False
    avoidable: bool = False
    pool_changed: bool = False

    @property
    def is_bad(self) -> bool:
        """True if something in it is explained by nothing; of losses alone: if the pool stood still around them."""
        if self.judgements:
            return bool(self.judgements & _BAD)
        return not self.pool_changed


class RunFigures:
    """Takes the events of a run that is judged, and holds what is compared of it. Memory grows by 24 bytes a period."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.started: ev.RunStarted | None = None
        self.watch: ev.PoolWatchStarted | None = None
        self.wrong_pool = False
        self.foreign = False
        self.verdict: ev.Verdict | None = None
        self.total = ev.Counts()
        self.duration_ns = 0
        self.violations = 0
        """Incidents."""
        self.explained = 0
        """Incidents that a change of the pool explains, in part at least."""
        self.avoidable = 0
        """How many of them a sound proxy would have avoided."""
        self.outages = 0
        """Incidents with an outage that nothing explains."""
        self.blackouts = 0
        """Times in which nobody was answered, though the pool, where it is watched, had ready endpoints."""
        self._is_empty = False
        self._dark_ns = 0
        self._dark_since_ns: int | None = None
        """Since when nobody is answered; None: somebody is."""
        self.pool_changes = 0
        self.named: Counter[str] = Counter()
        """Incidents by likely diagnosis."""
        self.run_names: set[str] = set()
        """Likely diagnoses of the run as a whole."""
        self.hit: set[str] = set()
        """Sessions that were judged to be hit by a violation, at least once."""
        self._whole = _Whole()
        self._avoidable_ms: set[int] = set()
        self._losses: Counter[int] = Counter()
        """Probes lost, by block."""
        self._recent: dict[str, deque[tuple[int, int]]] = {}
        """(sent, count) of losses, by session."""
        self._silent: dict[str, int] = {}
        """Since when sessions are in an outage."""
        self._over_ns: dict[str, int] = {}
        """When their last outage was over."""
        self._void: set[int] = set()
        """Blocks in which the pool changed, or nobody was answered."""
        self._ticks = array("q")
        """When, p50 and p99, one after the other."""

    # --- what is asked for ---------------------------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """True if the pool was watched, and the right one."""
        return self.watch is not None and not self.wrong_pool

    @property
    def dark_ns(self) -> int:
        """How long nobody was answered."""
        if self._dark_since_ns is None:
            return self._dark_ns
        return self._dark_ns + max(0, self.duration_ns - self._since_start(self._dark_since_ns))

    @property
    def period_ns(self) -> int:
        """Return the time from one tick to the next; 0 where there were no two."""
        return self._ticks[3] - self._ticks[0] if len(self._ticks) > 3 else 0  # noqa: PLR2004 - three fields a tick

    def losses(self) -> list[float]:
        """Return the share of probes lost in each still block."""
        whole = self.duration_ns // BLOCK_NS
        sent = self.total.sent * BLOCK_NS / self.duration_ns if self.duration_ns else 0
        return [self._losses[block] / sent for block in range(whole) if block not in self._void] if sent else []

    def times(self, field_index: int) -> list[float]:
        """Return the round-trip time of each still period: the median (1) or the 99th percentile (2), in nanoseconds."""
        ticks, period = self._ticks, self.period_ns
        return [
            float(ticks[at + field_index])
            for at in range(0, len(ticks), 3)
            if self._void.isdisjoint(self._blocks(ticks[at] - period, ticks[at] - 1))
        ]

    # --- what is taken in ----------------------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Take in the next event."""
        match event:
            case ev.ProbesLost():
                self._lose(event)
            case ev.OutageStarted(session=session, since_ns=since_ns):
                self._silent[session] = since_ns
                self._take_back(session, since_ns)
            case ev.OutageEnded(session=session, first=first):
                self._silent.pop(session, None)
                self._over_ns[session] = first.sent_ns
            case ev.CaseJudged():
                self._judged(event)
            case ev.IncidentClosed(incident=incident):
                self._close(incident)
            case ev.StatsTick():
                self._tick(event)
            case ev.PoolObserved():
                self._observe(event)
            case ev.BlackoutStarted(since_ns=since_ns):
                self.blackouts += not self._is_empty
                self._dark_since_ns = since_ns
                self._void.update(self._blocks(since_ns, event.at_ns))
            case ev.BlackoutEnded(since_ns=since_ns, until_ns=until_ns):
                self._dark_ns, self._dark_since_ns = self._dark_ns + until_ns - since_ns, None
                self._void.update(self._blocks(since_ns, until_ns))
            case _:
                self._note(event)

    def _observe(self, event: ev.PoolObserved) -> None:
        """Leave out the time around a change of the pool."""
        self._is_empty = not event.snapshot.ready_count
        if event.changes:
            self.pool_changes += 1
            settle_ns = self.started.rules.settle_ns if self.started else 0
            since_ns = max(event.since_ns, event.until_ns - settle_ns)
            self._void.update(self._blocks(since_ns - settle_ns, event.until_ns + settle_ns))

    def _note(self, event: ev.Event) -> None:
        """Keep what is told once."""
        match event:
            case ev.RunStarted():
                self.started = event
            case ev.PoolWatchStarted():
                self.watch = event
            case ev.WrongPool():
                self.wrong_pool = True
            case ev.ForeignServer():
                self.foreign = True
            case ev.RunDiagnosed(diagnoses=diagnoses):
                self.run_names.update(_likely(diagnoses))
            case ev.RunSummary():
                self.total, self.duration_ns = event.total, event.duration_ns
            case ev.Verdict():
                self.verdict = event
            case _:
                pass

    def _since_start(self, at_ns: int) -> int:
        return at_ns - (self.started.at_ns if self.started else 0)

    def _blocks(self, since_ns: int, until_ns: int) -> range:
        return range(self._since_start(since_ns) // BLOCK_NS, self._since_start(until_ns) // BLOCK_NS + 1)

    def _tick(self, tick: ev.StatsTick) -> None:
        self.total, self.duration_ns = tick.total, self._since_start(tick.at_ns)
        if tick.p50_ns is not None and tick.p99_ns is not None:
            self._ticks.extend((tick.at_ns, tick.p50_ns, tick.p99_ns))

    def _lose(self, lost: ev.ProbesLost) -> None:
        """Count losses, but for those of an outage; a burst counts where it begins."""
        since_ns, over_ns = self._silent.get(lost.session), self._over_ns.get(lost.session, 0)
        if lost.first_sent_ns < over_ns or (since_ns is not None and lost.first_sent_ns >= since_ns):
            return
        self._losses[self._since_start(lost.first_sent_ns) // BLOCK_NS] += lost.count
        recent = self._recent.setdefault(lost.session, deque())
        recent.append((lost.first_sent_ns, lost.count))
        while recent[0][0] < lost.first_sent_ns - _REMEMBERED_NS:
            recent.popleft()

    def _take_back(self, session: str, since_ns: int) -> None:
        """Count a session's losses since then no more: they are an outage."""
        recent = self._recent.get(session, deque())
        while recent and recent[-1][0] >= since_ns:
            sent_ns, count = recent.pop()
            self._losses[self._since_start(sent_ns) // BLOCK_NS] -= count

    def _judged(self, judged: ev.CaseJudged) -> None:
        if judged.judgement is ev.Judgement.VIOLATION:
            self.hit.add(judged.session)
        if judged.avoidable:
            self._avoidable_ms.add(_first_ns(judged.case) // NS_PER_MS)

    def _close(self, incident: ev.Incident) -> None:
        whole = self._whole
        whole.judgements.update(judgement for judgement, count in incident.judgements if count)
        whole.names.update(_likely(incident.diagnoses))
        whole.has_outage |= incident.outages > 0
        whole.pool_changed |= any(near.change is not None for near in incident.context)
        within = {ms for ms in self._avoidable_ms if incident.from_ns // NS_PER_MS <= ms <= incident.to_ns // NS_PER_MS}
        whole.avoidable |= bool(within)
        self._avoidable_ms -= within
        if not incident.continuing:
            self._count(whole)
            self._whole = _Whole()

    def _count(self, whole: _Whole) -> None:
        self.violations += ev.Judgement.VIOLATION in whole.judgements
        self.explained += ev.Judgement.EXPLAINED in whole.judgements
        self.avoidable += whole.avoidable and ev.Judgement.EXPLAINED in whole.judgements
        if whole.is_bad:
            self.outages += whole.has_outage
            self.named.update(whole.names)


def _first_ns(case: ev.Case) -> int:
    """Return when the first probe of a case was sent."""
    if isinstance(case, ev.Change):
        return case.before.sent_ns
    return case.since_ns if isinstance(case, ev.OutageCase) else 0


def _likely(diagnoses: tuple[ev.Diagnosis, ...]) -> set[str]:
    return {diagnosis.name for diagnosis in diagnoses if diagnosis.certainty is ev.Certainty.LIKELY}
