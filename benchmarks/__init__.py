"""Benchmarks: each pits this tool against a peer or against the limit, alternating in one run (docs/performance.md)."""
