"""A small world of flows, nodes and pods, whose sessions' trackers tell what a client would see; faults are deeds at a time.

Everything goes through the real trackers, outage watch and analysis, so an incident here is one as a run would make it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.analysis import Rules
from affinity_tester.core.events import (
    CanaryResult,
    Certainty,
    ClientFault,
    ClientFaultKind,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Counts,
    Diagnosis,
    Event,
    Incident,
    IncidentClosed,
    Losses,
    NetworkError,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    RttStats,
    RunDiagnosed,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    Verdict,
    WrongSource,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.outages import OutageDetector
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.core.tracker import SessionTracker
from pools import ComparingAnalysis

MS = 1_000_000
S = 1_000 * MS
CLIENT = "192.168.0.9"
TARGET = TransportAddress("203.0.113.7", 3478)
RTT = 1 * MS

Deed = Callable[["World"], None]


@dataclass
class World:
    """Sessions 0..n-1 go through nodes n1.. to pods p1..; a deed changes that."""

    sessions: int = 12
    nodes: int = 3
    pods: int = 3
    interval: int = 100 * MS
    seconds: float = 8.0
    local: bool = False
    """Policy Local: pods see the client's own address, and run on the node that the flow came in through."""
    affinity: str = "None"
    watched: bool = False
    sizes: tuple[int, ...] = ()
    connected: bool = False
    settle: int = 2 * S
    window: int = 30 * S
    canaries: bool = True
    targets: dict[int, TransportAddress] = field(default_factory=dict)
    """Where sessions' probes go; empty: all to one address."""
    deeds: list[tuple[float, Deed]] = field(default_factory=list)
    up: Callable[[World, int, int], bool] = lambda _world, _session, _seq: False
    """Whether this probe is lost on its way to the pod."""
    way: Callable[[World, int, int], Identity | None] = lambda world, session, _seq: world.flows[session]
    """Who answers a probe of this session and number; None: nobody."""

    def __post_init__(self) -> None:
        self.now = 0
        self.rng = random.Random(7)
        self.dead: set[int] = set()
        """Sessions whose probes are lost on the way to the pod."""
        self.mute: set[int] = set()
        """Sessions whose replies are lost."""
        self.quiet: set[int] = set()
        """Sessions that send nothing."""
        self.gone_pods: set[str] = set()
        self.endpoints = {f"p{n}": self.endpoint(f"p{n}") for n in range(1, self.pods + 1)}
        self.flows = {session: self.fresh(session, self.node_of(session)) for session in range(self.sessions)}
        self.events: list[Event] = []
        self.analysis = ComparingAnalysis(Rules(settle_ns=self.settle, affinity_window_ns=self.window))
        self.counted: Counter[tuple[int, Identity]] = Counter()
        self.canary_ns = -2 * S
        self.answered_canaries: list[tuple[int, int]] = []
        self.unanswered_canaries: list[int] = []

    # --- the world's ways --------------------------------------------------------------------------------------------

    def node_of(self, session: int) -> int:
        return session % self.nodes + 1

    def node_name(self, pod: str) -> str:
        return f"n{(int(pod[1:]) - 1) % self.nodes + 1}"

    def endpoint(self, pod: str) -> Endpoint:
        return Endpoint(f"uid-{pod}", pod, f"10.1.0.{pod[1:]}", self.node_name(pod))

    def local_port(self, session: int) -> int:
        return 50_000 + session

    def fresh(self, session: int, node: int, pod: str | None = None) -> Identity:
        """The flow of this session begins anew at this node."""
        names = [name for name in self.endpoints if not self.local or self.node_name(name) == f"n{node}"]
        pod = pod or self.rng.choice(names or list(self.endpoints))
        own = TransportAddress(CLIENT, self.local_port(session))
        seen = own if self.local else TransportAddress(f"10.0.0.{node}", self.rng.randrange(1024, 65536))
        return Identity(seen, pod, self.node_name(pod), pod.encode().ljust(8))

    def name(self, session: int) -> str:
        return f"CLIENT-{session}"

    def on(self, **what: str) -> list[int]:
        """The sessions at a pod, or an ingress IP."""
        ip, pod = what.get("ip"), what.get("pod")
        return [
            s
            for s, who in self.flows.items()
            if (pod is None or who.pod == pod)
            and (ip is None or (who.reflexive is not None and who.reflexive.ip == ip))
        ]

    def move(self, sessions: Iterable[int], node: int | None = None, pod: str | None = None) -> None:
        """Their flows begin anew, at their own or another node."""
        for session in sessions:
            reflexive = self.flows[session].reflexive
            assert reflexive is not None
            home = node or (int(reflexive.ip.rpartition(".")[2]) if not self.local else self.node_of(session))
            self.flows[session] = self.fresh(session, home, pod)

    def port(self, session: int, port: int | None = None, ip: str | None = None) -> None:
        """The flow has another source address."""
        who = self.flows[session]
        assert who.reflexive is not None
        seen = TransportAddress(ip or who.reflexive.ip, port or self.rng.randrange(1024, 65536))
        self.flows[session] = who._replace(reflexive=seen)

    def tell(self, subject: ClusterSubject, name: str, action: ClusterAction, **facts: Any) -> None:
        self.emit(ClusterEvent(self.now, subject, name, action, **facts))

    def pool(self, pod: str | None = None, **conditions: bool) -> None:
        """Change a pod's conditions, or without any remove it; tell the pool."""
        if pod is not None and conditions:
            self.endpoints[pod] = replace(self.endpoints[pod], **conditions)  # type: ignore[arg-type]
        elif pod is not None:
            del self.endpoints[pod]
        self.look()

    def look(self) -> None:
        spec = (("externalTrafficPolicy", "Local" if self.local else "Cluster"), ("sessionAffinity", self.affinity))
        snapshot = PoolSnapshot(frozenset(self.endpoints.values()), spec)
        self.emit(PoolObserved(self.now, self.now, self.now, snapshot, self.now))

    def blind(self) -> None:
        self.watched = False
        self.emit(PoolUnobserved(self.now, self.now, "the API server does not answer"))

    def fault(self, session: int, fault: ClientFaultKind, detail: str = "") -> None:
        self.emit(ClientFault(self.now, self.name(session), fault, detail))

    def icmp(self, session: int, error: str, offender: str | None = None) -> None:
        self.emit(NetworkError(self.now, self.name(session), None, error, offender))

    def astray(self, session: int) -> None:
        """Replies come from the raw pod IP."""
        self.emit(
            WrongSource(
                self.now,
                self.name(session),
                TransportAddress("10.1.0.1", 3478),
                TARGET,
                self.trackers[session].sent_count,
                self.now,
                self.flows[session],
            )
        )
        self.mute.add(session)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.events += self.analysis.feed(event)

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> World:
        size = self.sizes[0] if self.sizes else 288
        self.emit(
            RunStarted(
                0, 0, 0, "0", TARGET, "x", self.sessions, self.interval, 2 * S, size, self.connected, (), self.sizes
            )
        )
        for session in range(self.sessions):
            local = TransportAddress(CLIENT, self.local_port(session))
            self.emit(SessionStarted(0, self.name(session), local, self.targets.get(session)))
        if self.watched:
            self.emit(NodeAddresses(0, tuple((f"10.0.0.{n}", f"n{n}") for n in range(1, self.nodes + 1))))
            self.look()
        self.trackers = [SessionTracker(self.name(n), 2 * S, self.emit) for n in range(self.sessions)]
        end = round(self.seconds * S)
        slots = [
            (slot * self.interval + self.interval * session // self.sessions, "send", session)
            for slot in range(end // self.interval)
            for session in range(self.sessions)
        ]
        slots += [(at, "sweep", 0) for at in range(0, end, 250 * MS)]
        slots += [(round(at * S), "deed", number) for number, (at, _) in enumerate(self.deeds)]
        outages = OutageDetector(self.interval, 2 * S, self.emit)
        for at, what, index in sorted(slots):
            self.now = at
            if what == "deed":
                self.deeds[index][1](self)
            elif what == "send":
                self.send(index)
            else:
                self.sweep(outages)
        self.now = end
        self.emit(SendingStopped(end, interrupted=False))
        for self.now in range(end, end + 2_500 * MS, 250 * MS):
            self.sweep(outages)
        total = Counts()
        for tracker in self.trackers:
            total += Counts(sent=tracker.sent_count, answered=tracker.answered, lost=tracker.lost, pairs=tracker.pairs)
        total = replace(total, **self.own_counts)
        self.emit(RunSummary(self.now, end, total, Losses(), RttStats(), (), 0))
        self.now += self.settle
        if self.watched:
            self.emit(PoolConfirmed(self.now, self.now))
        self.emit(RunEnded(self.now, aborted=False))
        return self

    own_counts: dict[str, int] = field(default_factory=dict)

    def send(self, session: int) -> None:
        if session in self.quiet:
            return
        tracker = self.trackers[session]
        seq = tracker.sent(self.now)
        who = self.way(self, session, seq)
        if who is None or session in self.dead or who.pod in self.gone_pods or self.up(self, session, seq):
            return
        self.counted[session, who] += 1
        if session not in self.mute:
            tracker.replied(seq, who, self.counted[session, who], self.now + RTT)

    def sweep(self, outages: OutageDetector) -> None:
        for tracker in self.trackers:
            tracker.expire(self.now)
        self.send_canary()
        outages.sweep(
            self.now,
            self.trackers,
            self.trackers,
            canaries=self.answered_canaries,
            unanswered_canaries=self.unanswered_canaries,
        )
        if self.watched:
            self.emit(PoolConfirmed(self.now, self.now))
        self.events += self.analysis.advance(self.now)

    def send_canary(self) -> None:
        """One each 2 s while a session is silent; one that is lost is known for it 2 s later."""
        silent = [s for s, t in enumerate(self.trackers) if (u := t.unanswered()) and self.now - u[1] >= 2 * S]
        if not self.canaries or not silent or self.now - self.canary_ns < 2 * S:
            return
        self.canary_ns = self.now
        who = self.canary()
        self.emit(CanaryResult(self.now, self.name(silent[0]), self.now, who))
        if who is None:
            self.unanswered_canaries.append(self.now)
        else:
            self.answered_canaries.append((self.now, self.now))

    def canary(self) -> Identity | None:
        """Who answers a fresh source port: one of the flows that live, in turn."""
        alive = [s for s in self.flows if s not in self.dead | self.mute and self.flows[s].pod not in self.gone_pods]
        turn = len(self.answered_canaries)
        return self.flows[alive[turn % len(alive)]] if alive else None

    # --- what came of it ---------------------------------------------------------------------------------------------

    @property
    def incidents(self) -> list[Incident]:
        return [event.incident for event in self.events if isinstance(event, IncidentClosed)]

    @property
    def whole(self) -> tuple[Diagnosis, ...]:
        """Of the run."""
        return next((event.diagnoses for event in self.events if isinstance(event, RunDiagnosed)), ())

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """Of all incidents, and of the run."""
        return [d for incident in self.incidents for d in incident.diagnoses] + list(self.whole)

    @property
    def named(self) -> list[tuple[str, Certainty]]:
        """Names and certainties, each once."""
        return list(dict.fromkeys((d.name, d.certainty) for d in self.diagnoses))

    @property
    def verdict(self) -> Verdict:
        return next(event for event in self.events if isinstance(event, Verdict))
