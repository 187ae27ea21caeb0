"""Naming the fault: incidents and evidence in, diagnoses from the catalogue out (docs/failure-modes.md)."""

from affinity_tester.core.diagnosis.catalogue import CATALOGUE, EQUIVALENCES, Entry, Equivalence, equivalents
from affinity_tester.core.diagnosis.facts import Facts
from affinity_tester.core.diagnosis.rules import diagnose, diagnose_run

__all__ = [
    "CATALOGUE",
    "EQUIVALENCES",
    "Entry",
    "Equivalence",
    "Facts",
    "diagnose",
    "diagnose_run",
    "equivalents",
]
