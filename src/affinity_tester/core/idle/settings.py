"""What a measurement of silence runs with; not beside the other settings, since the servers' archive does without it."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.idle.model import Direction
from affinity_tester.core.judging.rules import DEFAULT_RULES
from affinity_tester.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleSettings:
    """`affinity-tester idle`."""

    longest_ns: int = 600 * NS_PER_S
    """The longest silence that is tried: the timeouts of nodes and balancers are 30 s to 4 minutes."""
    silences_ns: tuple[int, ...] = ()
    """Silences to try instead of a grid up to the longest; none is refined then."""
    samples: int = 20
    """Of each step: none lost of so many means at most 14 % at 95 %."""
    directions: tuple[Direction, ...] = (Direction.CLIENT,)
    """Who speaks first after the silence; both are tried at once."""
    settle_ns: int = DEFAULT_RULES.settle_ns
    """A change of the pool voids samples up to so long before and after it."""
    key: bytes | None = None
    bind: str | None = None
    """The source address of every socket; None: what the system chooses for each target."""
