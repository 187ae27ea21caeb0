"""What a fault is: its parameters, what it acts on, and what it declares that the client will see."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, NamedTuple, Self

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.mangle import Mangler
from affinity_tester.lab.parameter import TIME, parameter, read_time
from affinity_tester.lab.parts import Affinity, Policy
from affinity_tester.lab.path import NetworkPath
from affinity_tester.lab.stage import Stage

FOREVER_NS = 1 << 62
"""The end of what does not end before the run does."""

OUTAGE_NS = 7_000_000_000
"""A silence that is longer is surely told: it is at 5 to 7 s (docs/judging.md#outages)."""


class Sign(StrEnum):
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

BROKEN = frozenset({Judgement.VIOLATION})
"""What a break of the network is judged that no change of the pool explains."""

MOVED: frozenset[Kind | Sign] = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE})
"""All that can change when a flow takes another way."""
LOST: frozenset[Kind | Sign] = frozenset({Sign.LOSS_UP, Sign.LOSS_DOWN, Sign.LOSS_UNTOLD})


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault means for one flow."""

    flow: TransportAddress
    must: frozenset[Kind | Sign]
    """Each of these is to be seen."""
    may: frozenset[Kind | Sign] = frozenset()
    """These may be seen as well; nothing else may."""
    judged: Judged | None = None
    """What its changes are judged; None: any way."""
    silent: frozenset[Judgement] = frozenset()
    """What its outages are judged in the end, one of these; empty: any way."""
    strays: frozenset[Judgement] = frozenset()
    """What the replies are judged that reach it from elsewhere or for another, one of these; empty: any way."""

    @property
    def allowed(self) -> frozenset[Kind | Sign]:
        """Everything that may be seen."""
        return self.must | self.may


@dataclass(frozen=True, slots=True)
class Deal:
    """What an injected fault did."""

    text: str
    """In words."""
    until_ns: int
    """When its cause ends; the time of injection for what is done at once."""
    effects: tuple[Effect, ...] = ()
    """On the flows that are known when it is done."""
    some: frozenset[Kind | Sign] = frozenset()
    """Each of these is to be seen by at least one session, whichever it hits."""
    may: frozenset[Kind | Sign] = frozenset()
    """These may be seen by any session."""
    judged: Judged | None = None
    """What the changes of those are judged; None: any way."""
    silent: frozenset[Judgement] = frozenset()
    """What the outages of those are judged in the end, one of these; empty: any way."""
    dark_ns: int = 0
    """So long all sessions and canaries are unanswered, from its injection on; 0: not all are."""
    quiet: bool = False
    """No session sees anything of it."""


class Family(StrEnum):
    """Faults of one family are spread over different flows as long as there are any, so that effects stay apart."""

    WAY = "way"
    PACKETS = "packets"


class Bench:
    """What faults act on, and how they choose their victims."""

    def __init__(self, path: NetworkPath, mangler: Mangler, seed: int, stage: Stage | None = None) -> None:
        """The path and the mangler of the run; the seed decides every choice. Without a stage nothing can take time."""
        self.path = path
        self.mangler = mangler
        self.clients: set[TransportAddress] = set()
        """The sessions' addresses; empty: every flow is a session's. The client's canaries are flows too."""
        self._seed = seed
        self._stage = stage
        self._touched: dict[Family, set[TransportAddress]] = {family: set() for family in Family}

    def rng(self, *purpose: object) -> random.Random:
        """The random numbers of one purpose."""
        return random.Random("/".join(map(str, (self._seed, *purpose))))  # noqa: S311 - repeatable, not secret

    @property
    def stage(self) -> Stage:
        """The running lab."""
        assert self._stage is not None, "a fault that takes time needs a running lab"
        return self._stage

    @property
    def flows(self) -> tuple[TransportAddress, ...]:
        """The sessions' flows, in order of first appearance."""
        return tuple(flow for flow in self.path.flows if not self.clients or flow in self.clients)

    def flows_by_pod(self) -> dict[str, list[TransportAddress]]:
        """The sessions' flows by the name of the pod that their newest packet went to."""
        held: dict[str, list[TransportAddress]] = {}
        for flow in self.flows:
            entry = self.path.flows[flow].entry
            if entry is not None:
                held.setdefault(entry.pod.name, []).append(flow)
        return held

    def now_ns(self) -> int:
        """The time of the run."""
        return clock.now_ns()

    def tell(self, subject: str, name: str, what: str) -> None:
        """Something happened in the cluster; it is told after the fault itself."""
        if self._stage is not None:
            self._stage.control.tell(subject, name, what)

    def choose(self, count: int, family: Family, *purpose: object) -> tuple[TransportAddress, ...]:
        """Choose up to `count` flows at random, those first that no fault of this family has touched."""
        flows = list(self.flows)
        self.rng("choose", *purpose).shuffle(flows)
        chosen = sorted(flows, key=lambda flow: flow in self._touched[family])[:count]
        self.touch(chosen, family)
        return tuple(chosen)

    def touch(self, flows: Iterable[TransportAddress], family: Family) -> None:
        """Remember that a fault of this family touched these flows."""
        self._touched[family].update(flows)


def marks(*what: Kind | Sign) -> frozenset[Kind | Sign]:
    """What is to be seen, or may be."""
    return frozenset(what)


def counted(count: int, noun: str) -> str:
    """`1 flow`, `3 flows`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(ABC):
    """One fault of a plan."""

    name: ClassVar[str]
    """In plans and reports."""
    expects: ClassVar[str]
    """What the client must see, in words."""

    policies: ClassVar[frozenset[Policy]] = frozenset(Policy)
    """Under which it does what it says."""
    why_policy: ClassVar[str] = ""
    """Why not under the others, in words."""

    affinities: ClassVar[frozenset[Affinity]] = frozenset(Affinity)
    """Under which it does what it says."""
    control: ClassVar[bool] = False
    """Whether it is no fault: something that must not be called one."""
    catalogued: ClassVar[str] = ""
    """Its name in the catalogue, where that is another."""
    also: ClassVar[frozenset[str]] = frozenset()
    """Names of the catalogue that are as true of it as its own."""
    from_start: ClassVar[bool] = False
    """Whether it is there before the first probe."""
    moves_pool: ClassVar[bool] = False
    """Whether the pool changes with it."""

    at_ns: int = parameter(read_time, TIME, "when, from the start of the run", key="at")

    @property
    def known_as(self) -> str:
        """What the diagnosis must call it."""
        return self.catalogued or self.name

    @property
    def lasts_ns(self) -> int:
        """How long its cause lasts: its parameter `for`, where it has one; 0 for what is done at once."""
        return int(getattr(self, "for_ns", 0))

    @property
    def victims(self) -> int:
        """How many sessions it asks for: its parameter `sessions`, where it has one."""
        return int(getattr(self, "sessions", 1))

    @property
    def held_ns(self) -> int:
        """How long it holds single packets back; 0 when it does not."""
        return 0

    def scaled(self, numerator: int, denominator: int) -> Self:
        """The same fault in a run whose times are multiplied by this fraction; what its network takes stays as it is."""
        times = {
            name: getattr(self, name)
            for name in ("at_ns", "for_ns", "every_ns", "notice_ns", "drain_ns")
            if hasattr(self, name)
        }
        return replace(self, **{name: value * numerator // denominator for name, value in times.items()})

    @abstractmethod
    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Do it now; `number` is its place in the plan."""
