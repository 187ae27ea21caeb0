"""What a comparison came to: the values that its texts are made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.experiment.results import Held


class Direction(StrEnum):
    """How AFTER differs from BEFORE."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"
    """As far as so few could tell: the chance of so large a difference is not small enough, or it is too small to matter."""
    TOLD = "told"
    """Told, and not tested: chance cannot be reckoned with here, or it depends on what was done in the run."""
    NOT_COMPARED = "not compared"


class Unit(StrEnum):
    """What a figure counts or measures."""

    SESSIONS = "sessions"
    """A share of sessions."""
    INCIDENTS = "incidents"
    """A share of incidents."""
    PER_HOUR = "per hour"
    """A rate; `of` is hours."""
    LOSS = "loss"
    """The share of probes lost, over blocks of time."""
    TIME = "time"
    """Nanoseconds: a median over blocks of time, or over sessions."""
    SPAN = "span"
    """Nanoseconds of a run; `of` is all of them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One side of a comparison, with its exact interval."""

    unit: Unit
    value: float | None
    """A share of 1, a rate by the hour, or nanoseconds; None where there is nothing to measure."""
    low: float | None
    """None where so few values give no interval."""
    high: float | None
    count: int
    """What was counted; of LOSS and TIME the number of blocks or sessions."""
    of: float
    """Of how many, or in how many hours."""


class Measure(StrEnum):
    """What is compared."""

    VIOLATIONS = "incidents with a violation"
    SESSIONS_HIT = "sessions hit by a violation"
    AVOIDABLE = "incidents by pool changes that a sound proxy would have avoided"
    OUTAGES = "incidents with an outage that nothing explains"
    BLACKOUTS = "blackouts"
    DARK = "time in which nobody was answered"
    LOSS = "probes lost outside outages"
    RTT_MEDIAN = "round-trip time, median"
    RTT_P99 = "round-trip time, 99th percentile"
    NAMED = "incidents named"
    """With the name."""
    BEYOND = "sessions that moved and need not have"
    BEYOND_IN_ALL = "sessions that moved and need not have, all cells together"
    TWICE = "sessions that moved twice"
    SILENT = "sessions silent at the end"
    BLACKOUT_TIME = "blackout of a session, median"
    MOVED = "sessions that moved"
    CELL_LOSS = "probes lost"


class Why(StrEnum):
    """Why something is not compared, or only told."""

    NO_STILL_TIME = "no still time"
    """The pool never stood still in one of them."""
    TOO_FEW_BLOCKS = "too few blocks"
    DRIFT = "drift"
    """It wanders within a run: blocks are not independent, however long they are made."""
    OWN_CLIENT = "own client"
    """The client itself lost probes or was too busy."""
    OTHER_PERIODS = "other periods"
    """The percentiles are of other periods (`--stats-interval`)."""
    SHARED_CAUSE = "shared cause"
    """One incident hits many sessions at once, so that they are not independent."""
    DEPENDS_ON_ACTION = "depends on the action"
    """It depends on which pod or node was taken, or on what was done to the pool."""
    NOT_INDEPENDENT = "not independent"
    """Lost probes come in bursts: their blackouts are compared instead."""
    CLIENT_NAME = "client name"
    """The name says that this machine did it."""
    LEAST_UNKNOWN = "least unknown"
    """Which sessions had to move is not known."""
    UNCLEAR = "unclear"
    """Of no session is it known whether the cluster moved it."""
    NO_SESSIONS = "no sessions"
    FEW_LOST = "few lost"
    """Too few sessions lost a probe in one of them."""
    ONE_STRETCH = "one stretch"
    """It is one stretch, or a few, however long: their number is compared."""
    WHOLE_RUN = "whole run"
    """A diagnosis of the run as a whole is one observation a run."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    where: str
    """The experiment and its cell; empty for a run."""
    measure: Measure
    name: str
    """The diagnosis, of NAMED; else empty."""
    before: Figure
    after: Figure
    direction: Direction
    p: float | None = None
    """The chance of so large a difference, or a larger one, if nothing had changed; None where it was not tested."""
    seen_from: float | None = None
    """Of SAME: what AFTER would have had to be to be called worse; None where nothing would have been. Of a rate or a share
    this is the true one, which shows with the confidence asked for; of a median the one that was measured."""
    is_small: bool = False
    """It is no chance, and smaller than what matters."""
    why: Why | None = None
    """Of TOLD and NOT_COMPARED."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting, or what it ran on, that differs."""

    key: str
    before: str
    """Empty where it is not known."""
    after: str
    unfair: bool
    """It makes the comparison unfair: what was seen depends on it."""


@dataclass(frozen=True, slots=True)
class HeldChange:
    """A requirement that does not hold as it did."""

    where: str
    requirement: str
    before: Held
    after: Held
    reasons: tuple[str, ...]
    """Why it is broken or unknown, as the broken side says."""
    proved: bool
    """A row of the same cell says worse (better) beyond chance."""


@dataclass(frozen=True, slots=True)
class Side:
    """What stands on one side."""

    version: str
    started_wall_ns: int
    sessions: int
    lasted_ns: int | None
    """Of a run; None of a report of experiments."""
    verdict: str
    """Of a run; empty where there is none."""
    what: str
    """The target of a run; the experiments of a report."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it."""

    kind: str
    """`runs` or `experiments`."""
    confidence: float
    before: Side
    after: Side
    differences: tuple[Difference, ...]
    rows: tuple[Row, ...]
    held: tuple[HeldChange, ...] = ()
    still_broken: tuple[str, ...] = ()
    """Cells whose requirement was broken in both."""
    appeared: tuple[tuple[str, str], ...] = ()
    """(cell, name) seen in AFTER alone."""
    vanished: tuple[tuple[str, str], ...] = ()
    only_before: tuple[str, ...] = ()
    """Experiments or cells that AFTER does not have."""
    only_after: tuple[str, ...] = ()
    not_run: tuple[tuple[str, str], ...] = ()
    """(experiment, why) that did not go to its end in one of them."""
    level: float = 0.0
    """What p had to be at the most for a difference to count, after what several comparisons cost."""

    @property
    def is_worse(self) -> bool:
        """True if anything got worse beyond chance."""
        return any(row.direction is Direction.WORSE for row in self.rows)

    @property
    def compared(self) -> int:
        """How many comparisons were tested."""
        return sum(row.p is not None for row in self.rows)
