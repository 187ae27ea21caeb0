"""A recorded run as one HTML page that needs nothing else: no script, no font, no request. Everything shown is escaped."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core import events as ev
from affinity_tester.report.incident import incident_text, is_silence, is_violation, run_text
from affinity_tester.report.lines import run_lines
from affinity_tester.report.recorded_run import RecordedRun, TimelineEntry
from affinity_tester.report.render import cut_short
from affinity_tester.report.summary import health, judgements, tables, verdict_lines
from affinity_tester.report.table import Table
from affinity_tester.report.timeline import shown, timeline

MOST_ROWS = 1_000
"""Changes and outages in the table: enough for any reader, few enough for any browser."""

_STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2128; --dim: #59636e; --line: #d1d9e0;
  --good: #1a7f37; --doubt: #9a6700; --bad: #cf222e; --event: #0b7285; }
@media (prefers-color-scheme: dark) { :root { --bg: #0d1117; --fg: #e6edf3; --dim: #9198a1; --line: #3d444d;
  --good: #3fb950; --doubt: #d29922; --bad: #ff7b72; --event: #56d4dd; } }
body { background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; max-width: 75rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h3 { font-size: 1rem; } pre { white-space: pre-wrap; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.verdict { font-size: 1.2rem; font-weight: 600; white-space: pre-line; }
.PASS { color: var(--good); } .INCONCLUSIVE, .unknown, .silence { color: var(--doubt); }
.FAIL, .violation { color: var(--bad); } .event { color: var(--event); } .dim { color: var(--dim); }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, table.log td, table.log th { text-align: left; vertical-align: top; }
tbody tr:last-child.all { font-weight: 600; }
svg { font: 11px system-ui, sans-serif; width: 100%; min-width: 50rem; }
svg text { fill: var(--fg); } svg .axis { stroke: var(--line); } svg .loss { fill: var(--dim); }
svg .mark { fill: var(--dim); } svg .mark.violation { fill: var(--bad); } svg .mark.unknown { fill: var(--doubt); }
svg .near { stroke: var(--event); stroke-dasharray: 2 3; }
"""


def html_text(recorded: RecordedRun) -> str:
    """Return the page."""
    target = shown(recorded.started.target_name)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Affinity Tester: {target}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Affinity Tester: {target}</h1>\n" + "\n".join(_sections(recorded)) + "\n</body></html>\n"
    )


def _sections(recorded: RecordedRun) -> Iterable[str]:
    yield _verdict(recorded.results.verdict)
    yield from (f"<p>{shown(line.text)}</p>" for line in run_lines(recorded.started, recorded.clock))
    yield from (f"<p>{shown(text)}</p>" for text in recorded.watch)

    if recorded.entries or recorded.losses:
        yield f'<h2>Timeline</h2>\n<div class="wide">{timeline(recorded)}</div>'
    if recorded.entries:
        yield "<h2>Changes and outages</h2>"
        yield _entries(recorded)

    if recorded.incidents:
        yield "<h2>Incidents</h2>"
    for incident in recorded.incidents[:MOST_ROWS]:
        head, *details = incident_text(incident, recorded.clock)
        css = "violation" if is_violation(incident) else "silence" if is_silence(incident) else "plain"
        yield f'<h3 class="{css}">{shown(head)}</h3><pre>{_joined(details)}</pre>'

    if recorded.diagnoses:
        yield f"<h2>Whole run</h2><pre>{_joined(text.strip() for text in run_text(recorded.diagnoses)[1:])}</pre>"

    if recorded.context:
        yield "<h2>In the cluster</h2>"
        rows = (
            f'<tr><td>{recorded.clock.time_of_day(at_ns)}</td><td class="event">{shown(text)}</td></tr>'
            for at_ns, text in recorded.context[:MOST_ROWS]
        )
        yield f'<table class="log"><tbody>{"".join(rows)}</tbody></table>'

    run = recorded.results.run
    yield "<h2>Summary</h2>"
    if run is None:
        yield f"<p>{shown(cut_short(recorded))}</p>"
    else:
        yield from (_table(table) for table in tables(recorded.results, run))
        yield from (f"<p>{shown(text)}</p>" for text, _ in health(run.total))
    yield from (f"<p>{shown(text)}</p>" for text, _ in judgements(recorded.results.tally))


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
        f"<tr><td>{recorded.clock.time_of_day(entry.at_ns)}</td><td>{shown(entry.session)}</td>"
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
