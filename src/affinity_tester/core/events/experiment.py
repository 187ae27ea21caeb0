"""An experiment on the cluster beside the sessions: its phases, and the steps of its action and of its undoing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.events.base import Event


class Phase(StrEnum):
    """A part of an experiment; each begins where the one before it ends."""

    STEADY = "steady"
    """Nothing is done: sessions must be answered, and none may move."""
    ACTION = "action"
    """The cluster is acted upon."""
    RECOVERY = "recovery"
    """What the action changed settles, as the watch shows it."""
    ROLLBACK = "rollback"
    """What was changed is undone, or its controller heals it."""
    JUDGEMENT = "judgement"
    """All is as it was: the last replies and judgements come."""


@dataclass(frozen=True, slots=True)
class ExperimentStarted(Event):
    """These sessions belong to an experiment: one Service of it. Told right after the run's start."""

    name: str
    """The experiment's, such as `pod-delete`."""
    service: str
    """namespace/name."""
    policy: str
    """externalTrafficPolicy; empty where it is not known."""
    affinity: str
    """sessionAffinity; empty where it is not known."""
    steady_ns: int
    """For how long nothing may happen before the action."""


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """A phase begins."""

    phase: Phase
    """Which."""
    sent: int | None = None
    """Probes that all sessions had sent by then; null: not counted."""


@dataclass(frozen=True, slots=True)
class ActionStep(Event):
    """A step of the action was done, or undone."""

    text: str
    """What was done, in words, such as `deleted pod "a"`; or why it could not be."""
    undo: bool = False
    """It brings back what was."""
    failed: bool = False
    """It could not be done."""


@dataclass(frozen=True, slots=True)
class ActionRemoved(Event):
    """What the action itself takes away, as it names it.

    What leaves meanwhile without a name left by a cause of its own; but where the action names nothing, its controller chose,
    and all that leaves counts.
    """

    pods: tuple[str, ...] = ()
    """Pods, by their uid."""
    nodes: tuple[str, ...] = ()
    """Nodes, by their names."""
