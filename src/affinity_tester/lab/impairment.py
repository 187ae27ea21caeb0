"""Impairments of single packets, as netem has them: loss, duplication and delay, which faults add at run time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.packet_log import Delayed, Direction, Dropped, Duplicated, PacketEvent
from affinity_tester.settings import DEFAULT_LOSS_THRESHOLD_NS
from affinity_tester.units import NS_PER_MS

_DOUBT_NS = 60 * NS_PER_MS
"""How late a held packet may come on a busy machine: shorter than most sessions' interval, so that few have a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """Drop, duplicate or delay packets of some flows in one direction for some time, each by chance."""

    direction: Direction
    flows: frozenset[TransportAddress] | None
    """None: all."""
    until_ns: int
    rng: random.Random
    """Its own, so that the chances of one fault do not depend on another's."""
    drop: float = 0.0
    """Chance (0 to 1) that a packet is dropped."""
    duplicate: float = 0.0
    """Chance that a packet that is not dropped is delivered twice."""
    delay: float = 0.0
    """Chance that a copy is held back for `delay_ns`, so that later ones overtake it."""
    delay_ns: int = 0
    larger_than: int = -1
    """Only datagrams with more bytes of payload than this are impaired."""
    first_only: bool = False
    """Only the first packet of each flow is impaired."""
    hold: bool = False
    """What is not dropped waits until `until_ns`. What waits longer than the client does counts as dropped."""
    reason: str = "fault"
    """The reason that the packet log gives for a drop."""


class Impairments:
    """The impairments in force, in the order in which they were added; each works on what the one before left over."""

    def __init__(self, log: Callable[[PacketEvent], None]) -> None:
        """Begin with none. `log` gets what is done to packets."""
        self._active: list[Impairment] = []
        self.log = log
        self._seen: set[TransportAddress] = set()
        """Flows whose first packet has passed."""

    def add(self, impairment: Impairment) -> None:
        """Put an impairment into force until its time is over."""
        self._active.append(impairment)

    def delays(self, direction: Direction, flow: TransportAddress, now_ns: int, size: int = 0) -> tuple[int, ...]:
        """Return the delay of each copy to deliver of this packet, in ns: `(0,)` unimpaired, `()` dropped."""
        first = direction is Direction.UP and flow not in self._seen
        if first:
            self._seen.add(flow)
        if not self._active:
            return (0,)

        self._active = [impairment for impairment in self._active if now_ns < impairment.until_ns]
        delays = [0]
        for impairment in self._active:
            meant = impairment.flows is None or flow in impairment.flows
            if (
                impairment.direction is direction
                and meant
                and size > impairment.larger_than
                and (first or not impairment.first_only)
            ):
                delays = self._apply(impairment, flow, now_ns, delays)
                if not delays:
                    break
        return tuple(delays)

    def _apply(self, impairment: Impairment, flow: TransportAddress, now_ns: int, delays: list[int]) -> list[int]:
        if impairment.rng.random() < impairment.drop:
            self.log(Dropped(flow, now_ns, impairment.direction, impairment.reason))
            return []
        if impairment.hold:
            return self._hold(impairment, flow, now_ns, delays)

        if impairment.rng.random() < impairment.duplicate:
            self.log(Duplicated(flow, now_ns, impairment.direction))
            delays = [*delays, delays[-1]]

        # Each copy is delayed by a chance of its own.
        for index, delay_ns in enumerate(delays):
            if impairment.rng.random() < impairment.delay:
                self.log(Delayed(flow, now_ns, impairment.direction, impairment.delay_ns))
                delays[index] = delay_ns + impairment.delay_ns
        return delays

    def _hold(self, impairment: Impairment, flow: TransportAddress, now_ns: int, delays: list[int]) -> list[int]:
        wait_ns = impairment.until_ns - now_ns
        late = wait_ns > DEFAULT_LOSS_THRESHOLD_NS - _DOUBT_NS
        self.log(
            Dropped(flow, now_ns, impairment.direction, impairment.reason)
            if late
            else Delayed(flow, now_ns, impairment.direction, wait_ns)
        )
        if late and wait_ns <= DEFAULT_LOSS_THRESHOLD_NS:
            return []  # whether it would come in time depends on how busy the machine is
        return [delay_ns + wait_ns for delay_ns in delays]
