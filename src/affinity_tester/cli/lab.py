"""`affinity-tester lab`: one fault plan, or all that come with the package over many seeds, with injected / seen / named."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from affinity_tester.app.lab_matrix import run_all
from affinity_tester.app.lab_run import StagedRun
from affinity_tester.cli import EXIT_INTERRUPTED, options
from affinity_tester.cli.lab_output import Face
from affinity_tester.errors import UserError
from affinity_tester.lab.faults import FAULTS
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import found, shipped_names
from affinity_tester.report.logging import LogFormat

EXIT_NOT_AS_DECLARED = 1

JOBS = 12
"""Runs at a time: each takes about 8 % of a core, and a core that is full would make the client late."""


@click.command(
    epilog="Exit codes: 0 every fault was seen as declared, named first and likely, and nothing else was; 1 not so; 2 usage;"
    " 70 internal error; 130 Ctrl-C."
)
@click.argument("plan", required=False)
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
        return EXIT_NOT_AS_DECLARED if run_all(range(1, seeds + 1), jobs, document) else 0
    if plan is None:
        raise UserError("no plan: name a file or a shipped plan (--list shows them), or run --all")
    chosen = found(plan)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    return run_lab(chosen, Face(log_format))


def run_lab(plan: Plan, face: Face) -> int:
    """Run a plan and show it; returns the exit code."""
    with face:
        return asyncio.run(_run(plan, face))


async def _run(plan: Plan, face: Face) -> int:
    run = StagedRun(plan, face.emit, face.advance)
    staged = await run.conducted()
    face.findings(staged, plan.seed, "lab", interrupted=run.interrupted)
    if run.interrupted:
        return EXIT_INTERRUPTED
    return 0 if staged.findings.passed and not staged.misnamed else EXIT_NOT_AS_DECLARED


def _list() -> None:
    width = max(map(len, FAULTS))
    click.echo("faults:")
    for name, fault in FAULTS.items():
        text = (fault.__doc__ or "").splitlines()[0]
        click.echo(f"  {name:<{width}}  {'control: ' if fault.control else ''}{text}")
    click.echo("shipped plans:")
    for name in shipped_names():
        click.echo(f"  {name}")
