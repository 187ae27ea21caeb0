"""Faults between the client and the nodes: the balancer's hash, its targets, its address, and the Service's policies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import (
    BROKEN,
    FOREVER_NS,
    LOST,
    MOVED,
    VIOLATION,
    Effect,
    Family,
    Fault,
    FaultContext,
    Injection,
    Observable,
    Symptom,
    counted,
)
from affinity_tester.lab.impairment import Impairment
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.names import node_ip, node_name
from affinity_tester.lab.packet_log import Direction
from affinity_tester.lab.parameter import COUNT, SHARE, TIME, parameter, read_count, read_share, read_time
from affinity_tester.settings import format_duration

SERVICE = "lab/affinity-tester"
"""The name of the lab's Service in cluster events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRehash(Fault):
    """A node joins the balancer's hash and takes a fraction of the flows; there they begin as new."""

    name = "node-rehash"
    expects = "the moved flows: a new reflexive IP, of some also a new pod (policy Local: only a new pod); no loss"

    fraction: float = parameter(read_share, SHARE, "share of the flows that move to the new node", default=0.5)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Let a node that is outside the hash join it, or add one, with just the weight that takes the fraction."""
        network = context.network
        waiting = [node for node in network.nodes.values() if not node.hashed]
        position = 1 + max(int(node.ip.rpartition(".")[2]) for node in network.nodes.values())
        name, ip = (waiting[0].name, waiting[0].ip) if waiting else (node_name(position), node_ip(position))
        before = {flow: network.ingress.node_of(flow) for flow in context.flows}
        count = min(len(before), max(1, math.floor(self.fraction * len(before) + 0.5)))
        weight = network.ingress.weight_to_move(name, count, before)
        if waiting:
            network.ingress.join_hash(name, weight)
        else:
            network.ingress.add_node(name, ip, weight)
            context.add_cluster_event("node", name, "added")
        context.add_cluster_event("node", name, "Ready")
        moved = tuple(flow for flow, node in before.items() if network.ingress.node_of(flow) != node)
        context.mark_used(moved, Family.ROUTING)
        must = frozenset({Kind.REFLEXIVE_IP if network.policy is Policy.CLUSTER else Kind.NODE})
        may = MOVED if network.policy is Policy.CLUSTER else frozenset({Kind.POD, Kind.NODE, Kind.INSTANCE})
        return Injection(
            number,
            now_ns,
            f'node "{name}" ({ip}) joins the balancer: {len(moved)} of {counted(len(before), "flow")} rehashed to it',
            now_ns,
            tuple(Effect(flow, must, may - must, VIOLATION) for flow in moved),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTarget(Fault):
    """A node dies, and the balancer stays pinned to it until it drains; new flows go elsewhere."""

    name = "dead-target"
    expects = "the flows of one node: an outage, then a new reflexive IP; a fresh source port is answered all the while"

    for_ns: int = parameter(read_time, TIME, "until the balancer drains it", key="for", default=7_000_000_000)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Kill the node with the most flows among those without a pod, so that the pool is unchanged."""
        network = context.network
        hosts = {pod.node for pod in network.pods.values()}
        homes = {
            name: [flow for flow in context.flows if network.ingress.node_of(flow) == name] for name in network.nodes
        }
        name = max((name for name in homes if name not in hosts), key=lambda name: len(homes[name]), default=None)
        if name is None:
            return Injection(number, now_ns, "every node has a pod: none can die without the pool", now_ns)
        network.ingress.dead_nodes.add(name)
        context.add_cluster_event("node", name, "not Ready")
        context.runtime.spawn(self._drain(context, name))
        must: frozenset[Observable] = frozenset({Symptom.OUTAGE, Symptom.LOSS_UP, Kind.REFLEXIVE_IP})
        return Injection(
            number,
            now_ns,
            f'node "{name}" is dead, and the balancer pins {counted(len(homes[name]), "flow")} to it '
            f"for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, MOVED | LOST, VIOLATION, BROKEN) for flow in homes[name]),
        )

    async def _drain(self, context: FaultContext, name: str) -> None:
        await context.runtime.wait(self.for_ns)
        context.network.ingress.remove_node(name)
        context.add_cluster_event("node", name, "removed")
        context.runtime.publish()


@dataclass(frozen=True, slots=True, kw_only=True)
class VipFailover(Fault):
    """The service's address moves to another node, once or to and fro."""

    name = "vip-failover"
    expects = "all flows: loss together, then one new reflexive IP for all"

    gap_ns: int = parameter(read_time, TIME, "how long no node holds the address", key="gap", default=1_500_000_000)
    times: int = parameter(read_count, COUNT, "how often it moves; more than once is a flip-flop", default=1)
    every_ns: int = parameter(
        read_time, TIME, "the time between, when it is more than once", key="every", default=2 * 10**9
    )

    @property
    def lasts_ns(self) -> int:
        """Until it has moved for the last time."""
        return self.gap_ns + self.every_ns * (self.times - 1)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Take the address from its node for a while, and give it to another."""
        network = context.network
        old = network.ingress.vip or next(iter(network.nodes))
        new = next(name for name in network.nodes if name != old)
        context.impairments.add(_black_hole(context, now_ns + self.gap_ns, "no-vip"))
        network.ingress.vip = (
            new  # at once: in the gap nothing passes, and not one probe after it may reach the old node
        )
        if self.times > 1:
            context.runtime.spawn(self._fight(context, old, new))
        must: frozenset[Observable] = frozenset({Kind.REFLEXIVE_IP, Symptom.LOSS_UP})
        again = f", and to and fro {self.times} times" if self.times > 1 else ""
        return Injection(
            number,
            now_ns,
            f'the service\'s address moves from node "{old}" to node "{new}" in {format_duration(self.gap_ns)}{again}',
            now_ns + self.lasts_ns,
            tuple(Effect(flow, must, MOVED | LOST, VIOLATION) for flow in context.flows),
        )

    async def _fight(self, context: FaultContext, old: str, new: str) -> None:
        await context.runtime.wait(self.gap_ns)
        for turn in range(1, self.times):
            await context.runtime.wait(self.every_ns)
            context.network.ingress.vip = old if turn % 2 else new


@dataclass(frozen=True, slots=True, kw_only=True)
class LbChurn(Fault):
    """The balancer's object is made anew: nothing passes meanwhile."""

    name = "lb-churn"
    expects = "all flows: loss together, the same pod and address after"

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=2_000_000_000)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Drop everything for a time."""
        context.impairments.add(_black_hole(context, now_ns + self.for_ns, "no-balancer"))
        context.add_cluster_event("service", SERVICE, "changed: annotations")
        must = frozenset({Symptom.LOSS_UP})
        return Injection(
            number,
            now_ns,
            f"the balancer is made anew: nothing passes for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, frozenset({Symptom.LOSS_UNTOLD})) for flow in context.flows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPolicy(Fault):
    """externalTrafficPolicy Local, and the balancer sends to nodes without a pod; what the plan's `pods` leave empty."""

    name = "local-policy"
    expects = "some flows: unanswered from sequence 0; the others fine"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster a node without a pod sends to another's"
    from_start = True

    at_ns: int = parameter(read_time, TIME, "nothing: it is there from the start", key="at", default=0)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Nothing is to be done: the nodes without a pod are there."""
        hosts = {pod.node for pod in context.network.pods.values()}
        empty = [name for name in context.network.nodes if name not in hosts]
        return Injection(
            number,
            now_ns,
            f"policy Local, and {counted(len(empty), 'node')} without a pod in the balancer",
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.OUTAGE}),
            may=LOST | {Symptom.OUTAGE},
            outages_judged=BROKEN,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIpSpread(Fault):
    """sessionAffinity ClientIP, which each node keeps on its own: the balancer spreads one client over nodes."""

    name = "client-ip-spread"
    expects = "each session stable, and one client IP served by two pods or more"
    affinities = frozenset({Affinity.CLIENT_IP})
    from_start = True

    at_ns: int = parameter(read_time, TIME, "nothing: it is there from the start", key="at", default=0)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Nothing is to be done: nodes do not share their affinity."""
        return Injection(
            number,
            now_ns,
            "affinity ClientIP is kept per node, and the balancer hashes one client over nodes",
            FOREVER_NS,
            unobservable=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackout(Fault):
    """Nothing passes in either direction, canaries neither: the client's own link is down, or all of the path is.

    With a cable pulled or Wi-Fi lost Linux queues or drops what is sent without a word as long as the address stays.
    """

    name = "blackout"
    expects = "all sessions and canaries unanswered together, and then the same pods and addresses as before"
    control = True
    also_correct = frozenset({"lb-churn"})

    for_ns: int = parameter(read_time, TIME, "how long; left out: to the end of the run", key="for", default=0)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Drop everything for a time."""
        until_ns = now_ns + self.for_ns if self.for_ns else FOREVER_NS
        context.impairments.add(_black_hole(context, until_ns, "no-link"))
        how_long = f"for {format_duration(self.for_ns)}" if self.for_ns else "from now on"
        return Injection(
            number,
            now_ns,
            f"nothing passes {how_long}",
            until_ns,
            tuple(
                Effect(flow, frozenset({Symptom.LOSS_UP}), frozenset({Symptom.LOSS_UNTOLD})) for flow in context.flows
            ),
            blackout_ns=until_ns - now_ns,
        )


def _black_hole(context: FaultContext, until_ns: int, reason: str) -> Impairment:
    """Every packet to the pods is dropped for a while."""
    return Impairment(
        direction=Direction.UP, flows=None, until_ns=until_ns, rng=context.rng(reason), drop=1.0, reason=reason
    )
