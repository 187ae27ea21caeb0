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
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.parameter import TIME, parameter, read_time
from affinity_tester.lab.runtime import LabRuntime

FOREVER_NS = 1 << 62
"""The end of what does not end before the run does."""

OUTAGE_NS = 7_000_000_000
"""A silence that is longer is surely told: it is at 5 to 7 s (design, section 4.2)."""


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

BROKEN = frozenset({Judgement.VIOLATION})
"""What a break of the network is judged that no change of the pool explains."""

MOVED: frozenset[Observable] = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE})
"""All that can change when a flow takes another way."""
LOST: frozenset[Observable] = frozenset({Symptom.LOSS_UP, Symptom.LOSS_DOWN, Symptom.LOSS_UNTOLD})


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault means for one flow."""

    flow: TransportAddress
    must: frozenset[Observable]
    """Each of these is to be seen."""
    may: frozenset[Observable] = frozenset()
    """These may be seen as well; nothing else may."""
    changes_judged: Judged | None = None
    """What its changes are judged; None: any way."""
    outages_judged: frozenset[Judgement] = frozenset()
    """What its outages are judged in the end, one of these; empty: any way."""
    strays_judged: frozenset[Judgement] = frozenset()
    """What the replies are judged that reach it from elsewhere or for another, one of these; empty: any way."""

    @property
    def allowed(self) -> frozenset[Observable]:
        """Everything that may be seen."""
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
    """On the flows that are known when it is done."""
    must_somewhere: frozenset[Observable] = frozenset()
    """Each of these is to be seen by at least one session, whichever it hits."""
    may: frozenset[Observable] = frozenset()
    """These may be seen by any session."""
    changes_judged: Judged | None = None
    """What the changes of those are judged; None: any way."""
    outages_judged: frozenset[Judgement] = frozenset()
    """What the outages of those are judged in the end, one of these; empty: any way."""
    blackout_ns: int = 0
    """So long all sessions and canaries are unanswered, from its injection on; 0: not all are."""
    unobservable: bool = False
    """No session sees anything of it."""


class Family(StrEnum):
    """Faults of one family are spread over different flows as long as there are any, so that effects stay apart."""

    ROUTING = "way"
    PACKETS = "packets"


class FaultContext:
    """What faults act on, and how they choose their victims."""

    def __init__(
        self, network: NetworkModel, impairments: Impairments, seed: int, runtime: LabRuntime | None = None
    ) -> None:
        """The path and the mangler of the run; the seed decides every choice. Without a stage nothing can take time."""
        self.network = network
        self.impairments = impairments
        self.clients: set[TransportAddress] = set()
        """The sessions' addresses; empty: every flow is a session's. The client's canaries are flows too."""
        self._seed = seed
        self._runtime = runtime
        self._used: dict[Family, set[TransportAddress]] = {family: set() for family in Family}

    def rng(self, *purpose: object) -> random.Random:
        """The random numbers of one purpose."""
        return random.Random("/".join(map(str, (self._seed, *purpose))))  # noqa: S311 - repeatable, not secret

    @property
    def runtime(self) -> LabRuntime:
        """The running lab."""
        assert self._runtime is not None, "a fault that takes time needs a running lab"
        return self._runtime

    @property
    def flows(self) -> tuple[TransportAddress, ...]:
        """The sessions' flows, in order of first appearance."""
        return tuple(flow for flow in self.network.flows if not self.clients or flow in self.clients)

    def flows_by_pod(self) -> dict[str, list[TransportAddress]]:
        """The sessions' flows by the name of the pod that their newest packet went to."""
        held: dict[str, list[TransportAddress]] = {}
        for flow in self.flows:
            entry = self.network.flows[flow].entry
            if entry is not None:
                held.setdefault(entry.pod.name, []).append(flow)
        return held

    def now_ns(self) -> int:
        """The time of the run."""
        return clock.now_ns()

    def add_cluster_event(self, subject: str, name: str, what: str) -> None:
        """Something happened in the cluster; it is told after the fault itself."""
        if self._runtime is not None:
            self._runtime.control.add_cluster_event(subject, name, what)

    def choose(self, count: int, family: Family, *purpose: object) -> tuple[TransportAddress, ...]:
        """Choose up to `count` flows at random, those first that no fault of this family has touched."""
        flows = list(self.flows)
        self.rng("choose", *purpose).shuffle(flows)
        chosen = sorted(flows, key=lambda flow: flow in self._used[family])[:count]
        self.mark_used(chosen, family)
        return tuple(chosen)

    def mark_used(self, flows: Iterable[TransportAddress], family: Family) -> None:
        """Remember that a fault of this family touched these flows."""
        self._used[family].update(flows)


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
    alias: ClassVar[str] = ""
    """Its name in the catalogue, where that is another."""
    also_correct: ClassVar[frozenset[str]] = frozenset()
    """Names of the catalogue that are as true of it as its own."""
    from_start: ClassVar[bool] = False
    """Whether it is there before the first probe."""
    moves_pool: ClassVar[bool] = False
    """Whether the pool changes with it."""

    at_ns: int = parameter(read_time, TIME, "when, from the start of the run", key="at")

    @property
    def diagnosis_name(self) -> str:
        """What the diagnosis must call it."""
        return self.alias or self.name

    @property
    def lasts_ns(self) -> int:
        """How long its cause lasts: its parameter `for`, where it has one; 0 for what is done at once."""
        return int(getattr(self, "for_ns", 0))

    @property
    def session_count(self) -> int:
        """How many sessions it asks for: its parameter `sessions`, where it has one."""
        return int(getattr(self, "sessions", 1))

    @property
    def reorder_delay_ns(self) -> int:
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
    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Do it now; `number` is its place in the plan."""
