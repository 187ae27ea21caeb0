"""What experiments came to, as a JSON document that can be read again, laid beside another, and kept.

    {"format": "affinity-tester experiments", "version": 1, "held": "held",
     "experiments": [{"name": "pod-delete", "held": "held"}], "report": {...}}

`report` has every field of `core.experiment.results.ExperimentReport`, by its name; times are integers, in nanoseconds.
"""

from __future__ import annotations

from typing import Any

from affinity_tester.core.experiment.results import ExperimentReport
from affinity_tester.errors import UserError
from affinity_tester.report.event_json import CodecError, decode, encode
from affinity_tester.report.experiment_words import held_of, overall

FORMAT = "affinity-tester experiments"
VERSION = 1
"""Of the document; a reader that does not know it does not guess."""


def experiment_document(report: ExperimentReport) -> dict[str, Any]:
    """Return the document of a report."""
    plain = encode(report)
    del plain["event"]
    return {
        "format": FORMAT,
        "version": VERSION,
        "held": overall(map(held_of, report.results)),
        "experiments": [{"name": result.name, "held": held_of(result)} for result in report.results],
        "report": plain,
    }


def is_experiment_document(document: object) -> bool:
    """Return whether a JSON value says that it is such a document."""
    return isinstance(document, dict) and document.get("format") == FORMAT


def read_experiment(document: object) -> ExperimentReport:
    """Return the report of a document. Raises `UserError` where it is none, or one of another version."""
    if not isinstance(document, dict) or not is_experiment_document(document):
        raise UserError(
            'this is no report of experiments: write one with "affinity-tester experiment --output FILE.json"'
        )
    if document.get("version") != VERSION:
        version = f"{document.get('version')!r:.20}"
        raise UserError(f"this report of experiments has version {version}, and this program reads version {VERSION}")
    try:
        return decode({"event": ExperimentReport.__name__, **_fields(document.get("report"))}, ExperimentReport)
    except CodecError as error:
        raise UserError(f"the report of experiments is damaged: {error}") from error


def _fields(report: object) -> dict[str, Any]:
    if not isinstance(report, dict):
        raise CodecError("it has no report")
    return report
