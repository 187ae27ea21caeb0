"""Faults of the balancer itself: its address, its object, its link, and how the Service's policies meet it."""

from __future__ import annotations

from affinity_tester.core.events import ClusterAction, ClusterSubject
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Fault, FaultContext, StandingFault, counted
from affinity_tester.lab.impairment import Impairment
from affinity_tester.lab.injection import BROKEN, FOREVER_NS, LOST, MOVED, VIOLATION, Injection, Symptom, effects_on
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.packet_log import Direction
from affinity_tester.lab.parameter import count_parameter, time_parameter
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration

SERVICE = "lab/affinity-tester"
"""The name of the lab's Service in cluster events."""


class VipFailover(Fault):
    """The service's address moves to another node, once or to and fro."""

    name = "vip-failover"
    expects = "all flows: loss together, then one new reflexive IP for all"

    gap_ns: int = time_parameter("how long no node holds the address", key="gap", default=1_500 * NS_PER_MS)
    times: int = count_parameter("how often it moves; more than once is a flip-flop", default=1)
    every_ns: int = time_parameter("the time between, when it is more than once", key="every", default=2 * NS_PER_S)

    @property
    def lasts_ns(self) -> int:
        """Return the time until the address has moved for the last time."""
        return self.gap_ns + self.every_ns * (self.times - 1)

    def inject(self, context: FaultContext) -> Injection:
        """Take the address from its node for a while, and give it to another."""
        network = context.network
        old = network.ingress.vip or next(iter(network.nodes))
        new = next(name for name in network.nodes if name != old)
        context.impairments.add(_black_hole(context, context.at_ns + self.gap_ns, "no-vip"))
        # At once: in the gap nothing passes, and not one probe after it may reach the old node.
        network.ingress.vip = new
        if self.times > 1:
            context.runtime.spawn(self._fight(context, old, new))
        again = f", and to and fro {self.times} times" if self.times > 1 else ""

        return context.injection(
            f'the service\'s address moves from node "{old}" to node "{new}" in {format_duration(self.gap_ns)}{again}',
            context.at_ns + self.lasts_ns,
            effects_on(context.flows, {Kind.REFLEXIVE_IP, Symptom.LOSS_UP}, MOVED | LOST, VIOLATION),
        )

    async def _fight(self, context: FaultContext, old: str, new: str) -> None:
        await context.runtime.wait(self.gap_ns)
        for turn in range(1, self.times):
            await context.runtime.wait(self.every_ns)
            context.network.ingress.vip = old if turn % 2 else new


class LbChurn(Fault):
    """The balancer's object is made anew: nothing passes meanwhile."""

    name = "lb-churn"
    expects = "all flows: loss together, the same pod and address after"

    for_ns: int = time_parameter("how long", key="for", default=2 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Drop everything for a time."""
        context.impairments.add(_black_hole(context, context.at_ns + self.for_ns, "no-balancer"))
        context.add_cluster_event(
            ClusterSubject.SERVICE, SERVICE, ClusterAction.FIELDS_CHANGED, fields=("annotations",)
        )

        return context.injection(
            f"the balancer is made anew: nothing passes for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            effects_on(context.flows, {Symptom.LOSS_UP}, {Symptom.LOSS_UNTOLD}),
        )


class LocalPolicy(StandingFault):
    """externalTrafficPolicy Local, and the balancer sends to nodes without a pod; what the plan's `pods` leave empty."""

    name = "local-policy"
    expects = "some flows: unanswered from sequence 0; the others fine"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster a node without a pod sends to another's"

    def inject(self, context: FaultContext) -> Injection:
        """Do nothing: the nodes without a pod are there."""
        hosts = {pod.node for pod in context.network.pods.values()}
        empty = [name for name in context.network.nodes if name not in hosts]

        return context.injection(
            f"policy Local, and {counted(len(empty), 'node')} without a pod in the balancer",
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.OUTAGE}),
            may=LOST | {Symptom.OUTAGE},
            outages_judged=BROKEN,
        )


class ClientIpSpread(StandingFault):
    """sessionAffinity ClientIP, which each node keeps on its own: the balancer spreads one client over nodes."""

    name = "client-ip-spread"
    expects = "each session stable, and one client IP served by two pods or more"
    affinities = frozenset({Affinity.CLIENT_IP})

    def inject(self, context: FaultContext) -> Injection:
        """Do nothing: nodes do not share their affinity."""
        return context.injection(
            "affinity ClientIP is kept per node, and the balancer hashes one client over nodes",
            FOREVER_NS,
            unobservable=True,
        )


class Blackout(Fault):
    """Nothing passes in either direction, canaries neither: the client's own link is down, or all of the path is.

    With a cable pulled or Wi-Fi lost Linux queues or drops what is sent without a word as long as the address stays.
    """

    name = "blackout"
    expects = "all sessions and canaries unanswered together, and then the same pods and addresses as before"
    control = True
    also_correct = frozenset({"lb-churn"})

    for_ns: int = time_parameter("how long; left out: to the end of the run", key="for", default=0)

    def inject(self, context: FaultContext) -> Injection:
        """Drop everything for a time."""
        until_ns = context.at_ns + self.for_ns if self.for_ns else FOREVER_NS
        context.impairments.add(_black_hole(context, until_ns, "no-link"))
        how_long = f"for {format_duration(self.for_ns)}" if self.for_ns else "from now on"

        return context.injection(
            f"nothing passes {how_long}",
            until_ns,
            effects_on(context.flows, {Symptom.LOSS_UP}, {Symptom.LOSS_UNTOLD}),
            blackout_ns=until_ns - context.at_ns,
        )


def _black_hole(context: FaultContext, until_ns: int, reason: str) -> Impairment:
    """Return an impairment that drops every packet to the pods for a while."""
    return Impairment(
        direction=Direction.UP, flows=None, until_ns=until_ns, rng=context.rng(reason), drop=1.0, reason=reason
    )
