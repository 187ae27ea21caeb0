"""What an injected fault did, and what it declares: for each flow, what its session must, or may, notice."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.units import NS_PER_S

FOREVER_NS = 1 << 62
"""The end of what does not end before the run does."""

OUTAGE_NS = 7 * NS_PER_S
"""A session that is silent for longer has surely been reported as an outage, after 5 to 7 s (docs/judging.md#outages)."""


class Symptom(StrEnum):
    """What a client can notice besides changes of a `Kind`."""

    LOSS_UP = "loss_up"
    LOSS_DOWN = "loss_down"
    LOSS_UNTOLD = "loss_untold"
    """Losses of which no count can tell the direction: the session was not answered again, or not at the same address."""
    DUPLICATES = "duplicates"
    REORDERING = "reordering"
    OUTAGE = "outage"
    WRONG_SOURCE = "wrong_source"
    CROSS_DELIVERED = "cross_delivered"
    NETWORK_ERROR = "network_error"
    DUPLICATE_DIFFERS = "duplicate_differs"
    CLIENT_FAULT = "client_fault"


Observable = Kind | Symptom
"""What a session can be seen to notice."""


class Judged(NamedTuple):
    """A judgement, and whether an explained change was avoidable (None: not asked)."""

    judgement: Judgement
    avoidable: bool | None = None

    def __str__(self) -> str:
        grade = {None: "", True: " (avoidable)", False: " (unavoidable)"}[self.avoidable]
        return self.judgement.value + grade


VIOLATION = Judged(Judgement.VIOLATION)
AVOIDABLE = Judged(Judgement.EXPLAINED, avoidable=True)
UNAVOIDABLE = Judged(Judgement.EXPLAINED, avoidable=False)
EXPLAINED = Judged(Judgement.EXPLAINED)

EXCUSED = frozenset({Judgement.EXPLAINED})
"""How an outage is judged that a change of the pool explains."""

BROKEN = frozenset({Judgement.VIOLATION})
"""How a break of the network is judged that no change of the pool explains."""

MOVED: frozenset[Observable] = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE})
"""Everything that can change when a flow takes another way."""
ANOTHER_POD: frozenset[Observable] = frozenset({Kind.POD, Kind.NODE, Kind.INSTANCE})
"""What can change when a flow goes to another pod."""

LOST: frozenset[Observable] = frozenset({Symptom.LOSS_UP, Symptom.LOSS_DOWN, Symptom.LOSS_UNTOLD})


@dataclass(frozen=True, slots=True)
class Effect:
    """What one flow's session notices of a fault."""

    flow: TransportAddress
    must: frozenset[Observable]
    """The session sees each of these."""
    may: frozenset[Observable] = frozenset()
    """The session may see these as well, and nothing else."""
    changes_judged: Judged | None = None
    """How its changes are judged; None: any way."""
    outages_judged: frozenset[Judgement] = frozenset()
    """How its outages are judged in the end: one of these; empty: any way."""
    strays_judged: frozenset[Judgement] = frozenset()
    """How replies are judged that reach it from elsewhere or for another: one of these; empty: any way."""

    @property
    def allowed(self) -> frozenset[Observable]:
        """Return everything that the session may see."""
        return self.must | self.may


@dataclass(frozen=True, slots=True)
class Injection:
    """What an injected fault did."""

    number: int
    """The place of its fault in the plan, from 1."""
    at_ns: int
    text: str
    """In words."""
    until_ns: int
    """When its cause ends; the time of injection for what is done at once."""
    effects: tuple[Effect, ...] = ()
    """On the flows that are known when it is injected."""
    must_somewhere: frozenset[Observable] = frozenset()
    """At least one session sees each of these, whichever it hits."""
    may: frozenset[Observable] = frozenset()
    """Any session may see these."""
    outages_judged: frozenset[Judgement] = frozenset()
    """How the outages of any session are judged in the end: one of these; empty: any way."""
    blackout_ns: int = 0
    """How long all sessions and canaries are unanswered, from its injection on; 0: some are answered."""
    unobservable: bool = False
    """No session sees anything of it."""


def effects_on(
    flows: Iterable[TransportAddress],
    must: AbstractSet[Observable],
    may: AbstractSet[Observable] = frozenset(),
    changes_judged: Judged | None = None,
    *,
    outages_judged: frozenset[Judgement] = frozenset(),
    strays_judged: frozenset[Judgement] = frozenset(),
) -> tuple[Effect, ...]:
    """Return the same effect for each of these flows."""
    return tuple(
        Effect(flow, frozenset(must), frozenset(may), changes_judged, outages_judged, strays_judged) for flow in flows
    )
