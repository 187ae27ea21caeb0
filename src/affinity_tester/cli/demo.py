"""`affinity-tester demo`: a fault plan on loopback, the log that a client writes of it, and the table injected / seen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from affinity_tester.app.lab_run import LabRun
from affinity_tester.cli import EXIT_INTERRUPTED, options
from affinity_tester.cli.lab_output import LabOutput
from affinity_tester.errors import UserError
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import builtin, load_file
from affinity_tester.report.logging import LogFormat
from affinity_tester.units import NS_PER_S

EXIT_NOT_SEEN = 1


@click.command(
    epilog="Exit codes: 0 every fault was seen, each by the right sessions, and nothing else was flagged; 1 not so;"
    " 2 usage; 70 internal error; 130 Ctrl-C."
)
@options.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="Fault plan to run, a YAML file. Default: its own."
)
@options.option("--seed", type=options.Seed(), help="Decides every choice of the lab. Default: the plan's.")
@options.option(
    "-d",
    "--duration",
    type=options.Duration(NS_PER_S),
    help="How long to send; all times of the plan scale with it. Default: the plan's.",
)
@options.record()
@options.live()
@options.log_format()
def demo(
    *,
    plan_file: Path | None,
    seed: int | None,
    duration: int | None,
    record: Path | None,
    live: bool,
    log_format: LogFormat,
) -> int:
    """Break a load balancer on loopback in several ways, and show what a client sees of it: no cluster, no root.

    The client's own verdict on this is FAIL, which is the point. The demo passes when the table at its end, injected /
    seen, agrees. Ctrl-C ends it early, with the table so far; a second one does not wait for the last replies. The last line
    shows its report: it is recorded, in a temporary file unless --record names another.
    """
    plan = load_file(plan_file) if plan_file is not None else builtin("demo")
    if seed is not None:
        plan = replace(plan, seed=seed)
    if duration is not None:
        plan = plan.scaled_to(duration)
    options.check_record(record)
    return run_demo(plan, _open_output(plan, record, log_format, live=live))


def _open_output(plan: Plan, record: Path | None, log_format: LogFormat, *, live: bool) -> LabOutput:
    """Open the output, with a record in a temporary file where none is named and people read it.

    Raises `UserError` for a record that is named. Without room for a temporary one there is none.
    """

    def with_record(path: Path | None) -> LabOutput:
        return LabOutput(log_format, record=path, live=live, duration_ns=plan.duration_ns, faults=len(plan.faults))

    if record is None and log_format == "console":
        with contextlib.suppress(OSError, UserError):
            number, name = tempfile.mkstemp(prefix="affinity-tester-demo-", suffix=".jsonl.gz")
            os.close(number)
            return with_record(Path(name))
    return with_record(record)


def run_demo(plan: Plan, output: LabOutput) -> int:
    """Run a plan and show it; return the exit code. On asyncio's own loop: uvloop crashes on the client's sockets."""
    with output:
        return asyncio.run(_run(plan, output))


async def _run(plan: Plan, output: LabOutput) -> int:
    run = LabRun(plan, [output.emit], [output.advance], output.beat, output.show_progress)
    result = await run.run()
    output.show_result(result, plan.seed, "demo", interrupted=run.interrupted)
    if run.interrupted:
        return EXIT_INTERRUPTED
    return 0 if result.findings.passed else EXIT_NOT_SEEN
