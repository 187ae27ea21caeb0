"""Replies that arrive elsewhere than they should: at another session, or from another address than the service's."""

from __future__ import annotations

from affinity_tester.core.identity import Kind
from affinity_tester.lab.balancer import Diversion
from affinity_tester.lab.fault import Family, Fault, FaultContext, counted
from affinity_tester.lab.faults.packets import PacketFault
from affinity_tester.lab.injection import BROKEN, MOVED, OUTAGE_NS, VIOLATION, Injection, Symptom, effects_on
from affinity_tester.lab.model import Policy
from affinity_tester.lab.parameter import count_parameter, time_parameter
from affinity_tester.units import NS_PER_S, format_duration


class WrongSource(Fault):
    """Replies of some flows leave from another address than the service's: something on the way back is not undone."""

    name = "wrong-source"
    expects = "the chosen flows: replies from an unexpected source, and their probes lost downstream; no change"

    sessions: int = count_parameter("how many flows", default=3)
    for_ns: int = time_parameter("how long", key="for", default=2 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Let the chosen flows' replies leave from another socket for a time."""
        flows = context.choose(self.sessions, Family.PACKETS)
        wrong_source = context.runtime.balancer.wrong_source
        wrong_source.update(flows)
        context.after(self.for_ns, lambda: wrong_source.difference_update(flows))

        return context.injection(
            f"replies to {counted(len(flows), 'flow')} leave from another address for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            effects_on(flows, {Symptom.WRONG_SOURCE, Symptom.LOSS_DOWN}, {Symptom.LOSS_UNTOLD}, strays_judged=BROKEN),
        )


class CrossDelivery(PacketFault):
    """Some replies to one flow are delivered to another flow of the same client.

    As where a proxy or a NAT mixes up its entries (quilkin 988): a packet that leaks from one customer to another.
    """

    name = "cross-delivery"
    alias = "snat-collision"
    expects = "one flow: replies to another's probes; the other: these lost downstream; no change"

    @property
    def session_count(self) -> int:
        """Return how many sessions it needs: those that lose replies, and those that get them."""
        return 2 * self.sessions

    def inject(self, context: FaultContext) -> Injection:
        """Choose pairs of flows, and deliver replies of the one to the other for a time."""
        flows = context.choose(self.session_count, Family.PACKETS)
        owners, receivers = flows[: self.sessions], flows[self.sessions :]
        rng = context.rng()
        diversions = context.runtime.balancer.diversions
        diversions.update(
            (owner, Diversion(receiver, self.probability, rng))
            for owner, receiver in zip(owners, receivers, strict=True)
        )
        context.after(self.for_ns, lambda: [diversions.pop(owner) for owner in owners])

        # Where every reply is diverted, its session is silent as in an outage; that is the same fault.
        must, may = {Symptom.LOSS_DOWN}, {Symptom.LOSS_UNTOLD}
        if self.probability == 1:
            (must if self.for_ns > OUTAGE_NS else may).add(Symptom.OUTAGE)

        return context.injection(
            f"{self.share} of the replies of {counted(len(owners), 'flow')} are delivered to another flow each, "
            f"for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            (
                *effects_on(owners, must, may, outages_judged=BROKEN),
                *effects_on(receivers, {Symptom.CROSS_DELIVERED}, strays_judged=BROKEN),
            ),
        )


class OnePacket(Fault):
    """Each packet is sent to any pod, and only the pod of the flow's own entry answers through the node.

    IPVS with one-packet scheduling (`ipvsadm --ops`, net/netfilter/ipvs: IP_VS_SVC_F_ONEPACKET): no entry outlives a packet,
    so replies of other pods are not translated back and leave from the pods' own addresses.
    """

    name = "one-packet"
    alias = "packet-spray"
    also_correct = frozenset({"wrong-source"})
    expects = "most flows: another pod from packet to packet, mostly from the pods' own addresses; no loss upstream"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster the masquerade brings the replies back to the node"

    for_ns: int = time_parameter("how long", key="for", default=3 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Send each packet to any pod for a time."""
        context.network.one_packet = True
        context.after(self.for_ns, lambda: setattr(context.network, "one_packet", False))

        return context.injection(
            f"nodes send each packet to any pod for {format_duration(self.for_ns)}, and most pods answer past them",
            context.at_ns + self.for_ns,
            effects_on(
                context.flows,
                {Kind.POD, Symptom.WRONG_SOURCE, Symptom.LOSS_DOWN},
                MOVED | {Symptom.LOSS_UNTOLD, Symptom.OUTAGE},
                VIOLATION,
                outages_judged=BROKEN,
                strays_judged=BROKEN,
            ),
        )
