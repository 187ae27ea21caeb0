"""Each outage gets a class, which is looked at again until the silence ends (docs/judging.md#outages).

    p        the pod and instance of the session's last answer
    f        when the first silent probe was sent; where a blackout lay on it, the time when that was over counts as onset too
    e        the end of the silence, or now
    alive    a probe sent at f + 2 s or later, by another session or a canary, was answered by p, and the silence outlasted
             the answer: where a hung pod goes on, its sessions are answered again one after the other, and where it was
             frozen, probes that waited are answered long after they were sent
    gone     p left the pool, stopped serving, or was followed by another instance under its name, in (lo, hi]
    move     how long flows may take to be moved: the settle time, and the balancer's health check where that may decide
             (policy Local; or nobody was answered behind the session's ingress address since f)

The first row that matches wins; only a violation is final, and `unknown` is told when nothing more can be learnt. None is a
violation that may be mere loss: as many probes in a row as some session of the run loses at the loss that the others have.

    1  the client's own socket or address accounts for it           client
    2  a pause of the client's longer than the affinity window      idle
    3  no endpoint was ready at some time in [f, e]                 explained, until move after one is again
    4  gone                                                         explained while e <= hi + move; then a violation, when
                                                                    three canaries sent after that were answered
    5  p serves and is alive; a pool change within settle of the    explained while e <= hi + move, then a violation;
       onset                                                        perhaps within: unknown until then
    6  p serves and is alive; by a list asked for later than        violation: the entry or the path is dead
       f + settle nothing changed
    7  p is in the pool and answers nobody                          pod-silent, claimed when all its sessions are silent and
                                                                    enough canaries met other pods, or its node is NotReady
    8  never answered                                               violation after the balancer's check, for three sessions
                                                                    or more, with canaries answered and the pool still
    9  else                                                         unknown

Of a target with several addresses, canaries count at the session's own; where none is answered there, that address is dark,
and what others are answered at other addresses does not tell whose fault it is: unknown.

Where the pool is not watched, the operator's promise that it stands still takes the place of the lists.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from affinity_tester.core.events import (
    CaseJudged,
    Change,
    Event,
    Judgement,
    OutageCase,
    OutageEnded,
    OutageStarted,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.chance import DOUBT, canaries_needed, chance_of_dead_server
from affinity_tester.core.judging.explain import explanation
from affinity_tester.core.judging.outage_evidence import ALIVE_NS, OutageEvidence
from affinity_tester.core.judging.reasons import (
    AddressUnanswered,
    CanariesAnswered,
    CanariesTooFew,
    ClientPaused,
    Doubt,
    FlowNotMoved,
    InDoubt,
    LocalAddressChanged,
    NeverAnswered,
    NodeNotReady,
    NoReadyEndpoint,
    PodAnswersNobody,
    PodAnswersOthers,
    PodLifeUnknown,
    PodReplaced,
    PodStopped,
    PoolNotObserved,
    PoolPerhapsChanged,
    PoolState,
    Reason,
    RepliesDropped,
    ServingPodUnknown,
)
from affinity_tester.core.pool_timeline import PoolTimeline, Span
from affinity_tester.core.session.outages import OUTAGE_NS, OUTAGE_PROBES

_S = 1_000_000_000

ADDRESS_SETTLES_NS = 300 * _S
"""So long after a Service was given its address, a cloud may still be building the way to it."""

MOVED_CANARIES = 3
"""So many canaries must be answered after a flow should have been moved: one might have met a path of its own luck."""

NEVER_ANSWERED = 3
"""Of fewer sessions that were never answered, the client's own network may be the reason."""

AT_A_TIME = 500
"""Outages looked at in one go: with thousands open, looking at all of them would hold up the probes."""

ACCUSE = 0.01
"""Where servers name no pod, chance alone speaks against a dead one of several: it must be wrong less often than this."""

CHANCE = 0.001
"""So many silences at most, of all in the run, may loss alone be expected to make as long as one that is a violation."""

_Told = tuple[Judgement, bool | None]
_Class = tuple[Judgement, bool | None, tuple[Reason, ...]]

_FINAL: _Told = (Judgement.VIOLATION, None)


@dataclass(slots=True)
class _Case:
    """An outage, and what was learnt while it lasts."""

    outage: OutageStarted
    onset_ns: int
    """f, or the end of the blackout that it began in."""
    ended_ns: int | None = None
    alive_ns: int | None = None
    """When it was known that the session's pod had answered a probe of others that was sent in the silence."""
    ingress_alive_ns: int | None = None
    """When it was known that one was answered behind the session's reflexive IP."""
    pod_silent: Reason | None = None
    """What showed that its pod answers nobody; None: nothing yet. A pod that comes back does not undo it."""
    replaced: Span | None = None
    """When another instance under the pod's name took its place, without a word of the pool's."""
    told: _Told | None = None
    """The class that was told last."""
    reasons: tuple[Reason, ...] = ()
    """Its reasons."""
    all_told: set[_Told] = field(default_factory=set)
    """Every class that was told."""

    @property
    def session(self) -> str:
        return self.outage.session

    @property
    def from_ns(self) -> int:
        """The time f of the table."""
        return self.outage.since_ns

    @property
    def last_ns(self) -> int:
        """When the session's last probe was sent that was answered; f where there was none."""
        return self.from_ns if self.outage.last is None else self.outage.last.sent_ns

    @property
    def old(self) -> Identity | None:
        return None if self.outage.last is None else self.outage.last.identity


class _Census(NamedTuple):
    """Sessions by the (pod, instance) that had answered them last."""

    sessions: Counter[tuple[str | None, bytes | None]]
    silent: Counter[tuple[str | None, bytes | None]]
    """Those of them that are in an outage."""
    alive: tuple[tuple[str | None, int], ...]
    """Pods that were seen to live in the outages of their sessions, and when these had begun."""


class OutageJudge:
    """Holds the outages whose class is not final."""

    def __init__(self, timeline: PoolTimeline, settle_ns: int, affinity_window_ns: int, balancer_check_ns: int) -> None:
        """Judge by this timeline, which the caller keeps feeding; times are in nanoseconds."""
        self._timeline = timeline
        self._settle_ns = settle_ns
        self._window_ns = affinity_window_ns
        self._check_ns = balancer_check_ns
        self._open: dict[tuple[str, int], _Case] = {}
        self._ended: dict[tuple[str, int], _Case] = {}
        """Those that are over and wait for a list of the pool."""
        self._newest: dict[str, _Case] = {}
        """By session, its newest outage that is over: a change that its end shows is judged by it, too."""
        self._turn: deque[tuple[str, int]] = deque()
        """Whose turn it is to be looked at."""
        self._never_answered: set[str] = set()
        """Sessions in an outage from sequence 0."""
        self._seen = OutageEvidence()
        self._census: _Census | None = None
        """Who is silent, counted once for each look at all."""
        self._looked: tuple[int, int] | None = None
        """What was known when those that are over were looked at, and when that was."""
        self.pool_trusted = True
        """As the judge of changes has it."""

    @property
    def open_count(self) -> int:
        """Outages that have no final class, though nothing more is learnt of them but by a list of the pool."""
        lasting = 0
        if self._seen.stopped_ns is not None and self._watched:
            lasting = sum(
                case.told != _FINAL and not self._timeline.confirmed_after(case.onset_ns + self._settle_ns)
                for case in self._open.values()
            )
        return len(self._ended) + lasting

    @property
    def _watched(self) -> bool:
        return self.pool_trusted and self._timeline.watched

    @property
    def wants_list_after_ns(self) -> int | None:
        """A consistent list asked for later than this would bring an outage nearer to its class; None: none is wanted."""
        if not self._watched:
            return None
        wanted = [
            after_ns
            for case in (*self._ended.values(), *self._open.values())
            if not self._timeline.confirmed_after(after_ns := max(case.onset_ns + self._settle_ns, case.ended_ns or 0))
        ]
        return min(wanted, default=None)

    # --- what is heard -------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take in what bears on outages."""
        match event:
            case OutageStarted():
                self._start(event)
            case OutageEnded():
                self._end(event)
            case _:
                pass
        self._seen.feed(event)  # last: what an outage's end shows is no evidence of what was so in it

    def _start(self, outage: OutageStarted) -> None:
        key = (outage.session, outage.since_seq)
        self._open[key] = _Case(outage, self._seen.onset_ns(outage.since_ns))
        self._turn.append(key)
        if outage.last is None:
            self._never_answered.add(outage.session)

    def _end(self, event: OutageEnded) -> None:
        key = (event.session, event.since_seq)
        self._never_answered.discard(event.session)
        case = self._open.pop(key, None)
        if case is not None:
            self._learn(case)
            # Where replies that come late end it, all of them waited somewhere: it lasted until they came.
            is_late = event.at_ns - event.first.sent_ns > self._seen.threshold_ns
            case.ended_ns = event.at_ns if is_late else event.first.sent_ns
            self._ended[key] = case
            self._newest[event.session] = case

    # --- judging -------------------------------------------------------------------------------------------------------

    def judge(self, now_ns: int, *, last: bool) -> Iterator[CaseJudged]:
        """Tell each class that is new; `last`: the final one of every outage."""
        self._census = None
        for key, case in self._due(now_ns, last=last):
            found = self._evaluate(case, now_ns, last=last)
            if found is not None:
                del self._ended[key]
                yield from self._tell(case, found, now_ns)
        for _ in range(len(self._turn) if last else min(AT_A_TIME, len(self._turn))):
            key = self._turn.popleft()
            lasting = self._open.get(key)
            if lasting is None:
                continue  # it ended
            found = self._evaluate(lasting, now_ns, last=last)
            if found is not None and (last or found[0] is not Judgement.UNKNOWN):
                yield from self._tell(lasting, found, now_ns)
            if not last and lasting.told != _FINAL:
                self._turn.append(key)

    def over(self, session: str, change: Change, now_ns: int) -> tuple[Judgement, tuple[Reason, ...]] | None:
        """The class of the outage that a change put an end to, as of now; None: there was none, or it has none yet."""
        case = self._newest.get(session)
        if case is None or not change.before.seq < case.outage.since_seq <= change.after.seq:
            return None
        if (session, case.outage.since_seq) not in self._ended:
            return None if case.told is None else (case.told[0], case.reasons)
        found = self._evaluate(case, now_ns, last=False)
        return None if found is None else (found[0], found[2])

    def _due(self, now_ns: int, *, last: bool) -> list[tuple[tuple[str, int], _Case]]:
        """Those that are over and may be certain now: when the pool has news, and once a second."""
        news = self._timeline.news
        if not last and self._looked is not None and self._looked[0] == news and now_ns - self._looked[1] < _S:
            return []
        self._looked = (news, now_ns)
        return list(self._ended.items())

    def _tell(self, case: _Case, found: _Class, now_ns: int) -> Iterator[CaseJudged]:
        judgement, avoidable, reasons = found
        final = case.ended_ns is not None or self._seen.stopped_ns is not None
        # What flaps is told once; the last word is said in the end.
        if case.told != (judgement, avoidable) and (final or (judgement, avoidable) not in case.all_told):
            case.told, case.reasons = (judgement, avoidable), reasons
            case.all_told.add((judgement, avoidable))
            outage = case.outage
            lasts = not final and judgement is not Judgement.VIOLATION
            judged = OutageCase(outage.since_seq, outage.since_ns)
            yield CaseJudged(now_ns, case.session, judged, judgement, avoidable, reasons, lasts)

    def _evaluate(self, case: _Case, now_ns: int, *, last: bool) -> _Class | None:
        """The class as of now; None: more must be known."""
        if case.told is not None and case.told[0] is Judgement.VIOLATION:
            return (*case.told, ())
        if case.ended_ns is None:
            self._learn(case)
        own = self._own(case)
        if own is not None:
            return own
        end_ns = case.ended_ns
        if end_ns is None:
            end_ns = now_ns if self._seen.stopped_ns is None else min(now_ns, self._seen.stopped_ns)
        found = self._by_pool(case, end_ns) if self._watched else self._by_promise(case, end_ns)
        if found is not None and found[0] is Judgement.VIOLATION:
            probes = max(case.outage.probes, (end_ns - case.from_ns) / self._seen.interval_ns)
            if self._seen.losses.chance_of(probes, end_ns) > CHANCE:
                found = _in_doubt(InDoubt(Doubt.LOSS_POSSIBLE))
                if not self._over(case):
                    found = None
        if found is None and last:
            return Judgement.UNKNOWN, None, (InDoubt(Doubt.RUN_ENDED),)
        return found

    def _learn(self, case: _Case) -> None:
        """Remember what shows by now and may be overwritten later."""
        old = case.old
        if old is None:
            return
        lives_ns = case.onset_ns + ALIVE_NS
        if old.reflexive is not None and case.ingress_alive_ns is None:
            answer = self._seen.ingress.get(old.reflexive.ip)
            if answer is not None and answer.sent_ns >= lives_ns:
                case.ingress_alive_ns = answer.heard_ns
        pod = self._seen.pods.get(old.pod or "")
        if pod is None:
            return
        if case.alive_ns is None:
            answers = [
                pod.newest[i] for i in (pod.newest if old.instance is None else [old.instance]) if i in pod.newest
            ]
            newest = max(answers, default=None)
            if newest is not None and newest.sent_ns >= lives_ns:
                case.alive_ns = newest.heard_ns
        if old.instance is not None and case.replaced is None:
            own = pod.newest.get(old.instance)
            before_ns = max(case.last_ns, 0 if own is None else own.sent_ns)
            later = [
                ns for instance, ns in pod.first_ns.items() if instance not in {old.instance, None} and ns > before_ns
            ]
            if later:
                case.replaced = Span(before_ns, min(later))

    def _own(self, case: _Case) -> _Class | None:
        """Rows 1 and 2."""
        outage = case.outage
        lost = max(OUTAGE_PROBES, outage.probes)
        if outage.own_drops >= lost:
            return Judgement.CLIENT, None, (RepliesDropped(outage.own_drops),)
        if any(case.last_ns - _S <= at_ns <= case.from_ns + OUTAGE_NS for at_ns in self._seen.own_faults):
            return Judgement.CLIENT, None, (LocalAddressChanged(),)
        if outage.longest_pause_ns > self._window_ns:
            return Judgement.IDLE, None, (ClientPaused(outage.longest_pause_ns),)
        return None

    def _by_pool(self, case: _Case, end_ns: int) -> _Class | None:
        """Rows 3 to 9, with a watched pool."""
        timeline = self._timeline
        old = case.old
        alive, move_ns = self._outlasted(case, case.alive_ns, end_ns), self._move_ns(case, end_ns)
        doubts: list[Reason] = []

        emptied = timeline.emptied_within(case.from_ns, end_ns)
        if emptied is not None:  # row 3
            surely, refilled = emptied
            if refilled is None or end_ns <= refilled.to_ns + move_ns:
                if surely:
                    return Judgement.EXPLAINED, False, (NoReadyEndpoint(),)
                doubts.append(NoReadyEndpoint(perhaps=True))
        if old is None:
            return _in_doubt(*doubts) or self._never(case, end_ns)
        reach = (self._reach_from(case), case.onset_ns + self._settle_ns)
        if old.pod is None or not timeline.ever_had(old.pod):
            return self._unnamed(case, reach, end_ns, doubts)

        gone = self._gone(case, end_ns, move_ns)
        if gone is not None:  # row 4
            if end_ns <= gone.to_ns + move_ns:
                if gone.to_ns <= end_ns or not alive:
                    return Judgement.EXPLAINED, False, (PodStopped(old.pod, gone.to_ns - case.from_ns),)
                doubts.append(PodStopped(old.pod, None))
            elif gone in {case.replaced, timeline.left(old.pod)} or not timeline.serves(old.pod):
                return _in_doubt(*doubts) or self._not_moved(case, gone.to_ns + move_ns, end_ns)

        if alive:
            return _in_doubt(*doubts) or self._alive(case, reach, end_ns, move_ns)
        return self._silent(case, max(reach[1], case.ended_ns or 0), doubts)

    def _unnamed(self, case: _Case, reach: tuple[int, int], end_ns: int, doubts: list[Reason]) -> _Class | None:
        """Row 9, where the session's replies name no pod of the pool: whether it was moved cannot be told."""
        timeline = self._timeline
        change = next(timeline.perhaps_within(reach[0], end_ns), None)
        if change is not None:
            doubts.append(ServingPodUnknown(change.changes[0], change.to_ns - case.from_ns))
        if doubts:
            return _in_doubt(*doubts)
        return self._foreign(case, PoolState.STILL) if timeline.confirmed_after(reach[1]) else None

    def _alive(self, case: _Case, reach: tuple[int, int], end_ns: int, move_ns: int) -> _Class | None:
        """Rows 5 and 6: the pod serves and answers others."""
        timeline = self._timeline
        old = case.old
        assert old is not None, "a pod that is alive had answered"
        sure = list(timeline.surely_within(*reach))
        late_ns = max((change.to_ns for change in sure), default=0)
        if sure and end_ns <= late_ns + move_ns:
            return Judgement.EXPLAINED, True, explanation(sure, old, old, case.from_ns)
        for change in timeline.perhaps_within(*reach):
            if end_ns <= change.to_ns + move_ns:
                width_ns, offset_ns = change.to_ns - change.from_ns, change.to_ns - case.from_ns
                return _in_doubt(PoolPerhapsChanged(change.changes[0], width_ns, offset_ns))
        if not timeline.confirmed_after(reach[1]):
            return None
        gap = timeline.gap_within(*reach)
        if gap is not None and end_ns <= gap[1] + move_ns:
            return _in_doubt(PoolNotObserved(gap[1] - gap[0], at_onset=True))
        if self._is_address_dark(case):
            return self._dark(case)
        settled_after_ns = move_ns if sure else None
        return Judgement.VIOLATION, None, (PodAnswersOthers(old.pod or "", PoolState.STILL, settled_after_ns),)

    def _silent(self, case: _Case, known_ns: int, doubts: list[Reason]) -> _Class | None:
        """Row 7: the pod is in the pool and answers nobody; `known_ns`: up to when the pool must be known to say no more."""
        snapshot = self._timeline.snapshot
        old = case.old
        assert old is not None, "a pod had answered"
        assert snapshot is not None, "it was in the pool"
        endpoint = snapshot.of_pod(old.pod or "")
        node = endpoint.node if endpoint is not None else ""
        if node in self._seen.not_ready and case.pod_silent is None:
            case.pod_silent = NodeNotReady(node, old.pod or "")
        # A canary goes where the client's address is kept to, and to no pod that is not ready: it would prove nothing.
        sticky = dict(snapshot.spec).get("sessionAffinity") == "ClientIP"
        if not sticky and endpoint is not None and endpoint.ready:
            self._look_for_others(case, snapshot.ready_count)
        if case.pod_silent is not None:
            return Judgement.POD_SILENT, None, (case.pod_silent,)
        if not self._over(case) or not self._timeline.confirmed_after(known_ns):
            return None
        return _in_doubt(*doubts, _whether_it_lives(case))

    def _look_for_others(self, case: _Case, pods: int) -> None:
        """Whether all sessions of the pod are silent, and enough canaries met others to show that it answers nobody."""
        old = case.old
        assert old is not None, "a silent pod had answered"
        if case.pod_silent is not None:
            return
        mine = (old.pod, old.instance)
        census = self._counted()
        others = self._others_met(case)
        near_s = 1 + self._seen.interval_ns // _S
        if any(pod != old.pod and abs(began_s - case.from_ns // _S) <= near_s for pod, began_s in census.alive):
            return  # flows of pods that live fell silent with it: what hit them all is no pod
        if census.silent[mine] >= census.sessions[mine] and others >= canaries_needed(pods) and pods > 1:
            case.pod_silent = PodAnswersNobody(old.pod or "", census.silent[mine], others)

    def _counted(self) -> _Census:
        """The sessions by who had answered them last, and those of them that are silent."""
        if self._census is None:
            silent = {session for session, _ in (*self._open, *self._ended)}
            homes = {session: (who.pod, who.instance) for session, who in self._seen.serving.items()}
            for case in (*self._ended.values(), *self._open.values()):
                if case.old is not None:  # those that are over have moved on by now
                    homes[case.session] = (case.old.pod, case.old.instance)
            self._census = _Census(
                Counter(homes.values()),
                Counter(home for session, home in homes.items() if session in silent),
                tuple(
                    {
                        (case.old.pod, case.from_ns // _S)
                        for case in (*self._ended.values(), *self._open.values())
                        if case.old is not None and case.alive_ns is not None
                    }
                ),
            )
        return self._census

    def _others_met(self, case: _Case) -> int:
        """How many canaries of this silence other pods answered."""
        old = case.old
        pod = old.pod if old is not None else None
        return sum(
            canary.identity is not None and canary.identity.pod != pod
            for canary in self._seen.canaries_in(case.session, case.from_ns, case.ended_ns)
        )

    def _never(self, case: _Case, end_ns: int) -> _Class | None:
        """Row 8: never answered."""
        timeline = self._timeline
        start_ns = max(case.onset_ns, timeline.first_ns or 0) if self._watched else case.onset_ns
        if end_ns < start_ns + self._check_ns:
            return _in_doubt(InDoubt(Doubt.WITHIN_HEALTH_CHECK)) if self._over(case) else None
        if (
            self._watched
            and self._seen.addressed_ns is not None
            and end_ns < self._seen.addressed_ns + ADDRESS_SETTLES_NS
        ):
            return _in_doubt(InDoubt(Doubt.ADDRESS_NEW)) if self._over(case) else None
        if not self._canaries_met(case, case.from_ns, end_ns)[0]:
            return _in_doubt(InDoubt(Doubt.NO_CANARY_ANSWERED)) if self._over(case) else None
        if len(self._never_answered | {case.session}) < NEVER_ANSWERED:
            return _in_doubt(InDoubt(Doubt.FEW_SESSIONS))
        if not self._watched:
            return Judgement.VIOLATION, None, (NeverAnswered(PoolState.NOT_WATCHED),)
        until_ns = start_ns + self._check_ns
        if next(timeline.perhaps_within(case.from_ns - self._settle_ns, until_ns), None) is not None:
            return _in_doubt(InDoubt(Doubt.POOL_CHANGED_AT_START))
        if not timeline.confirmed_after(until_ns):
            return None
        if timeline.blind_within(case.from_ns, until_ns) is not None:
            return _in_doubt(InDoubt(Doubt.POOL_NOT_OBSERVED_AT_START))
        dead = len(self._never_answered | {case.session})
        if self._may_be_at_a_dead_pod(case, len(self._seen.serving) + dead, dead, case.from_ns, end_ns):
            return _in_doubt(InDoubt(Doubt.DEAD_POD_POSSIBLE))
        return Judgement.VIOLATION, None, (NeverAnswered(PoolState.STILL),)

    def _by_promise(self, case: _Case, end_ns: int) -> _Class | None:
        """Rows 4 to 9 without a watch: the pool stands still, as the operator promised."""
        old = case.old
        if old is None:
            return self._never(case, end_ns)
        if old.pod is None:
            return self._foreign(case, PoolState.NOT_WATCHED)
        if case.replaced is not None:
            until_ns = case.replaced.to_ns + self._move_ns(case, end_ns)
            if end_ns <= until_ns:
                return Judgement.EXPLAINED, False, (PodReplaced(old.pod),)
            return self._not_moved(case, until_ns, end_ns)
        if self._outlasted(case, case.alive_ns, end_ns):
            if self._is_address_dark(case):
                return self._dark(case)
            return Judgement.VIOLATION, None, (PodAnswersOthers(old.pod, PoolState.NOT_WATCHED),)
        self._look_for_others(case, len(self._seen.pods))
        if case.pod_silent is not None:
            return Judgement.POD_SILENT, None, (case.pod_silent,)
        if self._over(case):
            return _in_doubt(_whether_it_lives(case))
        return None

    def _foreign(self, case: _Case, pool: PoolState) -> _Class | None:
        """A server that names no pod: whether a dead server among several could be the reason."""
        census = self._counted()
        sessions, dead = census.sessions.total(), census.silent.total()
        answered, unanswered = self._canaries_met(case, case.from_ns, case.ended_ns)
        if chance_of_dead_server(sessions, max(1, dead), answered, unanswered) < ACCUSE:
            return Judgement.VIOLATION, None, (CanariesAnswered(answered, pool),)
        return _in_doubt(InDoubt(Doubt.DEAD_SERVER_POSSIBLE)) if self._over(case) else None

    def _not_moved(self, case: _Case, after_ns: int, end_ns: int) -> _Class | None:
        """Row 4, later: the flow was not moved when its pod had gone."""
        old = case.old
        assert old is not None, "a pod that is gone had answered"
        answered, _ = self._canaries_met(case, after_ns + 1, end_ns)
        dead = self._counted().silent[old.pod, old.instance]
        if answered >= MOVED_CANARIES and not self._may_be_at_a_dead_pod(case, dead, dead, after_ns, end_ns):
            return Judgement.VIOLATION, None, (FlowNotMoved(old.pod or "", answered),)
        if not self._over(case):
            return None
        return _in_doubt(CanariesTooFew(old.pod or ""))

    # --- what is so ----------------------------------------------------------------------------------------------------

    def _over(self, case: _Case) -> bool:
        """Whether nothing more is learnt of it."""
        return case.ended_ns is not None or self._seen.stopped_ns is not None

    def _outlasted(self, case: _Case, answered_ns: int | None, end_ns: int) -> bool:
        """Whether the silence went on for long after others were answered: what comes back does so one after the other.

        So long that a probe of the session's own, sent after it, has had its time, and that it is not one lost by chance.
        """
        outlasts_ns = max(self._seen.outlasts_ns, case.outage.longest_pause_ns + ALIVE_NS)
        return answered_ns is not None and answered_ns + outlasts_ns <= end_ns

    def _may_be_at_a_dead_pod(self, case: _Case, sessions: int, dead: int, from_ns: int, end_ns: int) -> bool:
        """Whether a pod that is ready and answers nobody may have got these sessions, as far as chance allows."""
        snapshot = self._timeline.snapshot
        if not self._watched or snapshot is None:
            return False  # the operator's promise covers it
        since_ns = case.onset_ns + ALIVE_NS
        lives = {name for name, pod in self._seen.pods.items() if max(pod.newest.values()).sent_ns >= since_ns}
        if all(endpoint.pod in lives for endpoint in snapshot.endpoints if endpoint.ready):
            return False
        return chance_of_dead_server(sessions, max(1, dead), *self._canaries_met(case, from_ns, end_ns)) >= DOUBT

    def _move_ns(self, case: _Case, end_ns: int) -> int:
        """How long flows may take to be moved; where the policy is not known, a balancer may decide."""
        snapshot = self._timeline.snapshot if self._watched else None
        local = snapshot is None or dict(snapshot.spec).get("externalTrafficPolicy") == "Local"
        old = case.old
        ingress_silent = old is not None and old.reflexive is not None
        ingress_silent = ingress_silent and not self._outlasted(case, case.ingress_alive_ns, end_ns)
        return max(self._settle_ns, self._check_ns) if local or ingress_silent else self._settle_ns

    def _reach_from(self, case: _Case) -> int:
        return case.last_ns - self._settle_ns

    def _gone(self, case: _Case, end_ns: int, move_ns: int) -> Span | None:
        """When the session's pod left, stopped serving, or was replaced, at some time up to `end_ns` that matters.

        What its flow has outlived by `move_ns` did not end it: proxies may keep the flows of a pod that drains. Nor did what
        became of another pod under its name, before it was there.
        """
        old = case.old
        assert old is not None, "a pod had answered"
        name = old.pod or ""
        stopped, left = self._timeline.stopped(name), self._timeline.left(name)
        if stopped is None or stopped.from_ns >= end_ns or stopped.to_ns + move_ns < case.last_ns:
            return case.replaced
        if stopped == left:
            return case.replaced if self._is_newer(old, stopped) else stopped
        return case.replaced or stopped  # it stopped serving for a while, and it was replaced

    def _is_newer(self, who: Identity, left: Span) -> bool:
        """Whether this instance had not answered yet when a pod of its name left."""
        pod = self._seen.pods.get(who.pod or "")
        return pod is not None and who.instance is not None and pod.first_ns.get(who.instance, 0) > left.to_ns

    def _canaries_met(self, case: _Case, from_ns: int, to_ns: int | None) -> tuple[int, int]:
        """How many canaries sent in these times, to where the session's probes go, were answered, and how many were not."""
        found = Counter(canary.identity is not None for canary in self._seen.canaries_in(case.session, from_ns, to_ns))
        return found[True], found[False]

    def _is_address_dark(self, case: _Case) -> bool:
        """Whether no canary was answered where the session's probes go: others may be answered at another address."""
        return case.session in self._seen.targets and not self._canaries_met(case, case.from_ns, case.ended_ns)[0]

    def _dark(self, case: _Case) -> _Class | None:
        """An address is dark, as all are in a blackout: the way to it may be the client's own."""
        if not self._over(case):
            return None
        return _in_doubt(AddressUnanswered(self._seen.targets[case.session]))


def _in_doubt(*doubts: Reason) -> _Class | None:
    return (Judgement.UNKNOWN, None, doubts) if doubts else None


def _whether_it_lives(case: _Case) -> Reason:
    """Return why nothing follows for a session whose pod was neither seen to live for long enough nor to be silent."""
    pod = case.old.pod if case.old is not None else None
    return PodLifeUnknown(pod, answered=case.alive_ns is not None)
