"""`affinity-tester demo`: a fault plan on loopback, the log that a client writes of it, and the table injected / seen."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click

from affinity_tester.cli import EXIT_INTERRUPTED, options
from affinity_tester.cli.staged import StagedRun
from affinity_tester.core.events import Event, Outcome, RunStarted
from affinity_tester.lab.compare import Findings
from affinity_tester.lab.plan import Plan, load, shipped
from affinity_tester.report.clock import RunClock
from affinity_tester.report.console import ConsoleReport
from affinity_tester.report.jsonlog import JsonReport
from affinity_tester.report.logging import LogFormat, Tint, configure, wants_colour
from affinity_tester.settings import NS_PER_S

EXIT_NOT_SEEN = 1


@click.command(
    epilog="Exit codes: 0 every fault was seen, each by the right sessions, and nothing else turned red; 1 not so;"
    " 2 usage; 70 internal error; 130 Ctrl-C."
)
@options.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="Fault plan to run, a YAML file. Default: its own."
)
@options.option("--seed", type=int, help="Decides every choice of the lab. Default: the plan's.")
@options.option(
    "--duration",
    type=options.Duration(NS_PER_S),
    help="How long to send; all times of the plan scale with it. Default: the plan's.",
)
@options.log_format()
def demo(*, plan_file: Path | None, seed: int | None, duration: int | None, log_format: LogFormat) -> int:
    """Break a load balancer on loopback in several ways, and show what a client sees of it: no cluster, no root.

    The client's own verdict on this is FAIL, which is the point. The demo passes when the table at its end, injected /
    seen, agrees. Ctrl-C ends it early, with the table so far; a second one does not wait for the last replies.
    """
    plan = load(plan_file) if plan_file is not None else shipped("demo")
    if seed is not None:
        plan = replace(plan, seed=seed)
    if duration is not None:
        plan = plan.lasting(duration)
    return run_demo(plan, Face(log_format))


def run_demo(plan: Plan, face: Face) -> int:
    """Run a plan and show it; returns the exit code. On asyncio's own loop: uvloop crashes on the client's sockets."""
    return asyncio.run(_run(plan, face))


async def _run(plan: Plan, face: Face) -> int:
    run = StagedRun(plan, face.emit)
    verdict, findings = await run.conducted()
    face.findings(findings, plan.seed, verdict.outcome, interrupted=run.interrupted)
    if run.interrupted:
        return EXIT_INTERRUPTED
    return 0 if findings.passed else EXIT_NOT_SEEN


class Face:
    """What the demo shows: the client's log as ever, and the lab's findings after it."""

    def __init__(self, log_format: LogFormat) -> None:
        """Write to stdout in this form."""
        self._log = configure(format=log_format, stream=sys.stdout, colour=wants_colour(sys.stdout, os.environ))
        self._json = log_format == "json"
        self._report = JsonReport(self._log) if self._json else ConsoleReport(self._log)
        self._clock: RunClock | None = None
        self._last_ns = 0

    def emit(self, event: Event) -> None:
        """Show an event of the run."""
        if isinstance(event, RunStarted):
            self._clock = RunClock.of(event)
        self._last_ns = event.at_ns
        self._report.emit(event)

    def findings(self, findings: Findings, seed: int, outcome: Outcome, *, interrupted: bool) -> None:
        """Show what was injected and what was seen."""
        if not self._json:
            for text, tint in table(findings, seed, outcome, interrupted=interrupted):
                self._log.text(text, tint)
        elif self._clock is not None:
            time = self._clock.rfc3339(self._last_ns)
            for row in findings.rows:
                self._log.line("error" if row.problems else "info", "lab.fault", time=time, **asdict(row))
            self._log.line(
                "info" if findings.passed else "error",
                "lab.findings",
                time=time,
                passed=findings.passed,
                seed=seed,
                interrupted=interrupted,
                unexpected=findings.unexpected,
            )
        self._log.flush()


def table(findings: Findings, seed: int, outcome: Outcome, *, interrupted: bool) -> Iterator[tuple[str, Tint | None]]:
    """The lines of the table injected / seen, each with its colour, and under it what it comes to.

    `outcome` is the client's own: where it is FAIL, a reader is told that this is no failure of the demo.
    """
    yield "", None
    yield f"injected / seen (seed {seed})", None
    for row in findings.rows:
        yield f"{row.number:>3}  {row.fault}: {'NOT OK' if row.problems else 'ok'}", _good(not row.problems)
        yield f"     injected  {row.injected}", None
        yield f"     expected  {row.expected}", None
        yield f"     seen      {row.seen}", None
        for problem in row.problems:
            yield f"     problem   {problem}", Tint.VIOLATION
    yield f"     nothing else: {'NOT OK' if findings.unexpected else 'ok'}", _good(not findings.unexpected)
    for problem in findings.unexpected:
        yield f"     problem   {problem}", Tint.VIOLATION
    if interrupted:
        yield "demo interrupted: what could not be injected or seen any more stands above as a problem", Tint.DOUBTFUL
    elif findings.passed:
        aside = " (the client's FAIL above is what the faults are for)" if outcome is Outcome.FAIL else ""
        yield (
            f"demo ok: every fault was seen, each by the right sessions, and nothing else turned red{aside}",
            Tint.GOOD,
        )
    else:
        yield "demo NOT OK: what was injected and what was seen do not agree", Tint.VIOLATION


def _good(good: bool) -> Tint:
    return Tint.GOOD if good else Tint.VIOLATION
