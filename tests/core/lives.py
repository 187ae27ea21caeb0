"""Random lives of pods, nodes and flows, with the truth of each silence: what no client knows.

Flows go through an ingress node to a pod, as conntrack entries do. A pod may hang, may be deleted gracefully (its endpoint
terminates, then leaves; proxies move its flows within seconds, or never: the real fault), may die with its node (the API
calls it NotReady after a while, and its endpoints stop serving). A pod may be frozen and thawed (the cgroup freezer, a
virtual machine in live migration): the kernel keeps what came meanwhile, and the answers come late, within 2 s but one
session after the other, for each has a socket of its own at the client. A flow's entry may lead nowhere though its pod
lives: the other real fault. The API's news are late by a delay, and lists are made each 5 s (see histories.py for
crueller APIs).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
    Case,
    CaseJudged,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    Judgement,
    NodeAddresses,
    OutageCase,
    OutageStarted,
    PoolConfirmed,
    PoolObserved,
    RunEnded,
    RunStarted,
    SendingStopped,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.core.session.outages import OutageDetector
from affinity_tester.core.session.tracker import SessionTracker
from pools import ComparingAnalysis, is_judged

MS = 1_000_000
S = 1_000 * MS
STEP = 250 * MS
SETTLE = 4 * S
CHECK = 12 * S
END = 80 * S
TARGET = TransportAddress("203.0.113.7", 3478)


@dataclass(slots=True)
class Pod:
    name: str
    node: str
    died: int | None = None
    """When its process answered last."""
    stopped: int | None = None
    """When its endpoint truly stopped serving, or left."""
    frozen: tuple[int, int] = (0, 0)
    """From when to when it stood still."""

    def is_frozen(self, at: int) -> bool:
        return self.frozen[0] <= at < self.frozen[1]

    def is_dead(self, at: int) -> bool:
        return self.died is not None and self.died <= at


@dataclass(slots=True)
class Flow:
    pod: Pod
    ingress: int
    port: int
    broken: int | None = None
    """When its entry was broken while its pod lived."""


@dataclass
class Life:
    """One run, played on construction."""

    seed: int
    watched: bool = True
    local: bool = False
    faults: tuple[str, ...] = ()
    sessions: int = 12
    told: list[CaseJudged] = field(default_factory=list)
    outages: list[OutageStarted] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.delay = rng.choice([50 * MS, 500 * MS, 2 * S])
        nodes = rng.choice([3, 4])
        self.pods = [Pod(f"p{n}", f"n{n % nodes + 1}") for n in range(rng.choice([3, 4, 6]))]
        self.flows = [self._flow(session) for session in range(self.sessions)]
        self.homes = [(flow.pod, flow.ingress) for flow in self.flows]
        self.nodes = nodes
        self.dead_nodes: dict[int, int] = {}
        self.changes: list[int] = []
        """When the pool truly changed."""
        self.endpoints = {
            pod.name: Endpoint(f"uid-{pod.name}", pod.name, f"10.1.0.{pod.name[1:]}", pod.node) for pod in self.pods
        }
        self.agenda: list[tuple[int, int, object]] = []
        self.news: list[tuple[int, Event]] = []
        self.now = 0
        self.asked = 0
        self.analysis = ComparingAnalysis(Rules(settle_ns=SETTLE, balancer_check_ns=CHECK))
        self._play()

    # --- the world -----------------------------------------------------------------------------------------------------

    def _flow(self, session: int, pods: list[Pod] | None = None) -> Flow:
        rng = self.rng
        return Flow(rng.choice(pods or self.pods), session % 3, rng.randrange(1024, 65536))

    def _serving(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.stopped is None]

    def _move(self, session: int) -> None:
        """The session's flow begins anew at a pod of the pool."""
        candidates = self._serving()
        if candidates:
            self.flows[session] = self._flow(session, candidates)

    def _do(self, at: int, fault: str) -> None:
        rng = self.rng
        alive = [p for p in self._serving() if p.died is None and not self.endpoints[p.name].terminating]
        if fault == "break" and alive:
            pod = rng.choice(alive)
            mine = [n for n, flow in enumerate(self.flows) if flow.pod is pod]
            for session in mine[: max(1, len(mine) // 2)]:
                self.flows[session].broken = at
        elif fault == "hang" and len(alive) > 1:
            rng.choice(alive).died = at
        elif fault == "freeze":
            rng.choice(alive).frozen = (at, at + rng.randrange(5 * S, 20 * S))
        elif fault in {"delete", "stale"} and len(alive) > 1:
            pod = rng.choice(alive)
            linger = rng.randrange(0, 20 * S)
            self._endpoint(pod, ready=False, terminating=True)
            self._later(linger - rng.randrange(0, min(linger, S) + 1), ("die", pod))
            self._later(linger, ("leave", pod, fault == "delete"))
        elif fault == "node" and len(alive) > 1:
            node = rng.choice([pod.node for pod in alive])
            if sum(pod.node != node for pod in alive) == 0:
                return
            self.dead_nodes[int(node[1:]) - 1] = at
            for pod in self.pods:
                if pod.node == node and pod.died is None:
                    pod.died = at
            self._later(rng.randrange(5 * S, 30 * S), ("notready", node))
        elif fault == "join":
            pod = Pod(f"p{len(self.pods)}", "n1")
            self.pods.append(pod)
            self.endpoints[pod.name] = Endpoint(f"uid-{pod.name}", pod.name, f"10.1.0.{pod.name[1:]}", pod.node)
            self._changed()

    def _later(self, after: int, what: object) -> None:
        self.agenda.append((self.now + after, len(self.agenda), what))

    def _endpoint(self, pod: Pod, **conditions: bool) -> None:
        self.endpoints[pod.name] = replace(self.endpoints[pod.name], **conditions)  # type: ignore[arg-type]
        if conditions.get("serving") is False:
            pod.stopped = self.now
        self._changed()

    def _changed(self) -> None:
        self.changes.append(self.now)
        snapshot = PoolSnapshot(frozenset(self.endpoints.values()), self._spec())
        heard = max(self.now + self.rng.randrange(self.delay), self.news[-1][0] if self.news else 0)
        if self.watched:
            self.news.append((heard, PoolObserved(heard, min(self.asked, self.now - 1), heard, snapshot)))

    def _spec(self) -> tuple[tuple[str, str], ...]:
        return (("externalTrafficPolicy", "Local" if self.local else "Cluster"), ("sessionAffinity", "None"))

    def _act(self, what: tuple[object, ...]) -> None:
        match what:
            case ("die", Pod() as pod):
                pod.died = pod.died or self.now
            case ("leave", Pod() as pod, bool() as moves):
                pod.died = pod.died or self.now
                pod.stopped = pod.stopped or self.now
                del self.endpoints[pod.name]
                self._changed()
                for session, flow in enumerate(self.flows):
                    if flow.pod is pod and moves:
                        self._later(self.rng.randrange(0, SETTLE - S), ("move", session))
            case ("move", int() as session):
                self._move(session)
            case ("notready", str() as node):
                if self.watched:
                    heard = max(self.now + self.rng.randrange(self.delay), self.news[-1][0] if self.news else 0)
                    self.news.append((heard, ClusterEvent(heard, ClusterSubject.NODE, node, ClusterAction.NOT_READY)))
                for pod in self.pods:
                    if pod.node == node and pod.stopped is None and pod.name in self.endpoints:
                        self._endpoint(pod, ready=False, serving=False)
                        for session, flow in enumerate(self.flows):
                            if flow.pod is pod:
                                self._later(self.rng.randrange(0, SETTLE - S), ("move", session))

    def _answer(self, flow: Flow) -> Identity | None:
        if flow.broken is not None or flow.pod.is_dead(self.now) or flow.pod.is_frozen(self.now):
            return None
        return self._seen_by(flow)

    @staticmethod
    def _seen_by(flow: Flow) -> Identity:
        seen = TransportAddress(f"10.0.0.{flow.ingress + 1}", flow.port)
        return Identity(seen, flow.pod.name, flow.pod.node, flow.pod.name.encode())

    # --- the run -------------------------------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        if isinstance(event, OutageStarted):
            self.outages.append(event)
        for told in self.analysis.feed(event):
            self._keep(told)

    def _keep(self, event: Event) -> None:
        if is_judged(event, OutageCase):
            self.told.append(event)
            self.check(event)

    def _play(self) -> None:
        rng = self.rng
        self._emit(
            RunStarted(
                0, 0, 0, "0", TARGET, "x", self.sessions, 500 * MS, 2 * S, 288, connected=False, lost_guarantees=()
            )
        )
        if self.watched:
            self._emit(NodeAddresses(0, tuple((f"10.0.0.{n}", f"n{n}") for n in range(1, self.nodes + 1))))
            self._emit(PoolObserved(0, 0, 0, PoolSnapshot(frozenset(self.endpoints.values()), self._spec()), 0))
        for fault in self.faults:
            self._later(rng.randrange(8 * S, 50 * S), ("fault", fault))
        trackers = [SessionTracker(f"CLIENT-{n}", 2 * S, self._emit) for n in range(self.sessions)]
        detector = OutageDetector(500 * MS, 2 * S, self._emit)
        answered: list[tuple[int, int]] = []
        unheard: list[CanaryResult] = []
        unanswered: list[int] = []
        waiting: list[list[tuple[int, Identity]]] = [[] for _ in trackers]
        canary_at, canaries, list_heard = -2 * S, 0, 0
        for self.now in range(0, END, STEP):
            while due := [entry for entry in self.agenda if entry[0] <= self.now]:
                entry = min(due)
                self.agenda.remove(entry)
                what = entry[2]
                assert isinstance(what, tuple)
                if what[0] == "fault":
                    self._do(self.now, what[1])
                else:
                    self._act(what)
            while self.news and self.news[0][0] <= self.now:
                self._emit(self.news.pop(0)[1])
            if self.watched and self.now - list_heard >= 5 * S and not self.news:
                list_heard = self.now
                self.asked = self.now
                self._emit(PoolConfirmed(self.now, self.now))
            for number, tracker in enumerate(trackers):
                tracker.expire(self.now)
                flow = self.flows[number]
                if flow.pod.is_dead(flow.pod.frozen[1]):
                    waiting[number].clear()  # it died before it was thawed
                last = self.now >= flow.pod.frozen[1] + S
                if waiting[number] and not flow.pod.is_frozen(self.now) and (last or rng.random() < 0.7):
                    come = len(waiting[number]) if last else rng.randrange(1, len(waiting[number]) + 1)
                    for seq, who in waiting[number][:come]:
                        tracker.replied(seq, who, None, self.now)
                    del waiting[number][:come]
                if (self.now // STEP + number) % 2 == 0:
                    seq = tracker.sent(self.now)
                    answer = self._answer(flow)
                    if flow.pod.is_frozen(self.now):
                        waiting[number].append((seq, self._seen_by(flow)))
                    elif answer is not None and waiting[number]:
                        waiting[number].append((seq, answer))
                    elif answer is not None:
                        tracker.replied(seq, answer, None, self.now + MS)
            silent = [n for n, t in enumerate(trackers) if (u := t.unanswered()) and self.now - u[1] >= 2 * S]
            if silent and self.now - canary_at >= 2 * S and canaries < 40:
                canary_at, canaries = self.now, canaries + 1
                who = self._answer(self._flow(rng.randrange(3), self._serving()))
                if who is None:
                    unheard.append(CanaryResult(self.now + 2 * S, f"CLIENT-{silent[0]}", self.now, None))
                else:
                    self._emit(CanaryResult(self.now, f"CLIENT-{silent[0]}", self.now, who))
                    answered.append((self.now, self.now))
            while unheard and unheard[0].at_ns <= self.now:
                self._emit(unheard[0])
                unanswered.append(unheard.pop(0).sent_ns)
            detector.sweep(self.now + 2 * MS, trackers, trackers, canaries=answered, unanswered_canaries=unanswered)
            for told in self.analysis.advance(self.now):
                self._keep(told)
        self._emit(SendingStopped(END, interrupted=False))
        if self.watched:
            self._emit(PoolConfirmed(END + SETTLE + S, END + SETTLE + S - 1))
        self._emit(RunEnded(END + 2 * SETTLE, aborted=False))

    # --- the truth -----------------------------------------------------------------------------------------------------

    def pod_of(self, event: CaseJudged) -> Pod | None:
        """Who had answered the session last."""
        outage = self.outage_of(event)
        return None if outage.last is None else next(p for p in self.pods if p.name == outage.last.identity.pod)

    def outage_of(self, event: CaseJudged) -> OutageStarted:
        def names(outage: OutageStarted) -> tuple[str, Case]:
            return outage.session, OutageCase(outage.since_seq, outage.since_ns)

        return next(outage for outage in self.outages if names(outage) == (event.session, event.case))

    def check(self, event: CaseJudged) -> None:
        """A violation must be one, by the truth."""
        if event.judgement is not Judgement.VIOLATION:
            return
        outage, pod = self.outage_of(event), self.pod_of(event)
        assert pod is not None, self.seed
        now = min(event.at_ns, END)
        assert not pod.is_frozen(outage.since_ns), (self.seed, "the pod was frozen", event)
        f, sent = outage.since_ns, outage.last.sent_ns if outage.last is not None else outage.since_ns
        excusing = [at for at in self.changes if sent - SETTLE <= at <= f + SETTLE]
        if pod.stopped is not None and pod.stopped < now:
            excusing.append(pod.stopped)
        if self.watched:
            assert not excusing or now > max(excusing) + SETTLE, (self.seed, "a pool change excuses it", event)
            if pod.stopped is None or pod.stopped >= now:
                assert pod.died is None or pod.died > f, (self.seed, "the pod is dead", event)
        else:
            assert pod.died is None or pod.died > f, (self.seed, "the pod is dead", event)
