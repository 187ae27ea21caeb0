"""Faults of flow tables: entries wiped, expired, rewritten or shared, and no affinity at all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ClusterAction, ClusterSubject, Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import (
    BROKEN,
    FOREVER_NS,
    LOST,
    MOVED,
    VIOLATION,
    Bench,
    Deal,
    Effect,
    Family,
    Fault,
    Judged,
    Sign,
    counted,
    marks,
)
from affinity_tester.lab.parameter import COUNT, TIME, parameter, read_count, read_time
from affinity_tester.lab.parts import Policy
from affinity_tester.settings import format_duration

PROVED_OR_NOT = frozenset({Judgement.VIOLATION, Judgement.UNKNOWN})
"""A dead flow is proved by what shows that its pod lives; where all flows are dead, only a canary that meets it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowWipe(Fault):
    """The proxies of some nodes drop every live flow, once or periodically, though the pool is unchanged."""

    name = "flow-wipe"
    expects = "the flows of the wiped nodes: a new reflexive port, and of some a new pod (affinity None); no loss"

    nodes: int = parameter(read_count, COUNT, "how many nodes, those with the most flows first", default=1)
    times: int = parameter(read_count, COUNT, "how often", default=1)
    every_ns: int = parameter(
        read_time, TIME, "the time between, when it is more than once", key="every", default=5 * 10**9
    )

    @property
    def lasts_ns(self) -> int:
        """Until the last wipe."""
        return self.every_ns * (self.times - 1)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Wipe now, and let the play do the further ones."""
        path = bench.path
        homes = {name: [flow for flow in bench.flows if path.node_of(flow) == name] for name in path.nodes}
        names = sorted(homes, key=lambda name: -len(homes[name]))[: self.nodes]
        self._wipe(bench, names)
        if self.times > 1:
            bench.stage.play(self._again(bench, names))
        flows = [flow for name in names for flow in homes[name]]
        bench.touch(flows, Family.WAY)
        must, may = marks(Kind.REFLEXIVE_PORT), marks(Kind.POD, Kind.NODE, Kind.INSTANCE)
        if path.policy is Policy.LOCAL:
            must = marks()
        again = f", {self.times} times, every {format_duration(self.every_ns)}" if self.times > 1 else ""
        return Deal(
            f"the proxy of {' and '.join(names)} drops its {counted(len(flows), 'flow')}{again}",
            now_ns + self.lasts_ns,
            tuple(Effect(flow, must, may, VIOLATION) for flow in flows),
        )

    def _wipe(self, bench: Bench, names: list[str]) -> None:
        for name in names:
            bench.path.flush_flows(name)
            bench.tell(ClusterSubject.PROXY, f"kube-proxy-{name}", ClusterAction.RESTARTED, node=name)

    async def _again(self, bench: Bench, names: list[str]) -> None:
        for _ in range(self.times - 1):
            await bench.stage.wait(self.every_ns)
            self._wipe(bench, names)
            bench.stage.look()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleExpiry(Fault):
    """The nodes forget flows after a time that is shorter than the client's pauses."""

    name = "idle-expiry"
    expects = (
        "every probe after a silence longer than the timeout: a new reflexive port, of some also a new pod; no loss"
    )

    timeout_ns: int = parameter(read_time, TIME, "after which an idle flow is forgotten", key="timeout")

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Shorten the timeout from now on."""
        bench.path.idle_ns = self.timeout_ns
        must, may = marks(Kind.REFLEXIVE_PORT), marks(Kind.POD, Kind.NODE, Kind.INSTANCE)
        return Deal(
            f"nodes forget flows that are idle for {format_duration(self.timeout_ns)}",
            FOREVER_NS,
            tuple(Effect(flow, must, may, Judged(Judgement.IDLE)) for flow in bench.flows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRewrite(Fault):
    """The node gives some flows another source port in mid-session."""

    name = "port-rewrite"
    expects = "the chosen flows: a new reflexive port, the same IP and pod; no loss"

    sessions: int = parameter(read_count, COUNT, "how many flows", default=1)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Rewrite the ports."""
        chosen = bench.choose(self.sessions, Family.WAY, self.name, number)
        rewritten = tuple(flow for flow in chosen if bench.path.rewrite_port(flow, now_ns))
        must = marks(Kind.REFLEXIVE_PORT)
        return Deal(
            f"the source port of {counted(len(rewritten), 'flow')} is rewritten",
            now_ns,
            tuple(Effect(flow, must, judged=VIOLATION) for flow in rewritten),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortsRewritten(Fault):
    """Something on the way gives every flow another source port, from its first packet on."""

    name = "ports-rewritten"
    catalogued = "port-rewrite"
    expects = "each flow: the client's own IP with another port, from the first reply on; no loss, no change"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster every flow is masqueraded, so its port says nothing"
    from_start = True

    at_ns: int = parameter(read_time, TIME, "nothing: it is there from the start", key="at", default=0)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let flows begin with another port."""
        bench.path.rewrites_ports = True
        return Deal("every flow begins with another source port", FOREVER_NS, quiet=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnatCollision(Fault):
    """Two flows come to share one entry of the NAT table: replies to both reach one of them."""

    name = "snat-collision"
    expects = (
        "one flow: downstream loss; another: the first one's replies and reflexive address, then its own port again"
    )

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=800_000_000)

    @property
    def victims(self) -> int:
        """How many sessions it asks for."""
        return 2

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Choose two flows that meet at a pod and a node, and let one take the other's source address."""
        path = bench.path
        pairs = [pair for pair in combinations(bench.flows, 2) if self._meet(bench, *pair)]
        if not pairs:
            return Deal("no two flows meet at one pod and node: nothing was done", now_ns)
        thief, victim = bench.rng(self.name, number).choice(pairs)
        path.share_source(thief, victim, now_ns)
        bench.stage.play(self._part(bench, thief, victim))
        must = marks(Kind.REFLEXIVE_PORT, Sign.CROSS_DELIVERED)
        moved = Effect(thief, must, judged=VIOLATION, strays=BROKEN)
        lost = Effect(victim, marks(Sign.LOSS_DOWN), marks(Sign.LOSS_UNTOLD))
        return Deal(
            f"two flows share one source address for {format_duration(self.for_ns)}, and replies to both reach one",
            now_ns + self.for_ns,
            (moved, lost),
        )

    def _meet(self, bench: Bench, first: TransportAddress, second: TransportAddress) -> bool:
        path = bench.path
        mine, theirs = path.entry_of(first), path.entry_of(second)
        return (
            mine is not None
            and theirs is not None
            and mine.pod.name == theirs.pod.name
            and path.node_of(first) == path.node_of(second)
        )

    async def _part(self, bench: Bench, thief: TransportAddress, victim: TransportAddress) -> None:
        await bench.stage.wait(self.for_ns)
        bench.path.part_source(thief, victim, bench.now_ns())


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketSpray(Fault):
    """The balancer sends each packet to any node."""

    name = "packet-spray"
    expects = "most flows: another pod from packet to packet (policy Cluster: another reflexive IP too); no loss"

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=2_000_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Spray for a time."""
        bench.path.spray = True
        bench.stage.play(self._end(bench))
        cluster = bench.path.policy is Policy.CLUSTER
        must = marks(Kind.REFLEXIVE_IP if cluster else Kind.POD)
        return Deal(
            f"the balancer sends each packet to any node for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, MOVED, VIOLATION) for flow in bench.flows),
        )

    async def _end(self, bench: Bench) -> None:
        await bench.stage.wait(self.for_ns)
        bench.path.spray = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckFlows(Fault):
    """A node or a NAT that took over has stale entries of flows, and they lead nowhere; fresh source ports pass.

    As where a VIP moves with replicated conntrack state, or the pods of a load balancer's state are gone: an entry lives on
    with every packet (net/netfilter/nf_conntrack_proto_udp.c renews it), so it ends only with the flow.
    """

    name = "stuck-flows"
    catalogued = "stale-flow"
    also = frozenset({"dead-target"})
    expects = "the chosen flows: all probes lost from then on, while a fresh source port is answered"

    sessions: int = parameter(read_count, COUNT, "how many flows; left out: all", default=0)

    @property
    def victims(self) -> int:
        """How many sessions it asks for."""
        return self.sessions or 1

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let the entries of the chosen flows lead nowhere."""
        flows = bench.choose(self.sessions or len(bench.flows), Family.WAY, self.name, number)
        bench.path.stuck.update(flows)
        must = marks(Sign.OUTAGE, Sign.LOSS_UP)
        return Deal(
            f"{counted(len(flows), 'flow')} of {len(bench.flows)} have a stale entry that leads nowhere",
            FOREVER_NS,
            tuple(Effect(flow, must, LOST, silent=PROVED_OR_NOT) for flow in flows),
        )
