"""What happens to single packets on their way: loss, duplication and delay, as rules that faults add at run time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.packet_log import Deed, Delayed, Direction, Dropped, Duplicated
from affinity_tester.settings import DEFAULT_LOSS_THRESHOLD_NS

_DOUBT_NS = 60_000_000
"""How much later than it should a held packet may come: shorter than most sessions' interval, so that few have a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """For some time, packets of these flows in this direction are dropped, duplicated or delayed, each by chance."""

    direction: Direction
    flows: frozenset[TransportAddress] | None
    """None: all."""
    until_ns: int
    rng: random.Random
    """The rule's own: the chances of one fault do not depend on another's."""
    drop: float = 0.0
    """Chance (0 to 1) that a packet is dropped."""
    duplicate: float = 0.0
    """Chance that a packet which is not dropped is delivered twice."""
    delay: float = 0.0
    """Chance that a copy which is not dropped is held back for `delay_ns`, so that later ones overtake it."""
    delay_ns: int = 0
    larger_than: int = -1
    """Only datagrams with more bytes of payload than this."""
    first_only: bool = False
    """Only the first packet of each flow."""
    hold: bool = False
    """What is not dropped waits until the rule's time is over. What waits longer than the client does counts as dropped."""
    reason: str = "fault"
    """What drops are counted by."""


class Mangler:
    """The rules in force, in the order in which they were added; each works on what the one before left over."""

    def __init__(self, record: Callable[[Deed], None]) -> None:
        """Begin with no rule."""
        self._rules: list[Rule] = []
        self.record = record
        """Where deeds are written down."""
        self._met: set[TransportAddress] = set()

    def add(self, rule: Rule) -> None:
        """Put a rule into force until its time is over."""
        self._rules.append(rule)

    def fates(self, direction: Direction, flow: TransportAddress, now_ns: int, size: int = 0) -> tuple[int, ...]:
        """The delays, in nanoseconds, of the copies to deliver of this packet: `(0,)` untouched, `()` dropped."""
        first = direction is Direction.UP and flow not in self._met
        if first:
            self._met.add(flow)
        if not self._rules:
            return (0,)
        self._rules = [rule for rule in self._rules if now_ns < rule.until_ns]
        delays = [0]
        for rule in self._rules:
            meant = rule.flows is None or flow in rule.flows
            if rule.direction is direction and meant and size > rule.larger_than and (first or not rule.first_only):
                delays = self._apply(rule, flow, now_ns, delays)
                if not delays:
                    break
        return tuple(delays)

    def _apply(self, rule: Rule, flow: TransportAddress, now_ns: int, delays: list[int]) -> list[int]:
        if rule.rng.random() < rule.drop:
            self.record(Dropped(flow, now_ns, rule.direction, rule.reason))
            return []
        if rule.hold:
            return self._hold(rule, flow, now_ns, delays)
        if rule.rng.random() < rule.duplicate:
            self.record(Duplicated(flow, now_ns, rule.direction))
            delays = [*delays, delays[-1]]
        for index, delay_ns in enumerate(delays):
            if rule.rng.random() < rule.delay:
                self.record(Delayed(flow, now_ns, rule.direction, rule.delay_ns))
                delays[index] = delay_ns + rule.delay_ns
        return delays

    def _hold(self, rule: Rule, flow: TransportAddress, now_ns: int, delays: list[int]) -> list[int]:
        wait_ns = rule.until_ns - now_ns
        late = wait_ns > DEFAULT_LOSS_THRESHOLD_NS - _DOUBT_NS
        self.record(
            Dropped(flow, now_ns, rule.direction, rule.reason)
            if late
            else Delayed(flow, now_ns, rule.direction, wait_ns)
        )
        if late and wait_ns <= DEFAULT_LOSS_THRESHOLD_NS:
            return []  # whether it would come in time depends on how busy the machine is
        return [delay_ns + wait_ns for delay_ns in delays]
