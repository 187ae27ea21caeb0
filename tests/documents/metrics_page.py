"""The tables of docs/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.report.metric_families import Described
from affinity_tester.report.run_metrics import RUN_METRICS
from affinity_tester.report.server_metrics import SERVER_METRICS


def blocks() -> dict[str, str]:
    """The page's generated parts."""
    return {"client": _table(RUN_METRICS), "server": _table(SERVER_METRICS)}


def _table(metrics: Iterable[Described]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for each in metrics:
        total = "_total" if each.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `affinity_tester_{each.name}{total}` | {each.kind} | {labels} | {each.help} |")
    return "\n".join(rows)
