"""Faults of single packets: loss, duplication, reordering, too large ones, first ones, replies from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.fault import (
    FOREVER_NS,
    LOST,
    Effect,
    Family,
    Fault,
    FaultContext,
    Injection,
    Symptom,
    counted,
)
from affinity_tester.lab.impairment import Impairment
from affinity_tester.lab.packet_log import Direction
from affinity_tester.lab.parameter import COUNT, SHARE, TIME, parameter, read_count, read_share, read_time
from affinity_tester.settings import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFault(Fault):
    """Something happens to packets of some flows for a time."""

    sessions: int = parameter(read_count, COUNT, "how many flows", default=1)
    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=1_000_000_000)
    probability: float = parameter(read_share, SHARE, "share of their packets that are hit", default=1.0)

    @property
    def share(self) -> str:
        """The probability, in words."""
        return f"{100 * self.probability:.3g} %"

    def _drop(
        self,
        context: FaultContext,
        number: int,
        flows: tuple[TransportAddress, ...],
        direction: Direction,
        until_ns: int,
    ) -> None:
        context.impairments.add(
            Impairment(
                direction=direction,
                flows=frozenset(flows),
                until_ns=until_ns,
                rng=context.rng(self.name, number),
                drop=self.probability,
            )
        )


class Loss(PacketFault):
    """A burst of loss in one direction."""

    __slots__ = ()
    direction: ClassVar[Direction]
    symptom: ClassVar[Symptom]
    what: ClassVar[str]

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Drop packets of the chosen flows for a time."""
        flows = context.choose(self.sessions, Family.PACKETS, self.name, number)
        until_ns = now_ns + self.for_ns
        self._drop(context, number, flows, self.direction, until_ns)
        return Injection(
            number,
            now_ns,
            f"{self.share} of the {self.what} of {counted(len(flows), 'flow')} are dropped "
            f"for {format_duration(self.for_ns)}",
            until_ns,
            tuple(Effect(flow, frozenset({self.symptom}), frozenset({Symptom.LOSS_UNTOLD})) for flow in flows),
        )


class LossUp(Loss):
    """A loss burst on the way to the pod."""

    __slots__ = ()
    control = True
    name = "loss-up"
    expects = "the chosen flows: as many probes lost as were dropped, all upstream; no change"
    direction = Direction.UP
    symptom = Symptom.LOSS_UP
    what = "probes"


class LossDown(Loss):
    """A loss burst on the way back to the client."""

    __slots__ = ()
    control = True
    name = "loss-down"
    expects = "the chosen flows: as many probes lost as replies were dropped, all downstream; no change"
    direction = Direction.DOWN
    symptom = Symptom.LOSS_DOWN
    what = "replies"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountReset(PacketFault):
    """Replies of some flows are lost, and in the midst of it every pod forgets its flows: the counts begin again.

    A server with a bounded table forgets flows under the same INSTANCE-ID (`--max-flows`, core.echo).
    """

    name = "count-reset"
    control = True
    expects = "the chosen flows: as many probes lost as replies were dropped, none of them upstream; no change"

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Drop replies of the chosen flows for a time, and forget the flows at half of it."""
        flows = context.choose(self.sessions, Family.PACKETS, self.name, number)
        until_ns = now_ns + self.for_ns
        self._drop(context, number, flows, Direction.DOWN, until_ns)
        context.runtime.spawn(self._forget(context))
        return Injection(
            number,
            now_ns,
            f"{self.share} of the replies of {counted(len(flows), 'flow')} are dropped for "
            f"{format_duration(self.for_ns)}, and the pods forget all flows in the midst of it",
            until_ns,
            tuple(Effect(flow, frozenset({Symptom.LOSS_DOWN}), frozenset({Symptom.LOSS_UNTOLD})) for flow in flows),
        )

    async def _forget(self, context: FaultContext) -> None:
        await context.runtime.wait(self.for_ns // 2)
        context.runtime.forget_flows()


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateReorder(PacketFault):
    """Replies are duplicated, and some copies held back so that later replies overtake them."""

    name = "duplicate-reorder"
    control = True
    expects = "the chosen flows: duplicates and reordering counted; no loss, no change"

    delay_ns: int = parameter(
        read_time, TIME, "how long copies are held back: more than the interval", key="delay", default=250_000_000
    )

    @property
    def reorder_delay_ns(self) -> int:
        """How long copies are held back."""
        return self.delay_ns

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Duplicate and delay replies of the chosen flows for a time."""
        flows = context.choose(self.sessions, Family.PACKETS, self.name, number)
        until_ns = now_ns + self.for_ns
        context.impairments.add(
            Impairment(
                direction=Direction.DOWN,
                flows=frozenset(flows),
                until_ns=until_ns,
                rng=context.rng(self.name, number),
                duplicate=self.probability,
                delay=self.probability,
                delay_ns=self.delay_ns,
            )
        )
        must = frozenset({Symptom.DUPLICATES, Symptom.REORDERING})
        return Injection(
            number,
            now_ns,
            f"{self.share} of the replies of {counted(len(flows), 'flow')} are duplicated, and {self.share} of the copies "
            f"are held back by {format_duration(self.delay_ns)}, for {format_duration(self.for_ns)}",
            until_ns,
            tuple(Effect(flow, must) for flow in flows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mtu(Fault):
    """A hop drops what is larger than its MTU, without a word."""

    name = "mtu"
    expects = "probes above the limit lost upstream, by their size alone; the others answered; no change"

    limit: int = parameter(read_count, COUNT, "the largest payload that passes, in bytes", default=1200)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Drop what is too large from now on."""
        context.impairments.add(
            Impairment(
                direction=Direction.UP,
                flows=None,
                until_ns=FOREVER_NS,
                rng=context.rng(self.name, number),
                drop=1.0,
                larger_than=self.limit,
                reason="mtu",
            )
        )
        return Injection(
            number,
            now_ns,
            f"a hop drops datagrams of more than {self.limit} bytes of payload",
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.LOSS_UP}),
            may=LOST | {Symptom.OUTAGE},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPacketRace(Fault):
    """The first packet of new flows is lost, as when two inserts into conntrack race."""

    name = "first-packet-race"
    expects = "some sessions: their first probe lost; no other loss, no change"
    from_start = True

    at_ns: int = parameter(read_time, TIME, "nothing: it is there from the start", key="at", default=0)
    probability: float = parameter(read_share, SHARE, "share of the flows whose first packet is lost", default=0.5)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Drop first packets."""
        context.impairments.add(
            Impairment(
                direction=Direction.UP,
                flows=None,
                until_ns=FOREVER_NS,
                rng=context.rng(self.name, number),
                drop=self.probability,
                first_only=True,
                reason="insert-race",
            )
        )
        return Injection(
            number,
            now_ns,
            f"{100 * self.probability:.3g} % of the flows lose their first packet",
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.LOSS_UNTOLD}),
            may=LOST,
        )
