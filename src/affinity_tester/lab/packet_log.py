"""What the lab really did to flows, packet by packet: the ground truth that the ledger compares with what was seen.

A flow is named by the client's source address, as the balancer sees it. Times are nanoseconds of the clock of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind


class Direction(StrEnum):
    """Of a packet, as seen from the client."""

    UP = "up"
    """To the pod."""
    DOWN = "down"
    """To the client."""


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """Something was done to a packet of a flow."""

    flow: TransportAddress
    at_ns: int


@dataclass(frozen=True, slots=True)
class Rerouted(PacketEvent):
    """This packet of the flow went another way than the one before it."""

    before: Identity
    """What replies said until now: the reflexive address and the pod."""
    after: Identity
    """What replies say from this packet on."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What differs, in the order of `Kind`."""
        return differing(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Dropped(PacketEvent):
    """This packet was thrown away."""

    direction: Direction
    reason: str
    """A stable word to count it by, such as `fault` or `no-local-pod`."""


@dataclass(frozen=True, slots=True)
class Duplicated(PacketEvent):
    """This packet was delivered twice."""

    direction: Direction


@dataclass(frozen=True, slots=True)
class Delayed(PacketEvent):
    """This packet was held back."""

    direction: Direction
    delay_ns: int


def differing(before: Identity, after: Identity) -> tuple[Kind, ...]:
    """The kinds that both replies carry and that differ, in the order of `Kind`."""
    return tuple(
        kind
        for kind in Kind
        if (old := before.value(kind)) is not None and (new := after.value(kind)) is not None and old != new
    )
