"""An incident in words that a person can paste into a bug report: what, when, to how many, the evidence, what to try."""

from __future__ import annotations

from collections.abc import Iterator

from affinity_tester.core.events import Certainty, Cohort, Diagnosis, Incident, Judgement
from affinity_tester.report.clock import RunClock
from affinity_tester.report.fold import near_lines
from affinity_tester.report.in_short import in_short, in_short_of
from affinity_tester.report.text import judgement_count
from affinity_tester.units import format_duration, plural, quoted

EVIDENCE_INDENT = " " * 8
"""How the lines of a text begin that say what a diagnosis rests on, and what to do."""


def incident_text(incident: Incident, clock: RunClock, *, ongoing: bool = False) -> list[str]:
    """Return a heading, and indented below it the cohorts, what was near, and the diagnoses with their evidence.

    `ongoing` says that it is not over yet.
    """
    lasted = format_duration(max(0, incident.to_ns - incident.from_ns))
    when = f"at {clock.time_of_day(incident.from_ns)} for {lasted}"
    when += ", goes on" if ongoing else ", continuing" if incident.continuing else ""
    whom = f"{incident.sessions:,} of {plural(incident.total_sessions, 'session')}"
    return [
        f"incident {incident.number} {when}, {whom}: {', '.join(_members(incident))}",
        *(f"    {line}" for line in _details(incident)),
    ]


def run_text(diagnoses: tuple[Diagnosis, ...]) -> list[str]:
    """Return what was found of the whole run, beside its incidents."""
    return ["whole run", *(f"    {line}" for each in diagnoses for line in (*_sentence(each), *_diagnosis(each)))]


def is_violation(incident: Incident) -> bool:
    """True if a member of the incident is a violation."""
    return dict(incident.judgements).get(Judgement.VIOLATION, 0) > 0


def _members(incident: Incident) -> Iterator[str]:
    if incident.changes:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in incident.kinds)
        yield plural(incident.changes, "change") + (f" ({kinds})" if kinds else "")
    if incident.outages:
        yield plural(incident.outages, "outage")
    if incident.strays:
        yield plural(incident.strays, "reply that arrived elsewhere", "replies that arrived elsewhere")
    if incident.bursts:
        yield plural(incident.bursts, "loss burst")
    if incident.lost:
        yield f"{plural(incident.lost, 'probe')} lost"


def brief(incident: Incident) -> list[str]:
    """Return what stands first below the heading: the sentence in plain language, and how many of it were judged what."""
    judged = ", ".join(judgement_count(count, judgement) for judgement, count in incident.judgements)
    said = (("in short", in_short(incident)), ("judged", judged))
    return [f"{name}: {text}" for name, text in said if text]


def _details(incident: Incident) -> Iterator[str]:
    yield from brief(incident)
    if incident.cohorts:
        cohorts = (f"{_home(c)} ({c.sessions:,} of {c.total:,})" for c in incident.cohorts)
        # An address that is not known to be a node's may be a NAT's, or a proxy's: nothing says that packets came in there.
        what = "came in through" if all(c.node for c in incident.cohorts) else "reflexive IP before"
        yield f"{what}: " + ", ".join(cohorts)
    yield from (f"near: {line}" for line in near_lines(incident.context))
    for diagnosis in incident.diagnoses:
        yield from _diagnosis(diagnosis)


def _home(cohort: Cohort) -> str:
    return f"{cohort.ip}, node {quoted(cohort.node)}" if cohort.node else cohort.ip


def _sentence(diagnosis: Diagnosis) -> Iterator[str]:
    sentence = in_short_of((diagnosis,))
    if sentence is not None:
        yield f"in short: {sentence}"


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    is_unknown = diagnosis.certainty is Certainty.CANNOT_TELL
    yield "cause unknown" if is_unknown else f"{diagnosis.certainty}: {diagnosis.name}"
    yield from (f"    {fact}" for fact in diagnosis.evidence)
    if diagnosis.missing:
        yield f"    {'next step' if is_unknown else 'missing'}: {diagnosis.missing}"
    if diagnosis.remedy:
        yield f"    try: {diagnosis.remedy}"
    if diagnosis.references:
        yield f"    known: {', '.join(diagnosis.references)}"
