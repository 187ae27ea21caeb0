"""Faults of single packets: loss, duplication, reordering, too large ones, first ones, and replies that wait."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.fault import Family, Fault, FaultContext, StandingFault, counted
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.impairment import Impairment
from affinity_tester.lab.injection import FOREVER_NS, LOST, Injection, Symptom, effects_on
from affinity_tester.lab.packet_log import Direction
from affinity_tester.lab.parameter import count_parameter, share_parameter, time_parameter
from affinity_tester.settings import DEFAULT_LOSS_THRESHOLD_NS
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration


class PacketFault(Fault):
    """Something happens to packets of some flows for a time."""

    sessions: int = count_parameter("how many flows", default=1)
    for_ns: int = time_parameter("how long", key="for", default=NS_PER_S)
    probability: float = share_parameter("share of their packets that are hit", default=1.0)

    @property
    def share(self) -> str:
        """Return the probability in words."""
        return f"{100 * self.probability:.3g} %"

    def _drop(
        self,
        context: FaultContext,
        flows: tuple[TransportAddress, ...],
        direction: Direction,
        until_ns: int,
    ) -> None:
        context.impairments.add(
            Impairment(
                direction=direction,
                flows=frozenset(flows),
                until_ns=until_ns,
                rng=context.rng(),
                drop=self.probability,
            )
        )


class Loss(PacketFault):
    """A burst of loss in one direction."""

    direction: ClassVar[Direction]
    symptom: ClassVar[Symptom]
    what: ClassVar[str]

    def inject(self, context: FaultContext) -> Injection:
        """Drop packets of the chosen flows for a time."""
        flows = context.choose(self.sessions, Family.PACKETS)
        until_ns = context.at_ns + self.for_ns
        self._drop(context, flows, self.direction, until_ns)

        return context.injection(
            f"{self.share} of the {self.what} of {counted(len(flows), 'flow')} are dropped "
            f"for {format_duration(self.for_ns)}",
            until_ns,
            effects_on(flows, {self.symptom}, {Symptom.LOSS_UNTOLD}),
        )


class LossUp(Loss):
    """A loss burst on the way to the pod."""

    control = True
    name = "loss-up"
    expects = "the chosen flows: as many probes lost as were dropped, all upstream; no change"
    direction = Direction.UP
    symptom = Symptom.LOSS_UP
    what = "probes"


class LossDown(Loss):
    """A loss burst on the way back to the client."""

    control = True
    name = "loss-down"
    expects = "the chosen flows: as many probes lost as replies were dropped, all downstream; no change"
    direction = Direction.DOWN
    symptom = Symptom.LOSS_DOWN
    what = "replies"


class CountReset(PacketFault):
    """Replies of some flows are lost, and in the midst of it every pod forgets its flows: the counts begin again.

    A server with a bounded table forgets flows under the same INSTANCE-ID (`--max-flows`, core.echo).
    """

    name = "count-reset"
    control = True
    expects = "the chosen flows: as many probes lost as replies were dropped, none of them upstream; no change"

    def inject(self, context: FaultContext) -> Injection:
        """Drop replies of the chosen flows for a time, and forget the flows at half of it."""
        flows = context.choose(self.sessions, Family.PACKETS)
        until_ns = context.at_ns + self.for_ns
        self._drop(context, flows, Direction.DOWN, until_ns)
        context.after(self.for_ns // 2, context.runtime.forget_flows)

        return context.injection(
            f"{self.share} of the replies of {counted(len(flows), 'flow')} are dropped for "
            f"{format_duration(self.for_ns)}, and the pods forget all flows in the midst of it",
            until_ns,
            effects_on(flows, {Symptom.LOSS_DOWN}, {Symptom.LOSS_UNTOLD}),
        )


class DuplicateReorder(PacketFault):
    """Replies are duplicated, and some copies held back so that later replies overtake them."""

    name = "duplicate-reorder"
    control = True
    expects = "the chosen flows: duplicates and reordering counted; no loss, no change"

    delay_ns: int = time_parameter(
        "how long copies are held back: more than the interval", key="delay", default=250 * NS_PER_MS
    )

    @property
    def reorder_delay_ns(self) -> int:
        """Return how long copies are held back."""
        return self.delay_ns

    def inject(self, context: FaultContext) -> Injection:
        """Duplicate and delay replies of the chosen flows for a time."""
        flows = context.choose(self.sessions, Family.PACKETS)
        until_ns = context.at_ns + self.for_ns
        context.impairments.add(
            Impairment(
                direction=Direction.DOWN,
                flows=frozenset(flows),
                until_ns=until_ns,
                rng=context.rng(),
                duplicate=self.probability,
                delay=self.probability,
                delay_ns=self.delay_ns,
            )
        )

        return context.injection(
            f"{self.share} of the replies of {counted(len(flows), 'flow')} are duplicated, and {self.share} of the copies "
            f"are held back by {format_duration(self.delay_ns)}, for {format_duration(self.for_ns)}",
            until_ns,
            effects_on(flows, {Symptom.DUPLICATES, Symptom.REORDERING}),
        )


class Mtu(Fault):
    """A hop drops what is larger than its MTU, without a word."""

    name = "mtu"
    expects = "probes above the limit lost upstream, by their size alone; the others answered; no change"

    limit: int = count_parameter("the largest payload that passes, in bytes", default=1200)

    def inject(self, context: FaultContext) -> Injection:
        """Drop what is too large from now on."""
        context.impairments.add(
            Impairment(
                direction=Direction.UP,
                flows=None,
                until_ns=FOREVER_NS,
                rng=context.rng(),
                drop=1.0,
                larger_than=self.limit,
                reason="mtu",
            )
        )

        return context.injection(
            f"a hop drops datagrams of more than {self.limit} bytes of payload",
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.LOSS_UP}),
            may=LOST | {Symptom.OUTAGE},
        )


class MtuOfAll(Mtu):
    """A hop drops what is larger than its MTU, and all of the run's probes are: only small test probes pass.

    A path through a VPN or a tunnel ends at 1,280 to 1,420 bytes, and a firewall keeps the ICMP error to itself (RFC 2923,
    section 2.1: the black hole of path MTU discovery).
    """

    name = "mtu-of-all"
    alias = "mtu"
    expects = "all sessions and canaries unanswered together; small test probes answered"

    def inject(self, context: FaultContext) -> Injection:
        """Drop what is too large from now on, which is everything but small test probes."""
        return replace(
            Mtu.inject(self, context),
            must_somewhere=frozenset({Symptom.LOSS_UNTOLD}),
            blackout_ns=FOREVER_NS - context.at_ns,
        )


class FirstPacketRace(StandingFault):
    """The first packet of new flows is lost, as when two inserts into conntrack race."""

    name = "first-packet-race"
    expects = "some sessions: their first probe lost; no other loss, no change"
    probability: float = share_parameter("share of the flows whose first packet is lost", default=0.5)

    def inject(self, context: FaultContext) -> Injection:
        """Drop first packets."""
        context.impairments.add(
            Impairment(
                direction=Direction.UP,
                flows=None,
                until_ns=FOREVER_NS,
                rng=context.rng(),
                drop=self.probability,
                first_only=True,
                reason="insert-race",
            )
        )

        return context.injection(
            f"{100 * self.probability:.3g} % of the flows lose their first packet",
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.LOSS_UNTOLD}),
            may=LOST,
        )


class TableFull(StandingFault):
    """A node's connection table is full: it refuses what would need a new entry, and flows that have one pass.

    Linux drops the packet that begins a flow while nf_conntrack_max entries are there, and says so in the kernel log
    (nf_conntrack_core.c, `__nf_conntrack_alloc`: "table full, dropping packet"); as entries expire, some attempts succeed.
    """

    name = "table-full"
    expects = (
        "the flows through one node: their first probes lost, as many as chance has it; none after the first answer"
    )
    probability: float = share_parameter("share of the attempts that are refused", default=0.8)

    def inject(self, context: FaultContext) -> Injection:
        """Refuse new flows at one node."""
        node = context.rng("node").choice(sorted(context.network.nodes))
        rng = context.rng()
        context.network.full_tables[node] = lambda: rng.random() < self.probability

        return context.injection(
            f'node "{node}" refuses {100 * self.probability:.3g} % of the attempts to begin a flow',
            FOREVER_NS,
            must_somewhere=frozenset({Symptom.LOSS_UNTOLD}),
            may=LOST | {Symptom.OUTAGE},
        )


class LossyPath(Fault):
    """The way that some flows take loses packets, and those of the others do not.

    A bundle (LACP) or an ECMP group hashes flows to its members by their ports: one member with a bad optic or a full queue
    hits the same flows again and again, and a new source port may heal them.
    """

    name = "lossy-path"
    expects = "the chosen flows: probes lost upstream all the time; no change"
    sessions: int = count_parameter("how many flows", default=6)
    probability: float = share_parameter("share of their packets that are lost", default=0.3)

    def inject(self, context: FaultContext) -> Injection:
        """Drop packets of the chosen flows from now on."""
        flows = context.choose(self.sessions, Family.PACKETS)
        context.impairments.add(
            Impairment(
                direction=Direction.UP,
                flows=frozenset(flows),
                until_ns=FOREVER_NS,
                rng=context.rng(),
                drop=self.probability,
                reason="lossy-path",
            )
        )

        return context.injection(
            f"{100 * self.probability:.3g} % of the probes of {counted(len(flows), 'flow')} are lost from now on",
            FOREVER_NS,
            effects_on(flows, {Symptom.LOSS_UP}, {Symptom.LOSS_UNTOLD, Symptom.OUTAGE}),
        )


class ServerFrozen(Fault):
    """One pod stands still and goes on: its replies wait, and then they come all at once, most of them late.

    The cgroup freezer does so (`docker pause`, SIGSTOP, a CPU limit that is used up), and a node that is live-migrated: the
    kernel keeps what arrives at the socket meanwhile.
    """

    name = "server-frozen"
    alias = "late-replies"
    expects = "the flows of one pod: unanswered, then late replies of the same pod at the same address"

    for_ns: int = time_parameter("how long", key="for", default=4 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Hold back the replies of the pod with the most flows."""
        name, flows = busiest_pod(context)
        until_ns = context.at_ns + self.for_ns
        _hold_replies(context, frozenset(flows), until_ns)

        return context.injection(
            f'pod "{name}" stands still for {format_duration(self.for_ns)}: {counted(len(flows), "flow")}',
            until_ns,
            effects_on(flows, {Symptom.LOSS_DOWN}, {Symptom.LOSS_UNTOLD, Symptom.REORDERING, Symptom.OUTAGE}),
        )


class RepliesHeld(Fault):
    """All replies wait, canaries' too, and then they come all at once: late ones, and behind them those in time.

    Pods that are frozen and thawed do so (the cgroup freezer of `docker pause`, a virtual machine that stands still in its
    live migration): the kernel keeps what arrives at the socket; so does a radio link that buffers while it has no signal.
    """

    name = "replies-held"
    expects = (
        "all sessions and canaries unanswered together; then late replies, and the same pods and addresses as before"
    )
    alias = "late-replies"

    for_ns: int = time_parameter("how long", key="for", default=8 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Hold back every reply for a time."""
        until_ns = context.at_ns + self.for_ns
        _hold_replies(context, None, until_ns)

        return context.injection(
            f"all replies wait for {format_duration(self.for_ns)}, and come at once then",
            until_ns,
            effects_on(context.flows, {Symptom.LOSS_DOWN}, {Symptom.LOSS_UNTOLD, Symptom.REORDERING}),
            blackout_ns=max(0, self.for_ns - DEFAULT_LOSS_THRESHOLD_NS),
        )


def _hold_replies(context: FaultContext, flows: frozenset[TransportAddress] | None, until_ns: int) -> None:
    """Hold back the replies to these flows, or to all (None), until then."""
    context.impairments.add(
        Impairment(
            direction=Direction.DOWN,
            flows=flows,
            until_ns=until_ns,
            rng=context.rng(),
            hold=True,
            reason="held-back",
        )
    )
