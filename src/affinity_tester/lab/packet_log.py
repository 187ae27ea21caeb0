"""The events of the packet log: what the lab really did to flows, packet by packet. It is the ground truth of a run.

A flow is named by the client's source address, as the balancer sees it. Times are nanoseconds of the clock of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind, differing


class Direction(StrEnum):
    """The direction of a packet, as seen from the client."""

    UP = "up"
    """To the pod."""
    DOWN = "down"
    """To the client."""


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """Something that was done to a packet of a flow."""

    flow: TransportAddress
    at_ns: int


@dataclass(frozen=True, slots=True)
class Rerouted(PacketEvent):
    """A packet that went another way than the one before it."""

    before: Identity
    """What replies said until now: the reflexive address and the pod."""
    after: Identity
    """What replies say from this packet on."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Return what differs, in the order of `Kind`."""
        return differing(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Dropped(PacketEvent):
    """A packet that was dropped."""

    direction: Direction
    reason: str
    """A stable word to count it by, such as `fault` or `no-local-pod`."""


@dataclass(frozen=True, slots=True)
class Duplicated(PacketEvent):
    """A packet that was delivered twice."""

    direction: Direction


@dataclass(frozen=True, slots=True)
class Delayed(PacketEvent):
    """A packet that was held back."""

    direction: Direction
    delay_ns: int
