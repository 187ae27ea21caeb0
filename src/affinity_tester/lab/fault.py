"""What a fault is: its parameters, and what it acts on.

A plan's fault (`Fault`) acts on the running lab through a `FaultContext` and returns an `Injection`: what it did, and what
the client must see of it.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace
from enum import StrEnum
from typing import ClassVar, Self

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject, Judgement
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.injection import Effect, Injection, Observable
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.parameter import Parameters, time_parameter
from affinity_tester.lab.runtime import LabRuntime
from affinity_tester.units import noun_form


class Family(StrEnum):
    """A family of faults, which are spread over different flows as long as there are any, so that effects stay apart."""

    ROUTING = "routing"
    PACKETS = "packets"


class FaultContext:
    """What faults act on, and how they choose the flows that they hit."""

    def __init__(
        self, network: NetworkModel, impairments: Impairments, seed: int, runtime: LabRuntime | None = None
    ) -> None:
        """Act on this network and these impairments. The seed decides every choice.

        Without a runtime (in tests) only faults work that do everything at once.
        """
        self.network = network
        self.impairments = impairments
        self.clients: set[TransportAddress] = set()
        """The sessions' addresses; empty: every flow is a session's. The client's canaries are flows too."""
        self.number = 0
        """The place of the fault in the plan, from 1."""
        self.at_ns = 0
        """When the fault is injected."""
        self.purpose: tuple[object, ...] = ()
        """What keeps the random numbers of one fault apart from those of the others."""
        self._seed = seed
        self._runtime = runtime
        self._used: dict[Family, set[TransportAddress]] = {family: set() for family in Family}

    def of(self, fault: Fault, number: int, at_ns: int) -> Self:
        """Return the context of one injection; all of a run know which flows the others use."""
        context = copy(self)
        context.number, context.at_ns, context.purpose = number, at_ns, (fault.name, number)
        return context

    def injection(
        self,
        text: str,
        until_ns: int,
        effects: tuple[Effect, ...] = (),
        *,
        must_somewhere: frozenset[Observable] = frozenset(),
        may: frozenset[Observable] = frozenset(),
        outages_judged: frozenset[Judgement] = frozenset(),
        blackout_ns: int = 0,
        unobservable: bool = False,
    ) -> Injection:
        """Return what this fault did, in the words of `Injection`."""
        return Injection(
            self.number,
            self.at_ns,
            text,
            until_ns,
            effects,
            must_somewhere=must_somewhere,
            may=may,
            outages_judged=outages_judged,
            blackout_ns=blackout_ns,
            unobservable=unobservable,
        )

    @property
    def runtime(self) -> LabRuntime:
        """Return the running lab."""
        assert self._runtime is not None, "a fault that takes time needs a running lab"
        return self._runtime

    def after(self, delay_ns: int, action: Callable[[], object]) -> None:
        """Call `action` once when this time has passed."""
        runtime = self.runtime

        async def act() -> None:
            await runtime.wait(delay_ns)
            action()

        runtime.spawn(act())

    def now_ns(self) -> int:
        """Return the time of the run."""
        return clock.now_ns()

    def rng(self, *purpose: object) -> random.Random:
        """Return random numbers that no other fault and no other purpose has."""
        return self._random(*self.purpose, *purpose)

    def _random(self, *purpose: object) -> random.Random:
        return random.Random("/".join(map(str, (self._seed, *purpose))))  # noqa: S311 - repeatable, not secret

    def add_cluster_event(
        self,
        subject: ClusterSubject,
        name: str,
        action: ClusterAction,
        *,
        node: str = "",
        fields: tuple[str, ...] = (),
    ) -> None:
        """Let the watch tell of something in the cluster, after the fault itself."""
        if self._runtime is not None:
            event = ClusterEvent(self.at_ns, subject, name, action, node=node, fields=fields)
            self._runtime.control.add_cluster_event(event)

    # --- the choice of flows -----------------------------------------------------------------------------------------

    @property
    def flows(self) -> tuple[TransportAddress, ...]:
        """Return the sessions' flows, in order of first appearance."""
        return tuple(flow for flow in self.network.flows if not self.clients or flow in self.clients)

    def flows_by_pod(self) -> dict[str, list[TransportAddress]]:
        """Return the sessions' flows by the name of the pod to which their newest packet went."""
        held: dict[str, list[TransportAddress]] = {}
        for flow in self.flows:
            entry = self.network.flows[flow].entry
            if entry is not None:
                held.setdefault(entry.pod.name, []).append(flow)
        return held

    def flows_by_node(self) -> dict[str, list[TransportAddress]]:
        """Return the sessions' flows by the name of the node to which their next packet goes; every node is there."""
        held: dict[str, list[TransportAddress]] = {name: [] for name in self.network.nodes}
        for flow in self.flows:
            if (node := self.network.ingress.node_of(flow)) is not None:
                held[node].append(flow)
        return held

    def choose(self, count: int, family: Family) -> tuple[TransportAddress, ...]:
        """Choose up to `count` flows at random, first those that no fault of this family has used."""
        flows = list(self.flows)
        self._random("choose", *self.purpose).shuffle(flows)
        chosen = sorted(flows, key=lambda flow: flow in self._used[family])[:count]
        self.mark_used(chosen, family)
        return tuple(chosen)

    def mark_used(self, flows: Iterable[TransportAddress], family: Family) -> None:
        """Remember that a fault of this family hits these flows."""
        self._used[family].update(flows)


def counted(count: int, noun: str) -> str:
    """Return `1 flow`, `3000 flows`: no number in a fault's sentence has a separator, unlike those of `units.plural`."""
    return f"{count} {noun_form(count, noun)}"


class Fault(Parameters, ABC):
    """One fault of a plan. A subclass is a frozen dataclass of its parameters without saying so."""

    name: ClassVar[str]
    """In plans and reports."""
    expects: ClassVar[str]
    """What the client must see, in words."""

    policies: ClassVar[frozenset[Policy]] = frozenset(Policy)
    """The traffic policies under which it does what it says."""
    why_policy: ClassVar[str] = ""
    """Why it does not under the others, in words."""
    affinities: ClassVar[frozenset[Affinity]] = frozenset(Affinity)
    """The session affinities under which it does what it says."""

    control: ClassVar[bool] = False
    """True for ordinary life, which the diagnosis must not call a fault."""
    alias: ClassVar[str] = ""
    """Its name in the catalogue, where that is another."""
    also_correct: ClassVar[frozenset[str]] = frozenset()
    """Names of the catalogue that are as true of it as its own."""

    from_start: ClassVar[bool] = False
    """True if it is there before the first probe."""
    moves_pool: ClassVar[bool] = False
    """True if the pool changes with it."""

    at_ns: int = time_parameter("when, from the start of the run", key="at")

    @property
    def diagnosis_name(self) -> str:
        """Return what the diagnosis must call it."""
        return self.alias or self.name

    @property
    def lasts_ns(self) -> int:
        """Return how long its cause lasts: its parameter `for`, where it has one; 0 for what is done at once."""
        return int(getattr(self, "for_ns", 0))

    @property
    def session_count(self) -> int:
        """Return how many sessions it needs: its parameter `sessions`, where it has one."""
        return int(getattr(self, "sessions", 1))

    @property
    def reorder_delay_ns(self) -> int:
        """Return how long it holds single packets back; 0 when it does not."""
        return 0

    def scaled(self, numerator: int, denominator: int) -> Self:
        """Return the fault of a run whose times are multiplied by this fraction; what its network takes stays as it is."""
        times = {
            name: getattr(self, name)
            for name in ("at_ns", "for_ns", "every_ns", "notice_ns", "drain_ns")
            if hasattr(self, name)
        }
        return replace(self, **{name: value * numerator // denominator for name, value in times.items()})

    @abstractmethod
    def inject(self, context: FaultContext) -> Injection:
        """Do it now, and return what was done."""


class StandingFault(Fault):
    """A fault that is there before the first probe."""

    from_start = True

    at_ns: int = time_parameter("nothing: it is there from the start", key="at", default=0)
