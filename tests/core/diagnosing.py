"""A client's run against the lab's network model, without sockets: what it would see, and what the analysis makes of it.

Everything goes through the real trackers, outage watch and analysis, so an incident here is one as a run would make it.
Faults are actions at a time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from affinity_tester.core.address import TransportAddress
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
    PodAddresses,
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
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.session.canaries import MAX_REPEATS, REPEAT_AFTER_NS, CanaryPlan
from affinity_tester.core.session.outages import OutageDetector
from affinity_tester.core.session.tracker import SessionTracker
from affinity_tester.lab.impairment import Impairment, Impairments
from affinity_tester.lab.injection import FOREVER_NS
from affinity_tester.lab.model import Affinity, Pod, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.packet_log import Direction, PacketEvent
from pools import ComparingAnalysis

MS = 1_000_000
S = 1_000 * MS
CLIENT = "192.168.0.9"
TARGET = TransportAddress("203.0.113.7", 3478)
RTT = 1 * MS
ASSURED_NS = 120 * S
"""nf_conntrack_udp_timeout_stream: how long a node remembers a flow that has seen replies."""

Action = Callable[["World"], object]
"""What happens at a time; what it returns does not matter."""


@dataclass
class World:
    """Sessions 0..n-1 go through nodes n1.. to pods p1..; an action changes that."""

    sessions: int = 12
    nodes: int = 3
    pods: int = 3
    interval: int = 100 * MS
    seconds: float = 8.0
    local: bool = False
    """Policy Local: pods see the client's own address, and run on the node that the flow came in through."""
    affinity: Affinity = Affinity.NONE
    watched: bool = False
    sizes: tuple[int, ...] = ()
    connected: bool = False
    settle: int = 2 * S
    window: int = 30 * S
    canaries: bool = True
    bridges: bool = False
    """Pods of the ingress node see the address of its bridge."""
    proxies: bool = False
    """What stands between balancer and pods are proxies, which run as pods: no node has their addresses."""
    seed: int = 7
    """Decides which pods flows draw, and the ports."""
    targets: dict[int, TransportAddress] = field(default_factory=dict)
    """Where sessions' probes go; empty: all to one address."""
    actions: list[tuple[float, Action]] = field(default_factory=list)
    is_lost: Callable[[World, int, int], bool] = lambda _world, _session, _seq: False
    """True if the probe of this session and number is lost on its way to the node."""
    reply: Callable[[World, int, int, Identity], Identity] = lambda _world, _session, _seq, who: who
    """What the reply to a probe says, where that is not what the network says."""

    def __post_init__(self) -> None:
        self.now = 0
        self.rng = random.Random(self.seed)
        self.packets: list[PacketEvent] = []
        self.impairments = Impairments(self.packets.append)
        self.network = NetworkModel(
            seed=self.seed,
            log=self.packets.append,
            stand_in=False,
            policy=Policy.LOCAL if self.local else Policy.CLUSTER,
            affinity=self.affinity,
            idle_ns=ASSURED_NS,
        )
        for number in range(1, self.nodes + 1):
            self.node(number)
        for number in range(1, self.pods + 1):
            self.add_pod(f"p{number}")
        self.paused: set[int] = set()
        """Sessions that send nothing."""
        self.held: list[tuple[int, int, Identity]] | None = None
        """Replies on their way, by session and probe, where all wait; None: none does."""

        # Each flow has its entry before the run begins, so that what happens at 0 s finds it.
        for session in range(self.sessions):
            self.pin(session, self.node_of(session))
            entry = self.network.forward(self.flow(session), 0)
            if entry is not None:  # a session begins with its first probe
                entry.packets, entry.since_ns = 0, self.interval * session // self.sessions

        self.events: list[Event] = []
        self.analysis = ComparingAnalysis(Rules(settle_ns=self.settle, affinity_window_ns=self.window))
        self.counted: Counter[tuple[int, Identity]] = Counter()
        self.muted: Counter[tuple[TransportAddress, Identity]] = Counter()
        """Probes that arrived, and whose replies were lost between the nodes."""
        self.plan = CanaryPlan(self.interval)
        self.end = round(self.seconds * S)
        self.waiting: list[tuple[int, str, TransportAddress, int]] = []
        """Canaries without an answer so far: when they were sent, about whom, from where, and after what pause."""
        self.held_canaries: list[tuple[int, str, TransportAddress]] = []
        self.answered_canaries: list[tuple[int, int]] = []
        self.unanswered_canaries: list[int] = []

    # --- the network -------------------------------------------------------------------------------------------------

    def node_of(self, session: int) -> int:
        return session % self.nodes + 1

    def ip_of(self, number: int) -> str:
        """Return the address of a node, or of a proxy's pod."""
        return f"10.2.0.{number}" if self.proxies else f"10.0.0.{number}"

    def node(self, number: int) -> str:
        """Return the name of a node, which is there from now on."""
        name = f"n{number}"
        if name not in self.network.nodes:
            bridge = f"10.9.{number}.1" if self.bridges and not self.proxies else ""
            self.network.ingress.add_node(name, self.ip_of(number), bridge_ip=bridge)
        return name

    def add_pod(self, name: str) -> Pod:
        number = int(name[1:])
        address = TransportAddress(f"10.1.0.{number}", 3478)
        node = f"n{(number - 1) % self.nodes + 1}"
        self.network.add_pod(Pod(name=name, node=node, address=address, instance=name.encode().ljust(8)))
        return self.network.pods[name]

    def flow(self, session: int) -> TransportAddress:
        return TransportAddress(CLIENT, 50_000 + session)

    def name(self, session: int) -> str:
        return f"CLIENT-{session}"

    def identity(self, session: int) -> Identity:
        """Return what the reply to the session's newest probe says."""
        identity = self.network.flows[self.flow(session)].identity
        return identity or Identity()

    def on(self, pod: str | None = None, ip: str | None = None) -> list[int]:
        """Return the sessions at a pod, or at an ingress IP."""
        entries = {session: self.network.entry_of(self.flow(session)) for session in range(self.sessions)}
        return [
            session
            for session, entry in entries.items()
            if entry is not None and (pod is None or entry.pod.name == pod) and (ip is None or entry.source.ip == ip)
        ]

    def pin(self, session: int, node: int) -> None:
        """Send the session's packets through this node."""
        self.network.ingress.pinned[self.flow(session)] = self.node(node)

    def move(self, sessions: Iterable[int], node: int | None = None, pod: str | None = None) -> None:
        """Let flows begin anew, at their own or another node, at any pod or at this one."""
        for session in sessions:
            if node is not None:
                self.pin(session, node)
            home = self.network.ingress.node_of(self.flow(session))
            assert home is not None
            self.network.nodes[home].entries.pop(self.flow(session), None)
            if pod is not None:
                self.network.send_to(self.flow(session), self.network.pods[pod], self.now)

    def rewrite(self, *sessions: int, ip: str | None = None) -> None:
        """Give flows another source port, of another address if one is given."""
        for session in sessions:
            entry = self.network.entry_of(self.flow(session))
            if entry is not None:
                self.network.rewrite_source(self.flow(session), ip or entry.source.ip, self.now)

    def source(self, session: int) -> TransportAddress:
        """Return the address at which the pod sees the session."""
        entry = self.network.entry_of(self.flow(session))
        assert entry is not None
        return entry.source

    def block(self, *sessions: int) -> None:
        """Let the sessions' flows lead nowhere; fresh source ports pass."""
        self.network.stuck_flows.update(map(self.flow, sessions))

    def drop(self, direction: Direction, *sessions: int) -> None:
        """Drop all packets of these sessions (none: of everybody, canaries too)."""
        flows = frozenset(map(self.flow, sessions)) or None
        self.impairments.add(Impairment(direction=direction, flows=flows, until_ns=FOREVER_NS, rng=self.rng, drop=1.0))

    def heal(self) -> None:
        """Let everything pass again."""
        self.network.stuck_flows.clear()
        self.impairments = Impairments(self.packets.append)

    def hold(self) -> None:
        """Let all replies wait."""
        self.held = []

    def release(self) -> None:
        """Let the replies that wait arrive."""
        held, self.held = self.held or [], None
        for session, seq, who in held:
            self.counted[session, who] += 1
            self.trackers[session].replied(seq, who, self.counted[session, who], self.now)

    # --- what is told ------------------------------------------------------------------------------------------------

    def tell(self, subject: ClusterSubject, name: str, action: ClusterAction, **facts: Any) -> None:
        """Tell of something in the cluster, to whoever watches it."""
        if self.watched:
            self.emit(ClusterEvent(self.now, subject, name, action, **facts))

    def look(self) -> None:
        """Tell what the pool is, to whoever watches it."""
        if self.watched:
            self.emit(PoolObserved(self.now, self.now, self.now, self.network.pool(), self.now))

    def look_at_proxies(self) -> None:
        """Tell whose the proxies' addresses are, to whoever watches the cluster."""
        if self.watched and self.proxies:
            names = sorted((node.ip, f"edge/proxy-{name}") for name, node in self.network.nodes.items())
            self.emit(PodAddresses(self.now, tuple(names)))

    def blind(self) -> None:
        if self.watched:
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
                self.identity(session),
            )
        )
        self.drop(Direction.DOWN, session)

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
            self.emit(SessionStarted(0, self.name(session), self.flow(session), self.targets.get(session)))
        if self.watched:
            self.emit(NodeAddresses(0, tuple((f"10.0.0.{n}", f"n{n}") for n in range(1, self.nodes + 1))))
            self.look_at_proxies()
            self.look()
        self.trackers = [SessionTracker(self.name(n), 2 * S, self.emit) for n in range(self.sessions)]
        end = self.end
        slots = [
            (slot * self.interval + self.interval * session // self.sessions, "send", session)
            for slot in range(end // self.interval)
            for session in range(self.sessions)
        ]
        slots += [(at, "sweep", 0) for at in range(0, end, 250 * MS)]
        slots += [(round(at * S), "action", number) for number, (at, _) in enumerate(self.actions)]
        outages = OutageDetector(self.interval, 2 * S, self.emit)
        for at, what, index in sorted(slots):
            self.now = at
            if what == "action":
                self.actions[index][1](self)
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
        if session in self.paused:
            return
        tracker = self.trackers[session]
        seq = tracker.sent(self.now)

        who = None if self.is_lost(self, session, seq) else self.pass_through(self.flow(session))
        if who is None:
            return
        who = self.reply(self, session, seq, who)
        if self.held is not None:
            self.held.append((session, seq, who))
            return
        self.counted[session, who] += 1 + self.muted.pop((self.flow(session), who), 0)
        if self.impairments.delays(Direction.DOWN, self.flow(session), self.now):
            tracker.replied(seq, who, self.counted[session, who], self.now + RTT)

    def pass_through(self, flow: TransportAddress) -> Identity | None:
        """Send a packet to its pod; return what the pod replies, None where it does not arrive."""
        if not self.impairments.delays(Direction.UP, flow, self.now):
            return None
        entry = self.network.forward(flow, self.now)
        if entry is not None and self.network.loses_reply(entry.source, entry.pod.address):
            self.muted[flow, entry.identity] += 1
            return None
        return None if entry is None else entry.identity

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
        """Send what the client's own plan wants; one that is lost is known for it 2 s later, and repeated after a pause."""
        for at, session, flow, pause in [each for each in self.waiting if each[0] + 2 * S <= self.now]:
            self.waiting.remove((at, session, flow, pause))
            self.emit(CanaryResult(self.now, session, at, None, pause))
            if not pause and len(self.held_canaries) < MAX_REPEATS:
                self.held_canaries.append((at, session, flow))

        unanswered = [(t.session, u[1]) for t in self.trackers if (u := t.unanswered()) is not None]
        for at, session, flow in [each for each in self.held_canaries if each[0] + REPEAT_AFTER_NS <= self.now]:
            self.held_canaries.remove((at, session, flow))
            if session in dict(unanswered):
                self.send_on(flow, session, self.now - at, self.pass_through(flow))
        if self.canaries and self.now < self.end:
            for session in self.plan.due(self.now, unanswered):
                flow = self.fresh_flow()
                self.send_on(flow, session, 0, self.canary())

    def send_on(self, flow: TransportAddress, session: str, pause: int, who: Identity | None) -> None:
        if who is not None and self.impairments.delays(Direction.DOWN, flow, self.now):
            self.answered_canaries.append((self.now, self.now))
            self.emit(CanaryResult(self.now, session, self.now, who, pause))
        else:
            self.unanswered_canaries.append(self.now)
            self.waiting.append((self.now, session, flow, pause))

    def fresh_flow(self) -> TransportAddress:
        return TransportAddress(CLIENT, 60_000 + len(self.answered_canaries) + len(self.unanswered_canaries))

    def canary(self, node: int | None = None, pod: str | None = None) -> Identity | None:
        """Probe from a fresh source port, through any node to any pod unless they are given; return what is replied."""
        flow = self.fresh_flow()
        if node is not None:
            self.network.ingress.pinned[flow] = self.node(node)
        if pod is not None:
            self.network.send_to(flow, self.network.pods[pod], self.now)
        return self.pass_through(flow)

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
