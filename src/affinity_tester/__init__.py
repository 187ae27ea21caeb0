"""Affinity Tester: does this cluster keep UDP sessions on one pod, with one reflexive address? It says so, and why."""

__version__ = "0.1.0"
