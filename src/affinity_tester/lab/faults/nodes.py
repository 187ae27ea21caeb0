"""Faults between the client and the nodes: the balancer's hash, its targets, its address, and the Service's policies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from affinity_tester.core.events import ClusterAction, ClusterSubject
from affinity_tester.core.identity import Kind
from affinity_tester.lab.deeds import Direction
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
    Sign,
    counted,
    marks,
)
from affinity_tester.lab.mangle import Rule
from affinity_tester.lab.names import node_ip, node_name
from affinity_tester.lab.parameter import COUNT, SHARE, TIME, parameter, read_count, read_share, read_time
from affinity_tester.lab.parts import Affinity, Policy
from affinity_tester.settings import format_duration

SERVICE = "lab/affinity-tester"
"""The name of the lab's Service in cluster events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRehash(Fault):
    """A node joins the balancer's hash and takes a fraction of the flows; there they begin as new."""

    name = "node-rehash"
    expects = "the moved flows: a new reflexive IP, of some also a new pod (policy Local: only a new pod); no loss"

    fraction: float = parameter(read_share, SHARE, "share of the flows that move to the new node", default=0.5)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let a node that is outside the hash join it, or add one, with just the weight that takes the fraction."""
        path = bench.path
        waiting = [node for node in path.nodes.values() if not node.hashed]
        position = 1 + max(int(node.ip.rpartition(".")[2]) for node in path.nodes.values())
        name, ip = (waiting[0].name, waiting[0].ip) if waiting else (node_name(position), node_ip(position))
        before = {flow: path.node_of(flow) for flow in bench.flows}
        count = min(len(before), max(1, math.floor(self.fraction * len(before) + 0.5)))
        weight = path.weight_to_move(name, count, before)
        if waiting:
            path.join_hash(name, weight)
        else:
            path.add_node(name, ip, weight)
            bench.tell(ClusterSubject.NODE, name, ClusterAction.ADDED)
        bench.tell(ClusterSubject.NODE, name, ClusterAction.READY)
        moved = tuple(flow for flow, node in before.items() if path.node_of(flow) != node)
        bench.touch(moved, Family.WAY)
        must = marks(Kind.REFLEXIVE_IP if path.policy is Policy.CLUSTER else Kind.NODE)
        may = MOVED if path.policy is Policy.CLUSTER else marks(Kind.POD, Kind.NODE, Kind.INSTANCE)
        return Deal(
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

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Kill the node with the most flows among those without a pod, so that the pool is unchanged."""
        path = bench.path
        hosts = {pod.node for pod in path.pods.values()}
        homes = {name: [flow for flow in bench.flows if path.node_of(flow) == name] for name in path.nodes}
        name = max((name for name in homes if name not in hosts), key=lambda name: len(homes[name]), default=None)
        if name is None:
            return Deal("every node has a pod: none can die without the pool", now_ns)
        path.unhealthy.add(name)
        bench.tell(ClusterSubject.NODE, name, ClusterAction.NOT_READY)
        bench.stage.play(self._drain(bench, name))
        must = marks(Sign.OUTAGE, Sign.LOSS_UP, Kind.REFLEXIVE_IP)
        return Deal(
            f'node "{name}" is dead, and the balancer pins {counted(len(homes[name]), "flow")} to it '
            f"for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, MOVED | LOST, VIOLATION, BROKEN) for flow in homes[name]),
        )

    async def _drain(self, bench: Bench, name: str) -> None:
        await bench.stage.wait(self.for_ns)
        bench.path.remove_node(name)
        bench.tell(ClusterSubject.NODE, name, ClusterAction.REMOVED)
        bench.stage.look()


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

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Take the address from its node for a while, and give it to another."""
        path = bench.path
        old = path.vip or next(iter(path.nodes))
        new = next(name for name in path.nodes if name != old)
        bench.mangler.add(_black_hole(bench, now_ns + self.gap_ns, "no-vip"))
        path.vip = new  # at once: in the gap nothing passes, and not one probe after it may reach the old node
        if self.times > 1:
            bench.stage.play(self._fight(bench, old, new))
        must = marks(Kind.REFLEXIVE_IP, Sign.LOSS_UP)
        again = f", and to and fro {self.times} times" if self.times > 1 else ""
        return Deal(
            f'the service\'s address moves from node "{old}" to node "{new}" in {format_duration(self.gap_ns)}{again}',
            now_ns + self.lasts_ns,
            tuple(Effect(flow, must, MOVED | LOST, VIOLATION) for flow in bench.flows),
        )

    async def _fight(self, bench: Bench, old: str, new: str) -> None:
        await bench.stage.wait(self.gap_ns)
        for turn in range(1, self.times):
            await bench.stage.wait(self.every_ns)
            bench.path.vip = old if turn % 2 else new


@dataclass(frozen=True, slots=True, kw_only=True)
class LbChurn(Fault):
    """The balancer's object is made anew: nothing passes meanwhile."""

    name = "lb-churn"
    expects = "all flows: loss together, the same pod and address after"

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=2_000_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Drop everything for a time."""
        bench.mangler.add(_black_hole(bench, now_ns + self.for_ns, "no-balancer"))
        bench.tell(ClusterSubject.SERVICE, SERVICE, ClusterAction.FIELDS_CHANGED, fields=("annotations",))
        must = marks(Sign.LOSS_UP)
        return Deal(
            f"the balancer is made anew: nothing passes for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, marks(Sign.LOSS_UNTOLD)) for flow in bench.flows),
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

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Nothing is to be done: the nodes without a pod are there."""
        hosts = {pod.node for pod in bench.path.pods.values()}
        empty = [name for name in bench.path.nodes if name not in hosts]
        return Deal(
            f"policy Local, and {counted(len(empty), 'node')} without a pod in the balancer",
            FOREVER_NS,
            some=marks(Sign.OUTAGE),
            may=LOST | {Sign.OUTAGE},
            silent=BROKEN,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIpSpread(Fault):
    """sessionAffinity ClientIP, which each node keeps on its own: the balancer spreads one client over nodes."""

    name = "client-ip-spread"
    expects = "each session stable, and one client IP served by two pods or more"
    affinities = frozenset({Affinity.CLIENT_IP})
    from_start = True

    at_ns: int = parameter(read_time, TIME, "nothing: it is there from the start", key="at", default=0)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Nothing is to be done: nodes do not share their affinity."""
        return Deal(
            "affinity ClientIP is kept per node, and the balancer hashes one client over nodes", FOREVER_NS, quiet=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackout(Fault):
    """Nothing passes in either direction, canaries neither: the client's own link is down, or all of the path is.

    With a cable pulled or Wi-Fi lost Linux queues or drops what is sent without a word as long as the address stays.
    """

    name = "blackout"
    expects = "all sessions and canaries unanswered together, and then the same pods and addresses as before"
    control = True
    also = frozenset({"lb-churn"})

    for_ns: int = parameter(read_time, TIME, "how long; left out: to the end of the run", key="for", default=0)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Drop everything for a time."""
        until_ns = now_ns + self.for_ns if self.for_ns else FOREVER_NS
        bench.mangler.add(_black_hole(bench, until_ns, "no-link"))
        how_long = f"for {format_duration(self.for_ns)}" if self.for_ns else "from now on"
        return Deal(
            f"nothing passes {how_long}",
            until_ns,
            tuple(Effect(flow, marks(Sign.LOSS_UP), marks(Sign.LOSS_UNTOLD)) for flow in bench.flows),
            dark_ns=until_ns - now_ns,
        )


def _black_hole(bench: Bench, until_ns: int, reason: str) -> Rule:
    """Every packet to the pods is dropped for a while."""
    return Rule(direction=Direction.UP, flows=None, until_ns=until_ns, rng=bench.rng(reason), drop=1.0, reason=reason)
