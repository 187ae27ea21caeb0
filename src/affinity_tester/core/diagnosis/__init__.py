"""Diagnose faults: incidents and their evidence in, diagnoses of the catalogue out (docs/failure-modes.md)."""

from affinity_tester.core.diagnosis.catalogue import CATALOGUE, EQUIVALENCES, Entry, Equivalence, equivalents
from affinity_tester.core.diagnosis.rules import diagnose, diagnose_run
from affinity_tester.core.diagnosis.run_history import RunHistory

__all__ = [
    "CATALOGUE",
    "EQUIVALENCES",
    "Entry",
    "Equivalence",
    "RunHistory",
    "diagnose",
    "diagnose_run",
    "equivalents",
]
