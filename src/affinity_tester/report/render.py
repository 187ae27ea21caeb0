"""A recorded run as text or as one JSON object."""

from __future__ import annotations

import json
from typing import Any

from affinity_tester.core import events as ev
from affinity_tester.report import words
from affinity_tester.report.archive import Archive, Mark
from affinity_tester.report.incident import incident_text, is_silence, is_violation
from affinity_tester.report.jsonlog import plain
from affinity_tester.report.lines import JUDGED, run_lines
from affinity_tester.report.logging import Tint
from affinity_tester.report.reason_text import reason_texts
from affinity_tester.report.summary import SummaryLine, summary

MOST_TEXT_MARKS = 50
"""Changes and outages listed in text: what fits into a bug report."""

MOST_TEXT_INCIDENTS = 20


def text_lines(archive: Archive) -> list[SummaryLine]:
    """The run's opening, its changes and outages with their judgements, its incidents, and the summary."""
    lines: list[SummaryLine] = [(line.text, None) for line in run_lines(archive.started, archive.clock)]
    if archive.marks:
        lines += [("", None), ("changes and outages", None)]
    for mark in archive.marks[:MOST_TEXT_MARKS]:
        tint = JUDGED[mark.judged.judgement][1] if mark.judged is not None else None
        lines.append((f"{archive.clock.time_of_day(mark.at_ns)} {mark.session} {'; '.join(mark.facts)}", tint))
        lines.append((f"    {mark.verdict}", tint))
    more = max(0, len(archive.marks) - MOST_TEXT_MARKS) + archive.left_out
    if more:
        lines.append((f"… and {more:,} more", None))
    for incident in archive.incidents[:MOST_TEXT_INCIDENTS]:
        tint = Tint.VIOLATION if is_violation(incident) else Tint.WARNING if is_silence(incident) else None
        head, *details = incident_text(incident, archive.clock)
        lines += [("", None), (head, tint), *((detail, None) for detail in details)]
    if archive.results.run is None:
        lines += [("", None), (cut_short(archive), None)]
    return [(words.printable(text), tint) for text, tint in lines + summary(archive.results)]


def cut_short(archive: Archive) -> str:
    """What is known of a run whose record ends before its summary."""
    return (
        f"the record ends at {archive.clock.time_of_day(archive.end_ns)}, before the run did, so there is no summary: "
        f"{words.plural(len(archive.sessions), 'session')} had started"
    )


def json_text(archive: Archive) -> str:
    """One object: `run`, `summary`, `verdict`, `sessions`, `changes`, `outages`, `incidents`, `judged`, as in the JSON log.

    `summary` and `verdict` are null where the record ends before them.
    """
    results, clock = archive.results, archive.clock
    tally = results.tally
    told: dict[str, Any] = {
        "run": plain(archive.started, clock),
        "foreign_server": plain(results.foreign, clock),
        "summary": plain(results.run, clock),
        "verdict": plain(results.verdict, clock),
        "sessions": [plain(session, clock) for session in results.sessions.values()],
        "changes": [_mark(mark, archive) for mark in archive.marks if mark.change is not None],
        "outages": [_mark(mark, archive) for mark in archive.marks if mark.change is None],
        "incidents": [plain(incident, clock) for incident in archive.incidents],
        "left_out": archive.left_out,
        "judged": {
            "changes": {str(judgement): tally.changes(judgement) for judgement in ev.Judgement},
            "outages": {str(judgement): tally.outages(judgement) for judgement in ev.Judgement},
            "avoidable": tally.avoidable,
        },
    }
    return json.dumps(told, indent=2, allow_nan=False)


def _mark(mark: Mark, archive: Archive) -> dict[str, Any]:
    clock, judged = archive.clock, mark.judged
    told: dict[str, Any] = {"session": mark.session, "at": clock.rfc3339(mark.at_ns)}
    if mark.change is None:
        told["until"] = None if mark.until_ns is None else clock.rfc3339(mark.until_ns)
    else:
        told["change"] = plain(mark.change, clock)
    told["judgement"] = None if judged is None else judged.judgement
    told["avoidable"] = None if judged is None else judged.avoidable
    told["reasons"] = [] if judged is None else reason_texts(judged.reasons)
    return told
