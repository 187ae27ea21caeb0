"""Each change and each outage gets a class, once it is certain (design, section 4).

The first that matches wins:

    pod-restart  the same pod name and address, a new instance: said, and never a violation; but not where both instances
                 were seen to live at one time: two servers share the pod's name then
    explained    a pool change lies within [sent(P) - settle, reply(Q) + settle]
    idle         the longest pause between consecutive sends from P to Q exceeds the affinity window
    unknown      the pool could not be observed in that interval, or not confirmed afterwards
    violation    otherwise; with a watched pool only after a consistent list made later than reply(Q) + settle

An outage is judged by how it set in: P is the last answered probe, and Q stands for the outage's being noticed. What the
pool does long after cannot explain why it began.

Certain means: every probe between P and Q is answered or lost, and no news of the pool can change the class. Only a late
reply can then still revise the change; it is judged anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from affinity_tester.core.events import (
    Change,
    ChangeJudged,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    Event,
    FirstAnswer,
    Judgement,
    OutageJudged,
    OutageStarted,
)
from affinity_tester.core.identity import Kind
from affinity_tester.core.outages import OUTAGE_NS
from affinity_tester.core.pool import PoolChange, PoolTimeline

_S = 1_000_000_000

Judged = ChangeJudged | OutageJudged

_Key = tuple[str, int | OutageStarted]
"""A session, and the number of its change or its outage."""

_MOST_INSTANCES = 10_000
"""So many instances are remembered: no cluster restarts more pods in a run, and a server that lies must not fill memory."""


class _Case(NamedTuple):
    """What is to be judged, a change or the beginning of an outage."""

    subject: Change | OutageStarted
    session: str
    from_ns: int
    """sent(P)"""
    to_ns: int
    """reply(Q)"""
    pause_ns: int
    certain_ns: int
    """No class before this time: a probe in between is still pending."""
    pod: str | None
    """P's."""
    instance_alone: bool = False
    """Nothing else changed."""
    also: tuple[str, ...] = ()
    """A reason, whatever else is the reason."""

    def event(
        self, at_ns: int, judgement: Judgement, reasons: tuple[str, ...], avoidable: bool | None = None
    ) -> Judged:
        reasons += self.also
        if isinstance(self.subject, Change):
            return ChangeJudged(at_ns, self.session, self.subject, judgement, avoidable, reasons)
        since = (self.subject.since_seq, self.subject.since_ns)
        return OutageJudged(at_ns, self.session, *since, judgement, avoidable, reasons)


class Judge:
    """Holds what is open, and gives judgements as time and the pool's timeline make them certain."""

    def __init__(self, timeline: PoolTimeline, settle_ns: int, affinity_window_ns: int) -> None:
        """Judge by this timeline, which the caller keeps feeding; times are in nanoseconds."""
        self._timeline = timeline
        self._settle_ns = settle_ns
        self._window_ns = affinity_window_ns
        self._open: dict[_Key, _Case] = {}
        self._known: tuple[int, bool] | None = None
        """What was known of the pool when all open cases were tried."""
        self._due: list[tuple[int, int, _Key]] = []
        """A heap: when time alone makes a case certain, then in which order they came."""
        self._order = count()
        self._lives: dict[bytes, tuple[int, int]] = {}
        """By instance: when it had answered first, and when the last probe was sent that it is known to have answered."""
        self.pool_counts = True
        """False: replies came from pods that were never in the watched pool; it counts as not watched."""

    @property
    def open_count(self) -> int:
        """Changes and outages without a judgement."""
        return len(self._open)

    @property
    def watched(self) -> bool:
        """Whether the pool is watched, and the right one."""
        return self.pool_counts and self._timeline.watched

    @property
    def wants_list_after_ns(self) -> int | None:
        """A consistent list of the pool made later than this would settle the oldest open case; None: none is wanted."""
        if not self.watched or not self._open:
            return None
        return min(case.to_ns for case in self._open.values()) + self._settle_ns

    def feed(self, event: Event) -> Judged | None:
        """Open, narrow or drop a case; all other events are none of the judge's. Returns what is certain at once."""
        match event:
            case FirstAnswer(at_ns=at_ns, identity=who):
                self._note_life(who.instance, at_ns, 0)
            case ChangeSeen(session=session, change=change) | ChangeRevised(session=session, change=change):
                for sighting in (change.before, change.after):
                    self._note_life(sighting.identity.instance, change.seen_ns, sighting.sent_ns)
                case = _change_case(session, change)
                if case.instance_alone and self._share_a_name(change):
                    case = case._replace(also=(f'two servers share the name of pod "{case.pod}"',))
                return self._take(case, change.number, event.at_ns)
            case ChangeWithdrawn(session=session, change=change):
                self._open.pop((session, change.number), None)
            case OutageStarted():
                return self._take(_outage_case(event), event, event.at_ns)
            case _:
                pass
        return None

    def judge(self, now_ns: int, *, last: bool = False) -> Iterator[Judged]:
        """Give every judgement that is certain now; `last`: all of them, what is not certain as `unknown`."""
        known = (self._timeline.news, self.pool_counts)
        if last or known != self._known:
            self._known = known
            keys = list(self._open)
        else:  # only time has passed: a long gap may leave many open, and looking at all of them would hold up the probes
            keys = []
            while self._due and self._due[0][0] <= now_ns:
                keys.append(heappop(self._due)[2])
        for key in keys:
            case = self._open.get(key)
            if case is None:
                continue
            verdict = self._try(case, now_ns) if last or now_ns >= case.certain_ns else None
            if verdict is None and last:
                verdict = case.event(now_ns, Judgement.UNKNOWN, ("the run ended before the pool was confirmed",))
            if verdict is not None:
                del self._open[key]
                yield verdict

    def _take(self, case: _Case, subject: int | OutageStarted, now_ns: int) -> Judged | None:
        """Judge a new or narrowed case, or keep it open in the place of its wider self."""
        key: _Key = (case.session, subject)
        verdict = self._try(case, now_ns) if now_ns >= case.certain_ns else None
        if verdict is None:
            self._open[key] = case
            heappush(self._due, (case.certain_ns, next(self._order), key))
        else:
            self._open.pop(key, None)
        return verdict

    def _try(self, case: _Case, now_ns: int) -> Judged | None:
        if case.instance_alone and not case.also:
            return case.event(now_ns, Judgement.POD_RESTART, ("the same pod answers with a new instance",))
        idle = case.pause_ns > self._window_ns
        idle_text = f"{case.pause_ns / _S:.1f} s without a probe, longer than the affinity window"
        if not self.watched:
            if idle:
                return case.event(now_ns, Judgement.IDLE, (idle_text,))
            return case.event(now_ns, Judgement.VIOLATION, ("pool not watched",))
        timeline = self._timeline
        reach = (case.from_ns - self._settle_ns, case.to_ns + self._settle_ns)
        explaining = timeline.change_within(*reach)
        if explaining is not None:
            return self._explained(case, explaining, reach, now_ns)
        if timeline.confirmed_ns is None or timeline.confirmed_ns <= reach[1]:
            return None
        if idle:
            return case.event(now_ns, Judgement.IDLE, (idle_text,))
        perhaps = timeline.change_perhaps_within(*reach)
        if perhaps is not None:
            if perhaps.from_ns > reach[1]:
                what = f"{perhaps.what[0]} {_apart(perhaps.to_ns, case.to_ns)} or earlier, since a watch may be late"
            else:
                blind_s = (perhaps.to_ns - perhaps.from_ns) / _S
                what = f"{perhaps.what[0]} at some time in the {blind_s:.1f} s of an interrupted watch"
            return case.event(now_ns, Judgement.UNKNOWN, (what,))
        gap = timeline.gap_within(*reach)
        if gap is not None:
            if gap[1] == timeline.first_ns:
                what = f"the watch of the pool began {_apart(gap[1], case.to_ns)} it"
            else:
                what = f"the pool could not be observed for {(gap[1] - gap[0]) / _S:.1f} s around it"
            return case.event(now_ns, Judgement.UNKNOWN, (what,))
        return case.event(now_ns, Judgement.VIOLATION, ("the pool stood still",))

    def _note_life(self, instance: bytes | None, answered_ns: int, sent_ns: int) -> None:
        """An instance had answered by `answered_ns`, and a probe that was sent at `sent_ns`."""
        if instance is None:
            return
        first_ns, last_ns = self._lives.get(instance, (answered_ns, sent_ns))
        self._lives[instance] = (min(first_ns, answered_ns), max(last_ns, sent_ns))
        if len(self._lives) > _MOST_INSTANCES:
            del self._lives[next(iter(self._lives))]

    def _share_a_name(self, change: Change) -> bool:
        """Whether both instances of a pod were seen to live at one time.

        Each answered a probe that was sent after the other had answered, so neither had ended when the other began. One of
        the two alone is no proof: a probe may be on its way for longer than a pod takes to restart.
        """
        before, after = change.before.identity, change.after.identity
        old, new = self._lives.get(before.instance or b""), self._lives.get(after.instance or b"")
        return before.pod == after.pod is not None and bool(old and new and old[1] > new[0] and new[1] > old[0])

    def _explained(self, case: _Case, explaining: PoolChange, reach: tuple[int, int], now_ns: int) -> Judged | None:
        """A pool change lies within reach; whether the old pod went on serving is certain when the reach is over."""
        timeline = self._timeline
        avoidable: bool | None = None
        if case.pod is not None:
            serves = timeline.serving_throughout(case.pod, *reach)
            if serves and (timeline.confirmed_ns or 0) <= reach[1]:
                return None
            # What happened to the pod where nobody looked is not known.
            avoidable = None if serves and timeline.gap_within(*reach) is not None else serves
        reasons = [f"{explaining.what[0]} {_apart(explaining.to_ns, case.to_ns)}"]
        reasons += explaining.what[1:3]
        if len(explaining.what) > 3:  # noqa: PLR2004 - the rest stands in the record
            more = len(explaining.what) - 3
            reasons.append(f"{more} more change{'' if more == 1 else 's'} of the pool then")
        return case.event(now_ns, Judgement.EXPLAINED, tuple(reasons), avoidable)


def _apart(at_ns: int, case_ns: int) -> str:
    return f"{abs(case_ns - at_ns) / _S:.1f} s {'before' if at_ns <= case_ns else 'after'}"


def _change_case(session: str, change: Change) -> _Case:
    return _Case(
        change,
        session,
        change.before.sent_ns,
        change.seen_ns,
        change.longest_pause_ns,
        change.settled_ns,
        change.before.identity.pod,
        change.kinds == (Kind.INSTANCE,),
    )


def _outage_case(outage: OutageStarted) -> _Case:
    last = outage.last
    from_ns = outage.since_ns if last is None else last.sent_ns
    to_ns = outage.since_ns + OUTAGE_NS
    pod = None if last is None else last.identity.pod
    return _Case(outage, outage.session, from_ns, to_ns, outage.since_ns - from_ns, to_ns, pod)
