"""Which class an outage has: the first row of a table that it matches (docs/judging.md#outages).

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

from collections import Counter

from affinity_tester.core.address import LOCAL_CHECK_NS
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.chance import DOUBT, canaries_needed, chance_of_dead_server
from affinity_tester.core.judging.explain import explanation
from affinity_tester.core.judging.outage_evidence import ALIVE_NS, OutageEvidence
from affinity_tester.core.judging.pending_outage import OutageClass, PendingOutage, PendingOutages, SessionCensus
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
from affinity_tester.units import NS_PER_S

ADDRESS_SETTLES_NS = 300 * NS_PER_S
"""How long a cloud may still be building the way to a Service after it was given its address."""

MOVED_CANARIES = 3
"""Canaries that must be answered after a flow should have been moved: a single one may have had a lucky path."""

NEVER_ANSWERED = 3
"""Sessions that must have had no answer at all: of fewer, the client's own network may be the reason."""

MAX_DEAD_SERVER_CHANCE = 0.01
"""Where servers name no pod, only chance rules out that one of several is dead; it must be less probable than this."""

MAX_CHANCE_SILENCES = 0.001
"""How many silences as long as a violation's may be expected of loss alone in the whole run, at most."""


class OutageTable:
    """Find the first row that an outage matches."""

    def __init__(
        self,
        timeline: PoolTimeline,
        evidence: OutageEvidence,
        cases: PendingOutages,
        *,
        settle_ns: int,
        affinity_window_ns: int,
        balancer_check_ns: int,
    ) -> None:
        """Judge by this timeline, evidence and all cases, which the caller keeps feeding; times are in nanoseconds."""
        self._timeline = timeline
        self._evidence = evidence
        self._cases = cases
        self._settle_ns = settle_ns
        self._window_ns = affinity_window_ns
        self._check_ns = balancer_check_ns
        self._census: SessionCensus | None = None
        """Who is silent, counted at most once in a round."""
        self.pool_trusted = True
        """False: replies came from pods that were never in the watched pool; it counts as not watched."""

    @property
    def watched(self) -> bool:
        """True if the pool is watched, and the right one."""
        return self.pool_trusted and self._timeline.watched

    def start_round(self) -> None:
        """Begin a round over all outages: the silent sessions are counted anew."""
        self._census = None

    def evaluate(self, case: PendingOutage, now_ns: int, *, last: bool) -> OutageClass | None:
        """Return the class as of now, None where more must be known; `last`: nothing more will be."""
        if case.told is not None and case.told[0] is Judgement.VIOLATION:
            return (*case.told, ())

        if case.ended_ns is None:
            case.learn(self._evidence)
        own = self._client_rows(case)
        if own is not None:
            return own

        end_ns = case.ended_ns
        if end_ns is None:
            end_ns = now_ns if self._evidence.stopped_ns is None else min(now_ns, self._evidence.stopped_ns)
        found = self._by_pool(case, end_ns) if self.watched else self._by_promise(case, end_ns)

        # Of many sessions at much loss, some are silent for long by chance: no violation may be one of these.
        if found is not None and found[0] is Judgement.VIOLATION:
            probes = max(case.outage.probes, (end_ns - case.from_ns) / self._evidence.interval_ns)
            if self._evidence.losses.chance_of(probes, end_ns) > MAX_CHANCE_SILENCES:
                found = _in_doubt(InDoubt(Doubt.LOSS_POSSIBLE))
                if not self.is_over(case):
                    found = None

        if found is None and last:
            return Judgement.UNKNOWN, None, (InDoubt(Doubt.RUN_ENDED),)
        return found

    def _client_rows(self, case: PendingOutage) -> OutageClass | None:
        """Return the class by rows 1 and 2: the client itself is the reason, or it paused."""
        outage = case.outage
        lost = max(OUTAGE_PROBES, outage.probes)
        if outage.own_drops >= lost:
            return Judgement.CLIENT, None, (RepliesDropped(outage.own_drops),)
        if any(
            case.last_ns - LOCAL_CHECK_NS <= at_ns <= case.from_ns + OUTAGE_NS for at_ns in self._evidence.own_faults
        ):
            return Judgement.CLIENT, None, (LocalAddressChanged(),)
        if outage.longest_pause_ns > self._window_ns:
            return Judgement.IDLE, None, (ClientPaused(outage.longest_pause_ns),)
        return None

    def _by_pool(self, case: PendingOutage, end_ns: int) -> OutageClass | None:
        """Return the class by rows 3 to 9, with a watched pool."""
        timeline = self._timeline
        old = case.old
        alive, move_ns = self._outlasted(case, case.alive_ns, end_ns), self._move_ns(case, end_ns)
        doubts: list[Reason] = []
        """What may explain the outage, so that it is no violation."""

        emptied = timeline.emptied_within(case.from_ns, end_ns)
        if emptied is not None:  # row 3
            surely, refilled = emptied
            if refilled is None or end_ns <= refilled.to_ns + move_ns:
                if surely:
                    return Judgement.EXPLAINED, False, (NoReadyEndpoint(),)
                doubts.append(NoReadyEndpoint(perhaps=True))

        if old is None:
            return _in_doubt(*doubts) or self._never_answered(case, end_ns)

        reach = (case.last_ns - self._settle_ns, case.onset_ns + self._settle_ns)
        if old.pod is None or not timeline.has_seen(old.pod):
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
            return _in_doubt(*doubts) or self._pod_alive(case, reach, end_ns, move_ns)
        return self._pod_silent(case, max(reach[1], case.ended_ns or 0), doubts)

    def _unnamed(
        self, case: PendingOutage, reach: tuple[int, int], end_ns: int, doubts: list[Reason]
    ) -> OutageClass | None:
        """Return the class by row 9 where the replies name no pod of the pool: whether the session was moved is unknown."""
        timeline = self._timeline
        change = next(timeline.perhaps_within(reach[0], end_ns), None)
        if change is not None:
            doubts.append(ServingPodUnknown(change.changes[0], change.to_ns - case.from_ns))

        if doubts:
            return _in_doubt(*doubts)
        return self._foreign_server(case, PoolState.STILL) if timeline.confirmed_after(reach[1]) else None

    def _pod_alive(self, case: PendingOutage, reach: tuple[int, int], end_ns: int, move_ns: int) -> OutageClass | None:
        """Return the class by rows 5 and 6: the pod serves and answers others."""
        timeline = self._timeline
        old = case.old
        assert old is not None, "a pod that is alive had answered"

        sure = list(timeline.surely_within(*reach))
        changed_ns = max((change.to_ns for change in sure), default=0)
        if sure and end_ns <= changed_ns + move_ns:
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
            return self._address_dark(case)

        settled_after_ns = move_ns if sure else None
        return Judgement.VIOLATION, None, (PodAnswersOthers(old.pod or "", PoolState.STILL, settled_after_ns),)

    def _pod_silent(self, case: PendingOutage, known_ns: int, doubts: list[Reason]) -> OutageClass | None:
        """Return the class by row 7: the pod is in the pool and answers nobody.

        `known_ns`: up to when the pool must be known before the outage is unknown for good.
        """
        snapshot = self._timeline.snapshot
        old = case.old
        assert old is not None, "a pod had answered"
        assert snapshot is not None, "it was in the pool"

        endpoint = snapshot.of_pod(old.pod or "")
        node = endpoint.node if endpoint is not None else ""
        if node in self._evidence.not_ready and case.pod_silent is None:
            case.pod_silent = NodeNotReady(node, old.pod or "")

        # A canary goes where the client's address is kept to, and to no pod that is not ready: it would prove nothing.
        sticky = dict(snapshot.spec).get("sessionAffinity") == "ClientIP"
        if not sticky and endpoint is not None and endpoint.ready:
            self._check_pod_silent(case, snapshot.ready_count)
        if case.pod_silent is not None:
            return Judgement.POD_SILENT, None, (case.pod_silent,)

        if not self.is_over(case) or not self._timeline.confirmed_after(known_ns):
            return None
        return _in_doubt(*doubts, _life_unknown(case))

    def _check_pod_silent(self, case: PendingOutage, pods: int) -> None:
        """Note that the pod answers nobody, if all its sessions are silent and enough canaries met other pods to show it."""
        old = case.old
        assert old is not None, "a silent pod had answered"
        if case.pod_silent is not None:
            return

        mine = (old.pod, old.instance)
        census = self._count_sessions()
        others = self._canaries_at_other_pods(case)

        near_s = 1 + self._evidence.interval_ns // NS_PER_S
        if any(pod != old.pod and abs(began_s - case.from_ns // NS_PER_S) <= near_s for pod, began_s in census.alive):
            return  # flows of pods that live fell silent with it: what hit them all is no pod

        if census.silent[mine] >= census.sessions[mine] and others >= canaries_needed(pods) and pods > 1:
            case.pod_silent = PodAnswersNobody(old.pod or "", census.silent[mine], others)

    def _count_sessions(self) -> SessionCensus:
        if self._census is None:
            self._census = self._cases.count_sessions(self._evidence)
        return self._census

    def _canaries_at_other_pods(self, case: PendingOutage) -> int:
        """Return how many canaries of this silence were answered by other pods."""
        old = case.old
        pod = old.pod if old is not None else None
        return sum(
            canary.identity is not None and canary.identity.pod != pod
            for canary in self._evidence.canaries_in(case.session, case.from_ns, case.ended_ns)
        )

    def _never_answered(self, case: PendingOutage, end_ns: int) -> OutageClass | None:
        """Return the class by row 8: the session was never answered."""
        timeline = self._timeline
        start_ns = max(case.onset_ns, timeline.first_ns or 0) if self.watched else case.onset_ns

        if end_ns < start_ns + self._check_ns:
            return _in_doubt(InDoubt(Doubt.WITHIN_HEALTH_CHECK)) if self.is_over(case) else None
        if (
            self.watched
            and self._evidence.addressed_ns is not None
            and end_ns < self._evidence.addressed_ns + ADDRESS_SETTLES_NS
        ):
            return _in_doubt(InDoubt(Doubt.ADDRESS_NEW)) if self.is_over(case) else None
        if not self._canary_counts(case, case.from_ns, end_ns)[0]:
            return _in_doubt(InDoubt(Doubt.NO_CANARY_ANSWERED)) if self.is_over(case) else None
        if len(self._cases.never_answered | {case.session}) < NEVER_ANSWERED:
            return _in_doubt(InDoubt(Doubt.FEW_SESSIONS))

        if not self.watched:
            return Judgement.VIOLATION, None, (NeverAnswered(PoolState.NOT_WATCHED),)

        until_ns = start_ns + self._check_ns
        if next(timeline.perhaps_within(case.from_ns - self._settle_ns, until_ns), None) is not None:
            return _in_doubt(InDoubt(Doubt.POOL_CHANGED_AT_START))
        if not timeline.confirmed_after(until_ns):
            return None
        if timeline.unobserved_within(case.from_ns, until_ns) is not None:
            return _in_doubt(InDoubt(Doubt.POOL_NOT_OBSERVED_AT_START))

        dead = len(self._cases.never_answered | {case.session})
        if self._may_be_at_a_dead_pod(case, len(self._evidence.serving) + dead, dead, case.from_ns, end_ns):
            return _in_doubt(InDoubt(Doubt.DEAD_POD_POSSIBLE))
        return Judgement.VIOLATION, None, (NeverAnswered(PoolState.STILL),)

    def _by_promise(self, case: PendingOutage, end_ns: int) -> OutageClass | None:
        """Return the class by rows 4 to 9 without a watch: the operator promised that the pool stands still."""
        old = case.old
        if old is None:
            return self._never_answered(case, end_ns)
        if old.pod is None:
            return self._foreign_server(case, PoolState.NOT_WATCHED)

        if case.replaced is not None:
            until_ns = case.replaced.to_ns + self._move_ns(case, end_ns)
            if end_ns <= until_ns:
                return Judgement.EXPLAINED, False, (PodReplaced(old.pod),)
            return self._not_moved(case, until_ns, end_ns)

        if self._outlasted(case, case.alive_ns, end_ns):
            if self._is_address_dark(case):
                return self._address_dark(case)
            return Judgement.VIOLATION, None, (PodAnswersOthers(old.pod, PoolState.NOT_WATCHED),)

        self._check_pod_silent(case, len(self._evidence.pods))
        if case.pod_silent is not None:
            return Judgement.POD_SILENT, None, (case.pod_silent,)
        if self.is_over(case):
            return _in_doubt(_life_unknown(case))
        return None

    def _foreign_server(self, case: PendingOutage, pool: PoolState) -> OutageClass | None:
        """Return the class where the server names no pod: a violation only where a dead one of several is ruled out."""
        census = self._count_sessions()
        sessions, dead = census.sessions.total(), census.silent.total()
        answered, unanswered = self._canary_counts(case, case.from_ns, case.ended_ns)

        if chance_of_dead_server(sessions, max(1, dead), answered, unanswered) < MAX_DEAD_SERVER_CHANCE:
            return Judgement.VIOLATION, None, (CanariesAnswered(answered, pool),)
        return _in_doubt(InDoubt(Doubt.DEAD_SERVER_POSSIBLE)) if self.is_over(case) else None

    def _not_moved(self, case: PendingOutage, after_ns: int, end_ns: int) -> OutageClass | None:
        """Return the class by row 4 where the flow was not moved in time after its pod had gone."""
        old = case.old
        assert old is not None, "a pod that is gone had answered"
        answered, _ = self._canary_counts(case, after_ns + 1, end_ns)
        dead = self._count_sessions().silent[old.pod, old.instance]

        if answered >= MOVED_CANARIES and not self._may_be_at_a_dead_pod(case, dead, dead, after_ns, end_ns):
            return Judgement.VIOLATION, None, (FlowNotMoved(old.pod or "", answered),)
        if not self.is_over(case):
            return None
        return _in_doubt(CanariesTooFew(old.pod or ""))

    # --- what is known ----------------------------------------------------------------------------------------------------

    def is_over(self, case: PendingOutage) -> bool:
        """Return whether nothing more can be learnt of the outage."""
        return case.ended_ns is not None or self._evidence.stopped_ns is not None

    def _outlasted(self, case: PendingOutage, answered_ns: int | None, end_ns: int) -> bool:
        """Return whether the silence went on for long after others were answered: sessions come back one after the other.

        That is so long that a probe of its own, sent after that answer, has had its time, and is not one lost by chance.
        """
        outlasts_ns = max(self._evidence.outlasts_ns, case.outage.longest_pause_ns + ALIVE_NS)
        return answered_ns is not None and answered_ns + outlasts_ns <= end_ns

    def _may_be_at_a_dead_pod(self, case: PendingOutage, sessions: int, dead: int, from_ns: int, end_ns: int) -> bool:
        """Return whether a ready pod that answers nobody may have got these sessions, as far as chance allows."""
        snapshot = self._timeline.snapshot
        if not self.watched or snapshot is None:
            return False  # the operator's promise covers it

        since_ns = case.onset_ns + ALIVE_NS
        lives = {name for name, pod in self._evidence.pods.items() if max(pod.newest.values()).sent_ns >= since_ns}
        if all(endpoint.pod in lives for endpoint in snapshot.endpoints if endpoint.ready):
            return False
        return chance_of_dead_server(sessions, max(1, dead), *self._canary_counts(case, from_ns, end_ns)) >= DOUBT

    def _move_ns(self, case: PendingOutage, end_ns: int) -> int:
        """Return how long flows may take to be moved; where the policy is not known, a balancer may decide."""
        snapshot = self._timeline.snapshot if self.watched else None
        local = snapshot is None or dict(snapshot.spec).get("externalTrafficPolicy") == "Local"

        old = case.old
        ingress_silent = old is not None and old.reflexive is not None
        ingress_silent = ingress_silent and not self._outlasted(case, case.ingress_alive_ns, end_ns)

        return max(self._settle_ns, self._check_ns) if local or ingress_silent else self._settle_ns

    def _gone(self, case: PendingOutage, end_ns: int, move_ns: int) -> Span | None:
        """Return when the session's pod left, stopped serving, or was replaced, up to `end_ns`; None: it did not.

        What the flow has outlived by `move_ns` did not end it: proxies may keep the flows of a pod that drains. Nor did what
        happened to an earlier pod of the same name.
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
        """Return whether this instance had not answered yet when a pod of its name left."""
        pod = self._evidence.pods.get(who.pod or "")
        return pod is not None and who.instance is not None and pod.first_ns.get(who.instance, 0) > left.to_ns

    def _canary_counts(self, case: PendingOutage, from_ns: int, to_ns: int | None) -> tuple[int, int]:
        """Return how many canaries sent in these times to the session's own target were answered, and how many were not."""
        found = Counter(
            canary.identity is not None for canary in self._evidence.canaries_in(case.session, from_ns, to_ns)
        )
        return found[True], found[False]

    def _is_address_dark(self, case: PendingOutage) -> bool:
        """Return whether no canary was answered at the session's own target: others may be, at another address."""
        return case.session in self._evidence.targets and not self._canary_counts(case, case.from_ns, case.ended_ns)[0]

    def _address_dark(self, case: PendingOutage) -> OutageClass | None:
        """Return the class where the session's address is dark: the reason may lie on the client's side."""
        if not self.is_over(case):
            return None
        return _in_doubt(AddressUnanswered(self._evidence.targets[case.session]))


def _in_doubt(*doubts: Reason) -> OutageClass | None:
    """Return the class `unknown` for these reasons; None where there are none."""
    return (Judgement.UNKNOWN, None, doubts) if doubts else None


def _life_unknown(case: PendingOutage) -> Reason:
    """Return why nothing follows for a session whose pod was neither seen to live for long enough nor to be silent."""
    pod = case.old.pod if case.old is not None else None
    return PodLifeUnknown(pod, answered=case.alive_ns is not None)
