"""The exit codes of a verdict."""

from __future__ import annotations

from affinity_tester.core.events import Outcome

EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}
"""1 means nothing but a failed verdict."""
