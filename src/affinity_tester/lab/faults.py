"""The faults by name: what each does to the path, and what the client must see of it.

To add one: write the class (a frozen dataclass of its parameters, with `inject`) and put it into `FAULTS`; plans, the
ledger and the demo find it there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from affinity_tester.core.identity import Kind
from affinity_tester.lab.deeds import Direction
from affinity_tester.lab.fault import Bench, Deal, Effect, Family, Fault, Sign, counted
from affinity_tester.lab.mangle import Rule
from affinity_tester.lab.names import node_ip, node_name
from affinity_tester.lab.parameter import COUNT, SHARE, TIME, parameter, read_count, read_share, read_time
from affinity_tester.lab.path import Policy
from affinity_tester.settings import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRehash(Fault):
    """A node joins the balancer's hash and takes a fraction of the flows; there they begin as new."""

    name = "node-rehash"
    expects = "the moved flows: a new reflexive IP, of some also a new pod; no loss"
    policies = frozenset({Policy.CLUSTER})
    why_policy = "a joining node has no pod of its own, so under policy Local it drops what it gets"

    fraction: float = parameter(read_share, SHARE, "share of the flows that move to the new node", default=0.5)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Add a node with just the weight that takes the fraction."""
        path = bench.path
        position = 1 + max(int(node.ip.rpartition(".")[2]) for node in path.nodes.values())
        name, ip = node_name(position), node_ip(position)
        before = {flow: path.node_of(flow) for flow in path.flows}
        count = min(len(before), max(1, math.floor(self.fraction * len(before) + 0.5)))
        path.add_node(name, ip, path.weight_to_move(name, count))
        moved = tuple(flow for flow, node in before.items() if path.node_of(flow) != node)
        bench.touch(moved, Family.WAY)
        must = frozenset({Kind.REFLEXIVE_IP})
        may = frozenset({Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE})
        return Deal(
            f'node "{name}" ({ip}) joins the balancer: {len(moved)} of {counted(len(before), "flow")} rehashed to it',
            now_ns,
            tuple(Effect(flow, must, may) for flow in moved),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRewrite(Fault):
    """The node gives some flows another source port in mid-session."""

    name = "port-rewrite"
    expects = "the chosen flows: a new reflexive port, the same IP and pod; no loss"

    sessions: int = parameter(read_count, COUNT, "how many flows", default=1)

    @property
    def victims(self) -> int:
        """How many sessions it asks for."""
        return self.sessions

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Rewrite the ports."""
        chosen = bench.choose(self.sessions, Family.WAY, self.name, number)
        rewritten = tuple(flow for flow in chosen if bench.path.rewrite_port(flow, now_ns))
        must = frozenset({Kind.REFLEXIVE_PORT})
        return Deal(
            f"the source port of {counted(len(rewritten), 'flow')} is rewritten",
            now_ns,
            tuple(Effect(flow, must) for flow in rewritten),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFault(Fault):
    """Something happens to packets of some flows for a time."""

    sessions: int = parameter(read_count, COUNT, "how many flows", default=1)
    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=1_000_000_000)
    probability: float = parameter(read_share, SHARE, "share of their packets that are hit", default=1.0)

    @property
    def lasts_ns(self) -> int:
        """How long packets are hit."""
        return self.for_ns

    @property
    def victims(self) -> int:
        """How many sessions it asks for."""
        return self.sessions

    def scaled(self, numerator: int, denominator: int) -> Self:
        """Its length scales too."""
        fault = Fault.scaled(self, numerator, denominator)
        return replace(fault, for_ns=self.for_ns * numerator // denominator)

    @property
    def share(self) -> str:
        """The probability, in words."""
        return f"{100 * self.probability:.3g} %"


class Loss(PacketFault):
    """A burst of loss in one direction."""

    __slots__ = ()
    direction: ClassVar[Direction]
    sign: ClassVar[Sign]
    what: ClassVar[str]

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Drop packets of the chosen flows for a time."""
        flows = bench.choose(self.sessions, Family.PACKETS, self.name, number)
        until_ns = now_ns + self.for_ns
        bench.mangler.add(
            Rule(
                direction=self.direction,
                flows=frozenset(flows),
                until_ns=until_ns,
                rng=bench.rng(self.name, number),
                drop=self.probability,
            )
        )
        return Deal(
            f"{self.share} of the {self.what} of {counted(len(flows), 'flow')} are dropped "
            f"for {format_duration(self.for_ns)}",
            until_ns,
            tuple(Effect(flow, frozenset({self.sign})) for flow in flows),
        )


class LossUp(Loss):
    """A loss burst on the way to the pod."""

    __slots__ = ()
    name = "loss-up"
    expects = "the chosen flows: as many probes lost as were dropped, all upstream; no change"
    direction = Direction.UP
    sign = Sign.LOSS_UP
    what = "probes"


class LossDown(Loss):
    """A loss burst on the way back to the client."""

    __slots__ = ()
    name = "loss-down"
    expects = "the chosen flows: as many probes lost as replies were dropped, all downstream; no change"
    direction = Direction.DOWN
    sign = Sign.LOSS_DOWN
    what = "replies"


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateReorder(PacketFault):
    """Replies are duplicated, and some copies held back so that later replies overtake them."""

    name = "duplicate-reorder"
    expects = "the chosen flows: duplicates and reordering counted; no loss, no change"

    delay_ns: int = parameter(
        read_time, TIME, "how long copies are held back: more than the interval", key="delay", default=250_000_000
    )

    @property
    def held_ns(self) -> int:
        """How long copies are held back."""
        return self.delay_ns

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Duplicate and delay replies of the chosen flows for a time."""
        flows = bench.choose(self.sessions, Family.PACKETS, self.name, number)
        until_ns = now_ns + self.for_ns
        bench.mangler.add(
            Rule(
                direction=Direction.DOWN,
                flows=frozenset(flows),
                until_ns=until_ns,
                rng=bench.rng(self.name, number),
                duplicate=self.probability,
                delay=self.probability,
                delay_ns=self.delay_ns,
            )
        )
        must = frozenset({Sign.DUPLICATES, Sign.REORDERING})
        return Deal(
            f"{self.share} of the replies of {counted(len(flows), 'flow')} are duplicated, and {self.share} of the copies "
            f"are held back by {format_duration(self.delay_ns)}, for {format_duration(self.for_ns)}",
            until_ns,
            tuple(Effect(flow, must) for flow in flows),
        )


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault for fault in (NodeRehash, PortRewrite, LossUp, LossDown, DuplicateReorder)
}
"""Every fault that a plan can name."""
