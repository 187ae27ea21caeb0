"""From what a run observed to what it means: judgements as they become certain, then the verdict.

The live client, the demo and the offline report feed the same events to this one class.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

from affinity_tester.core.diagnosis import Facts, diagnose, diagnose_run
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    Change,
    ChangeJudged,
    ChangeSeen,
    ChangeWithdrawn,
    ClusterEvent,
    ClusterSubject,
    Event,
    FirstAnswer,
    Incident,
    IncidentClosed,
    IncidentOngoing,
    Judgement,
    NearFact,
    NodeAddresses,
    OutageJudged,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    RulesGiven,
    RunDiagnosed,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionEvent,
    StatsTick,
    StrayJudged,
    Verdict,
    WrongPool,
)
from affinity_tester.core.incidents import Incidents, Story
from affinity_tester.core.judging.judge import Judge, Judged
from affinity_tester.core.judging.outage_judge import OutageJudge
from affinity_tester.core.judging.verdict import Blackout, Evidence, give_verdict
from affinity_tester.core.pool import EndpointChange
from affinity_tester.core.pool_timeline import PoolTimeline, without

_Key = tuple[str, str, int]
_AnyJudged = Judged | OutageJudged

_REVISABLE = 50_000
"""Judgements that may be replaced: no storm makes so many within the 60 s in which a late reply still revises a change."""

_ADVANCE_NS = 100_000_000
"""Judgements that time alone makes certain are looked for so often, by the time of the sessions' events."""

_PROVE_NS = 300_000_000_000
"""A pool in which nothing happens is listed so often all the same: a watch that says nothing proves nothing."""

_NEAR_EVENTS = 1_000
"""Cluster events remembered for the incidents they may be near to; older ones are long out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator asked to be judged by."""

    settle_ns: int = 10_000_000_000
    """How long before and after a change of the pool it still explains a change of a session: proxies take seconds."""
    affinity_window_ns: int = 30_000_000_000
    """A longer pause between sends excuses a change: the shortest common UDP conntrack timeout."""
    max_loss: float | None = None
    """Share of probes lost (0 to 1) above which the run fails; None: loss alone never fails."""
    fail_on_avoidable: bool = False
    """Explained changes whose old pod was still serving count as violations."""
    balancer_check_ns: int = 35_000_000_000
    """How long a balancer may keep sending to a dead node: three health checks of 10 s, and 5 s for what follows."""

    @classmethod
    def of(cls, given: RulesGiven) -> Self:
        """The rules of a recorded run."""
        return cls(
            settle_ns=given.settle_ns,
            affinity_window_ns=given.affinity_window_ns,
            max_loss=given.max_loss,
            fail_on_avoidable=given.fail_on_avoidable,
            balancer_check_ns=given.balancer_check_ns,
        )

    def given(self, at_ns: int) -> RulesGiven:
        """As an event."""
        return RulesGiven(
            at_ns,
            self.settle_ns,
            self.affinity_window_ns,
            self.max_loss,
            self.fail_on_avoidable,
            self.balancer_check_ns,
        )


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


class RunAnalysis:
    """Fed with every observed event in the order they are told; returns what follows from each."""

    def __init__(self, rules: Rules) -> None:
        """Start with nothing observed."""
        self.rules = rules
        self._timeline = PoolTimeline()
        self._outage_judge = OutageJudge(
            self._timeline, rules.settle_ns, rules.affinity_window_ns, rules.balancer_check_ns
        )
        self._judge = Judge(self._timeline, rules.settle_ns, rules.affinity_window_ns, self._outage_judge.over)
        self._incidents = Incidents()
        self._facts = Facts(rules.settle_ns)
        self._nodes: dict[str, str] = {}
        """Node names by InternalIP."""
        self._near: deque[tuple[int, ClusterEvent | EndpointChange]] = deque(maxlen=_NEAR_EVENTS)
        """What happened in the cluster and in the pool, and when."""
        self._judged: dict[_Key, tuple[Judgement, bool | None]] = {}
        """The newest judgements, which a late reply may still replace."""
        self._judged_for_good: Counter[tuple[Judgement, bool | None]] = Counter()
        self._strangers: dict[str, int] = {}
        """Pods that answered and are in no snapshot, with when they were first noticed."""
        self._advanced_ns = 0
        self._started_ns = 0
        self._stopped_ns = 0
        self._has_stopped = False
        self._dark: BlackoutStarted | None = None
        """The blackout that lasts."""
        self._evidence = Evidence()

    @property
    def open_count(self) -> int:
        """Judgements that are still to come, the one of whether the right pool is watched among them."""
        return self._judge.open_count + self._outage_judge.open_count + bool(self._strangers)

    @property
    def settled(self) -> bool:
        """Whether nothing is open, and it is known whether the pool stood still up to the last probe."""
        return not self.open_count and not self._end_is_unproved

    @property
    def wants_list_after_ns(self) -> int | None:
        """A list of the pool made later than this would settle or prove something; None: none is wanted."""
        wanted = [met_ns + self.rules.settle_ns for met_ns in self._strangers.values()]
        judges = (self._judge, self._outage_judge)
        wanted += [after_ns for judge in judges if (after_ns := judge.wants_list_after_ns) is not None]
        if self._end_is_unproved:
            wanted.append(self._stopped_ns)
        listed_ns = self._timeline.confirmed_ns
        if listed_ns is not None and self._judge.watched and self._advanced_ns - listed_ns > _PROVE_NS:
            wanted.append(listed_ns + _PROVE_NS)
        return min(wanted, default=None)

    @property
    def _end_is_unproved(self) -> bool:
        """Whether the watch goes on, and no list since the last probe has proved that nothing was missed."""
        timeline = self._timeline
        listed_ns = timeline.confirmed_ns
        proved = listed_ns is not None and listed_ns > self._stopped_ns
        return self._has_stopped and self._judge.watched and timeline.observing and not proved

    def feed(self, event: Event) -> list[Event]:
        """Take in an event; returns the events that follow from it, in order."""
        self._incidents.feed(event)  # first: what is judged at once is a member by then
        at_once = self._judge.feed(event)
        self._outage_judge.feed(event)
        self._facts.feed(event)
        match event:
            case RunStarted():
                self._started_ns = self._stopped_ns = event.at_ns
                self._evidence.interval_ns = event.interval_ns
                self._evidence.addresses = max(1, len(event.addresses)), len(event.unprobed)
            case ChangeSeen(change=change):
                self._meet(change, event.at_ns)
            case ChangeWithdrawn(session=session, change=change):
                self._judged.pop((session, "change", change.number), None)
            case FirstAnswer(identity=who) if who.pod is not None:
                self._meet_pod(who.pod, event.at_ns)
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
        """Time passed; returns the judgements that have become certain."""
        self._advanced_ns = now_ns
        told: list[Event] = [*self._look_at_strangers(now_ns)]
        told += self._judge_now(now_ns)
        told += [IncidentClosed(now_ns, self._told(story, now_ns)) for story in self._incidents.close(now_ns)]
        told += [IncidentOngoing(now_ns, self._told(story, now_ns)) for story in self._incidents.ongoing(now_ns)]
        return told

    def _judge_now(self, now_ns: int, *, last: bool = False) -> Iterator[_AnyJudged]:
        judged = chain(self._judge.judge(now_ns, last=last), self._outage_judge.judge(now_ns, last=last))
        return map(self._judged_so, judged)

    def _judged_so(self, event: _AnyJudged) -> _AnyJudged:
        self._remember(event)
        self._incidents.feed(event)
        return event

    def _end_blackout(self, since_ns: int, until_ns: int, *, at_end: bool) -> None:
        """Keep a blackout for the verdict. Where no endpoint was ready in it, nobody could be answered."""
        emptied = self._timeline.emptied_within(since_ns, until_ns) if self._judge.watched else None
        empty = emptied is not None and (emptied[1] is None or until_ns <= emptied[1].to_ns + self.rules.settle_ns)
        self._evidence.blackouts.append(Blackout(since_ns, until_ns, at_end=at_end, empty_pool=empty))

    def _told(self, story: Story, now_ns: int) -> Incident:
        """A story, with what was near it and what it may be; both count from when it first showed."""
        reach_ns, shown_ns = self.rules.settle_ns, story.shown_ns
        near = [
            _near_fact(at_ns, shown_ns, what)
            for at_ns, what in self._near
            if story.from_ns - reach_ns <= at_ns <= story.to_ns + reach_ns
        ]
        incident = story.tell(self._incidents.of)
        cohorts = tuple(replace(cohort, node=self._nodes.get(cohort.ip, "")) for cohort in incident.cohorts)
        diagnoses = diagnose(story, now_ns, self._facts)
        self._facts.diagnosed(story.from_ns, diagnoses)
        return replace(incident, near=tuple(near), cohorts=cohorts, diagnoses=diagnoses)

    def _remember(self, event: _AnyJudged) -> None:
        """Keep the newest judgement of each change, outage and stray reply: a revised one replaces its own."""
        match event:
            case ChangeJudged():
                self._judged[event.session, "change", event.change.number] = (event.judgement, event.avoidable)
            case OutageJudged():
                self._judged[event.session, "outage", event.since_seq] = (event.judgement, event.avoidable)
            case _:
                self._judged[event.session, event.stray.value, event.heard_ns] = (event.judgement, None)

        while len(self._judged) > _REVISABLE:
            self._judged_for_good[self._judged.pop(next(iter(self._judged)))] += 1

    def _meet(self, change: Change, at_ns: int) -> None:
        for sighting in (change.before, change.after):
            if sighting.identity.pod is not None:
                self._meet_pod(sighting.identity.pod, at_ns)

    def _meet_pod(self, pod: str, at_ns: int) -> None:
        if self._judge.watched and not self._is_known(pod):
            self._strangers.setdefault(pod, at_ns)

    def _is_known(self, pod: str) -> bool:
        """Whether a pod was ever in the pool, or may have been: an endpoint that names no pod may be any."""
        return self._timeline.ever_had(pod) or self._timeline.ever_had("")

    def _look_at_strangers(self, now_ns: int) -> list[Event]:
        """A pod that answers and is still in no snapshot when the watch had its time belongs to another pool."""
        known = self._timeline.confirmed_ns
        if not self._strangers or known is None:
            return []
        reach_ns = self.rules.settle_ns
        for pod, met_ns in list(self._strangers.items()):
            if self._is_known(pod) or self._timeline.blind_within(met_ns - reach_ns, met_ns + reach_ns) is not None:
                del self._strangers[pod]  # it may also have come and gone while nobody looked
            elif known > met_ns + self.rules.settle_ns:
                self._judge.pool_trusted = self._outage_judge.pool_trusted = self._facts.pool_counts = False
                self._strangers.clear()
                return [WrongPool(now_ns, pod)]
        return []

    def _end(self, event: RunEnded) -> list[Event]:
        told: list[Event] = [*self._judge_now(event.at_ns, last=True)]
        told += [
            IncidentClosed(event.at_ns, self._told(story, event.at_ns))
            for story in self._incidents.close(event.at_ns, last=True)
        ]
        whole = diagnose_run(self._facts)
        if whole:
            told.append(RunDiagnosed(event.at_ns, whole))
        evidence = self._evidence
        if self._dark is not None:
            self._end_blackout(self._dark.since_ns, max(self._stopped_ns, self._dark.since_ns), at_end=True)
        evidence.watched = self._judge.watched
        judged = self._judged_for_good + Counter(self._judged.values())
        for (judgement, avoidable), count in judged.items():
            evidence.judgements[judgement] = evidence.judgements.get(judgement, 0) + count
            evidence.avoidable += count if avoidable else 0
        cut = [(blackout.since_ns, blackout.until_ns) for blackout in evidence.blackouts]
        evidence.still_ns = without(self._started_ns, self._started_ns + evidence.duration_ns, cut)
        evidence.window_ns = self.rules.affinity_window_ns
        if evidence.watched:
            proved_ns = min(self._stopped_ns, self._timeline.confirmed_ns or 0)
            evidence.still_ns = self._timeline.still_ns(self._started_ns, proved_ns, self.rules.settle_ns, cut)
            evidence.proved = self._timeline.observing and proved_ns == self._stopped_ns
        told.append(
            give_verdict(event.at_ns, evidence, self.rules.max_loss, fail_on_avoidable=self.rules.fail_on_avoidable)
        )
        return told


def _near_fact(at_ns: int, shown_ns: int, what: ClusterEvent | EndpointChange) -> NearFact:
    if isinstance(what, ClusterEvent):
        return NearFact(at_ns, at_ns - shown_ns, event=what)
    return NearFact(at_ns, at_ns - shown_ns, change=what)
