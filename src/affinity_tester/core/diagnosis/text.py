"""Evidence as text: numbers first, so that a sentence can go into a bug report."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis

NO_CLUSTER = "run with cluster access"
"""What settles most questions that a client alone cannot answer."""

_NAMED = 3
"""Names in a list; of the others only the number is given."""


def diagnosis(name: str, evidence: Iterable[str], missing: str = "") -> Diagnosis:
    """Return a fault of the catalogue as a diagnosis: likely when nothing is missing, else possible."""
    entry = CATALOGUE[name]
    certainty = Certainty.POSSIBLE if missing else Certainty.LIKELY
    return Diagnosis(name, certainty, tuple(evidence), missing, entry.remedy, entry.references)


def cannot_tell(evidence: Iterable[str], settled_by: str) -> Diagnosis:
    """Return the diagnosis where nothing of the catalogue fits."""
    return Diagnosis("", Certainty.CANNOT_TELL, tuple(evidence), settled_by)


def count(number: int, noun: str) -> str:
    """Return `1 probe`, `1,200 probes`."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {plural}"


def has(number: int) -> str:
    """Return the verb of `1 of 12 sessions has`, `2 of 12 sessions have`."""
    return "has" if number == 1 else "have"


def was(number: int) -> str:
    """Return the verb of `1 of 12 sessions was`, `2 of 12 sessions were`."""
    return "was" if number == 1 else "were"


def seconds(ns: int) -> str:
    """Return `1.9 s`."""
    return f"{ns / 1_000_000_000:.1f} s"


def distance(at_ns: int, from_ns: int) -> str:
    """Return `0.8 s before` or `0.8 s after`: how far `at_ns` is from `from_ns`, where the incident began."""
    return f"{seconds(abs(from_ns - at_ns))} {'before' if at_ns <= from_ns else 'after'}"


def listed(names: Iterable[str]) -> str:
    """Return up to three names, and how many more there are."""
    names = sorted(names)
    rest = len(names) - _NAMED
    named = ", ".join(names[:_NAMED])
    return f"{named} and {rest:,} more" if rest > 0 else named


def pods(names: Iterable[str]) -> str:
    """Return the pods' names in quotes, with the noun."""
    quoted = [f'"{name}"' for name in names]
    return f"{'pod' if len(quoted) == 1 else 'pods'} {listed(quoted)}"
