"""Faults of flow tables: entries wiped, expired, rewritten, shared or stale, and no affinity at all."""

from __future__ import annotations

from itertools import combinations

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ClusterAction, ClusterSubject, Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext, StandingFault, counted
from affinity_tester.lab.injection import (
    ANOTHER_POD,
    BROKEN,
    FOREVER_NS,
    LOST,
    MOVED,
    VIOLATION,
    Injection,
    Judged,
    Symptom,
    effects_on,
)
from affinity_tester.lab.model import Policy
from affinity_tester.lab.parameter import count_parameter, time_parameter
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration

PROVED_OR_NOT = frozenset({Judgement.VIOLATION, Judgement.UNKNOWN})
"""A dead flow is proved by what shows that its pod lives; where all flows are dead, only a canary that meets it does."""


class FlowWipe(Fault):
    """The proxies of some nodes drop every live flow, once or periodically, though the pool is unchanged."""

    name = "flow-wipe"
    expects = "the flows of the wiped nodes: a new reflexive port, and of some a new pod (affinity None); no loss"

    nodes: int = count_parameter("how many nodes, those with the most flows first", default=1)
    times: int = count_parameter("how often", default=1)
    every_ns: int = time_parameter("the time between, when it is more than once", key="every", default=5 * NS_PER_S)

    @property
    def lasts_ns(self) -> int:
        """Return the time until the last wipe."""
        return self.every_ns * (self.times - 1)

    def inject(self, context: FaultContext) -> Injection:
        """Wipe now, and the further times in the background."""
        by_node = context.flows_by_node()
        names = sorted(by_node, key=lambda name: -len(by_node[name]))[: self.nodes]
        self._wipe(context, names)
        if self.times > 1:
            context.runtime.spawn(self._again(context, names))

        flows = [flow for name in names for flow in by_node[name]]
        context.mark_used(flows, Family.ROUTING)
        # Under policy Local a flow that begins anew keeps the client's own address.
        must = frozenset() if context.network.policy is Policy.LOCAL else frozenset({Kind.REFLEXIVE_PORT})
        again = f", {self.times} times, every {format_duration(self.every_ns)}" if self.times > 1 else ""

        return context.injection(
            f"the proxy of {' and '.join(names)} drops its {counted(len(flows), 'flow')}{again}",
            context.at_ns + self.lasts_ns,
            effects_on(flows, must, (MOVED if context.network.may_change_ip else ANOTHER_POD) - must, VIOLATION),
        )

    def _wipe(self, context: FaultContext, names: list[str]) -> None:
        for name in names:
            context.network.flush_flows(name)
            context.add_cluster_event(ClusterSubject.PROXY, f"kube-proxy-{name}", ClusterAction.RESTARTED, node=name)

    async def _again(self, context: FaultContext, names: list[str]) -> None:
        for _ in range(self.times - 1):
            await context.runtime.wait(self.every_ns)
            self._wipe(context, names)
            context.runtime.publish()


class IdleExpiry(Fault):
    """The nodes forget flows after a time that is shorter than the client's pauses."""

    name = "idle-expiry"
    expects = (
        "every probe after a silence longer than the timeout: a new reflexive port, of some also a new pod; no loss"
    )

    timeout_ns: int = time_parameter("after which an idle flow is forgotten", key="timeout")

    def inject(self, context: FaultContext) -> Injection:
        """Shorten the timeout from now on."""
        context.network.idle_ns = self.timeout_ns

        return context.injection(
            f"nodes forget flows that are idle for {format_duration(self.timeout_ns)}",
            FOREVER_NS,
            effects_on(context.flows, {Kind.REFLEXIVE_PORT}, ANOTHER_POD, Judged(Judgement.IDLE)),
        )


class PortRewrite(Fault):
    """The node gives some flows another source port in mid-session."""

    name = "port-rewrite"
    expects = "the chosen flows: a new reflexive port, the same IP and pod; no loss"

    sessions: int = count_parameter("how many flows", default=1)

    def inject(self, context: FaultContext) -> Injection:
        """Rewrite the ports."""
        chosen = context.choose(self.sessions, Family.ROUTING)
        rewritten = tuple(flow for flow in chosen if context.network.rewrite_port(flow, context.at_ns))

        return context.injection(
            f"the source port of {counted(len(rewritten), 'flow')} is rewritten",
            context.at_ns,
            effects_on(rewritten, {Kind.REFLEXIVE_PORT}, changes_judged=VIOLATION),
        )


class PortsRewritten(StandingFault):
    """Something on the way gives every flow another source port, from its first packet on."""

    name = "ports-rewritten"
    alias = "port-rewrite"
    expects = "each flow: the client's own IP with another port, from the first reply on; no loss, no change"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster every flow is masqueraded, so its port says nothing"

    def inject(self, context: FaultContext) -> Injection:
        """Let flows begin with another port."""
        context.network.sources.rewrites_ports = True

        return context.injection("every flow begins with another source port", FOREVER_NS, unobservable=True)


class SnatCollision(Fault):
    """Two flows come to share one entry of the NAT table: replies to both reach one of them."""

    name = "snat-collision"
    expects = (
        "one flow: downstream loss; another: the first one's replies and reflexive address, then its own port again"
    )

    for_ns: int = time_parameter("how long", key="for", default=800 * NS_PER_MS)

    @property
    def session_count(self) -> int:
        """Return how many sessions it needs."""
        return 2

    def inject(self, context: FaultContext) -> Injection:
        """Choose two flows that meet at a pod and a node, and let one take the other's source address."""
        network = context.network
        pairs = [pair for pair in combinations(context.flows, 2) if self._share_pod_and_node(context, *pair)]
        if not pairs:
            return context.injection("no two flows meet at one pod and node: nothing was done", context.at_ns)

        taker, owner = context.rng().choice(pairs)
        network.share_source(taker, owner, context.at_ns)
        context.after(self.for_ns, lambda: network.part_source(taker, owner, context.now_ns()))

        return context.injection(
            f"two flows share one source address for {format_duration(self.for_ns)}, and replies to both reach one",
            context.at_ns + self.for_ns,
            (
                *effects_on(
                    [taker],
                    {Kind.REFLEXIVE_PORT, Symptom.CROSS_DELIVERED},
                    changes_judged=VIOLATION,
                    strays_judged=BROKEN,
                ),
                *effects_on([owner], {Symptom.LOSS_DOWN}, {Symptom.LOSS_UNTOLD}),
            ),
        )

    def _share_pod_and_node(self, context: FaultContext, first: TransportAddress, second: TransportAddress) -> bool:
        network = context.network
        mine, theirs = network.entry_of(first), network.entry_of(second)
        return (
            mine is not None
            and theirs is not None
            and mine.pod.name == theirs.pod.name
            and network.ingress.node_of(first) == network.ingress.node_of(second)
        )


class PacketSpray(Fault):
    """The balancer sends each packet to any node."""

    name = "packet-spray"
    expects = "most flows: another pod from packet to packet (policy Cluster: another reflexive IP too); no loss"

    for_ns: int = time_parameter("how long", key="for", default=2 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Spray for a time."""
        network = context.network
        network.ingress.spray = True
        context.after(self.for_ns, lambda: setattr(network.ingress, "spray", False))

        cluster = network.policy is Policy.CLUSTER

        return context.injection(
            f"the balancer sends each packet to any node for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            effects_on(context.flows, {Kind.REFLEXIVE_IP if cluster else Kind.POD}, MOVED, VIOLATION),
        )


class StuckFlows(Fault):
    """A node or a NAT that took over has stale entries of flows, and they lead nowhere; fresh source ports pass.

    As where a VIP moves with replicated conntrack state, or the pods of a load balancer's state are gone: an entry lives on
    with every packet (net/netfilter/nf_conntrack_proto_udp.c renews it), so it ends only with the flow.
    """

    name = "stuck-flows"
    alias = "stale-flow"
    also_correct = frozenset({"dead-target"})
    expects = "the chosen flows: all probes lost from then on, while new flows are answered"

    sessions: int = count_parameter("how many flows; left out: all", default=0)

    @property
    def session_count(self) -> int:
        """Return how many sessions it needs."""
        return self.sessions or 1

    def inject(self, context: FaultContext) -> Injection:
        """Let the entries of the chosen flows lead nowhere."""
        flows = context.choose(self.sessions or len(context.flows), Family.ROUTING)
        context.network.stuck_flows.update(flows)

        return context.injection(
            f"{counted(len(flows), 'flow')} of {len(context.flows)} have a stale entry that leads nowhere",
            FOREVER_NS,
            effects_on(flows, {Symptom.OUTAGE, Symptom.LOSS_UP}, LOST, outages_judged=PROVED_OR_NOT),
        )


class DeadPorts(Fault):
    """One member of a bundle, or of the paths of equal cost, loses all: the flows whose source ports are hashed to it.

    Fresh ports are hashed to it as well, and the same port again after any pause (bloomberg/goldpinger#163).
    """

    name = "dead-ports"
    alias = "lossy-path"
    expects = "the flows of some source ports: all probes lost from then on, and as large a share of fresh flows"

    sessions: int = count_parameter("how many flows", default=4)

    def inject(self, context: FaultContext) -> Injection:
        """Let the member lose all that has just so many flows."""
        network = context.network
        by_hash = sorted(context.flows, key=network.port_hash)
        flows, others = by_hash[: self.sessions], by_hash[self.sessions :]
        highest = network.port_hash(flows[-1])
        network.dead_below = (highest + (network.port_hash(others[0]) if others else 1.0)) / 2
        context.mark_used(flows, Family.ROUTING)

        return context.injection(
            f"one member of a bundle loses all: {counted(len(flows), 'flow')} by their source ports",
            FOREVER_NS,
            effects_on(flows, {Symptom.OUTAGE, Symptom.LOSS_UP}, LOST, outages_judged=PROVED_OR_NOT),
        )
