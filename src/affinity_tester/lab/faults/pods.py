"""Faults of pods: stale entries, termination, restarts, and a pod that hangs.

No affinity keeps a flow on a dead pod: no session of a silent pod may be called a violation.
"""

from __future__ import annotations

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ClusterAction, ClusterSubject, Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext, counted
from affinity_tester.lab.injection import (
    AVOIDABLE,
    BROKEN,
    EXCUSED,
    EXPLAINED,
    FOREVER_NS,
    LOST,
    MOVED,
    OUTAGE_NS,
    Injection,
    Judged,
    Symptom,
    effects_on,
)
from affinity_tester.lab.parameter import time_parameter
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration

SILENT = frozenset({Judgement.POD_SILENT, Judgement.UNKNOWN})
"""How the outages of a pod are judged that is in the pool and answers nobody."""


def busiest_pod(context: FaultContext) -> tuple[str, list[TransportAddress]]:
    """Return the pod with the most flows, and these flows; they count as used."""
    held = context.flows_by_pod()
    name = max(context.network.pods, key=lambda name: len(held.get(name, ())))
    flows = held.get(name, [])
    context.mark_used(flows, Family.ROUTING)
    return name, flows


class StaleFlow(Fault):
    """A pod is deleted, and the proxies keep the entries of its flows.

    The change of the pool explains their silence for the settle time, and not for ever.
    """

    name = "stale-flow"
    expects = "the flows of the deleted pod: all probes lost from then on, while new flows are answered"
    moves_pool = True

    def inject(self, context: FaultContext) -> Injection:
        """Delete the pod with the most flows, and flush nothing."""
        name, flows = busiest_pod(context)
        context.network.remove_pod(name, flush=False)
        context.runtime.spawn(context.runtime.kill_pod(name))
        context.network.dead_pods.add(name)

        return context.injection(
            f'pod "{name}" is deleted, and the entries of {counted(len(flows), "flow")} stay',
            FOREVER_NS,
            effects_on(flows, {Symptom.OUTAGE, Symptom.LOSS_UP}, LOST, outages_judged=BROKEN),
        )


class TerminatingBackend(Fault):
    """A pod terminates and closes its socket, and traffic goes on to it until it leaves the pool."""

    name = "terminating-backend"
    expects = "the flows of the terminating pod: upstream loss until it leaves the pool, then another pod"
    moves_pool = True

    for_ns: int = time_parameter("from the closed socket to the removal", key="for", default=3 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Let the pod with the most flows terminate."""
        name, flows = busiest_pod(context)
        context.network.set_conditions(name, ready=False, serving=True, terminating=True)
        context.network.dead_pods.add(name)
        context.runtime.spawn(self._end(context, name))

        return context.injection(
            f'pod "{name}" terminates and closes its socket {format_duration(self.for_ns)} before it leaves the pool: '
            f"{counted(len(flows), 'flow')}",
            context.at_ns + self.for_ns,
            effects_on(
                flows, {Symptom.LOSS_UP, Kind.POD}, MOVED | LOST | {Symptom.OUTAGE}, EXPLAINED, outages_judged=EXCUSED
            ),
        )

    async def _end(self, context: FaultContext, name: str) -> None:
        await context.runtime.kill_pod(name)
        await context.runtime.wait(self.for_ns)
        context.network.remove_pod(name)
        context.runtime.publish()


class EarlyFlush(Fault):
    """Flows are taken from a pod that terminates and still serves."""

    name = "early-flush"
    expects = "the flows of the terminating pod: another pod at once, though it still serves; no loss"
    moves_pool = True

    for_ns: int = time_parameter("how long the pod still serves", key="for", default=5 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Let the pod with the most flows terminate, and flush its entries."""
        name, flows = busiest_pod(context)
        context.network.set_conditions(name, ready=False, serving=True, terminating=True)
        context.network.flush_pod(name)
        context.runtime.spawn(self._end(context, name))

        return context.injection(
            f'pod "{name}" terminates, still serving, and {counted(len(flows), "flow")} are taken from it',
            context.at_ns,
            effects_on(flows, {Kind.POD}, MOVED, AVOIDABLE),
        )

    async def _end(self, context: FaultContext, name: str) -> None:
        await context.runtime.wait(self.for_ns)
        context.network.remove_pod(name)
        context.runtime.publish()
        await context.runtime.kill_pod(name)


class PodRestart(Fault):
    """A pod's container ends and starts again under the same name and address."""

    name = "pod-restart"
    expects = "the flows of the pod: some loss, then the same pod with a new instance"

    gap_ns: int = time_parameter("how long its socket is closed", key="gap", default=500 * NS_PER_MS)

    @property
    def lasts_ns(self) -> int:
        """Return the time until it answers again."""
        return self.gap_ns

    def inject(self, context: FaultContext) -> Injection:
        """Restart the pod with the most flows."""
        name, flows = busiest_pod(context)
        context.network.dead_pods.add(name)
        context.runtime.spawn(self._again(context, name))

        return context.injection(
            f'the container of pod "{name}" restarts within {format_duration(self.gap_ns)}: {counted(len(flows), "flow")}',
            context.at_ns + self.gap_ns,
            effects_on(flows, {Kind.INSTANCE, Symptom.LOSS_UP}, LOST, Judged(Judgement.POD_RESTART)),
        )

    async def _again(self, context: FaultContext, name: str) -> None:
        runtime = context.runtime
        await runtime.kill_pod(name)
        await runtime.wait(self.gap_ns)
        await runtime.restart_pod(name)
        node = context.network.pods[name].node
        context.add_cluster_event(ClusterSubject.POD, name, ClusterAction.RESTARTED, node=node)
        runtime.publish()


class HungPod(Fault):
    """A pod hangs: its socket is open and answers nobody, and its endpoint is ready all the while.

    A readiness probe of another port, or none, does not notice a hung UDP server; no proxy takes the flows from it.
    """

    name = "hung-pod"
    alias = "pod-silent"
    expects = "the flows of the pod: an outage, while canaries meet other pods; the same pod again if it recovers"
    control = True

    for_ns: int = time_parameter("how long; left out: to the end of the run", key="for", default=0)

    def inject(self, context: FaultContext) -> Injection:
        """Let the pod with the most flows hang."""
        name, flows = busiest_pod(context)
        context.network.dead_pods.add(name)
        if self.for_ns:
            context.after(self.for_ns, lambda: context.network.dead_pods.discard(name))
        told = frozenset({Symptom.OUTAGE}) if not self.for_ns or self.for_ns > OUTAGE_NS else frozenset()
        may = LOST | {Symptom.OUTAGE}
        how_long = f"for {format_duration(self.for_ns)}" if self.for_ns else "from now on"

        return context.injection(
            f'pod "{name}" hangs {how_long}, and its endpoint stays ready: {counted(len(flows), "flow")}',
            context.at_ns + self.for_ns if self.for_ns else FOREVER_NS,
            effects_on(flows, told | {Symptom.LOSS_UP}, may, outages_judged=SILENT),
        )
