"""Evidence as text: numbers first, so that a sentence can go into a bug report."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis
from affinity_tester.units import noun_form, quoted

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


def has(number: int) -> str:
    """Return the verb of `1 of 12 sessions has`, `2 of 12 sessions have`."""
    return "has" if number == 1 else "have"


def was(number: int) -> str:
    """Return the verb of `1 of 12 sessions was`, `2 of 12 sessions were`."""
    return "was" if number == 1 else "were"


def listed(names: Iterable[str]) -> str:
    """Return up to three names, and how many more there are."""
    names = sorted(names)
    rest = len(names) - _NAMED
    named = ", ".join(names[:_NAMED])
    return f"{named} and {rest:,} more" if rest > 0 else named


def pods(names: Iterable[str]) -> str:
    """Return the pods' names in quotes, with the noun."""
    in_quotes = [quoted(name) for name in names]
    return f"{noun_form(len(in_quotes), 'pod')} {listed(in_quotes)}"
