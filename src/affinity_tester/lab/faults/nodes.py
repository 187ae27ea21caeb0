"""Faults of the nodes behind the balancer: they join its hash, die, lose power or their last pod."""

from __future__ import annotations

import math

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ClusterAction, ClusterSubject, Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext, StandingFault, counted
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.injection import (
    ANOTHER_POD,
    BROKEN,
    EXCUSED,
    EXPLAINED,
    FOREVER_NS,
    LOST,
    MOVED,
    OUTAGE_NS,
    VIOLATION,
    Injection,
    Observable,
    Symptom,
    effects_on,
)
from affinity_tester.lab.model import Policy
from affinity_tester.lab.names import node_ip, node_name
from affinity_tester.lab.parameter import YES, parameter, read_yes, share_parameter, time_parameter
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration

GONE = frozenset({Judgement.EXPLAINED, Judgement.POD_SILENT, Judgement.UNKNOWN})
"""How the outages of a silent pod are judged that leaves the pool later."""

LIVES = frozenset({Judgement.EXPLAINED, Judgement.VIOLATION, Judgement.UNKNOWN})
"""How the outages of a flow are judged whose pod lives and whose way is dead: a break, unless the pool explains it."""

SYNC_NS = 300 * NS_PER_MS
"""From a change of the pool until the proxies have cleaned the entries: 0.3 s at the least (docs/failure-modes.md)."""


class NodeRehash(Fault):
    """A node joins the balancer's hash and takes a fraction of the flows; there they begin as new."""

    name = "node-rehash"
    expects = "the moved flows: a new reflexive IP, of some also a new pod (policy Local: only a new pod); no loss"

    fraction: float = share_parameter("share of the flows that move to the new node", default=0.5)

    def inject(self, context: FaultContext) -> Injection:
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
            context.add_cluster_event(ClusterSubject.NODE, name, ClusterAction.ADDED)
        context.add_cluster_event(ClusterSubject.NODE, name, ClusterAction.READY)
        moved = tuple(flow for flow, node in before.items() if network.ingress.node_of(flow) != node)
        context.mark_used(moved, Family.ROUTING)
        must = frozenset({Kind.REFLEXIVE_IP if network.policy is Policy.CLUSTER else Kind.NODE})
        may = MOVED if network.policy is Policy.CLUSTER else ANOTHER_POD

        return context.injection(
            f'node "{name}" ({ip}) joins the balancer: {len(moved)} of {counted(len(before), "flow")} rehashed to it',
            context.at_ns,
            effects_on(moved, must, may - must, VIOLATION),
        )


class DeadTarget(Fault):
    """A node dies, and the balancer stays pinned to it until it drains; new flows go elsewhere."""

    name = "dead-target"
    expects = "the flows of one node: an outage, then a new reflexive IP; new flows are answered all the while"

    for_ns: int = time_parameter("until the balancer drains it", key="for", default=7 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Kill the node with the most flows among those without a pod, so that the pool is unchanged."""
        network = context.network
        hosts = {pod.node for pod in network.pods.values()}
        by_node = context.flows_by_node()
        name = max((name for name in by_node if name not in hosts), key=lambda name: len(by_node[name]), default=None)
        if name is None:
            return context.injection("every node has a pod: none can die without the pool", context.at_ns)

        network.ingress.dead_nodes.add(name)
        context.add_cluster_event(ClusterSubject.NODE, name, ClusterAction.NOT_READY)
        context.runtime.spawn(self._drain(context, name))

        return context.injection(
            f'node "{name}" is dead, and the balancer pins {counted(len(by_node[name]), "flow")} to it '
            f"for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            effects_on(
                by_node[name],
                {Symptom.OUTAGE, Symptom.LOSS_UP, Kind.REFLEXIVE_IP},
                MOVED | LOST,
                VIOLATION,
                outages_judged=BROKEN,
            ),
        )

    async def _drain(self, context: FaultContext, name: str) -> None:
        await context.runtime.wait(self.for_ns)
        context.network.ingress.remove_node(name)
        context.add_cluster_event(ClusterSubject.NODE, name, ClusterAction.REMOVED)
        context.runtime.publish()


class NodeDown(Fault):
    """A node with pods loses its power; the API server notices late, and the balancer in its own time.

    The node controller calls a dead node NotReady only after 40 to 50 s (`--node-monitor-grace-period`), and its pods'
    endpoints lose ready and serving with it; then the proxies of the other nodes clean their entries. The balancer sends to
    the node until its check has failed three times, and to no end of the run again: the check needs long to pass.
    """

    name = "node-down"
    expects = "the flows of its pods and those that enter by it: an outage, then another pod, or another node, or both"
    control = True
    also_correct = frozenset({"pod-silent", "dead-target"})
    moves_pool = True

    for_ns: int = time_parameter("how long the node is off", key="for", default=60 * NS_PER_S)
    notice_ns: int = time_parameter(
        "after which its endpoints are no longer ready", key="notice", default=50 * NS_PER_S
    )
    drain_ns: int = time_parameter("after which the balancer leaves it out", key="drain", default=35 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Take the power from a node with pods: one that is no ingress where there is such a one, else the busiest."""
        network = context.network
        held = context.flows_by_pod()
        hosts = {node: [pod.name for pod in network.pods.values() if pod.node == node] for node in network.nodes}
        able = [name for name, pods in hosts.items() if pods]
        outside = [name for name in able if not network.nodes[name].hashed]
        name = max(outside or able, key=lambda node: sum(len(held.get(pod, ())) for pod in hosts[node]))
        pods = hosts[name]

        served = [flow for pod in pods for flow in held.get(pod, ())]
        entering = [flow for flow in context.flows if network.ingress.node_of(flow) == name and flow not in served]
        context.mark_used([*served, *entering], Family.ROUTING)

        network.ingress.powered_off.add(name)
        network.dead_pods.update(pods)
        context.runtime.spawn(self._go_on(context, name, pods))
        may = MOVED | LOST

        return context.injection(
            f'node "{name}" is off for {format_duration(self.for_ns)}: {counted(len(pods), "pod")} with '
            f"{counted(len(served), 'flow')}, and {counted(len(entering), 'flow')} more that enter by it",
            context.at_ns + self.for_ns,
            (
                *effects_on(
                    [flow for flow in served if network.ingress.node_of(flow) != name],
                    {Symptom.OUTAGE, Symptom.LOSS_UP},
                    may,
                    outages_judged=GONE,
                ),
                *effects_on(
                    [flow for flow in served if network.ingress.node_of(flow) == name],
                    {Symptom.OUTAGE, Symptom.LOSS_UP},
                    may,
                    outages_judged=GONE | LIVES,
                ),
                *effects_on(entering, {Symptom.LOSS_UP}, may | {Symptom.OUTAGE}, outages_judged=LIVES),
            ),
        )

    async def _go_on(self, context: FaultContext, name: str, pods: list[str]) -> None:
        runtime = context.runtime
        for pod in pods:
            await runtime.kill_pod(pod)

        steps = sorted(
            [(self.drain_ns, self._drain), (self.notice_ns, self._notice), (self.for_ns, self._restore)],
            key=lambda step: step[0],
        )
        passed_ns = 0
        for at_ns, step in steps:
            await runtime.wait(at_ns - passed_ns)
            passed_ns = at_ns
            await step(context, name, pods)

    async def _drain(self, context: FaultContext, name: str, _pods: list[str]) -> None:
        if context.network.nodes[name].hashed:
            context.network.ingress.leave_hash(name)

    async def _notice(self, context: FaultContext, name: str, pods: list[str]) -> None:
        for pod in pods:
            context.network.set_conditions(pod, ready=False, serving=False)
        context.add_cluster_event(ClusterSubject.NODE, name, ClusterAction.NOT_READY)
        context.runtime.publish()

        # The proxies follow the API server.
        await context.runtime.wait(SYNC_NS)
        for pod in pods:
            context.network.flush_pod(pod)

    async def _restore(self, context: FaultContext, name: str, pods: list[str]) -> None:
        for node_pod in pods:
            await context.runtime.restart_pod(node_pod)
            context.network.set_conditions(node_pod, ready=True, serving=True)
        context.network.flush_flows(name)
        context.network.ingress.powered_off.discard(name)
        context.add_cluster_event(ClusterSubject.NODE, name, ClusterAction.READY)
        context.runtime.publish()


class DeadNode(NodeDown):
    """The link of a node that is ingress and home of pods goes down, and the balancer keeps it.

    Seen on real kube-proxy (docs/failure-modes.md, tests/data/real/README.md): the node is NotReady seconds later, its
    pods lose ready and serving with it, and the flows that enter by it are silent as long as the balancer sends to it.
    """

    name = "dead-node"
    alias = "dead-target"
    control = False
    expects = (
        "the flows of its pods and those that enter by it: an outage; the others, and fresh flows past it, are answered"
    )


class DeadIngress(StandingFault):
    """One of several ready nodes passes nothing, from the start: its pods are reached through the others.

    As with a security group or a hairpin that one node lacks (kubernetes/cloud-provider-aws#1160).
    """

    name = "dead-ingress"
    expects = (
        "some flows: unanswered from sequence 0; nobody is answered through that node, its pods answer through others"
    )
    policies = frozenset({Policy.CLUSTER})
    why_policy = "under policy Local the node's pods are reached through it alone"

    def inject(self, context: FaultContext) -> Injection:
        """Let the node that is last by name pass nothing, of those in the hash."""
        name = max(node.name for node in context.network.nodes.values() if node.hashed)
        context.network.ingress.powered_off.add(name)

        return context.injection(
            f'node "{name}" is ready and passes nothing of what the balancer sends it',
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.OUTAGE}),
            may=LOST | {Symptom.OUTAGE},
            outages_judged=BROKEN | {Judgement.UNKNOWN},
        )


class NodePath(Fault):
    """The way from one node to the pods of another is cut, in one direction or both: an overlay's tunnel, a route.

    Both nodes are Ready, since each talks to the API server another way (projectcalico/calico#12432).
    """

    name = "node-path"
    expects = "the flows from one ingress node to pods of one other node: all probes, or all replies, lost"
    policies = frozenset({Policy.CLUSTER})
    why_policy = "under policy Local no flow goes from node to node"

    for_ns: int = time_parameter("how long", key="for", default=8 * NS_PER_S)
    replies: bool = parameter(read_yes, YES, "replies alone are lost", default=False)

    def inject(self, context: FaultContext) -> Injection:
        """Cut the way with the most flows."""
        network = context.network
        flows: dict[tuple[str, str], list[TransportAddress]] = {}
        for node, its in context.flows_by_node().items():
            for flow in its:
                entry = network.entry_of(flow)
                if entry is not None and entry.pod.node != node:
                    flows.setdefault((node, entry.pod.node), []).append(flow)
        cell = max(sorted(flows), key=lambda cell: len(flows[cell]))
        context.mark_used(flows[cell], Family.ROUTING)

        cut = network.mute_cells if self.replies else network.dead_cells
        cut.add(cell)
        context.after(self.for_ns, lambda: cut.discard(cell))
        lost = Symptom.LOSS_DOWN if self.replies else Symptom.LOSS_UP

        return context.injection(
            f'{"replies" if self.replies else "packets"} between node "{cell[0]}" and the pods of node "{cell[1]}" are lost '
            f"for {format_duration(self.for_ns)}: {counted(len(flows[cell]), 'flow')}",
            context.at_ns + self.for_ns,
            effects_on(flows[cell], {Symptom.OUTAGE, lost}, LOST, outages_judged=BROKEN | {Judgement.UNKNOWN}),
        )


class LateCheck(Fault):
    """Policy Local: a node's last pod leaves, and the balancer sends to the node until its check has failed three times.

    The service's health check node port fails as soon as the node has no ready pod (pkg/proxy/healthcheck); a cloud's
    balancer asks every 10 s or so, and believes the third failure. To a client it looks like a flow entry that has stayed.
    """

    name = "late-check"
    expects = "the flows of the node: an outage until the balancer leaves the node out, then another pod and node"
    control = True
    also_correct = frozenset({"local-policy", "stale-flow"})
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster a node without a pod sends to another's"
    moves_pool = True

    drain_ns: int = time_parameter("after which the balancer leaves the node out", key="drain", default=30 * NS_PER_S)

    @property
    def lasts_ns(self) -> int:
        """Return the time until the balancer leaves the node out."""
        return self.drain_ns

    def inject(self, context: FaultContext) -> Injection:
        """Delete all pods of the node whose pod has the most flows."""
        network = context.network
        busiest, _ = busiest_pod(context)
        node = network.pods[busiest].node
        pods = [pod.name for pod in network.pods.values() if pod.node == node]
        flows = context.flows_by_node()[node]
        context.mark_used(flows, Family.ROUTING)
        for name in pods:
            network.dead_pods.add(name)
            network.remove_pod(name)
        context.runtime.spawn(self._end(context, node, pods))

        must: set[Observable] = {Symptom.LOSS_UP, Kind.POD}
        if self.drain_ns > OUTAGE_NS:
            must.add(Symptom.OUTAGE)

        return context.injection(
            f'{counted(len(pods), "pod")} of node "{node}" leave the pool, and the balancer sends '
            f"{counted(len(flows), 'flow')} there for {format_duration(self.drain_ns)}",
            context.at_ns + self.drain_ns,
            effects_on(flows, must, MOVED | LOST | {Symptom.OUTAGE}, EXPLAINED, outages_judged=EXCUSED),
        )

    async def _end(self, context: FaultContext, node: str, pods: list[str]) -> None:
        for name in pods:
            await context.runtime.kill_pod(name)
        await context.runtime.wait(self.drain_ns)
        context.network.ingress.leave_hash(node)
