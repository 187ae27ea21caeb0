"""What `affinity-tester compare` does: reads two records or two reports of experiments, and compares them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from affinity_tester.core.comparison.experiments import compare_experiments
from affinity_tester.core.comparison.results import Comparison
from affinity_tester.core.comparison.run_figures import RunFigures
from affinity_tester.core.comparison.runs import compare_runs
from affinity_tester.core.experiment.results import ExperimentReport
from affinity_tester.core.replay import judge_again
from affinity_tester.errors import UserError
from affinity_tester.report.experiment_json import is_experiment_document, read_experiment
from affinity_tester.report.record import HEADER_LIMIT, is_record, name_of, open_input, read_events

LARGEST_DOCUMENT = 1 << 26
"""Bytes: a thousand times what a matrix of all experiments takes."""

Warn = Callable[[str], None]


def compare_files(before: Path | None, after: Path | None, confidence: float, *, warn: Warn) -> Comparison:
    """Compare two files; None is standard input. Raises `UserError` for what cannot be read or compared at all.

    A record is judged again, so that both are judged by this version's rules, and one that breaks off has its verdict.
    """
    if before is None and after is None:
        raise UserError("only one of BEFORE and AFTER can be standard input (-): name a file for the other")
    one, other = load(before, warn=warn), load(after, warn=warn)
    if isinstance(one, RunFigures) and isinstance(other, RunFigures):
        for path, run in ((before, one), (after, other)):
            if not run.total.answered:
                warn(f"nothing was answered in {name_of(path)}")
        return compare_runs(one, other, confidence)
    if isinstance(one, ExperimentReport) and isinstance(other, ExperimentReport):
        return compare_experiments(one, other, confidence)
    kinds = [f"{name_of(path)} is {_kind(loaded)}" for path, loaded in ((before, one), (after, other))]
    raise UserError(f"{' and '.join(kinds)}: compare two of the same kind")


def load(source: Path | None, *, warn: Warn) -> RunFigures | ExperimentReport:
    """Return what a file holds, by its content: a record's figures or a report of experiments. Raises `UserError`."""
    path = name_of(source)
    with open_input(source) as file:
        try:
            first = file.readline(HEADER_LIMIT)
            if not first:
                raise UserError(f"{path} is empty: name a run record or a report of experiments in JSON")
            if not is_record(first):
                return _report(path, first + file.read(LARGEST_DOCUMENT))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged, or breaks off: {error}") from error
        return _figures(path, file, first, warn)


def _figures(path: str | Path, file: IO[bytes], first: bytes, warn: Warn) -> RunFigures:
    figures = RunFigures()
    for event in judge_again(read_events(path, file, first, on_truncated=warn)):
        figures.feed(event)
    if figures.started is None:
        raise UserError(f"the record {path} has no run in it: its first event must be the run's start")
    return figures


def _report(path: str | Path, text: bytes) -> ExperimentReport:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not is_experiment_document(document):
        raise UserError(
            f"{path} is neither a run record (`affinity-tester client --record FILE` writes one)"
            " nor a report of experiments (`affinity-tester experiment --output FILE.json`)"
        )
    try:
        return read_experiment(document)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _kind(loaded: RunFigures | ExperimentReport) -> str:
    return "a run record" if isinstance(loaded, RunFigures) else "a report of experiments"
