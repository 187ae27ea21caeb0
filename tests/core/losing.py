"""Runs that only lose probes, told as a client's events: who loses what is the oracle's choice, and known to the test."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis import RunHistory, diagnose_run
from affinity_tester.core.events import (
    Counts,
    Diagnosis,
    Event,
    FirstAnswer,
    Losses,
    ProbesLost,
    RttStats,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    SessionSummary,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules

MS = 1_000_000
S = 1_000 * MS
TARGET = TransportAddress("203.0.113.7", 3478)
CLIENT = "192.168.0.9"


@dataclass(frozen=True)
class Place:
    """Where a session is, for the whole run."""

    session: int
    pod: str
    node: str
    """The pod's."""
    ingress: str

    @property
    def identity(self) -> Identity:
        return Identity(TransportAddress(self.ingress, 20_000 + self.session), self.pod, self.node, self.pod.encode())


Lost = Callable[[Place, int, float], bool]
"""True if a place's probe of this number, sent at this second, is lost."""


@dataclass
class LosingRun:
    """A run of so many sessions; flows meet pods and ingress nodes at random."""

    seed: int
    sessions: int = 24
    nodes: int = 3
    pods: int = 6
    seconds: float = 16.0
    interval: int = 100 * MS
    local: bool = False
    """Policy Local: pods see the client's own address, and are on the node that the flow came in through."""
    late: int = 0
    """Replies that came late, in all."""
    places: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        for session in range(self.sessions):
            pod = self.rng.randrange(self.pods)
            node = pod % self.nodes
            ingress = CLIENT if self.local else f"10.0.0.{self.rng.randrange(self.nodes) + 1}"
            self.places.append(Place(session, f"p{pod}", f"n{node}", ingress))

    def diagnosed(self, is_lost: Lost, events: Iterable[Event] = ()) -> tuple[Diagnosis, ...]:
        """Return what is said of the whole run, in which these events came beside the losses."""
        history = RunHistory(Rules())
        started = RunStarted(
            0, 0, 0, "0", TARGET, "x", self.sessions, self.interval, 2 * S, 288, connected=False, lost_guarantees=()
        )
        history.feed(started)
        for place in self.places:
            own = TransportAddress(CLIENT, 50_000 + self.rng.randrange(10_000))
            history.feed(SessionStarted(0, f"CLIENT-{place.session}", own))

        slots = round(self.seconds * S) // self.interval
        total = Counts()
        for place in self.places:
            name = f"CLIENT-{place.session}"
            phase = self.interval * place.session // self.sessions
            answered = False
            lost = 0
            for seq in range(slots):
                sent_ns = seq * self.interval + phase
                if is_lost(place, seq, sent_ns / S):
                    history.feed(ProbesLost(sent_ns + 2 * S, name, seq, 1, sent_ns, sent_ns))
                    lost += 1
                elif not answered:
                    answered = True
                    history.feed(FirstAnswer(sent_ns + MS, name, seq, place.identity))
            counts = Counts(sent=slots, answered=slots - lost, lost=lost)
            total += counts
            history.feed(SessionSummary(0, name, TARGET, counts, Losses(), RttStats(), (), 0, 0, None))
        for event in events:
            history.feed(event)
        total += Counts(late=self.late)
        end = round(self.seconds * S)
        history.feed(SendingStopped(end, interrupted=False))
        history.feed(RunSummary(end, end, total, Losses(), RttStats(), (), 0))
        return diagnose_run(history)


def gilbert(
    rng: random.Random, rate: float, mean_s: float, within: float, interval_s: float = 0.1
) -> Callable[[int], bool]:
    """Return a session's losses: `rate` bad times a second, of this mean length, in which this share is lost."""
    state = {"bad_until": -1.0}

    def lost(seq: int) -> bool:
        at = seq * interval_s
        if at >= state["bad_until"] and rng.random() < rate * interval_s:
            state["bad_until"] = at + rng.expovariate(1 / mean_s)
        return at < state["bad_until"] and rng.random() < within

    return lost
