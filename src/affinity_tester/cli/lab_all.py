"""Every shipped plan over many seeds, each run in a process of its own, and the table of counts."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import click

from affinity_tester.cli.lab_document import document_text
from affinity_tester.cli.staged import StagedRun
from affinity_tester.core.events import Diagnosis
from affinity_tester.lab.plan import shipped, shipped_names

CONTROL = "control-"
"""How the names of plans begin in which nothing may be called a violation."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to."""

    plan: str
    seed: int
    names: tuple[str, ...]
    """What was named first, of the plan's last fault: `likely flow-wipe`."""
    evidence: Diagnosis | None
    """The right diagnosis of the last fault, with its evidence."""
    problems: tuple[str, ...]
    """What is not as declared."""


def run_all(seeds: Iterable[int], jobs: int, document: Path | None) -> int:
    """Run everything, print the table; returns how many runs were not as declared."""
    plans = [name for name in shipped_names() if name != "demo"]
    # Seeds first: plans whose runs are of the same kind do not run all at once.
    tasks = [(name, seed) for seed in seeds for name in plans]
    results: list[Result] = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            for result in pool.map(run_one, *zip(*tasks, strict=True)):
                results.append(result)
                for problem in result.problems:
                    click.echo(f"{result.plan}, seed {result.seed}: {problem}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for line in counts(results):
        click.echo(line)
    if document is not None:
        document.write_text(document_text(results), encoding="utf-8")
    return sum(bool(result.problems) for result in results)


def run_one(name: str, seed: int) -> Result:
    """Run one shipped plan with one seed, in silence."""
    plan = replace(shipped(name), seed=seed)
    staged = asyncio.run(StagedRun(plan, lambda _event: None).conducted())
    problems = [f"{row.fault}: {problem}" for row in staged.findings.rows for problem in row.problems]
    problems += [*staged.findings.unexpected, *staged.misnamed]
    if name.startswith(CONTROL) and staged.verdict.violations:
        problems.append(f"{staged.verdict.violations} violations, and nothing was broken")
    last = staged.named[-1] if staged.named else None
    first = tuple(dict.fromkeys(f"{each.certainty.value} {each.name}".strip() for each in last.first)) if last else ()
    return Result(name, seed, first, last.right if last else None, tuple(problems))


def counts(results: Sequence[Result]) -> list[str]:
    """The table: for each plan, how often its fault was named what, and how many runs were as declared."""
    lines = []
    width = max((len(result.plan) for result in results), default=0)
    for plan in dict.fromkeys(result.plan for result in results):
        mine = [result for result in results if result.plan == plan]
        names = Counter(name for result in mine for name in result.names)
        good = sum(not result.problems for result in mine)
        said = ", ".join(f"{name} {count}" for name, count in names.most_common()) or "nothing"
        lines.append(f"{plan:<{width}}  {good}/{len(mine)} as declared  named first: {said}")
    return lines
