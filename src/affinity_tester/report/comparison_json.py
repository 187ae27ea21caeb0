"""A comparison as one JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from affinity_tester.core.comparison.results import Comparison

FORMAT = 1
"""Raised when a key is renamed or removed."""


def result_of(comparison: Comparison) -> str:
    """Return `worse`, `not worse`, or `not compared`: what the exit code says."""
    if not comparison.compared:
        return "not compared"
    return "worse" if comparison.is_worse else "not worse"


def json_text(comparison: Comparison) -> str:
    """Return one object: the fields of `Comparison`, with its format and its result first.

    Shares are of 1, rates by the hour, times nanoseconds; what is not known is null.
    """
    told: dict[str, Any] = {
        "comparison": "affinity-tester",
        "format": FORMAT,
        "result": result_of(comparison),
        "compared": comparison.compared,
        **asdict(comparison),
    }
    return json.dumps(told, indent=2, allow_nan=False)
