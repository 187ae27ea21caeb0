"""A recorded run as text or as one JSON object."""

from __future__ import annotations

import json
from typing import Any

from affinity_tester.core import events as ev
from affinity_tester.report.in_short import is_silence
from affinity_tester.report.incident import incident_text, is_violation, run_text
from affinity_tester.report.jsonlog import plain
from affinity_tester.report.lines import JUDGED, run_lines
from affinity_tester.report.logging import Colour
from affinity_tester.report.reason_text import reason_texts
from affinity_tester.report.recorded_run import RecordedRun, TimelineEntry
from affinity_tester.report.summary import SummaryLine, summary, verdict_lines
from affinity_tester.report.text import printable
from affinity_tester.units import plural

MOST_TEXT_ENTRIES = 50
"""Changes and outages listed in text: what fits into a bug report."""

MOST_TEXT_INCIDENTS = 20


def text_lines(recorded: RecordedRun, width: int | None = None) -> list[SummaryLine]:
    """Return the run's opening with the verdict, its changes and outages, its incidents, and the summary.

    The verdict stands again in the summary, since a pager's first screen does not show that. `width` is how many columns its
    tables have; None: as many as they take.
    """
    lines: list[SummaryLine] = [(line.text, None) for line in run_lines(recorded.started, recorded.clock)]
    lines += [(text, None) for text in recorded.watch]
    if recorded.entries or recorded.incidents:
        lines += verdict_lines(recorded.results.verdict)[:1]

    if recorded.entries:
        lines += [("", None), ("changes and outages", None)]
    for entry in recorded.entries[:MOST_TEXT_ENTRIES]:
        colour = JUDGED[entry.judged.judgement][1] if entry.judged is not None else None
        lines.append((f"{recorded.clock.time_of_day(entry.at_ns)} {entry.session} {'; '.join(entry.facts)}", colour))
        lines.append((f"    {entry.verdict}", colour))
    more = max(0, len(recorded.entries) - MOST_TEXT_ENTRIES) + recorded.left_out
    if more:
        lines.append((f"… and {more:,} more", None))

    for incident in recorded.incidents[:MOST_TEXT_INCIDENTS]:
        colour = Colour.VIOLATION if is_violation(incident) else Colour.WARNING if is_silence(incident) else None
        head, *details = incident_text(incident, recorded.clock)
        lines += [("", None), (head, colour), *((detail, None) for detail in details)]

    if recorded.diagnoses:
        lines += [("", None), *((text, None) for text in run_text(recorded.diagnoses))]
    if told := list(recorded.experiment.lines(recorded.clock)):
        lines += [("", None), ("experiment", None), *((text, None) for text in told)]
    if recorded.results.run is None:
        lines += [("", None), (cut_short(recorded), None)]
    return [(printable(text), colour) for text, colour in lines + summary(recorded.results, width)]


def cut_short(recorded: RecordedRun) -> str:
    """Return what is known of a run whose record ends before its summary."""
    return (
        f"the record ends at {recorded.clock.time_of_day(recorded.end_ns)}, before the run did, so there is no summary: "
        f"{plural(len(recorded.sessions), 'session')} had started"
    )


def json_text(recorded: RecordedRun) -> str:
    """Return one object, its values as in the JSON log.

    Its keys are `run`, `foreign_server`, `summary`, `verdict`, `sessions`, `changes`, `outages`, `strays` (replies that
    arrived elsewhere), `incidents`, `diagnoses` (of the run as a whole), `watch` (whether the pool was watched, in words),
    `left_out` and `judged`. `summary` and `verdict` are null where the record ends before them. Where an experiment was made
    beside the run, `experiment` has its steps, and what it came to.
    """
    results, clock = recorded.results, recorded.clock
    tally = results.tally
    told: dict[str, Any] = {
        "run": plain(recorded.started, clock),
        "foreign_server": plain(results.foreign, clock),
        "summary": plain(results.run, clock),
        "verdict": plain(results.verdict, clock),
        "sessions": [plain(session, clock) for session in results.sessions.values()],
        "changes": [_entry(entry, recorded) for entry in recorded.entries if entry.change is not None],
        "outages": [
            _entry(entry, recorded) for entry in recorded.entries if entry.change is None and not entry.is_stray
        ],
        "strays": [_entry(entry, recorded) for entry in recorded.entries if entry.is_stray],
        "incidents": [plain(incident, clock) for incident in recorded.incidents],
        "diagnoses": [plain(diagnosis, clock) for diagnosis in recorded.diagnoses],
        "watch": recorded.watch,
        "left_out": recorded.left_out,
        "judged": {
            "changes": {str(judgement): tally.changes(judgement) for judgement in ev.Judgement},
            "outages": {str(judgement): tally.outages(judgement) for judgement in ev.Judgement},
            "avoidable": tally.avoidable,
        },
    }
    experiment = recorded.experiment.document(clock)
    if experiment is not None:
        told["experiment"] = experiment
    return json.dumps(told, indent=2, allow_nan=False)


def _entry(entry: TimelineEntry, recorded: RecordedRun) -> dict[str, Any]:
    clock, judged = recorded.clock, entry.judged
    told: dict[str, Any] = {"session": entry.session, "at": clock.rfc3339(entry.at_ns)}
    if entry.is_stray:
        told["what"] = list(entry.facts)
    elif entry.change is None:
        told["until"] = None if entry.until_ns is None else clock.rfc3339(entry.until_ns)
    else:
        told["change"] = plain(entry.change, clock)
    told["judgement"] = None if judged is None else judged.judgement
    told["avoidable"] = None if judged is None else judged.avoidable
    told["reasons"] = [] if judged is None else reason_texts(judged.reasons)
    return told
