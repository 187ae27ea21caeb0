"""Which documents have generated parts, and what makes these."""

from __future__ import annotations

from collections.abc import Callable

import experiments_page
import failure_modes_page
import metrics_page
import record_page

PAGES: dict[str, Callable[[], dict[str, str]]] = {
    "experiments.md": experiments_page.blocks,
    "failure-modes.md": failure_modes_page.blocks,
    "metrics.md": metrics_page.blocks,
    "record.md": record_page.blocks,
}
"""By file name in docs/: what returns the page's generated parts, by the names of their marks."""
