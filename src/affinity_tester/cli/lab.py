"""`affinity-tester lab`: one fault plan, or all that come with the package over many seeds, with injected / seen / named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from affinity_tester.app.lab_document import write_document
from affinity_tester.app.lab_matrix import count_lines, count_runs, run_all
from affinity_tester.app.lab_run import LabRun
from affinity_tester.cli import EXIT_INTERRUPTED, options
from affinity_tester.cli.lab_output import LabOutput
from affinity_tester.cli.matrix_output import MatrixOutput
from affinity_tester.errors import UserError
from affinity_tester.lab.faults import FAULTS
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import builtin_names, load_plan
from affinity_tester.report.logging import LogFormat

EXIT_NOT_AS_DECLARED = 1

JOBS = 12
"""Runs at a time: each takes about 8 % of a core, and a busy core would make the client late."""


@click.command(
    epilog="Exit codes: 0 every fault was seen as declared, named first and likely, and nothing else was; 1 not so; 2 usage;"
    " 70 internal error; 130 Ctrl-C."
)
@click.argument("plan", required=False, shell_complete=lambda _context, _argument, start: _plans(start))
@click.option("--list", "listed", is_flag=True, help="List the faults and the shipped plans, and run nothing.")
@click.option("--all", "everything", is_flag=True, help="Run every shipped plan over the seeds, and count.")
@options.option("--seed", type=options.Seed(), help="Decides every choice of the lab. Default: the plan's.")
@options.option("--seeds", type=options.Whole(1, 1000), default=20, help="With --all: how many seeds, from 1 on.")
@options.option("--jobs", type=options.Whole(1, 64), default=JOBS, help="With --all: how many runs at a time.")
@options.option(
    "--document",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="With --all: Markdown file to write the counts to, with what each diagnosis rests on.",
)
@options.record()
@options.live()
@options.log_format()
def lab(
    *,
    plan: str | None,
    listed: bool,
    everything: bool,
    seed: int | None,
    seeds: int,
    jobs: int,
    document: Path | None,
    record: Path | None,
    live: bool,
    log_format: LogFormat,
) -> int:
    """Run a fault plan, PLAN, a file or the name of a shipped one, with the client: what was injected, seen and named."""
    if listed:
        _list()
        return 0

    if everything and plan is not None:
        raise UserError("PLAN and --all both say what to run: give one of them")
    said = click.get_current_context().get_parameter_source
    for option in ("seeds", "jobs", "document"):
        if not everything and said(option) is ParameterSource.COMMANDLINE:
            raise UserError(f"--{option} goes with --all; for one run of a plan there is --seed")

    if everything:
        if record is not None and said("record") is ParameterSource.COMMANDLINE:
            raise UserError("--record goes with one plan: --all runs many")
        return run_matrix(range(1, seeds + 1), jobs, document, live=live)
    if plan is None:
        raise UserError("no plan: name a file or a shipped plan (--list shows them), or run --all")
    chosen = load_plan(plan)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    options.check_record(record)
    output = LabOutput(log_format, record=record, live=live, duration_ns=chosen.duration_ns, faults=len(chosen.faults))
    return run_lab(chosen, output)


def run_lab(plan: Plan, output: LabOutput) -> int:
    """Run a plan and show it; return the exit code."""
    with output:
        return asyncio.run(_run(plan, output))


async def _run(plan: Plan, output: LabOutput) -> int:
    run = LabRun(plan, [output.emit], [output.advance], output.beat, output.show_progress)
    result = await run.run()
    output.show_result(result, plan.seed, "lab", interrupted=run.interrupted)
    if run.interrupted:
        return EXIT_INTERRUPTED
    return 0 if result.findings.passed and not result.diagnosis_errors else EXIT_NOT_AS_DECLARED


def run_matrix(seeds: Sequence[int], jobs: int, document: Path | None, *, live: bool = False) -> int:
    """Run every shipped plan over the seeds, and print what is not as declared and the counts; return the exit code."""
    results = []
    with MatrixOutput(count_runs(seeds), live=live) as output:
        for result in run_all(seeds, jobs):
            results.append(result)
            for problem in result.problems:
                output.line(f"{result.plan}, seed {result.seed}: {problem}")
            output.add(result)

    for line in count_lines(results):
        click.echo(line)
    if document is not None:
        write_document(document, results)
    return EXIT_NOT_AS_DECLARED if any(result.problems for result in results) else 0


def _plans(start: str) -> list[CompletionItem]:
    """Return how the name of a plan may go on: a shipped one, else a file."""
    shipped = [CompletionItem(name) for name in builtin_names() if name.startswith(start)]
    return shipped or [CompletionItem(start, type="file")]


def _list() -> None:
    width = max(map(len, FAULTS))
    click.echo("faults:")
    for name, fault in FAULTS.items():
        text = (fault.__doc__ or "").splitlines()[0]
        click.echo(f"  {name:<{width}}  {'control: ' if fault.control else ''}{text}")

    click.echo("shipped plans:")
    for name in builtin_names():
        click.echo(f"  {name}")
