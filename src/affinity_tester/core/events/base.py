"""What every event has, and what a judgement is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """A fact and when it was so."""

    at_ns: int
    """Time of the run, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class SessionEvent(Event):
    """A fact of one session."""

    session: str
    """`CLIENT-<31-bit number>`."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a judgement is about."""
