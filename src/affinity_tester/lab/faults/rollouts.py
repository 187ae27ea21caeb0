"""Ordinary life of pods: added, deleted, rolled, scaled to zero."""

from __future__ import annotations

import math
from functools import partial

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext, counted
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.injection import AVOIDABLE, EXPLAINED, LOST, MOVED, UNAVOIDABLE, Injection, Symptom, effects_on
from affinity_tester.lab.parameter import (
    SHARE_OR_0,
    YES,
    count_parameter,
    parameter,
    read_share_or_0,
    read_yes,
    time_parameter,
)
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration

SHORTEST_SYNC_NS, LONGEST_SYNC_NS = 300 * NS_PER_MS, 1_600 * NS_PER_MS
"""From an endpoint's leaving until a node's proxy has cleaned its entries, as measured."""


class PodAdded(Fault):
    """A pod joins the pool; a proxy that hashes over pods (as IPVS or Maglev do) moves a share of the flows to it."""

    name = "pod-added"
    expects = "the moved flows: the new pod (kube-proxy moves none); no loss"
    control = True
    moves_pool = True

    fraction: float = parameter(read_share_or_0, SHARE_OR_0, "share of the flows that move to it", default=0.0)

    def inject(self, context: FaultContext) -> Injection:
        """Start a pod, and move flows to it when it is there."""
        count = math.floor(self.fraction * len(context.flows) + 0.5)
        flows = context.choose(count, Family.ROUTING) if count else ()
        hosts = [pod.node for pod in context.network.pods.values()]
        node = min((node.name for node in context.network.nodes.values() if node.hashed), key=hosts.count)
        context.runtime.spawn(self._join(context, node, flows))

        return context.injection(
            f'a pod joins the pool on node "{node}", and {counted(len(flows), "flow")} move to it',
            context.at_ns,
            effects_on(flows, {Kind.POD, Kind.INSTANCE}, MOVED, AVOIDABLE),
            unobservable=not flows,
        )

    async def _join(self, context: FaultContext, node: str, flows: tuple[TransportAddress, ...]) -> None:
        pod = await context.runtime.start_pod(node)
        for flow in flows:
            context.network.send_to(flow, pod, context.now_ns())


class PodDeleted(Fault):
    """A pod is deleted: it terminates and leaves the pool, and its flows move, after the loss that real proxies cause."""

    name = "pod-deleted"
    expects = "the flows of the pod: some loss, then another pod"
    control = True
    also_correct = frozenset({"terminating-backend"})
    moves_pool = True

    gap_ns: int = time_parameter("from the closed socket until its flows move", key="gap", default=1_200 * NS_PER_MS)

    @property
    def lasts_ns(self) -> int:
        """Return the time until its flows move."""
        return self.gap_ns

    def inject(self, context: FaultContext) -> Injection:
        """Delete the pod with the most flows."""
        name, flows = busiest_pod(context)
        context.network.set_conditions(name, ready=False, serving=False, terminating=True)
        context.network.dead_pods.add(name)
        context.runtime.spawn(self._end(context, name))

        return context.injection(
            f'pod "{name}" is deleted, and {counted(len(flows), "flow")} move {format_duration(self.gap_ns)} later',
            context.at_ns + self.gap_ns,
            effects_on(flows, {Kind.POD}, MOVED | LOST, UNAVOIDABLE),
        )

    async def _end(self, context: FaultContext, name: str) -> None:
        await context.runtime.kill_pod(name)
        await context.runtime.wait(self.gap_ns)
        context.network.remove_pod(name)
        context.runtime.publish()


class RollingUpdate(Fault):
    """Every pod is replaced, one after the other: a new one joins, then an old one drains and leaves.

    Flows on a terminating pod stay until its endpoint leaves, and then lose 0.3 to 1.6 s, until the proxy of their node has
    cleaned its entries (docs/failure-modes.md, measured on kube-proxy 1.36).
    """

    name = "rolling-update"
    expects = "every flow: other pods, as old ones leave; no loss, or some until the proxies have followed"
    control = True
    also_correct = frozenset({"terminating-backend"})
    moves_pool = True

    every_ns: int = time_parameter("from one pod to the next", key="every", default=NS_PER_S)
    pods: int = count_parameter("how many pods the plan has", default=3)
    lossy: bool = parameter(read_yes, YES, "whether each proxy takes its time to follow, 0.3 to 1.6 s", default=False)

    @property
    def lasts_ns(self) -> int:
        """Return the time until the last old pod has left, and the last proxy has followed."""
        return self.every_ns * self.pods + (LONGEST_SYNC_NS if self.lossy else 0)

    def inject(self, context: FaultContext) -> Injection:
        """Begin to roll."""
        names = list(context.network.pods)
        context.runtime.spawn(self._roll(context, names))
        losses = LOST if self.lossy else frozenset()

        return context.injection(
            f"{counted(len(names), 'pod')} are replaced, one every {format_duration(self.every_ns)}"
            + (", and each proxy follows after 0.3 to 1.6 s" if self.lossy else ""),
            context.at_ns + self.lasts_ns,
            effects_on(context.flows, {Kind.POD}, MOVED | losses, EXPLAINED),
        )

    async def _roll(self, context: FaultContext, names: list[str]) -> None:
        runtime = context.runtime
        for name in names:
            await runtime.start_pod(context.network.pods[name].node)
            context.network.set_conditions(name, ready=False, serving=True, terminating=True)
            runtime.publish()
            await runtime.wait(self.every_ns)

            if self.lossy:
                context.network.dead_pods.add(name)
            context.network.remove_pod(name, flush=not self.lossy)
            runtime.publish()
            await runtime.kill_pod(name)

            # Each node's proxy cleans its entries in its own time; until then they lead to the dead pod.
            if self.lossy:
                rng = context.rng(name)
                for node in context.network.nodes:
                    sync_ns = rng.randint(SHORTEST_SYNC_NS, LONGEST_SYNC_NS)
                    context.after(sync_ns, partial(context.network.flush_pod, name, at=node))


class ScaledToZero(Fault):
    """Every pod leaves the pool, and new ones come after a time: there is nothing that could answer.

    The proxies refuse what comes to a Service without endpoints; behind a balancer the client mostly hears nothing.
    """

    name = "scaled-to-zero"
    expects = "all sessions and canaries unanswered together, and then other pods"
    control = True
    also_correct = frozenset({"pod-deleted"})
    moves_pool = True

    for_ns: int = time_parameter("how long no pod is there", key="for", default=8 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
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

        return context.injection(
            f"all {counted(len(pods), 'pod')} leave the pool, and as many new ones come {format_duration(self.for_ns)} later",
            context.at_ns + self.for_ns,
            effects_on(flows, {Symptom.LOSS_UP, Kind.POD}, MOVED | LOST, EXPLAINED),
            blackout_ns=self.for_ns,
        )

    async def _refill(self, context: FaultContext, pods: list[str], nodes: list[str]) -> None:
        for name in pods:
            await context.runtime.kill_pod(name)
        await context.runtime.wait(self.for_ns)
        for node in nodes:
            await context.runtime.start_pod(node)
