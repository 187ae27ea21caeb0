"""The table of docs/experiments.md."""

from __future__ import annotations

from affinity_tester.core.experiment.catalogue import EXPERIMENTS


def blocks() -> dict[str, str]:
    """The page's generated parts."""
    own = [each for each in EXPERIMENTS.values() if each.own_objects]
    others = [each for each in EXPERIMENTS.values() if not each.own_objects]
    return {"own objects": _table(own), "more": _table(others)}


def _table(experiments: list) -> str:
    rows = ["| name | what is done | undone | must hold | said by |", "|---|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.does} | {each.kind.value} | {each.requirement} | {each.source} |"
        for each in experiments
    ]
    return "\n".join(rows)
