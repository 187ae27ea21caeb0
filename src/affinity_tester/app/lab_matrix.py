"""Runs every shipped plan over many seeds, each run in a process of its own, and counts what they came to."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from affinity_tester.app.lab_run import LabResult, LabRun
from affinity_tester.core.events import Diagnosis
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import builtin, builtin_names

CONTROL = "control-"
"""How the names of plans begin in which nothing may be called a violation."""

MAX_REPEATED = 3
"""So often a run is repeated that proved nothing."""

DEMO = "demo"
"""The plan that is no case of its own."""


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What one run of a shipped plan came to."""

    plan: str
    seed: int
    control: bool
    """Nothing in it may be called a violation."""
    names: tuple[str, ...]
    """What the plan's last fault was named first, each once: `likely flow-wipe`."""
    right: Diagnosis | None
    """The right diagnosis of that fault, with its evidence."""
    violations: int
    problems: tuple[str, ...]
    """What is not as declared."""
    repeated: int = 0
    """Runs before this one that proved nothing, since the machine was too busy for the client to send on time."""


def count_runs(seeds: Sequence[int]) -> int:
    """Return how many runs `run_all` makes of these seeds."""
    return len(seeds) * sum(name != DEMO for name in builtin_names())


def run_all(seeds: Iterable[int], jobs: int) -> Iterator[PlanResult]:
    """Run every plan over the seeds, so many at a time; yields the results in order, as they come."""
    plans = [name for name in builtin_names() if name != DEMO]
    # Seed by seed, so that runs of the same plan are not all at once.
    tasks = [(name, seed) for seed in seeds for name in plans]

    # Processes, not tasks of one loop: a lab with a busy loop must not make its neighbours late.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_exit_with_parent) as pool:
        try:
            yield from pool.map(run_one, *zip(*tasks, strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _exit_with_parent() -> None:
    """End this process when its parent has ended, however it did: else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a process of the pool"

    def wait_and_exit() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


def run_one(name: str, seed: int) -> PlanResult:
    """Run one shipped plan with one seed; repeat it while the machine is too busy, and count that."""
    plan = replace(builtin(name), seed=seed)
    result = run_once(plan)
    repeated = 0
    while result.busy and repeated < MAX_REPEATED:
        repeated += 1
        result = run_once(plan)
    return summarise(name, seed, result, repeated)


def run_once(plan: Plan) -> LabResult:
    """Run a plan, and show nothing of it."""
    return asyncio.run(LabRun(plan).run())


def summarise(name: str, seed: int, result: LabResult, repeated: int = 0) -> PlanResult:
    """Return what a run of a shipped plan came to, with what is not as declared."""
    control = name.startswith(CONTROL)
    problems = [f"{row.fault}: {problem}" for row in result.findings.rows for problem in row.problems]
    problems += [*result.findings.unexpected, *result.diagnosis_errors]
    if result.busy:
        problems.append("the machine was too busy for the client to send on time, each time: take fewer --jobs")
    if control and result.verdict.violations:
        problems.append(f"{result.verdict.violations} violations, where nothing is one")

    last = result.named[-1] if result.named else None
    names = tuple(dict.fromkeys(f"{each.certainty.value} {each.name}".strip() for each in last.first)) if last else ()
    right = last.right if last else None
    return PlanResult(name, seed, control, names, right, result.verdict.violations, tuple(problems), repeated)


def count_lines(results: Sequence[PlanResult]) -> list[str]:
    """Return a line for each plan: how many runs were as declared, and how often its fault was named what."""
    lines = []
    width = max((len(result.plan) for result in results), default=0)
    for plan in dict.fromkeys(result.plan for result in results):
        of_plan = [result for result in results if result.plan == plan]
        names = Counter(name for result in of_plan for name in result.names)
        good = sum(not result.problems for result in of_plan)
        said = ", ".join(f"{name} {count}" for name, count in names.most_common()) or "nothing"
        lines.append(f"{plan:<{width}}  {good}/{len(of_plan)} as declared  named first: {said}")
    if repeated := sum(result.repeated for result in results):
        lines.append(f"{repeated} runs were repeated: the machine was too busy for the client to send on time")
    return lines
