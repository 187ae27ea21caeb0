"""A recorded run as JUnit XML: a test case for each session and one for the verdict, for a CI's own report.

A violation is a failure of its session. A FAIL is a failure and an INCONCLUSIVE an error of the verdict's case, so that
no CI shows a run in green that proved nothing.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict

from affinity_tester.core import events as ev
from affinity_tester.report.recorded_run import RecordedRun, TimelineEntry
from affinity_tester.report.summary import verdict_lines
from affinity_tester.report.text import printable
from affinity_tester.units import NS_PER_S


def junit_text(recorded: RecordedRun) -> str:
    """Return the document."""
    run, verdict = recorded.results.run, recorded.results.verdict
    seconds = (recorded.end_ns - recorded.started.at_ns if run is None else run.duration_ns) / NS_PER_S
    violations: dict[str, list[TimelineEntry]] = defaultdict(list)
    for entry in recorded.entries:
        if entry.judged is not None and entry.judged.judgement is ev.Judgement.VIOLATION:
            violations[entry.session].append(entry)
    failed = verdict is not None and verdict.outcome is ev.Outcome.FAIL
    inconclusive = verdict is None or verdict.outcome is ev.Outcome.INCONCLUSIVE

    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name=printable(f"affinity-tester {recorded.started.target_name}"),
        tests=str(len(recorded.sessions) + 1),
        failures=str(len(violations) + failed),
        errors=str(int(inconclusive)),
        skipped="0",
        time=f"{seconds:.3f}",
        timestamp=recorded.clock.rfc3339(recorded.started.at_ns),
    )

    for session in recorded.sessions:
        case = _case(suite, "session", session, seconds)
        if entries := violations.get(session):
            _told(case, "failure", "violation", [_entry_text(entry, recorded) for entry in entries])

    case = _case(suite, "run", "verdict", seconds)
    lines = [text for text, _ in verdict_lines(verdict)]
    if failed:
        _told(case, "failure", "FAIL", lines)
    elif inconclusive:
        _told(case, "error", "INCONCLUSIVE", lines)
    else:
        ET.SubElement(case, "system-out").text = _text(lines)

    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False)


def _case(suite: ET.Element, kind: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=f"affinity-tester.{kind}", name=printable(name), time=f"{seconds:.3f}"
    )


def _told(case: ET.Element, tag: str, kind: str, lines: list[str]) -> None:
    ET.SubElement(case, tag, type=kind, message=printable(lines[0])).text = _text(lines)


def _text(lines: list[str]) -> str:
    """Return lines without the characters that XML 1.0 forbids."""
    return "\n".join(map(printable, lines))


def _entry_text(entry: TimelineEntry, recorded: RecordedRun) -> str:
    return f"{recorded.clock.time_of_day(entry.at_ns)} {'; '.join(entry.facts)}: {entry.verdict}"
