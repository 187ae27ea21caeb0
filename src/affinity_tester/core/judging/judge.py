"""Each change, and each reply that arrived elsewhere, gets a class once it is certain (docs/judging.md#changes).

The first that matches wins:

    pod-restart  the same pod name and address, a new instance: said, and never a violation; but not where both instances
                 were seen to live at one time: two servers share the pod's name then
    explained    a pool change lies surely within [sent(P) - settle, reply(Q) + settle]
    idle         the longest pause between consecutive sends from P to Q exceeds the affinity window
    client       the reference shows that the client's own NAT moved, or its machine has another address (`client_nat`)
    unknown      a pool change lies perhaps within that reach, or the pool could not be observed in it
    as its outage   where the change is the end of an outage and another pod answers now: explained, if the outage's class is
                 pod-silent (no affinity keeps a flow on a dead pod); unknown, if it is unknown whether the old pod lived
    unknown      nothing separates the cluster from the client's own NAT (`client_nat`)
    violation    otherwise; with a watched pool only after a consistent list asked for later than reply(Q) + settle

A reply from a wrong source, or to another session's probe, is a case too, from when its probe was sent until it was heard;
one from a wrong source is mere information where the server is a foreign one, or says that it listens on a wildcard.

Certain means: every probe between P and Q is answered or lost, it is known which sessions changed with it, and no news
of the pool can change the class. Only a late reply can then still revise the change; it is judged anew. Outages have rules
of their own (core.judging.outage_table).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count, islice
from typing import NamedTuple

from affinity_tester.core.events import (
    Case,
    CaseJudged,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    CrossDelivered,
    Event,
    FirstAnswer,
    Judgement,
    Stray,
    StrayCase,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.client_nat import NOTHING, ClientNat, Weighed
from affinity_tester.core.judging.explain import explanation
from affinity_tester.core.judging.reasons import (
    ClientPaused,
    Doubt,
    ForeignSource,
    InDoubt,
    NothingExplains,
    PodNameShared,
    PodRestarted,
    PoolNotObserved,
    PoolPerhapsChanged,
    PoolState,
    Reason,
    TooManyOpen,
    WatchBeganLater,
    WildcardListener,
)
from affinity_tester.core.judging.weighing import Weighing
from affinity_tester.core.pool_timeline import PoolTimeline

_Key = tuple[str, int | WrongSource | CrossDelivered]
"""A session, and the number of its change or what arrived."""

OutageOver = Callable[[str, Change, int], tuple[Judgement, tuple[Reason, ...]] | None]
"""Asked with a session, its change and the time: the class of the outage that the change put an end to, and why."""

MOST_OPEN = 100_000
"""Cases that wait for the pool to be confirmed, at most; older ones become `unknown`. A storm while the API server is away
for hours would fill memory, and looking at all of it would hold up the probes. What is left is enough to fail the run."""

_MOST_INSTANCES = 10_000
"""Instances remembered at most: no cluster restarts more pods in a run, and a server that lies must not fill memory."""


class _Case(NamedTuple):
    """What is to be judged."""

    subject: Change | WrongSource | CrossDelivered
    session: str
    from_ns: int
    """sent(P)"""
    to_ns: int
    """reply(Q)"""
    pause_ns: int
    certain_ns: int
    """No class before this time: a probe in between is still pending."""
    old: Identity
    """P's."""
    new: Identity
    """Q's."""
    instance_alone: bool = False
    """True if nothing but the instance changed."""
    extra_reasons: tuple[Reason, ...] = ()
    """Reasons that are given beside those of any class."""

    def event(
        self, at_ns: int, judgement: Judgement, reasons: tuple[Reason, ...], avoidable: bool | None = None
    ) -> CaseJudged:
        reasons += self.extra_reasons
        subject = self.subject
        if isinstance(subject, Change):
            case: Case = subject
        else:
            stray = Stray.WRONG_SOURCE if isinstance(subject, WrongSource) else Stray.CROSS_DELIVERED
            case = StrayCase(stray, subject.seq, subject.at_ns)
        return CaseJudged(at_ns, self.session, case, judgement, avoidable, reasons)


class Judge:
    """Hold the open cases, and judge each as soon as time and the pool's timeline make its class certain."""

    def __init__(
        self,
        timeline: PoolTimeline,
        settle_ns: int,
        affinity_window_ns: int,
        outage_over: OutageOver = lambda _session, _change, _now_ns: None,
    ) -> None:
        """Judge by this timeline, which the caller keeps feeding; times are in nanoseconds.

        `outage_over` says how the outage is judged that a change put an end to.
        """
        self._outage_over = outage_over
        self._nat = ClientNat()
        self._weighing = Weighing(self._nat)
        self._timeline = timeline
        self._settle_ns = settle_ns
        self._window_ns = affinity_window_ns
        self._open: dict[_Key, _Case] = {}
        self._known: tuple[int, bool] | None = None
        """What was known of the pool when all open cases were last evaluated."""
        self._due: list[tuple[int, int, _Key]] = []
        """A heap: the time from which a case may be certain, then the order in which the cases came."""
        self._order = count()
        self._instance_spans: dict[bytes, tuple[int, int]] = {}
        """By instance: when it first answered, and when the last probe was sent that it is known to have answered."""
        self.pool_trusted = True
        """False: replies came from pods that were never in the watched pool; it counts as not watched."""

    @property
    def open_count(self) -> int:
        """How many cases have no judgement."""
        return len(self._open)

    @property
    def watched(self) -> bool:
        """True if the pool is watched, and the right one."""
        return self.pool_trusted and self._timeline.watched

    @property
    def next_list_after_ns(self) -> int | None:
        """A list of the pool asked for later than this would settle the oldest open case; None: none is wanted."""
        if not self.watched:
            return None
        reaches = (case.to_ns + self._settle_ns for case in self._open.values())
        return min((to_ns for to_ns in reaches if not self._timeline.confirmed_after(to_ns)), default=None)

    def feed(self, event: Event) -> CaseJudged | None:
        """Open, narrow or drop a case, and return its judgement if it is certain at once."""
        self._nat.feed(event)
        match event:
            case FirstAnswer(at_ns=at_ns, identity=who):
                self._note_instance(who.instance, at_ns, 0)
            case ChangeSeen(session=session, change=change) | ChangeRevised(session=session, change=change):
                for sighting in (change.before, change.after):
                    self._note_instance(sighting.identity.instance, change.seen_ns, sighting.sent_ns)

                case = _change_case(session, change)
                if case.instance_alone and self._name_is_shared(change):
                    case = case._replace(extra_reasons=(PodNameShared(case.old.pod or ""),))
                return self._open_or_judge(case, change.number, event.at_ns)
            case ChangeWithdrawn(session=session, change=change):
                self._close((session, change.number))
            case WrongSource() | CrossDelivered():
                return self._open_or_judge(_stray_case(event), event, event.at_ns)
            case _:
                pass
        return None

    def judge(self, now_ns: int, *, last: bool) -> Iterator[CaseJudged]:
        """Yield every judgement that is certain now; `last`: all of them, `unknown` where the class is not certain."""
        known = (self._timeline.revision, self.pool_trusted)
        if last or known != self._known:
            self._known = known
            keys = list(self._open)
        else:
            # Only time has passed: a long gap may leave many open, and looking at all of them would hold up the probes.
            keys = []
            while self._due and self._due[0][0] <= now_ns:
                keys.append(heappop(self._due)[2])

        for key in list(islice(self._open, max(0, len(self._open) - MOST_OPEN))):
            yield self._open[key].event(now_ns, Judgement.UNKNOWN, (TooManyOpen(MOST_OPEN),))
            self._close(key)

        for key in keys:
            case = self._open.get(key)
            if case is None:
                continue
            verdict = self._evaluate(key, case, now_ns, last=last) if last or now_ns >= case.certain_ns else None
            if verdict is None and last:
                verdict = case.event(now_ns, Judgement.UNKNOWN, (InDoubt(Doubt.RUN_ENDED_UNCONFIRMED),))
            if verdict is not None:
                self._close(key)
                yield verdict

    def _open_or_judge(
        self, case: _Case, subject: int | WrongSource | CrossDelivered, now_ns: int
    ) -> CaseJudged | None:
        """Judge a new or narrowed case if it is certain, else keep it open in place of its earlier form."""
        key: _Key = (case.session, subject)
        self._close(key)
        verdict = self._evaluate(key, case, now_ns) if now_ns >= case.certain_ns else None
        if verdict is None:
            self._open[key] = case
            heappush(self._due, (case.certain_ns, next(self._order), key))
        else:
            self._close(key)
        return verdict

    def _close(self, key: _Key) -> None:
        """Let a case be open no more."""
        self._open.pop(key, None)
        self._weighing.forget(key)

    def _weigh(self, key: _Key, case: _Case, now_ns: int, *, last: bool) -> Weighed | None:
        """Return what the client's side has to do with a case; None: it is not known yet, and is asked again in time."""
        if not isinstance(case.subject, Change):
            return NOTHING
        self._nat.pool_trusted = self.pool_trusted
        weighed = self._weighing.weigh(key, case.session, case.subject, now_ns, last=last)
        if self._weighing.again_ns is not None:
            heappush(self._due, (self._weighing.again_ns, next(self._order), key))
        return weighed

    def _evaluate(self, key: _Key, case: _Case, now_ns: int, *, last: bool = False) -> CaseJudged | None:
        """Return the judgement by the first rule that matches; None where more must be known."""
        information = _information(case)
        if information is not None:
            return case.event(now_ns, *information)

        weighed = self._weigh(key, case, now_ns, last=last)
        idle = case.pause_ns > self._window_ns
        paused = ClientPaused(case.pause_ns)
        if not self.watched:
            if idle:
                return case.event(now_ns, Judgement.IDLE, (paused,))
            return self._violation(case, PoolState.NOT_WATCHED, weighed, now_ns)

        timeline = self._timeline
        reach = (case.from_ns - self._settle_ns, case.to_ns + self._settle_ns)
        reasons = explanation(timeline.surely_within(*reach), case.old, case.new, case.to_ns)
        if reasons:
            return self._explained(case, reasons, reach, now_ns)

        if not timeline.confirmed_after(reach[1]):
            return None
        if idle:
            return case.event(now_ns, Judgement.IDLE, (paused,))

        doubt = self._doubt(case, reach)
        if doubt is not None and (weighed is None or weighed.judgement is not Judgement.CLIENT):
            return case.event(now_ns, Judgement.UNKNOWN, (doubt,))
        return self._violation(case, PoolState.STILL, weighed, now_ns)

    def _violation(self, case: _Case, pool: PoolState, weighed: Weighed | None, now_ns: int) -> CaseJudged | None:
        """Judge what no pool change explains: a violation, unless the client's side is not excluded.

        Nor is it one where the old pod answered nobody when the flow left it. None: the client's side is not weighed yet.
        """
        if weighed is None:
            return None
        if weighed.judgement is Judgement.CLIENT:
            return case.event(now_ns, Judgement.CLIENT, weighed.reasons)
        if isinstance(case.subject, Change) and not _same_pod(case.old, case.new):
            outage, reasons = self._outage_over(case.session, case.subject, now_ns) or (None, ())
            if outage is Judgement.POD_SILENT:
                return case.event(now_ns, Judgement.EXPLAINED, reasons, avoidable=False)
            if outage is Judgement.UNKNOWN:
                return case.event(now_ns, Judgement.UNKNOWN, reasons)
        if weighed.judgement is not None:
            return case.event(now_ns, weighed.judgement, weighed.reasons)
        return case.event(now_ns, Judgement.VIOLATION, (NothingExplains(pool), *weighed.reasons))

    def _doubt(self, case: _Case, reach: tuple[int, int]) -> Reason | None:
        """Return why a pool change may lie within reach; None: none does."""
        timeline = self._timeline
        perhaps = next(timeline.perhaps_within(*reach), None)
        if perhaps is not None:
            width_ns = perhaps.to_ns - perhaps.from_ns
            return PoolPerhapsChanged(perhaps.changes[0], width_ns, perhaps.to_ns - case.to_ns)

        gap = timeline.gap_within(*reach)
        if gap is None:
            return None
        if gap[1] == timeline.first_ns:
            return WatchBeganLater(gap[1] - case.to_ns)
        return PoolNotObserved(gap[1] - gap[0])

    def _explained(
        self, case: _Case, reasons: tuple[Reason, ...], reach: tuple[int, int], now_ns: int
    ) -> CaseJudged | None:
        """Judge what a pool change explains; whether the old pod went on serving is known when the reach is over."""
        timeline = self._timeline
        avoidable: bool | None = None
        if case.old.pod is not None and isinstance(case.subject, Change):
            avoidable = timeline.serving_throughout(case.old.pod, *reach)
            if avoidable and not timeline.confirmed_after(reach[1]):
                return None
            if avoidable and timeline.gap_within(*reach) is not None:
                avoidable = None  # what happened to the pod where nobody looked is not known
        return case.event(now_ns, Judgement.EXPLAINED, reasons, avoidable)

    def _note_instance(self, instance: bytes | None, answered_ns: int, sent_ns: int) -> None:
        """Note that an instance had answered by `answered_ns`, and that it answered a probe sent at `sent_ns`."""
        if instance is None:
            return
        first_ns, last_ns = self._instance_spans.get(instance, (answered_ns, sent_ns))
        self._instance_spans[instance] = (min(first_ns, answered_ns), max(last_ns, sent_ns))
        if len(self._instance_spans) > _MOST_INSTANCES:
            del self._instance_spans[next(iter(self._instance_spans))]

    def _name_is_shared(self, change: Change) -> bool:
        """Return whether both instances of a pod were seen to live at the same time.

        Each answered a probe that was sent after the other had answered, so neither had ended when the other began. One of
        the two alone is no proof: a probe may be on its way for longer than a pod takes to restart.
        """
        before, after = change.before.identity, change.after.identity
        spans = self._instance_spans
        old, new = spans.get(before.instance or b""), spans.get(after.instance or b"")
        return before.pod == after.pod is not None and bool(old and new and old[1] > new[0] and new[1] > old[0])


def _information(case: _Case) -> tuple[Judgement, tuple[Reason, ...]] | None:
    """Return the class of a case that is never a violation, whatever the pool did; None: it may be one."""
    subject = case.subject
    if case.instance_alone and not case.extra_reasons:
        return Judgement.POD_RESTART, (PodRestarted(),)
    if isinstance(subject, WrongSource):
        if subject.identity.pod is None:
            return Judgement.INFORMATION, (ForeignSource(),)
        if subject.wildcard:
            return Judgement.INFORMATION, (WildcardListener(),)
    return None


def _same_pod(old: Identity, new: Identity) -> bool:
    return old.pod is not None and (old.pod, old.instance) == (new.pod, new.instance)


def _change_case(session: str, change: Change) -> _Case:
    return _Case(
        change,
        session,
        change.before.sent_ns,
        change.seen_ns,
        change.longest_pause_ns,
        change.settled_ns,
        change.before.identity,
        change.after.identity,
        change.kinds == (Kind.INSTANCE,),
    )


def _stray_case(event: WrongSource | CrossDelivered) -> _Case:
    who = event.identity
    return _Case(event, event.session, event.sent_ns, event.at_ns, 0, event.at_ns, who, who)
