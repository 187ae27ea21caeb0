"""`affinity-tester report`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from affinity_tester.cli import options
from affinity_tester.cli.exit_codes import EXIT_CODES
from affinity_tester.cli.grouped import REPORT, GroupedCommand
from affinity_tester.core.events import Outcome
from affinity_tester.core.replay import judge_again
from affinity_tester.errors import UserError
from affinity_tester.report.html import html_text
from affinity_tester.report.junit import junit_text
from affinity_tester.report.logging import configure, wants_colour
from affinity_tester.report.record import read_record
from affinity_tester.report.recorded_run import RecordedRun, load
from affinity_tester.report.render import json_text, text_lines
from affinity_tester.report.summary import verdict_again
from affinity_tester.units import NS_PER_S

Format = Literal["text", "json", "junit", "html"]


@click.command(
    cls=GroupedCommand,
    groups=REPORT,
    epilog="Exit codes: those of the recorded verdict (0 PASS, 1 FAIL, 3 INCONCLUSIVE or none), 2 usage.",
)
@click.argument("record", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@options.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "junit", "html"]),
    default="text",
    env="AFFINITY_REPORT_FORMAT",
    help="text: for people; json: one object; junit: for a CI; html: one page that needs nothing else.",
)
@options.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    env="AFFINITY_REPORT_OUTPUT",
    help="File to write to. Default: standard output.",
)
@click.option(
    "--exit-zero", is_flag=True, help="End with 0 whatever the verdict, for scripts that want the report alone."
)
@click.option("--rejudge", is_flag=True, help="Judge the run again by its own rules: a killed run gets its verdict.")
@click.option("--settle", type=options.Duration(0, 600 * NS_PER_S), help="Judge again, with this settle time.")
@click.option("--affinity-window", type=options.Duration(), help="Judge again, with this affinity window.")
@click.option("--balancer-check", type=options.Duration(), help="Judge again, with this time for a balancer's check.")
@click.option("--max-loss", type=options.Percentage(), help="Judge again, with this percentage.")
@click.option("--fail-on", type=click.Choice(["violation", "avoidable"]), help="Judge again, failing on this.")
def report(
    *,
    record: Path,
    form: Format,
    output: Path | None,
    exit_zero: bool,
    rejudge: bool,
    settle: int | None,
    affinity_window: int | None,
    balancer_check: int | None,
    max_loss: float | None,
    fail_on: str | None,
) -> int:
    """Show the run in RECORD, a file that `affinity-tester client --record` wrote; `-` is standard input."""
    changed: dict[str, Any] = {
        "settle_ns": settle,
        "affinity_window_ns": affinity_window,
        "balancer_check_ns": balancer_check,
        "max_loss": None if max_loss is None else max_loss / 100,
        "fail_on_avoidable": None if fail_on is None else fail_on == "avoidable",
    }
    changed = {name: value for name, value in changed.items() if value is not None}

    if output is not None and output.exists() and record.exists() and output.samefile(record):
        raise UserError(f"--output {output} is the record itself: name another file, or the record would be lost")
    if form == "html" and output is None and sys.stdout is not None and sys.stdout.isatty():
        raise UserError("a page is not for a terminal: name its file with --output FILE")

    events = read_record(None if str(record) == "-" else record, on_truncated=_warn)
    if rejudge or changed:
        events = judge_again(events, lambda rules: replace(rules, **changed))

    recorded = load(events)
    if output is None:
        _show(recorded, form)
    else:
        try:
            output.write_text(_text(recorded, form), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write the report {output}: {error.strerror}; name a file that can be written"
            ) from error

    if exit_zero:
        return 0
    verdict = recorded.results.verdict
    return EXIT_CODES[Outcome.INCONCLUSIVE if verdict is None else verdict.outcome]


def _show(recorded: RecordedRun, form: Format) -> None:
    """Write the report to standard output; text on a terminal is in colour. May raise `OutputClosed`."""
    log = configure(format="console", stream=sys.stdout, colour=wants_colour(sys.stdout, os.environ))
    if form == "text":
        lines = text_lines(recorded, log.width)
        for text, colour in lines + verdict_again(lines, recorded.results.verdict, log.height):
            log.text(text, colour)
    else:
        for line in _text(recorded, form).rstrip("\n").split("\n"):
            log.text(line)
    log.flush()


def _text(recorded: RecordedRun, form: Format) -> str:
    match form:
        case "text":
            return "".join(f"{text}\n" for text, _ in text_lines(recorded))
        case "json":
            return json_text(recorded) + "\n"
        case "junit":
            return junit_text(recorded) + "\n"
        case "html":
            return html_text(recorded)


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)
