"""Random experiments with their truth: which sessions had to move, which moved needlessly, and which were left behind.

Flows go through an ingress node to a pod. The action takes pods or nodes away as a cluster does: an endpoint terminates and
serves on, its container ends, the endpoint leaves, and proxies move its flows soon after. The watch hears of it late. Replies
are lost and reordered, and the tracker, the outage detector and the judges make of it what they make of a real run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    ActionRemoved,
    CanaryResult,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    ExperimentStarted,
    NodeAddresses,
    Phase,
    PhaseStarted,
    PoolConfirmed,
    PoolObserved,
    PoolWatchStarted,
    RunEnded,
    RunStarted,
    SendingStopped,
    SessionStarted,
    SessionSummary,
)
from affinity_tester.core.events.counts import Counts, Losses, RttStats
from affinity_tester.core.experiment.analysis import ExperimentAnalysis
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import CellOutcome
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot, differences
from affinity_tester.core.session.outages import OutageDetector
from affinity_tester.core.session.tracker import SessionTracker

MS = 1_000_000
S = 1_000 * MS
STEP = 250 * MS
INTERVAL = 500 * MS
SETTLE = 4 * S
CHECK = 6 * S
STEADY = 5 * S
ACTION, RECOVERY, ROLLBACK, JUDGEMENT, END = 8 * S, 9 * S, 30 * S, 42 * S, 56 * S
TARGET = TransportAddress("203.0.113.7", 3478)
LOCAL = "192.168.1.5"
PUBLIC = "198.51.100.1"


@dataclass(slots=True, eq=False)
class Pod:
    name: str
    node: str
    dead: bool = False

    @property
    def uid(self) -> str:
        return f"uid-{self.name}"


@dataclass(slots=True)
class Flow:
    pod: Pod
    ingress: str
    seen: TransportAddress
    """What the pod sees: the ingress node's address, or under policy Local the client's."""
    stuck: bool = False


@dataclass
class World:
    """One experiment, played on construction."""

    seed: int
    name: str = "baseline"
    policy: str = "Cluster"
    via: str = "load-balancer"
    rogue: int = 0
    """Sessions that move though nothing was taken from them."""
    stuck: bool = False
    """The flows of a pod that went away are not moved."""
    another: bool = False
    """A pod leaves by another cause."""
    early: bool = False
    """Proxies move flows away from a pod that serves and is not ready."""
    nat: bool = False
    """The client's NAT maps all flows anew."""
    sessions: int = 12
    loss: float = 0.01
    watched: bool = True
    trackers: list[SessionTracker] = field(default_factory=list)

    taken_pods: set[str] = field(default_factory=set)
    """Pods that the action or its undoing took away."""
    taken_nodes: set[str] = field(default_factory=set)
    moved_needlessly: set[str] = field(default_factory=set)
    left_behind: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.nodes = [f"n{number}" for number in range(1, 5)]
        self.pods = [Pod(f"p{number}", self.nodes[number % 3]) for number in range(6)]
        self.endpoints = {pod.name: self._endpoint(pod) for pod in self.pods}
        self.mapped = [TransportAddress(PUBLIC, 20_000 + number) for number in range(self.sessions)]
        """What the client's NAT makes of each session's address, as policy Local shows it."""
        self.flows = [self._flow(number) for number in range(self.sessions)]
        self.homes: list[tuple[str, str]] = []
        self.leaving: set[str] = set()
        """Pods that go away at some time."""
        self.going: set[str] = set()
        """Nodes that do, or that a balancer leaves out."""
        self.now = self.asked = self.order = 0
        self.agenda: list[tuple[int, int, Callable[[], None]]] = []
        self.news: list[Event] = []
        self.newest: PoolSnapshot | None = None
        self.heard = 0
        self.judges = RunAnalysis(Rules(settle_ns=SETTLE, balancer_check_ns=CHECK))
        self.analysis = ExperimentAnalysis(EXPERIMENTS[self.name], STEADY)
        self.events: list[Event] = []
        self.delay = rng.choice([50 * MS, 300 * MS, S])
        self.not_steady = ""
        self._play()
        self.outcome: CellOutcome = self.analysis.outcome()

    @property
    def had_to(self) -> set[str]:
        """The sessions whose pod or ingress node the action took away, by where they were when it began."""
        return {
            self.name_of(number)
            for number, (pod, ingress) in enumerate(self.homes)
            if pod in self.taken_pods or ingress in self.taken_nodes
        }

    # --- the cluster ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _endpoint(pod: Pod) -> Endpoint:
        return Endpoint(pod.uid, pod.name, f"10.1.0.{pod.name[1:]}", pod.node)

    def _ready(self) -> list[Pod]:
        return [
            pod
            for pod in self.pods
            if not pod.dead and self.endpoints.get(pod.name, self._endpoint(pod)).ready and pod.name in self.endpoints
        ]

    def _flow(self, number: int, besides: Pod | None = None) -> Flow:
        rng = self.rng
        pods = [pod for pod in self._ready() if pod is not besides]
        nodes = self.nodes if self.policy == "Cluster" else sorted({pod.node for pod in pods})
        node = rng.choice(nodes)
        mine = [pod for pod in pods if self.policy == "Cluster" or pod.node == node] or pods
        by_node = TransportAddress(f"10.0.0.{node[1:]}", rng.randrange(1024, 65536))
        return Flow(rng.choice(mine), node, by_node if self.policy == "Cluster" else self.mapped[number])

    def name_of(self, number: int) -> str:
        return f"CLIENT-{number}"

    def at(self, pod: Pod) -> list[int]:
        return [number for number, flow in enumerate(self.flows) if flow.pod is pod]

    def _later(self, at: int, what: Callable[[], None]) -> None:
        self.order += 1
        heappush(self.agenda, (at, self.order, what))

    def _changed(self) -> None:
        self.heard = max(self.heard, self.now + self.rng.randrange(self.delay))
        since = min(self.asked, self.now - 1)
        snapshot = PoolSnapshot(frozenset(self.endpoints.values()), self._spec())
        if self.watched:
            self._tell(PoolObserved(self.heard, since, self.heard, snapshot))

    def _tell(self, event: Event) -> None:
        self.news.append(event)

    def _spec(self) -> tuple[tuple[str, str], ...]:
        return (("externalTrafficPolicy", self.policy), ("sessionAffinity", "None"))

    def _join(self, node: str = "n1") -> None:
        pod = Pod(f"p{len(self.pods)}", node)
        self.pods.append(pod)
        self.endpoints[pod.name] = self._endpoint(pod)
        self._changed()

    def _delete(self, pod: Pod, linger: int, *, counts: bool = True) -> None:
        """Let a pod go; its flows follow. `counts`: the action did it."""
        self.leaving.add(pod.name)
        if linger:
            self.endpoints[pod.name] = replace(self.endpoints[pod.name], ready=False, terminating=True)
            self._changed()
            if self.early and self.name == "not-ready":
                self._later(self.now + S // 2, lambda: self._move_early(pod))
        self._later(self.now + linger, lambda: self._leave(pod, counts=counts))

    def _leave(self, pod: Pod, *, counts: bool) -> None:
        pod.dead = True
        self.endpoints.pop(pod.name, None)
        self._changed()
        if counts:
            self.taken_pods.add(pod.name)
        if self.stuck and counts:
            for number in self.at(pod):
                self.flows[number].stuck = True
                self.left_behind.add(self.name_of(number))
            return
        for number in self.at(pod):
            self._move_soon(number)

    def _move_early(self, pod: Pod) -> None:
        for number in self.at(pod):
            self._move(number)
            self.moved_needlessly.add(self.name_of(number))

    def _move_soon(self, number: int) -> None:
        """Let a flow begin anew, unless it has done so by then."""
        flow = self.flows[number]
        at = self.now + self.rng.randrange(2 * S)
        self._later(at, lambda: self._move(number) if self.flows[number] is flow else None)

    def _move(self, number: int) -> None:
        if not self.flows[number].stuck:
            self.flows[number] = self._flow(number, self.flows[number].pod)

    # --- what is done --------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        rng, now = self.rng, self.now
        pod = rng.choice(self.pods)
        match self.name:
            case "pod-delete" | "pod-kill" | "not-ready":
                self._tell_now(ActionRemoved(now, (pod.uid,)))
                linger = (
                    0 if self.name == "pod-kill" else 8 * S if self.name == "not-ready" else rng.randrange(S, 8 * S)
                )
                self._delete(pod, linger)
                self._later(now + S, self._join)
            case "scale-up":
                self._join()
                added = self.pods[-1] if rng.random() < 0.7 else pod
                self.leaving.add(added.name)
                self._later(ROLLBACK + S, lambda: self._delete(added, S))
            case "scale-down":
                self._delete(pod, rng.randrange(S, 4 * S))
                self._later(ROLLBACK + S, self._join)
            case "rollout":
                self.leaving |= {each.name for each in self.pods}
                for number, each in enumerate(list(self.pods)):
                    self._later(now + number * 2 * S, lambda each=each: self._join(each.node))
                    self._later(now + number * 2 * S + S, lambda each=each: self._delete(each, S))
            case "policy-flip":
                self.going |= {"n4"} if self.via == "load-balancer" else set()
                self._flip()
                self._later(ROLLBACK + S, self._flip)
            case "command":
                self.going.add("n4")
                self._delete(pod, S)
                self._later(now + 3 * S, lambda: self._remove_node("n4"))
        if self.another:
            others = [each for each in self.pods if each.name not in self.leaving]
            unnamed = self.name in {"scale-down", "rollout", "command"}  # the watch cannot tell these from the action's
            if others:
                other = rng.choice(others)
                self.leaving.add(other.name)
                self._later(rng.randrange(now + S, ROLLBACK - S), lambda: self._delete(other, 0, counts=unnamed))
        for _ in range(self.rogue):
            self._later(rng.randrange(now + S, JUDGEMENT - 3 * S), self._go_rogue)
        if self.nat:
            self._later(rng.randrange(now + 3 * S, ROLLBACK - S), self._remap)

    def _flip(self) -> None:
        self.policy = "Local" if self.policy == "Cluster" else "Cluster"
        self._changed()
        if self.policy == "Local" and self.via == "load-balancer":
            ready = {pod.node for pod in self._ready()}
            self.taken_nodes |= set(self.nodes) - ready
            for number, flow in enumerate(self.flows):
                if flow.ingress not in ready:
                    self._move_soon(number)

    def _remove_node(self, node: str) -> None:
        self.nodes.remove(node)
        self.taken_nodes.add(node)
        self._tell(ClusterEvent(max(self.heard, self.now), ClusterSubject.NODE, node, ClusterAction.REMOVED))
        for number, flow in enumerate(self.flows):
            if flow.ingress == node:
                self._move_soon(number)

    def _go_rogue(self) -> None:
        steady = [
            n
            for n, flow in enumerate(self.flows)
            if flow.pod.name not in self.leaving
            and flow.ingress not in self.going
            and not flow.stuck
            and self.name_of(n) not in self.moved_needlessly
        ]
        if steady:
            number = self.rng.choice(steady)
            self.moved_needlessly.add(self.name_of(number))
            self._move(number)

    def _remap(self) -> None:
        for number, flow in enumerate(self.flows):
            self.mapped[number] = TransportAddress(PUBLIC, 30_000 + number)
            if not flow.stuck and not flow.pod.dead:
                self._move(number)

    # --- the client ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _seen_by(flow: Flow) -> Identity:
        return Identity(flow.seen, flow.pod.name, flow.pod.node, flow.pod.name.encode())

    def _answer(self, flow: Flow) -> Identity | None:
        return None if flow.stuck or flow.pod.dead else self._seen_by(flow)

    def _tell_now(self, event: Event) -> None:
        if isinstance(event, PoolObserved):
            changes = () if self.newest is None else differences(self.newest, event.snapshot)
            event, self.newest = replace(event, changes=changes), event.snapshot
        self.events.append(event)
        self.analysis.feed(event)
        for told in self.judges.feed(event):
            self.events.append(told)
            self.analysis.feed(told)

    def _advance(self) -> None:
        for told in self.judges.advance(self.now):
            self.events.append(told)
            self.analysis.feed(told)

    def _begin(self) -> None:
        rules = Rules(settle_ns=SETTLE, balancer_check_ns=CHECK)
        self._tell_now(
            RunStarted(0, 0, 0, "0", TARGET, "x", self.sessions, INTERVAL, 2 * S, 288, False, (), rules=rules)
        )
        self._tell_now(ExperimentStarted(0, self.name, "ns/affinity", self.policy, "None", STEADY))
        if self.watched:
            self._tell_now(PoolWatchStarted(0, "lab", "ns/affinity", self.via))
            self._tell_now(NodeAddresses(0, tuple((f"10.0.0.{node[1:]}", node) for node in self.nodes)))
            self._tell_now(PoolObserved(0, 0, 0, PoolSnapshot(frozenset(self.endpoints.values()), self._spec()), 0))
        for number in range(self.sessions):
            self._tell_now(SessionStarted(0, self.name_of(number), TransportAddress(LOCAL, 40_000 + number)))
        self._tell_now(PhaseStarted(0, Phase.STEADY, 0))
        self._later(ACTION, lambda: self._phase(Phase.ACTION))
        self._later(ACTION, self._act)
        self._later(RECOVERY, lambda: self._phase(Phase.RECOVERY))
        self._later(ROLLBACK, lambda: self._phase(Phase.ROLLBACK))
        self._later(JUDGEMENT, lambda: self._phase(Phase.JUDGEMENT))

    def _phase(self, phase: Phase) -> None:
        if phase is Phase.ACTION:
            self.homes = [(flow.pod.name, flow.ingress) for flow in self.flows]
            self.not_steady = self.analysis.steady_reason(self.now)
        self._tell_now(PhaseStarted(self.now, phase, sum(tracker.sent_count for tracker in self.trackers)))

    def _play(self) -> None:
        rng = self.rng
        self._begin()
        self.trackers = [SessionTracker(self.name_of(n), 2 * S, self._tell_now) for n in range(self.sessions)]
        detector = OutageDetector(INTERVAL, 2 * S, self._tell_now)
        answered: list[tuple[int, int]] = []
        replies: list[tuple[int, int, int, Identity]] = []
        canary_ns = -2 * S
        for self.now in range(0, END, STEP):
            while self.agenda and self.agenda[0][0] <= self.now:
                heappop(self.agenda)[2]()
            while self.news and self.news[0].at_ns <= self.now:
                self._tell_now(self.news.pop(0))
            if self.watched and self.now % (2 * S) == 0 and not self.news:
                self.asked = self.now
                self._tell_now(PoolConfirmed(self.now, self.now))
            while replies and replies[0][0] <= self.now:
                at, number, seq, who = heappop(replies)
                self.trackers[number].replied(seq, who, None, at)
            for number, tracker in enumerate(self.trackers):
                tracker.expire(self.now)
                if (self.now // STEP + number) % 2 == 0:
                    seq, who = tracker.sent(self.now), self._answer(self.flows[number])
                    if who is not None and rng.random() >= self.loss:
                        late = rng.choice([MS, MS, MS, 2 * STEP, 5 * STEP]) if rng.random() < 0.1 else MS
                        heappush(replies, (self.now + late, number, seq, who))
            silent = [n for n, t in enumerate(self.trackers) if (u := t.unanswered()) and self.now - u[1] >= 2 * S]
            if silent and self.now - canary_ns >= 2 * S:
                canary_ns = self.now
                self._tell_now(CanaryResult(self.now, self.name_of(silent[0]), self.now, self._seen_by(self._flow(0))))
                answered.append((self.now, self.now))
            detector.sweep(self.now + 2 * MS, self.trackers, self.trackers, canaries=answered)
            self._advance()
        self._end(replies)

    def _end(self, replies: list[tuple[int, int, int, Identity]]) -> None:
        self._tell_now(SendingStopped(END, interrupted=False))
        while replies:
            at, number, seq, who = heappop(replies)
            self.trackers[number].replied(seq, who, None, at)
        self.now = END + 2 * S
        for number, tracker in enumerate(self.trackers):
            tracker.expire(self.now)
            local = TransportAddress(LOCAL, 40_000 + number)
            self._tell_now(
                SessionSummary(
                    self.now,
                    self.name_of(number),
                    local,
                    Counts(),
                    Losses(),
                    RttStats(),
                    (),
                    0,
                    tracker.unanswered_ns,
                    tracker.serving,
                )
            )
        for event in self.news:
            self._tell_now(event)
        if self.watched:
            self._tell_now(PoolConfirmed(END + SETTLE + S, END + SETTLE + S - 1))
        self._tell_now(RunEnded(END + 2 * SETTLE, aborted=False))
