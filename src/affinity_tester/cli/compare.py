"""`affinity-tester compare`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import click

from affinity_tester.app.compare import compare_files
from affinity_tester.cli import options
from affinity_tester.core.comparison.results import Comparison
from affinity_tester.core.exact import CONFIDENCE
from affinity_tester.report.comparison_json import json_text
from affinity_tester.report.comparison_markdown import markdown_text
from affinity_tester.report.comparison_text import WIDTH, text_lines
from affinity_tester.report.logging import configure, wants_colour

Format = Literal["text", "json", "markdown"]

_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)

EXIT_SAME, EXIT_WORSE, EXIT_NOT_COMPARED = 0, 1, 3


@click.command(
    epilog="Exit codes: 0 nothing got worse beyond chance, 1 something did, 2 usage, 3 nothing could be compared.",
)
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@options.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    env="AFFINITY_COMPARE_FORMAT",
    help="text: for people; json: one object; markdown: for a pull request or a bug report.",
)
@options.option(
    "--confidence",
    type=options.Confidence(),
    default=CONFIDENCE,
    env="AFFINITY_COMPARE_CONFIDENCE",
    help="Of the intervals, and that no difference is called one that chance makes, from 0.8 to 0.9999.",
)
def compare(*, before: Path, after: Path, form: Format, confidence: float) -> int:
    """Compare BEFORE with AFTER: what got worse, what got better, and what chance may have made.

    Each is a run's record (`affinity-tester client --record`) or a report of experiments in JSON; one may be `-`, which is
    standard input.
    """
    sources = [None if str(path) == "-" else path for path in (before, after)]
    comparison = compare_files(sources[0], sources[1], confidence, warn=_warn)
    _show(comparison, form)
    if not comparison.compared:
        return EXIT_NOT_COMPARED
    return EXIT_WORSE if comparison.is_worse else EXIT_SAME


def _show(comparison: Comparison, form: Format) -> None:
    """Write it to standard output; text on a terminal is in colour. May raise `OutputClosed`."""
    log = configure(format="console", stream=sys.stdout, colour=wants_colour(sys.stdout, os.environ))
    if form == "text":
        for text, colour in text_lines(comparison, min(WIDTH, log.width or WIDTH)):
            log.text(text, colour)
    else:
        text = json_text(comparison) if form == "json" else markdown_text(comparison)
        for line in text.rstrip("\n").split("\n"):
            log.text(line)
    log.flush()


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)
