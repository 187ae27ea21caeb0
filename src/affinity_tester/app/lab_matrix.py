"""Every shipped plan over many seeds, each run in a process of its own, and the table of counts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import click

from affinity_tester.app.lab_document import document_text
from affinity_tester.app.lab_result import Result
from affinity_tester.app.lab_run import Staged, StagedRun
from affinity_tester.core.events import Event
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import shipped, shipped_names

CONTROL = "control-"
"""How the names of plans begin in which nothing may be called a violation."""

MAX_REPEATED = 3
"""So often a run is repeated that proved nothing."""

DEMO = "demo"
"""The plan that is no case of its own."""


def run_all(seeds: Iterable[int], jobs: int, document: Path | None) -> int:
    """Run everything, print what is not as declared and the table; returns how many runs were not."""
    plans = [name for name in shipped_names() if name != DEMO]
    # Seed by seed, so that runs of the same plan are not all at once.
    tasks = [(name, seed) for seed in seeds for name in plans]
    results: list[Result] = []
    for result in _run(tasks, jobs):
        results.append(result)
        for problem in result.problems:
            click.echo(f"{result.plan}, seed {result.seed}: {problem}")
    for line in counts(results):
        click.echo(line)
    if document is not None:
        document.parent.mkdir(parents=True, exist_ok=True)
        document.write_text(document_text(results), encoding="utf-8")
    return sum(bool(result.problems) for result in results)


def _run(tasks: Sequence[tuple[str, int]], jobs: int) -> Iterator[Result]:
    """Run each in a process: a lab with a busy loop must not make its neighbours late."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_with_parent) as pool:
        try:
            yield from pool.map(run_one, *zip(*tasks, strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_with_parent() -> None:
    """End this process when its parent has ended, however it did: else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a process of the pool"

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def run_one(name: str, seed: int) -> Result:
    """Run one shipped plan with one seed, in silence; again where the machine was too busy, and that is counted."""
    plan = replace(shipped(name), seed=seed)
    staged = staged_once(plan)
    repeated = 0
    while staged.busy and repeated < MAX_REPEATED:
        repeated += 1
        staged = staged_once(plan)
    return result_of(name, seed, staged, repeated)


def staged_once(plan: Plan) -> Staged:
    """Run a plan; nobody looks."""

    def show(_event: Event) -> None:
        pass

    return asyncio.run(StagedRun(plan, show).conducted())


def result_of(name: str, seed: int, staged: Staged, repeated: int = 0) -> Result:
    """What a run came to."""
    control = name.startswith(CONTROL)
    problems = [f"{row.fault}: {problem}" for row in staged.findings.rows for problem in row.problems]
    problems += [*staged.findings.unexpected, *staged.misnamed]
    if staged.busy:
        problems.append("the machine was too busy for the client to send on time, each time: take fewer --jobs")
    if control and staged.verdict.violations:
        problems.append(f"{staged.verdict.violations} violations, where nothing is one")
    last = staged.named[-1] if staged.named else None
    names = tuple(dict.fromkeys(f"{each.certainty.value} {each.name}".strip() for each in last.first)) if last else ()
    right = last.right if last else None
    return Result(name, seed, control, names, right, staged.verdict.violations, tuple(problems), repeated)


def counts(results: Sequence[Result]) -> list[str]:
    """The table: of each plan, how many runs were as declared, and how often its fault was named what."""
    lines = []
    width = max((len(result.plan) for result in results), default=0)
    for plan in dict.fromkeys(result.plan for result in results):
        mine = [result for result in results if result.plan == plan]
        names = Counter(name for result in mine for name in result.names)
        good = sum(not result.problems for result in mine)
        said = ", ".join(f"{name} {count}" for name, count in names.most_common()) or "nothing"
        lines.append(f"{plan:<{width}}  {good}/{len(mine)} as declared  named first: {said}")
    if repeated := sum(result.repeated for result in results):
        lines.append(f"{repeated} runs were repeated: the machine was too busy for the client to send on time")
    return lines
