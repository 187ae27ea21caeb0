"""Replies that arrive elsewhere than they should: at another session, or from another address than the service's."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Kind
from affinity_tester.lab.balancer import Diversion
from affinity_tester.lab.fault import (
    BROKEN,
    MOVED,
    OUTAGE_NS,
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
from affinity_tester.lab.faults.packets import PacketFault
from affinity_tester.lab.model import Policy
from affinity_tester.lab.parameter import COUNT, TIME, parameter, read_count, read_time
from affinity_tester.settings import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongSource(Fault):
    """Replies of some flows leave from another address than the service's: something on the way back is not undone."""

    name = "wrong-source"
    expects = "the chosen flows: replies from an unexpected source, and their probes lost downstream; no change"

    sessions: int = parameter(read_count, COUNT, "how many flows", default=3)
    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=2_000_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Let the chosen flows' replies leave from another socket for a time."""
        flows = bench.choose(self.sessions, Family.PACKETS, self.name, number)
        bench.stage.balancer.astray.update(flows)
        bench.stage.play(self._end(bench, flows))
        must = marks(Sign.WRONG_SOURCE, Sign.LOSS_DOWN)
        return Deal(
            number,
            now_ns,
            f"replies to {counted(len(flows), 'flow')} leave from another address for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, marks(Sign.LOSS_UNTOLD), strays=BROKEN) for flow in flows),
        )

    async def _end(self, bench: Bench, flows: tuple[TransportAddress, ...]) -> None:
        await bench.stage.wait(self.for_ns)
        bench.stage.balancer.astray.difference_update(flows)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossDelivery(PacketFault):
    """Some replies to one flow are delivered to another flow of the same client.

    As where a proxy or a NAT mixes up its entries (quilkin 988): a packet that leaks from one customer to another.
    """

    name = "cross-delivery"
    catalogued = "snat-collision"
    expects = "one flow: replies to another's probes; the other: these lost downstream; no change"

    @property
    def victims(self) -> int:
        """How many sessions it asks for: who loses replies, and who gets them."""
        return 2 * self.sessions

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Choose pairs of flows, and deliver replies of the one to the other for a time."""
        flows = bench.choose(self.victims, Family.PACKETS, self.name, number)
        owners, getters = flows[: self.sessions], flows[self.sessions :]
        rng = bench.rng(self.name, number)
        diverted = bench.stage.balancer.diverted
        diverted.update(
            (owner, Diversion(getter, self.probability, rng)) for owner, getter in zip(owners, getters, strict=True)
        )
        bench.stage.play(self._end(bench, owners))
        # Where each reply is, its session is silent as in an outage; that is the same fault.
        whole = marks(Sign.OUTAGE) if self.probability == 1 and self.for_ns > OUTAGE_NS else marks()
        lost = marks(Sign.LOSS_DOWN)
        may = marks(Sign.LOSS_UNTOLD) | (marks(Sign.OUTAGE) if self.probability == 1 else marks())
        return Deal(
            number,
            now_ns,
            f"{self.share} of the replies of {counted(len(owners), 'flow')} are delivered to another flow each, "
            f"for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            (
                *(Effect(flow, lost | whole, may, silent=BROKEN) for flow in owners),
                *(Effect(flow, marks(Sign.CROSS_DELIVERED), strays=BROKEN) for flow in getters),
            ),
        )

    async def _end(self, bench: Bench, owners: tuple[TransportAddress, ...]) -> None:
        await bench.stage.wait(self.for_ns)
        for owner in owners:
            del bench.stage.balancer.diverted[owner]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePacket(Fault):
    """Each packet is sent to any pod, and only the pod of the flow's own entry answers through the node.

    IPVS with one-packet scheduling (`ipvsadm --ops`, net/netfilter/ipvs: IP_VS_SVC_F_ONEPACKET): no entry outlives a packet,
    so replies of other pods are not translated back and leave from the pods' own addresses.
    """

    name = "one-packet"
    catalogued = "packet-spray"
    also = frozenset({"wrong-source"})
    expects = "most flows: another pod from packet to packet, mostly from the pods' own addresses; no loss upstream"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster the masquerade brings the replies back to the node"

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=3 * 10**9)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Send each packet to any pod for a time."""
        bench.path.one_packet = True
        bench.stage.play(self._end(bench))
        must = marks(Kind.POD, Sign.WRONG_SOURCE, Sign.LOSS_DOWN)
        may = MOVED | marks(Sign.LOSS_UNTOLD, Sign.OUTAGE)
        return Deal(
            number,
            now_ns,
            f"nodes send each packet to any pod for {format_duration(self.for_ns)}, and most pods answer past them",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, may, VIOLATION, BROKEN, BROKEN) for flow in bench.flows),
        )

    async def _end(self, bench: Bench) -> None:
        await bench.stage.wait(self.for_ns)
        bench.path.one_packet = False
