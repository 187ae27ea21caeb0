"""Pods that are silent, with their endpoints' news late or never: no affinity keeps a flow on a dead pod.

No session of a silent pod may be called a violation. What real clusters do, and where that is known from, stands with each.
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import (
    EXPLAINED,
    FOREVER_NS,
    LOST,
    MOVED,
    OUTAGE_NS,
    Effect,
    Family,
    Fault,
    FaultContext,
    Injection,
    Observable,
    Symptom,
    counted,
)
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.impairment import Impairment
from affinity_tester.lab.model import Policy
from affinity_tester.lab.packet_log import Direction
from affinity_tester.lab.parameter import TIME, parameter, read_time
from affinity_tester.settings import DEFAULT_LOSS_THRESHOLD_NS, format_duration

SILENT = frozenset({Judgement.POD_SILENT, Judgement.UNKNOWN})
"""What the outages of a pod in the pool that answers nobody are judged."""

GONE = frozenset({Judgement.EXPLAINED, Judgement.POD_SILENT, Judgement.UNKNOWN})
"""The same, of a pod that leaves the pool later."""

LIVES = frozenset({Judgement.EXPLAINED, Judgement.VIOLATION, Judgement.UNKNOWN})
"""The same, of a flow whose pod lives and whose way is dead: a break, unless the pool's change explains it."""

SYNC_NS = 300_000_000
"""From a change of the pool until the proxies have cleaned the entries: 0.3 s at the least (failure-modes.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HungPod(Fault):
    """A pod hangs: its socket is open and answers nobody, and its endpoint is ready all the while.

    A readiness probe of another port, or none, does not notice a hung UDP server; no proxy takes the flows from it.
    """

    name = "hung-pod"
    alias = "pod-silent"
    expects = "the flows of the pod: an outage, while canaries meet other pods; the same pod again if it recovers"
    control = True

    for_ns: int = parameter(read_time, TIME, "how long; left out: to the end of the run", key="for", default=0)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Let the pod with the most flows hang."""
        name, flows = busiest_pod(context)
        context.network.dead_pods.add(name)
        if self.for_ns:
            context.runtime.spawn(self._recover(context, name))
        told = frozenset({Symptom.OUTAGE}) if not self.for_ns or self.for_ns > OUTAGE_NS else frozenset()
        may = LOST | {Symptom.OUTAGE}
        how_long = f"for {format_duration(self.for_ns)}" if self.for_ns else "from now on"
        return Injection(
            number,
            now_ns,
            f'pod "{name}" hangs {how_long}, and its endpoint stays ready: {counted(len(flows), "flow")}',
            now_ns + self.for_ns if self.for_ns else FOREVER_NS,
            tuple(Effect(flow, told | {Symptom.LOSS_UP}, may, outages_judged=SILENT) for flow in flows),
        )

    async def _recover(self, context: FaultContext, name: str) -> None:
        await context.runtime.wait(self.for_ns)
        context.network.dead_pods.discard(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesHeld(Fault):
    """All replies wait, canaries' too, and then they come all at once: late ones, and behind them those in time.

    Pods that are frozen and thawed do so (the cgroup freezer of `docker pause`, a virtual machine that stands still in its
    live migration): the kernel keeps what arrives at the socket; so does a radio link that buffers while it has no signal.
    """

    name = "replies-held"
    expects = (
        "all sessions and canaries unanswered together; then late replies, and the same pods and addresses as before"
    )
    control = True
    also_correct = frozenset({"lb-churn"})

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=8 * 10**9)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Hold back every reply for a time."""
        until_ns = now_ns + self.for_ns
        context.impairments.add(
            Impairment(
                direction=Direction.DOWN,
                flows=None,
                until_ns=until_ns,
                rng=context.rng(self.name, number),
                hold=True,
                reason="held-back",
            )
        )
        may = frozenset({Symptom.LOSS_UNTOLD, Symptom.REORDERING})
        return Injection(
            number,
            now_ns,
            f"all replies wait for {format_duration(self.for_ns)}, and come at once then",
            until_ns,
            tuple(Effect(flow, frozenset({Symptom.LOSS_DOWN}), may) for flow in context.flows),
            blackout_ns=max(0, self.for_ns - DEFAULT_LOSS_THRESHOLD_NS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
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

    for_ns: int = parameter(read_time, TIME, "how long the node is off", key="for", default=60 * 10**9)
    notice_ns: int = parameter(
        read_time, TIME, "after which its endpoints are no longer ready", key="notice", default=50 * 10**9
    )
    drain_ns: int = parameter(
        read_time, TIME, "after which the balancer leaves it out", key="drain", default=35 * 10**9
    )

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
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
        must = frozenset({Symptom.OUTAGE, Symptom.LOSS_UP})
        may = MOVED | LOST
        return Injection(
            number,
            now_ns,
            f'node "{name}" is off for {format_duration(self.for_ns)}: {counted(len(pods), "pod")} with '
            f"{counted(len(served), 'flow')}, and {counted(len(entering), 'flow')} more that enter by it",
            now_ns + self.for_ns,
            (
                *(Effect(flow, must, may, outages_judged=GONE) for flow in served),
                *(
                    Effect(flow, frozenset({Symptom.LOSS_UP}), may | {Symptom.OUTAGE}, outages_judged=LIVES)
                    for flow in entering
                ),
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
        context.add_cluster_event("node", name, "not Ready")
        context.runtime.publish()
        await context.runtime.wait(SYNC_NS)
        for pod in pods:
            context.network.flush_pod(pod)

    async def _restore(self, context: FaultContext, name: str, pods: list[str]) -> None:
        for node_pod in pods:
            await context.runtime.restart_pod(node_pod)
            context.network.set_conditions(node_pod, ready=True, serving=True)
        context.network.flush_flows(name)
        context.network.ingress.powered_off.discard(name)
        context.add_cluster_event("node", name, "Ready")
        context.runtime.publish()


@dataclass(frozen=True, slots=True, kw_only=True)
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

    drain_ns: int = parameter(
        read_time, TIME, "after which the balancer leaves the node out", key="drain", default=30 * 10**9
    )

    @property
    def lasts_ns(self) -> int:
        """Until the balancer leaves the node out."""
        return self.drain_ns

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Delete all pods of the node whose pod has the most flows."""
        network = context.network
        busiest, _ = busiest_pod(context)
        node = network.pods[busiest].node
        pods = [pod.name for pod in network.pods.values() if pod.node == node]
        flows = [flow for flow in context.flows if network.ingress.node_of(flow) == node]
        context.mark_used(flows, Family.ROUTING)
        for name in pods:
            network.dead_pods.add(name)
            network.remove_pod(name)
        context.runtime.spawn(self._end(context, node, pods))
        told = frozenset({Symptom.OUTAGE}) if self.drain_ns > OUTAGE_NS else frozenset()
        must: frozenset[Observable] = frozenset({Symptom.LOSS_UP, Kind.POD})
        return Injection(
            number,
            now_ns,
            f'{counted(len(pods), "pod")} of node "{node}" leave the pool, and the balancer sends '
            f"{counted(len(flows), 'flow')} there for {format_duration(self.drain_ns)}",
            now_ns + self.drain_ns,
            tuple(
                Effect(flow, must | told, MOVED | LOST | {Symptom.OUTAGE}, EXPLAINED, frozenset({Judgement.EXPLAINED}))
                for flow in flows
            ),
        )

    async def _end(self, context: FaultContext, node: str, pods: list[str]) -> None:
        for name in pods:
            await context.runtime.kill_pod(name)
        await context.runtime.wait(self.drain_ns)
        context.network.ingress.leave_hash(node)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledToZero(Fault):
    """Every pod leaves the pool, and new ones come after a time: there is nothing that could answer.

    The proxies refuse what comes to a Service without endpoints; behind a balancer the client mostly hears nothing.
    """

    name = "scaled-to-zero"
    expects = "all sessions and canaries unanswered together, and then other pods"
    control = True
    also_correct = frozenset({"pod-deleted"})
    moves_pool = True

    for_ns: int = parameter(read_time, TIME, "how long no pod is there", key="for", default=8 * 10**9)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Delete every pod."""
        network = context.network
        flows: tuple[TransportAddress, ...] = context.flows
        context.mark_used(flows, Family.ROUTING)
        nodes = []
        pods = list(network.pods)
        for name in pods:
            nodes.append(network.pods[name].node)
            network.dead_pods.add(name)
            network.remove_pod(name)
        context.runtime.spawn(self._refill(context, pods, nodes))
        return Injection(
            number,
            now_ns,
            f"all {counted(len(pods), 'pod')} leave the pool, and as many new ones come {format_duration(self.for_ns)} later",
            now_ns + self.for_ns,
            tuple(Effect(flow, frozenset({Symptom.LOSS_UP, Kind.POD}), MOVED | LOST, EXPLAINED) for flow in flows),
            blackout_ns=self.for_ns,
        )

    async def _refill(self, context: FaultContext, pods: list[str], nodes: list[str]) -> None:
        for name in pods:
            await context.runtime.kill_pod(name)
        await context.runtime.wait(self.for_ns)
        for node in nodes:
            await context.runtime.start_pod(node)
