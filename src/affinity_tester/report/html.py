"""A recorded run as one HTML page that needs nothing else: its scripts and styles are in it, and nothing is requested.

Verdict, incidents and tables are plain HTML, there without scripts too. The timeline, the charts and the table of all
sessions are drawn by `assets/report.js` from the data that the page carries; the charts' library is uPlot (MIT,
assets/uPlot.LICENSE). Everything shown is escaped.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape
from importlib import resources
from typing import Any

from affinity_tester.core import events as ev
from affinity_tester.core.identity import Identity
from affinity_tester.report.in_short import is_silence
from affinity_tester.report.incident import brief, incident_text, is_violation, run_text
from affinity_tester.report.lines import run_lines
from affinity_tester.report.recorded_run import RecordedRun, TimelineEntry
from affinity_tester.report.render import cut_short
from affinity_tester.report.summary import health, judgements, reference_line, tables, verdict_lines
from affinity_tester.report.table import Table
from affinity_tester.report.text import printable
from affinity_tester.report.timeline import timeline
from affinity_tester.units import NS_PER_MS, NS_PER_S, plural

FIRST = 10
"""Incidents above the timeline, so that it is not far down; the others are folded below them."""

MOST_ROWS = 1_000
"""Changes and outages in the log, cluster events, and incidents: enough for any reader, few enough for any browser."""

_SESSION_HEAD = (
    "session", "violations", "changes", "sent", "answered", "lost", "loss %", "up", "down", "p50 ms", "p99 ms", "max ms",
    "silent at the end s", "pod", "node", "reflexive address",
)  # fmt: skip


_ISSUE = re.compile(r"\b([\w.-]+/[\w.-]+)#(\d+)\b")


def shown(text: str) -> str:
    """Return text as HTML without tags, in which every character can be seen."""
    return escape(printable(text))


def html_text(recorded: RecordedRun) -> str:
    """Return the page."""
    data = {**timeline(recorded), "table": _sessions(recorded)}

    style = asset("uPlot.min.css") + asset("report.css")
    scripts = (asset("uPlot.iife.min.js"), asset("report.js"))
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}"
    title = f"Affinity Tester: {shown(recorded.started.target_name)}"
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{title}</title><style>{style}</style></head><body>\n"
        f"<h1>{title}</h1>\n" + "\n".join(_sections(recorded)) + "\n"
        f'<script type="application/json" id="data">{_embedded(data)}</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body></html>\n"
    )


def asset(name: str) -> str:
    """Return a file that a page has in it."""
    return resources.files("affinity_tester.report").joinpath("assets", name).read_text(encoding="utf-8")


def _embedded(data: dict[str, Any]) -> str:
    """Return JSON that no name in it can end: a script's text goes on until `</script`, whatever is quoted."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _sections(recorded: RecordedRun) -> Iterable[str]:
    yield _verdict(recorded.results.verdict)
    yield from (f"<p>{shown(line.text)}</p>" for line in run_lines(recorded.started, recorded.clock))
    yield from (f"<p>{shown(text)}</p>" for text in recorded.watch)
    yield from (f"<p>{shown(text)}</p>" for text, _ in judgements(recorded.results.tally))

    yield from _incidents(recorded)
    yield '<section id="timeline" hidden></section>'
    yield '<noscript><p class="dim">The timeline, the charts and the table of all sessions need JavaScript.</p></noscript>'

    if recorded.diagnoses:
        found = _joined(text.removeprefix("    ") for text in run_text(recorded.diagnoses)[1:])
        yield f"<h2>Whole run</h2><pre>{linked(found)}</pre>"

    if told := list(recorded.experiment.lines(recorded.clock)):
        yield f"<h2>Experiment</h2><pre>{linked(_joined(told))}</pre>"

    run = recorded.results.run
    yield "<h2>Summary</h2>"
    if run is None:
        yield f"<p>{shown(cut_short(recorded))}</p>"
    else:
        yield from (f"<p>{shown(text)}</p>" for text, _ in health(run.total))
        yield from (f"<p>{shown(text)}</p>" for text, _ in reference_line(recorded.results))
        yield from (_table(table) for table in tables(recorded.results, run))
    yield '<section id="sessions" hidden></section>'

    if recorded.entries:
        yield f"<details><summary>Changes and outages, by time</summary>{_entries(recorded)}</details>"
    if recorded.context:
        rows = (
            f'<tr><td>{recorded.clock.time_of_day(at_ns)}</td><td class="event">{shown(text)}</td></tr>'
            for at_ns, text in recorded.context[:MOST_ROWS]
        )
        yield (
            "<details><summary>In the cluster</summary>"
            f'<table class="log"><tbody>{"".join(rows)}</tbody></table></details>'
        )


def _incidents(recorded: RecordedRun) -> Iterator[str]:
    """Yield the incidents in order of time, those with violations before others where there are too many to show at once."""
    if not recorded.incidents:
        return
    yield "<h2>Incidents</h2>"
    ranked = sorted(recorded.incidents, key=is_violation, reverse=True)
    first, more = (sorted(part, key=lambda each: each.number) for part in (ranked[:FIRST], ranked[FIRST:MOST_ROWS]))
    yield from (_incident(incident, recorded) for incident in first)

    if more:
        folded = "".join(_incident(incident, recorded) for incident in more)
        left = len(ranked) - MOST_ROWS
        yield (
            f"<details><summary>{plural(len(ranked) - FIRST, 'more incident')}</summary>{folded}"
            + (f'<p class="dim">… and {left:,} more</p>' if left > 0 else "")
            + "</details>"
        )


def _incident(incident: ev.Incident, recorded: RecordedRun) -> str:
    head, *details = incident_text(incident, recorded.clock)
    details = details[len(brief(incident)) :]  # said in the summary
    css = "violation" if is_violation(incident) else "silence" if is_silence(incident) else "plain"
    names = ", ".join(f"<b>{shown(f'{each.certainty} {each.name}')}</b>" for each in incident.diagnoses if each.name)
    said = "; ".join(reversed(brief(incident)))
    return (
        f'<details class="incident" id="incident-{incident.number}"><summary class="{css}">{shown(head)}'
        + (f" {names}" if names else "")
        + (f'<span class="said">{shown(said)}</span>' if said else "")
        + f"</summary><pre>{linked(_joined(details))}</pre></details>"
    )


def linked(text: str) -> str:
    """Return escaped text in which `owner/repository#number` is a link."""
    return _ISSUE.sub(r'<a href="https://github.com/\1/issues/\2">\1#\2</a>', text)


def _sessions(recorded: RecordedRun) -> dict[str, Any]:
    """Return the table of all sessions: plain values, which the page sorts."""
    violations, rows = recorded.places.violations(), []
    for name, end in recorded.results.sessions.items():
        total, serving = end.total, end.serving or Identity()
        rows.append(
            [
                printable(name),
                violations[name],
                total.changes,
                total.sent,
                total.answered,
                total.lost,
                round(100 * total.lost / total.sent, 3) if total.sent else 0,
                end.losses.up,
                end.losses.down,
                *(
                    None if ns is None else round(ns / NS_PER_MS, 3)
                    for ns in (end.rtt.p50_ns, end.rtt.p99_ns, end.rtt.max_ns)
                ),
                round(end.unanswered_ns / NS_PER_S, 1),
                *(
                    None if text is None else printable(str(text))
                    for text in (serving.pod, serving.node, serving.reflexive)
                ),
            ]
        )
    return {"head": _SESSION_HEAD, "rows": rows}


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / NS_PER_MS, 3)


def _text(value: object) -> str | None:
    return None if value is None else printable(str(value))


def _verdict(verdict: ev.Verdict | None) -> str:
    outcome = ev.Outcome.INCONCLUSIVE if verdict is None else verdict.outcome
    return f'<p class="verdict {outcome}">{_joined(text.strip() for text, _ in verdict_lines(verdict))}</p>'


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(map(shown, lines))


def _entries(recorded: RecordedRun) -> str:
    rows = "".join(_entry(entry, recorded) for entry in recorded.entries[:MOST_ROWS])
    more = max(0, len(recorded.entries) - MOST_ROWS) + recorded.left_out
    left = f'<p class="dim">… and {more:,} more</p>' if more else ""
    head = "<thead><tr><th>time</th><th>session</th><th>what</th><th>judged</th></tr></thead>"
    return f'<div class="wide"><table class="log">{head}<tbody>{rows}</tbody></table></div>{left}'


def _entry(entry: TimelineEntry, recorded: RecordedRun) -> str:
    facts = "<br>".join(shown(fact) for fact in entry.facts)
    return (
        f'<tr><td>{recorded.clock.time_of_day(entry.at_ns)}</td><td class="name">{shown(entry.session)}</td>'
        f'<td>{facts}</td><td class="{entry.judgement}">{shown(entry.verdict)}</td></tr>'
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{shown(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr" + (' class="all"' if table.has_total and row is table.rows[-1] else "") + ">"
        "" + "".join(f"<td>{shown(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide"><table><caption>{shown(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
