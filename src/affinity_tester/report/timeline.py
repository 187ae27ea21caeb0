"""When and where it happened: a run's cases, losses and times in bins, by pod, node, reflexive IP and session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from affinity_tester.core import events as ev
from affinity_tester.report.places import Places
from affinity_tester.report.recorded_run import RecordedRun, TimelineEntry
from affinity_tester.report.text import printable
from affinity_tester.units import NS_PER_MS, NS_PER_S

MOST_BINS = 600
"""More than a screen can tell apart."""

MOST_LANES = 20
"""Of pods, nodes and reflexive IPs each: those with most violations, then most losses."""

MOST_SESSION_ROWS = 60
"""Sessions with a row of their own: those with most violations, then most other cases, then most losses."""

MOST_MARKS = 5_000
"""On session rows, and losses on them, so that a browser draws them in no time."""

MOST_EVENTS = 1_000
"""Cluster events drawn as lines."""

_KINDS = tuple(ev.GroupKind)
_CLASSES = {ev.Judgement.VIOLATION: "violation", ev.Judgement.UNKNOWN: "unknown"}


@dataclass(slots=True)
class _Lane:
    """What happened at one pod, node or reflexive IP: counts by second."""

    cases: dict[str, Counter[int]] = field(default_factory=dict)
    lost: Counter[int] = field(default_factory=Counter)

    @property
    def rank(self) -> tuple[int, int, int]:
        return (
            self.cases.get("violation", Counter()).total(),
            sum(counts.total() for counts in self.cases.values()),
            self.lost.total(),
        )


def timeline(recorded: RecordedRun) -> dict[str, Any]:
    """Return what the page draws as plain lists, times in seconds of the run."""
    drawing, places = _Drawing(recorded), recorded.places
    return {
        "start": recorded.clock.local_ms(recorded.started.at_ns) / 1_000,
        "duration": drawing.seconds(recorded.end_ns),
        "step": drawing.step,
        "all": drawing.binned(_all(places)),
        "ticks": [drawing.tick(tick) for tick in places.ticks],
        "lanes": [_lanes(places, place, drawing, recorded.results.nodes) for place in range(len(_KINDS))],
        "sessions": _session_rows(recorded, drawing),
        "events": [[drawing.seconds(at_ns), printable(text)] for at_ns, text in recorded.context[:MOST_EVENTS]],
        "incidents": [
            [drawing.seconds(i.from_ns), drawing.seconds(i.to_ns), i.number, _incident_class(i)]
            for i in recorded.incidents
        ],
    }


def _all(places: Places) -> _Lane:
    lane = _Lane()
    for second, judged, _ in places.cases.values():
        lane.cases.setdefault(_class(judged), Counter())[second] += 1
    for (second, _), count in places.lost.items():
        lane.lost[second] += count
    return lane


def _lanes(places: Places, place: int, drawing: _Drawing, nodes: Mapping[str, str]) -> dict[str, Any]:
    """Return the lanes of a kind, those first to which most happened; `nodes` has node names by reflexive IP."""
    lanes: dict[str | None, _Lane] = {}
    for second, judged, where in places.cases.values():
        lanes.setdefault(where[place], _Lane()).cases.setdefault(_class(judged), Counter())[second] += 1
    for (second, where), count in places.lost.items():
        lanes.setdefault(where[place], _Lane()).lost[second] += count

    kind = _KINDS[place]
    times: dict[str | None, list[list[Any]]] = {}
    for tick in places.ticks:
        for group in tick.groups:
            if group.kind is kind:
                lanes.setdefault(group.name, _Lane())
                times.setdefault(group.name, []).append([drawing.seconds(tick.at_ns), _ms(group.p99_ns)])

    named = nodes if kind is ev.GroupKind.REFLEXIVE_IP else {}
    ranked = sorted(lanes, key=lambda name: (*(-count for count in lanes[name].rank), name is None, name or ""))
    rows = [
        {"name": _name(name, named), **drawing.binned(lanes[name]), "p99": times.get(name, [])}
        for name in ranked[:MOST_LANES]
    ]
    return {"kind": str(kind), "rows": rows, "of": len(lanes)}


class _Drawing:
    """Times of a run as seconds since its start, and counts in bins of whole seconds."""

    def __init__(self, recorded: RecordedRun) -> None:
        self._start_ns = recorded.started.at_ns
        span_s = max(1, (recorded.end_ns - self._start_ns) // NS_PER_S + 1)
        self.step = -(-span_s // MOST_BINS)

    def seconds(self, at_ns: int) -> float:
        return round((at_ns - self._start_ns) / NS_PER_S, 3)

    def binned(self, lane: _Lane) -> dict[str, list[list[int]]]:
        """Return [bin, count] of each class and of losses, without the empty bins."""
        counts = {"violation": Counter[int](), "unknown": Counter[int](), "other": Counter[int](), **lane.cases}
        return {name: self._bins(count) for name, count in (*counts.items(), ("lost", lane.lost))}

    def _bins(self, by_second: Counter[int]) -> list[list[int]]:
        bins: Counter[int] = Counter()
        for second, count in by_second.items():
            bins[second // self.step] += count
        return [[at, bins[at]] for at in sorted(bins)]

    def tick(self, tick: ev.StatsTick) -> list[Any]:
        """Return [time, % lost, p50 in ms, p99 in ms, sessions without an answer]."""
        lost = 100 * tick.delta.lost / tick.delta.sent if tick.delta.sent else 0
        return [self.seconds(tick.at_ns), round(lost, 3), _ms(tick.p50_ns), _ms(tick.p99_ns), tick.silent]


def _session_rows(recorded: RecordedRun, drawing: _Drawing) -> dict[str, Any]:
    """Return the rows of the sessions to which most happened, and of how many something happened to at all."""
    happened: dict[str, tuple[list[TimelineEntry], list[ev.ProbesLost]]] = {}
    for entry in recorded.entries:
        happened.setdefault(entry.session, ([], []))[0].append(entry)
    for loss in recorded.losses:
        happened.setdefault(loss.session, ([], []))[1].append(loss)

    def rank(session: str) -> tuple[int, int, int, str]:
        entries, losses = happened[session]
        violations = sum(entry.judgement == ev.Judgement.VIOLATION for entry in entries)
        return -violations, -len(entries), -sum(loss.count for loss in losses), session

    left, rows = MOST_MARKS, []
    for session in sorted(happened, key=rank)[:MOST_SESSION_ROWS]:
        entries, losses = happened[session]
        marks = [_mark(entry, drawing) for entry in entries[:left]]
        left -= len(marks)
        lost = [[drawing.seconds(e.first_sent_ns), drawing.seconds(e.last_sent_ns), e.count] for e in losses[:left]]
        left -= len(lost)
        rows.append({"name": printable(session), "marks": marks, "lost": lost})
    return {"rows": rows, "of": len(happened), "started": len(recorded.sessions)}


def _mark(entry: TimelineEntry, drawing: _Drawing) -> list[Any]:
    """Return [from, until or null, class, text]."""
    until = None if entry.until_ns is None else drawing.seconds(entry.until_ns)
    judgement = ev.Judgement.UNKNOWN if entry.judged is None else entry.judged.judgement
    text = f"{'; '.join(entry.facts)}: {entry.verdict}"
    return [drawing.seconds(entry.at_ns), until, _class(judgement), printable(text)]


def _incident_class(incident: ev.Incident) -> str:
    """Return the worst class of what was judged of it; `lost` where there was nothing to judge but losses."""
    judged: Iterable[ev.Judgement] = (judgement for judgement, count in incident.judgements if count)
    classes = {_class(judgement) for judgement in judged}
    return next((each for each in ("violation", "unknown", "other") if each in classes), "lost")


def _class(judgement: ev.Judgement) -> str:
    return _CLASSES.get(judgement, "other")


def _name(name: str | None, nodes: Mapping[str, str]) -> str:
    """Return a lane's name, after which the node's stands where it is a node's address."""
    if name is None:
        return "no answer, or not told"
    node = nodes.get(name)
    return printable(f"{name} ({node})" if node else name)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / NS_PER_MS, 3)
