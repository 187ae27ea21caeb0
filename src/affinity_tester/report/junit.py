"""A recorded run as JUnit XML: a test case for each session and one for the verdict, for a CI's own report.

A violation is a failure of its session. A FAIL is a failure and an INCONCLUSIVE an error of the verdict's case, so that
no CI shows a run in green that proved nothing.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict

from affinity_tester.core import events as ev
from affinity_tester.report import words
from affinity_tester.report.archive import Archive, Mark
from affinity_tester.report.summary import verdict_lines
from affinity_tester.units import NS_PER_S


def junit_text(archive: Archive) -> str:
    """The document."""
    run, verdict = archive.results.run, archive.results.verdict
    seconds = (archive.end_ns - archive.started.at_ns if run is None else run.duration_ns) / NS_PER_S
    violations: dict[str, list[Mark]] = defaultdict(list)
    for mark in archive.marks:
        if mark.judged is not None and mark.judged.judgement is ev.Judgement.VIOLATION:
            violations[mark.session].append(mark)
    failed = verdict is not None and verdict.outcome is ev.Outcome.FAIL
    inconclusive = verdict is None or verdict.outcome is ev.Outcome.INCONCLUSIVE

    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name=words.printable(f"affinity-tester {archive.started.target_name}"),
        tests=str(len(archive.sessions) + 1),
        failures=str(len(violations) + failed),
        errors=str(int(inconclusive)),
        skipped="0",
        time=f"{seconds:.3f}",
        timestamp=archive.clock.rfc3339(archive.started.at_ns),
    )
    for session in archive.sessions:
        case = _case(suite, "session", session, seconds)
        if marks := violations.get(session):
            _told(case, "failure", "violation", [_words(mark, archive) for mark in marks])
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
        suite, "testcase", classname=f"affinity-tester.{kind}", name=words.printable(name), time=f"{seconds:.3f}"
    )


def _told(case: ET.Element, tag: str, kind: str, lines: list[str]) -> None:
    ET.SubElement(case, tag, type=kind, message=words.printable(lines[0])).text = _text(lines)


def _text(lines: list[str]) -> str:
    """Without the characters that XML 1.0 forbids."""
    return "\n".join(map(words.printable, lines))


def _words(mark: Mark, archive: Archive) -> str:
    return f"{archive.clock.time_of_day(mark.at_ns)} {'; '.join(mark.facts)}: {mark.verdict}"
