"""What experiments came to as JUnit XML: a test case for each requirement and Service, for a CI's own report.

A requirement that is broken is a failure; one of which nothing can be said is an error, so that no CI shows it in green.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime

from affinity_tester.core.experiment.results import CellResult, ExperimentReport, ExperimentResult, Held
from affinity_tester.report.experiment_words import (
    asked_text,
    cell_name,
    cell_rows,
    cell_text,
    ran_on_rows,
    result_rows,
)
from affinity_tester.report.text import printable
from affinity_tester.units import NS_PER_S

_TAGS = {Held.NO: "failure", Held.UNKNOWN: "error"}


def experiment_junit(report: ExperimentReport) -> str:
    """Return the document."""
    root = ET.Element("testsuites", name="affinity-tester experiments")
    began = datetime.fromtimestamp(report.started_wall_ns // NS_PER_S, UTC).isoformat().replace("+00:00", "Z")
    for result in report.results:
        _add_suite(root, result, report, began)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False)


def _add_suite(root: ET.Element, result: ExperimentResult, report: ExperimentReport, began: str) -> None:
    held = [_held(cell, result) for cell in result.cells] or [Held.UNKNOWN]
    seconds = sum(phase.until_ns - phase.since_ns for phase in result.phases) / NS_PER_S
    suite = ET.SubElement(
        root,
        "testsuite",
        name=printable(result.name),
        tests=str(len(held)),
        failures=str(held.count(Held.NO)),
        errors=str(held.count(Held.UNKNOWN)),
        skipped="0",
        time=f"{seconds:.3f}",
        timestamp=began,
    )
    properties = ET.SubElement(suite, "properties")
    for name, text in [*ran_on_rows(report.ran_on), ("run", asked_text(report))]:
        ET.SubElement(properties, "property", name=name, value=printable(text))

    for cell in result.cells:
        _add_case(suite, result, cell, seconds)
    if not result.cells:
        case = _case(suite, result, "no Service", seconds)
        _tell(case, "error", str(Held.UNKNOWN), result.failure or "it was not made", [])


def _add_case(suite: ET.Element, result: ExperimentResult, cell: CellResult, seconds: float) -> None:
    case, held = _case(suite, result, cell_name(cell), seconds), _held(cell, result)
    lines = [f"{name}: {text}" for name, text in [*result_rows(result), *cell_rows(cell)]]
    if held is Held.YES:
        ET.SubElement(case, "system-out").text = "\n".join(map(printable, lines))
    else:
        reasons = cell.outcome.reasons or (result.failure,)
        _tell(case, _TAGS[held], str(held), f"{reasons[0]} ({cell_text(cell.outcome)})", lines)


def _held(cell: CellResult, result: ExperimentResult) -> Held:
    """Return whether a requirement held for a Service; of an experiment that did not go to its end that is not known."""
    return Held.UNKNOWN if result.failure and cell.outcome.held is Held.YES else cell.outcome.held


def _case(suite: ET.Element, result: ExperimentResult, cell: str, seconds: float) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        classname=f"affinity-tester.{printable(result.name)}",
        name=printable(f"{cell}: {result.requirement}"),
        time=f"{seconds:.3f}",
    )


def _tell(case: ET.Element, tag: str, kind: str, message: str, lines: list[str]) -> None:
    ET.SubElement(case, tag, type=kind, message=printable(message)).text = "\n".join(map(printable, lines))
