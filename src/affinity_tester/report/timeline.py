"""The timeline of a run as inline SVG: a row for each session to which anything happened, time from left to right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice

from affinity_tester.report.recorded_run import RecordedRun, TimelineEntry
from affinity_tester.report.text import printable
from affinity_tester.units import plural

MOST_ROWS = 60
"""Sessions drawn: those to which most happened."""

MOST_SHAPES = 5_000
"""Of each sort, so that a browser can still draw it."""

_LEFT = 150
_WIDTH = 1_000
_ROW = 18
_TICKS = 6


def shown(text: str) -> str:
    """Return text as HTML without tags, in which every character can be seen."""
    return escape(printable(text))


def timeline(recorded: RecordedRun) -> str:
    """Return the drawing: changes are ticks in their judgement's colour, outages and losses bars, cluster events dashed."""
    rows = {session: number for number, session in enumerate(_busiest(recorded))}
    height = (len(rows) + 2) * _ROW
    scale = _Scale(recorded)
    shapes = list(_axis(recorded, scale, height))
    for session, row in rows.items():
        shapes.append(f'<text x="0" y="{row * _ROW + 13}">{shown(session)}</text>')

    losses = (loss for loss in recorded.losses if loss.session in rows)
    for loss in islice(losses, MOST_SHAPES):
        title = f"{recorded.clock.time_of_day(loss.first_sent_ns)} {plural(loss.count, 'probe')} lost"
        span = scale.x(loss.first_sent_ns), scale.x(loss.last_sent_ns)
        shapes.append(_bar(span, rows[loss.session], css="loss", thick=4, title=title))

    entries = (entry for entry in recorded.entries if entry.session in rows)
    for entry in islice(entries, MOST_SHAPES):
        span = scale.x(entry.at_ns), scale.x(recorded.end_ns if entry.until_ns is None else entry.until_ns)
        css, thick = f"mark {entry.judgement}", 14 if entry.change is not None else 8
        shapes.append(_bar(span, rows[entry.session], css=css, thick=thick, title=_title(entry, recorded)))

    return f'<svg viewBox="0 0 {_LEFT + _WIDTH + 50} {height}" role="img" aria-label="timeline">{"".join(shapes)}</svg>'


class _Scale:
    """Maps the run's time to the drawing's width."""

    def __init__(self, recorded: RecordedRun) -> None:
        self._start_ns = recorded.started.at_ns
        self._span_ns = max(1, recorded.end_ns - recorded.started.at_ns)

    def x(self, at_ns: int) -> float:
        """Return the x of a moment; one that a damaged record puts outside of the run is at its edge."""
        share = (at_ns - self._start_ns) / self._span_ns
        return _LEFT + _WIDTH * min(1.0, max(0.0, share))

    def moments(self) -> Iterator[int]:
        """Return the times of the axis, from start to end."""
        return (self._start_ns + self._span_ns * tick // (_TICKS - 1) for tick in range(_TICKS))


def _busiest(recorded: RecordedRun) -> list[str]:
    """Return the sessions with most changes, outages and losses, in the order in which they started."""
    happened = dict.fromkeys(recorded.sessions, 0)
    for session in [*(entry.session for entry in recorded.entries), *(loss.session for loss in recorded.losses)]:
        happened[session] = happened.get(session, 0) + 1
    kept = set(sorted(happened, key=happened.__getitem__, reverse=True)[:MOST_ROWS])
    return [session for session, count in happened.items() if count and session in kept]


def _axis(recorded: RecordedRun, scale: _Scale, height: int) -> Iterable[str]:
    for at_ns in scale.moments():
        x = f"{scale.x(at_ns):.1f}"
        yield f'<line class="axis" x1="{x}" x2="{x}" y1="0" y2="{height - _ROW}"/>'
        yield f'<text x="{x}" y="{height - 4}" text-anchor="middle">{recorded.clock.time_of_day(at_ns)[:8]}</text>'
    for at_ns, text in recorded.context[:MOST_SHAPES]:
        x = f"{scale.x(at_ns):.1f}"
        title = f"<title>{recorded.clock.time_of_day(at_ns)} {shown(text)}</title>"
        yield f'<line class="near" x1="{x}" x2="{x}" y1="0" y2="{height - _ROW}">{title}</line>'


def _bar(span: tuple[float, float], row: int, *, css: str, thick: int, title: str) -> str:
    """Return a bar at least three units wide, so that a moment can be seen and pointed at."""
    x, width = span[0], max(3.0, span[1] - span[0])
    y = row * _ROW + (_ROW - thick) / 2
    box = f'x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{thick}"'
    return f'<rect class="{css}" {box}><title>{shown(title)}</title></rect>'


def _title(entry: TimelineEntry, recorded: RecordedRun) -> str:
    return f"{recorded.clock.time_of_day(entry.at_ns)} {'; '.join(entry.facts)}: {entry.verdict}"
