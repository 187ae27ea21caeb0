"""Many facts of one kind as one line: what lay near an incident, and judgements that are alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from affinity_tester.core import events as ev
from affinity_tester.report.clock import RunClock
from affinity_tester.report.cluster_text import near_text
from affinity_tester.report.reason_text import endpoint_change_text
from affinity_tester.report.text import judgement_text
from affinity_tester.units import NS_PER_S, format_offset, format_seconds, plural, quoted

_FOLDED = 3
"""So many facts of one kind near an incident are one line."""

_NAMED = 3
"""Names in such a line; of the others only the number is given."""

_OFFSET = re.compile(r"(\d+\.\d) s (before|after)")
"""How far something is from a case, as `format_offset` writes it."""

_PLURALS = (("is ", "are "), ("serves", "serve"))
"""Verbs of an endpoint, and of several."""


# --- what was near an incident -----------------------------------------------------------------------------------------


def near_lines(facts: Sequence[ev.NearFact]) -> list[str]:
    """Return a line for each fact, and one for all that tell the same of different things, at the place of the first."""
    groups: dict[tuple[str, ...], list[ev.NearFact]] = {}
    for fact in facts:
        groups.setdefault(_kind(fact), []).append(fact)

    lines = []
    told = set()
    for fact in facts:
        kind = _kind(fact)
        alike = groups[kind]
        if kind in told:
            continue
        if kind[0] == "gone" and len(alike) > 1:  # a Service keeps its fields as long as it lives
            fields = ", ".join(each.change.field for each in alike if each.change is not None)
            lines.append(f"the Service was deleted, and what was set of it: {fields} {_offsets(alike)}")
        elif kind[0] in {"event", "endpoint"} and len(alike) >= _FOLDED:
            lines.append(_together(kind, alike))
        else:
            lines.append(near_text(fact))
            continue
        told.add(kind)
    return lines


def _kind(fact: ev.NearFact) -> tuple[str, ...]:
    """Return what facts have in common that become one line."""
    event, change = fact.event, fact.change
    if event is not None:
        return "event", event.subject, event.action
    if change is None or change.endpoint is None:
        gone = change is not None and change.new == "none"
        return ("gone",) if gone else ("field", "" if change is None else change.field)
    return "endpoint", endpoint_change_text(change).removeprefix(change.endpoint.label).strip()


def _together(kind: tuple[str, ...], facts: Sequence[ev.NearFact]) -> str:
    """Return one line for several facts that tell the same of different things."""
    if kind[0] == "endpoint":
        did = kind[1]
        for one, several in _PLURALS:
            did = did.replace(one, several)
        names = [
            c.pod or c.endpoint.address for fact in facts if (c := fact.change) is not None and c.endpoint is not None
        ]
        noun = "pod"
    else:
        did = kind[2].replace("not-ready", "not Ready").replace("-", " ")
        names = [fact.event.name for fact in facts if fact.event is not None]
        noun = kind[1]

    names = list(dict.fromkeys(names))
    rest = len(names) - _NAMED
    named = ", ".join(quoted(name) for name in names[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
    times = "" if len(facts) == len(names) else f", {len(facts):,} times in all"
    if kind[-1] == ev.ClusterAction.FIELDS_CHANGED:
        return f"fields of {plural(len(names), noun)} changed{times} {_offsets(facts)}: {named}"
    return f"{plural(len(names), noun)} {did}{times} {_offsets(facts)}: {named}"


def _offsets(facts: Iterable[ev.NearFact]) -> str:
    """Return the distances in time from the first to the last: `6.5 s to 2.8 s before`."""
    offsets = [fact.after_ns for fact in facts]
    return _range(min(offsets), max(offsets))


def _range(first_ns: int, last_ns: int) -> str:
    first, last = format_offset(first_ns), format_offset(last_ns)
    if first == last:
        return first
    if (first_ns <= 0) is not (last_ns <= 0):
        return f"{first} to {last}"
    near_ns, far_ns = sorted((abs(first_ns), abs(last_ns)))
    word = "before" if last_ns <= 0 else "after"
    begin, end = (far_ns, near_ns) if last_ns <= 0 else (near_ns, far_ns)
    return f"{format_seconds(begin)} to {format_seconds(end)} {word}"


# --- judgements --------------------------------------------------------------------------------------------------------


def judgement_kind(event: ev.CaseJudged) -> tuple[str, ...]:
    """Return what judgements have in common that become one line: all but whom they are about, and how far its cause is."""
    stray = event.case.stray if isinstance(event.case, ev.StrayCase) else ""
    return type(event.case).__name__, stray, event.judgement, _OFFSET.sub("", judgement_text(event))


def folded_judgements(events: Sequence[ev.CaseJudged], clock: RunClock) -> str:
    """Return the line of several judgements of one kind, with how many sessions they are about, and when that was."""
    texts = [judgement_text(event) for event in events]
    offsets = [
        round(float(seconds) * NS_PER_S) * (-1 if word == "before" else 1)
        for text in texts
        for seconds, word in _OFFSET.findall(text)[:1]
    ]
    text = texts[0]
    if offsets:
        text = _OFFSET.sub(_range(min(offsets), max(offsets)), text, count=1)

    sessions = {event.session for event in events}
    who = plural(len(sessions), "session") if len(sessions) > 1 else next(iter(sessions))
    case = events[0].case
    noun = {ev.Change: "change", ev.OutageCase: "outage"}.get(type(case), "reply")
    many = "" if len(events) == len(sessions) else f", {plural(len(events), noun)}"

    times = sorted(_time(event.case) for event in events)
    first, last = clock.time_of_day(times[0]), clock.time_of_day(times[-1])
    when = first if first == last else f"{first} to {last}"
    verb = {ev.Change: "changed", ev.OutageCase: "unanswered since"}.get(type(case), "replies of")
    return f"{who}{many}: {text} ({verb} {when})"


def _time(case: ev.Case) -> int:
    match case:
        case ev.Change(seen_ns=at_ns) | ev.OutageCase(since_ns=at_ns):
            return at_ns
    assert isinstance(case, ev.StrayCase)
    return case.heard_ns
