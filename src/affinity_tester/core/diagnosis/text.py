"""Evidence in words: numbers first, so that a sentence can stand in a bug report."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis

NO_CLUSTER = "run with cluster access"
"""What settles most of what a client alone cannot know."""

_NAMED = 3


def diagnosis(name: str, evidence: Iterable[str], missing: str = "") -> Diagnosis:
    """A fault of the catalogue: `likely` when nothing is missing, else `possible`."""
    entry = CATALOGUE[name]
    certainty = Certainty.POSSIBLE if missing else Certainty.LIKELY
    return Diagnosis(name, certainty, tuple(evidence), missing, entry.remedy, entry.references)


def cannot_tell(evidence: Iterable[str], settled_by: str) -> Diagnosis:
    """Nothing of the catalogue fits."""
    return Diagnosis("", Certainty.CANNOT_TELL, tuple(evidence), settled_by)


def count(number: int, noun: str) -> str:
    """`1 probe`, `1,200 probes`."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {plural}"


def has(number: int) -> str:
    """`1 of 12 sessions has`, `2 of 12 sessions have`."""
    return "has" if number == 1 else "have"


def was(number: int) -> str:
    """`1 of 12 sessions was`, `2 of 12 sessions were`."""
    return "was" if number == 1 else "were"


def seconds(ns: int) -> str:
    """`1.9 s`."""
    return f"{ns / 1_000_000_000:.1f} s"


def distance(at_ns: int, from_ns: int) -> str:
    """How far something at `at_ns` was from the beginning of what is diagnosed."""
    return f"{seconds(abs(from_ns - at_ns))} {'before' if at_ns <= from_ns else 'after'}"


def listed(names: Iterable[str]) -> str:
    """Up to three by name, the others by number."""
    names = sorted(names)
    rest = len(names) - _NAMED
    named = ", ".join(names[:_NAMED])
    return f"{named} and {rest:,} more" if rest > 0 else named


def pods(names: Iterable[str]) -> str:
    """Pods by name, in quotes."""
    quoted = [f'"{name}"' for name in names]
    return f"{'pod' if len(quoted) == 1 else 'pods'} {listed(quoted)}"
