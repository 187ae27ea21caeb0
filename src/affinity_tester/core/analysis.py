"""What follows from the events of a run: judgements as they become certain, incidents, diagnoses, and the verdict.

The live client, the demo and the offline report feed the same events to this one class.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from affinity_tester.core.diagnosis import RunHistory, diagnose, diagnose_run
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    ChangeWithdrawn,
    ClusterEvent,
    ClusterSubject,
    Event,
    Incident,
    IncidentClosed,
    IncidentOngoing,
    Judgement,
    NearFact,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    RunDiagnosed,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionEvent,
    StatsTick,
    WrongPool,
)
from affinity_tester.core.incidents import Incidents
from affinity_tester.core.judging.judge import Judge
from affinity_tester.core.judging.outage_judge import OutageJudge
from affinity_tester.core.judging.reference import was_silent
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.judging.tally import Tally
from affinity_tester.core.judging.verdict import Blackout, Evidence, decide
from affinity_tester.core.judging.wrong_pool import UnknownPods
from affinity_tester.core.open_incident import OpenIncident
from affinity_tester.core.pool import EndpointChange
from affinity_tester.core.pool_timeline import PoolTimeline, without
from affinity_tester.units import NS_PER_MS, NS_PER_S

_ADVANCE_NS = 100 * NS_PER_MS
"""How often judgements are looked for that time alone makes certain, by the time of the sessions' events."""

_PROVE_NS = 300 * NS_PER_S
"""How often a pool is listed in which nothing happens: a watch that says nothing proves nothing."""

_NEAR_EVENTS = 1_000
"""Cluster events remembered for the incidents that they may be near to; older ones are long out of reach."""


class RunAnalysis:
    """Take every observed event in order, and return the events that follow from each."""

    def __init__(self, rules: Rules) -> None:
        """Start with nothing observed."""
        self.rules = rules
        self._timeline = PoolTimeline()
        self._outage_judge = OutageJudge(
            self._timeline, rules.settle_ns, rules.affinity_window_ns, rules.balancer_check_ns
        )
        self._judge = Judge(self._timeline, rules.settle_ns, rules.affinity_window_ns, self._outage_judge.over)
        self._incidents = Incidents()
        self._facts = RunHistory(rules)
        self._nodes: dict[str, str] = {}
        """Node names by InternalIP."""
        self._near: deque[tuple[int, ClusterEvent | EndpointChange]] = deque(maxlen=_NEAR_EVENTS)
        """What happened in the cluster and in the pool, and when."""
        self._tally = Tally()
        self._unknown_pods = UnknownPods(self._timeline, rules.settle_ns)
        self._advanced_ns = 0
        self._started_ns = 0
        self._stopped_ns = 0
        self._has_stopped = False
        self._dark: BlackoutStarted | None = None
        """The blackout that lasts; None: there is none."""
        self._evidence = Evidence()

    @property
    def open_count(self) -> int:
        """How many judgements are to come, with the one of whether the right pool is watched."""
        return self._judge.open_count + self._outage_judge.open_count + bool(self._unknown_pods)

    @property
    def settled(self) -> bool:
        """True if no judgement is open, and it is known whether the pool stood still up to the last probe."""
        return not self.open_count and not self._final_list_pending

    @property
    def next_list_after_ns(self) -> int | None:
        """A list of the pool asked for later than this would settle or prove something; None: none is wanted."""
        wants = (
            self._unknown_pods.next_list_after_ns,
            self._judge.next_list_after_ns,
            self._outage_judge.next_list_after_ns,
        )
        wanted = [after_ns for after_ns in wants if after_ns is not None]

        if self._final_list_pending:
            wanted.append(self._stopped_ns)

        listed_ns = self._timeline.confirmed_ns
        if listed_ns is not None and self._judge.watched and self._advanced_ns - listed_ns > _PROVE_NS:
            wanted.append(listed_ns + _PROVE_NS)
        return min(wanted, default=None)

    @property
    def _final_list_pending(self) -> bool:
        """True while the watch goes on, and no list since the last probe has proved that nothing was missed."""
        timeline = self._timeline
        listed_ns = timeline.confirmed_ns
        proved = listed_ns is not None and listed_ns > self._stopped_ns
        return self._has_stopped and self._judge.watched and timeline.observing and not proved

    def feed(self, event: Event) -> list[Event]:
        """Take in an event, and return the events that follow from it, in order."""
        self._incidents.feed(event)  # first: what is judged at once is a member by then
        at_once = self._judge.feed(event)
        self._outage_judge.feed(event)
        self._facts.feed(event)
        if self._judge.watched:
            self._unknown_pods.feed(event)

        match event:
            case RunStarted():
                self._started_ns = self._stopped_ns = event.at_ns
                self._evidence.interval_ns = event.interval_ns
                self._evidence.reference = event.reference is not None
                self._evidence.addresses = max(1, len(event.addresses)), len(event.unprobed)
            case ChangeWithdrawn():
                self._tally.withdraw(event)
            case ClusterEvent(subject=subject):
                if subject is not ClusterSubject.WATCH:  # what the client may not see happened to nobody
                    self._near.append((event.at_ns, event))
            case NodeAddresses(names=names):
                self._nodes = dict(names)
            case PoolObserved():
                change_of_pool = self._timeline.observed(
                    event.since_ns, event.until_ns, event.snapshot, event.changes, event.asked_ns
                )
                if change_of_pool is not None:
                    self._near += [(change_of_pool.to_ns, change) for change in change_of_pool.changes]
            case PoolConfirmed():
                self._timeline.confirmed(event.asked_ns)
            case PoolUnobserved():
                self._timeline.unobserved(event.since_ns)
            case SendingStopped():
                self._has_stopped, self._stopped_ns = True, event.at_ns
            case BlackoutStarted():
                self._dark = event
            case BlackoutEnded():
                self._dark = None
                self._end_blackout(event.since_ns, event.until_ns, at_end=False)
            case StatsTick():  # all there is of a run that was killed
                self._evidence.total, self._evidence.counted = event.total, True
                self._evidence.duration_ns = event.at_ns - self._started_ns
                self._stopped_ns = event.at_ns
            case RunSummary():
                self._evidence.total, self._evidence.counted = event.total, True
                self._evidence.duration_ns = event.duration_ns
            case RunEnded():
                return [*self.advance(event.at_ns), *self._end(event)]
            case _:
                pass

        told: list[Event] = [] if at_once is None else [self._judged_so(at_once)]
        # Looking at all that is open for each event of a storm would take the square of its size.
        if not isinstance(event, SessionEvent) or event.at_ns - self._advanced_ns >= _ADVANCE_NS:
            told += self.advance(event.at_ns)
        return told

    def advance(self, now_ns: int) -> list[Event]:
        """Let time pass, and return the judgements and incidents that have become certain."""
        self._advanced_ns = now_ns
        told: list[Event] = [*self._check_unknown_pods(now_ns)]
        told += self._judge_now(now_ns)
        told += [
            IncidentClosed(now_ns, self._incident(open_incident, now_ns))
            for open_incident in self._incidents.close(now_ns)
        ]
        told += [
            IncidentOngoing(now_ns, self._incident(open_incident, now_ns))
            for open_incident in self._incidents.ongoing(now_ns)
        ]
        return told

    def _judge_now(self, now_ns: int, *, last: bool = False) -> Iterator[CaseJudged]:
        judged = chain(self._judge.judge(now_ns, last=last), self._outage_judge.judge(now_ns, last=last))
        return map(self._judged_so, judged)

    def _judged_so(self, event: CaseJudged) -> CaseJudged:
        self._tally.add(event)
        self._incidents.feed(event)
        return event

    def _end_blackout(self, since_ns: int, until_ns: int, *, at_end: bool) -> None:
        """Keep a blackout for the verdict. While no endpoint was ready, nobody could be answered."""
        emptied = self._timeline.emptied_within(since_ns, until_ns) if self._judge.watched else None
        empty = emptied is not None and (emptied[1] is None or until_ns <= emptied[1].to_ns + self.rules.settle_ns)
        own_link = was_silent(self._facts.references, since_ns, until_ns)
        self._evidence.blackouts.append(
            Blackout(since_ns, until_ns, at_end=at_end, empty_pool=empty, own_link=own_link)
        )

    def _incident(self, open_incident: OpenIncident, now_ns: int) -> Incident:
        """Return an incident with what was near it and what it may be, both dated from its first effect."""
        reach_ns, shown_ns = self.rules.settle_ns, open_incident.first_effect_ns
        near = [
            _near_fact(at_ns, shown_ns, what)
            for at_ns, what in self._near
            if open_incident.from_ns - reach_ns <= at_ns <= open_incident.to_ns + reach_ns
        ]

        incident = open_incident.summarise(self._incidents.total_sessions)
        cohorts = tuple(replace(cohort, node=self._nodes.get(cohort.ip, "")) for cohort in incident.cohorts)
        diagnoses = diagnose(open_incident, now_ns, self._facts)
        self._facts.diagnosed(open_incident.from_ns, diagnoses)
        return replace(incident, context=tuple(near), cohorts=cohorts, diagnoses=diagnoses)

    def _check_unknown_pods(self, now_ns: int) -> list[Event]:
        """Report a pod that belongs to another pool; from then on the pool counts as not watched."""
        stranger = self._unknown_pods.find_stranger()
        if stranger is None:
            return []
        self._judge.pool_trusted = self._facts.pool_trusted = False
        self._outage_judge.distrust_pool()
        return [WrongPool(now_ns, stranger)]

    def _end(self, event: RunEnded) -> list[Event]:
        """Return the last judgements and incidents, the run's diagnoses, and the verdict."""
        told: list[Event] = [*self._judge_now(event.at_ns, last=True)]
        told += [
            IncidentClosed(event.at_ns, self._incident(open_incident, event.at_ns))
            for open_incident in self._incidents.close(event.at_ns, last=True)
        ]

        whole = diagnose_run(self._facts)
        if whole:
            told.append(RunDiagnosed(event.at_ns, whole))

        evidence = self._evidence
        if self._dark is not None:
            self._end_blackout(self._dark.since_ns, max(self._stopped_ns, self._dark.since_ns), at_end=True)

        evidence.watched = self._judge.watched
        evidence.judgements = {judgement: self._tally.cases(judgement) for judgement in Judgement}
        evidence.avoidable = self._tally.avoidable
        evidence.perhaps_client_nat = self._tally.perhaps_client_nat

        # Without a watch the operator's promise holds, but for blackouts; with one, only what lists have proved.
        cut = [(blackout.since_ns, blackout.until_ns) for blackout in evidence.blackouts]
        evidence.stable_ns = without(self._started_ns, self._started_ns + evidence.duration_ns, cut)
        evidence.window_ns = self.rules.affinity_window_ns
        if evidence.watched:
            proved_ns = min(self._stopped_ns, self._timeline.confirmed_ns or 0)
            evidence.stable_ns = self._timeline.stable_ns(self._started_ns, proved_ns, self.rules.settle_ns, cut)
            evidence.fully_observed = self._timeline.observing and proved_ns == self._stopped_ns
        told.append(decide(event.at_ns, evidence, self.rules.max_loss, fail_on_avoidable=self.rules.fail_on_avoidable))
        return told


def _near_fact(at_ns: int, shown_ns: int, what: ClusterEvent | EndpointChange) -> NearFact:
    if isinstance(what, ClusterEvent):
        return NearFact(at_ns, at_ns - shown_ns, event=what)
    return NearFact(at_ns, at_ns - shown_ns, change=what)
