"""What a fault is: its parameters, what it acts on, and what it declares that the client will see."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, Self

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Kind
from affinity_tester.lab.mangle import Mangler
from affinity_tester.lab.parameter import TIME, parameter, read_time
from affinity_tester.lab.path import NetworkPath, Policy


class Sign(StrEnum):
    """What a client can notice besides changes of a `Kind`."""

    LOSS_UP = "loss_up"
    LOSS_DOWN = "loss_down"
    DUPLICATES = "duplicates"
    REORDERING = "reordering"
    OUTAGE = "outage"
    WRONG_SOURCE = "wrong_source"
    NETWORK_ERROR = "network_error"
    DUPLICATE_DIFFERS = "duplicate_differs"
    CLIENT_FAULT = "client_fault"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a fault means for one flow."""

    flow: TransportAddress
    must: frozenset[Kind | Sign]
    """Each of these is to be seen."""
    may: frozenset[Kind | Sign] = frozenset()
    """These may be seen as well; nothing else may."""

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
    effects: tuple[Effect, ...]


class Family(StrEnum):
    """Faults of one family are spread over different flows as long as there are any, so that effects stay apart."""

    WAY = "way"
    PACKETS = "packets"


class Bench:
    """What faults act on, and how they choose their victims."""

    def __init__(self, path: NetworkPath, mangler: Mangler, seed: int) -> None:
        """The path and the mangler of the run; the seed decides every choice."""
        self.path = path
        self.mangler = mangler
        self._seed = seed
        self._touched: dict[Family, set[TransportAddress]] = {family: set() for family in Family}

    def rng(self, *purpose: object) -> random.Random:
        """The random numbers of one purpose."""
        return random.Random("/".join(map(str, (self._seed, *purpose))))  # noqa: S311 - repeatable, not secret

    def choose(self, count: int, family: Family, *purpose: object) -> tuple[TransportAddress, ...]:
        """Choose up to `count` flows at random, those first that no fault of this family has touched."""
        flows = list(self.path.flows)
        self.rng("choose", *purpose).shuffle(flows)
        chosen = sorted(flows, key=lambda flow: flow in self._touched[family])[:count]
        self.touch(chosen, family)
        return tuple(chosen)

    def touch(self, flows: Iterable[TransportAddress], family: Family) -> None:
        """Remember that a fault of this family touched these flows."""
        self._touched[family].update(flows)


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

    at_ns: int = parameter(read_time, TIME, "when, from the start of the run", key="at")

    @property
    def lasts_ns(self) -> int:
        """How long its cause lasts; 0 for what is done at once."""
        return 0

    @property
    def victims(self) -> int:
        """How many sessions it asks for."""
        return 1

    @property
    def held_ns(self) -> int:
        """How long it holds single packets back; 0 when it does not."""
        return 0

    def scaled(self, numerator: int, denominator: int) -> Self:
        """The same fault in a run whose times are multiplied by this fraction."""
        return replace(self, at_ns=self.at_ns * numerator // denominator)

    @abstractmethod
    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Do it now; `number` is its place in the plan."""
