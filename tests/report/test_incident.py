"""An incident in words."""

import io
import json
import re

import pytest

from affinity_tester.core import events as ev
from affinity_tester.core.identity import Kind
from affinity_tester.report import html as html_module
from affinity_tester.report.clock import RunClock
from affinity_tester.report.console import ConsoleReport
from affinity_tester.report.html import html_text
from affinity_tester.report.in_short import in_short
from affinity_tester.report.incident import EVIDENCE_INDENT, incident_text, run_text
from affinity_tester.report.logging import Colour, configure
from affinity_tester.report.recorded_run import load
from affinity_tester.report.render import json_text, text_lines
from affinity_tester.report.timeline import timeline


def incident(story, **changed) -> ev.Incident:
    fields = {
        "number": 3,
        "from_ns": story.at(3),
        "to_ns": story.at(4.2),
        "continuing": False,
        "sessions": 11,
        "total_sessions": 16,
        "changes": 10,
        "outages": 1,
        "bursts": 2,
        "strays": 0,
        "lost": 1_234,
        "kinds": ((Kind.REFLEXIVE_IP, 10), (Kind.POD, 4)),
        "cohorts": (ev.Cohort("10.240.0.4", 10, 10), ev.Cohort("10.240.0.5", 1, 6)),
        "context": (
            ev.NearFact(
                story.at(1.1),
                -1_900_000_000,
                ev.ClusterEvent(story.at(1.1), ev.ClusterSubject.NODE, "pool1-000003", ev.ClusterAction.ADDED),
            ),
        ),
        "judgements": ((ev.Judgement.VIOLATION, 11),),
        "diagnoses": (
            ev.Diagnosis(
                "node-rehash",
                ev.Certainty.LIKELY,
                ("11 of 16 sessions", "all with old reflexive IP 10.240.0.4"),
                remedy="use a balancer that keeps flows",
                references=("Azure/AKS#5888", "metallb/metallb#3"),
            ),
            ev.Diagnosis("flow-wipe", ev.Certainty.POSSIBLE, (), missing="a proxy that restarted"),
            ev.Diagnosis("", ev.Certainty.CANNOT_TELL, (), missing="a run with the pool watched"),
        ),
    }
    return ev.Incident(**fields | changed)


TEXT = [
    "incident 3 at 13:35:23.176 for 1.2 s, 11 of 16 sessions: 10 changes (reflexive_ip 10, pod 4), 1 outage, "
    "2 loss bursts, 1,234 probes lost",
    "    in short: most likely, the load balancer or ECMP hashes flows anew when nodes come or go",
    "    judged: 11 violations",
    "    reflexive IP before: 10.240.0.4 (10 of 10), 10.240.0.5 (1 of 6)",
    '    near: node "pool1-000003" added 1.9 s before',
    "    likely: node-rehash",
    "        11 of 16 sessions",
    "        all with old reflexive IP 10.240.0.4",
    "        try: use a balancer that keeps flows",
    "        known: Azure/AKS#5888, metallb/metallb#3",
    "    possible: flow-wipe",
    "        missing: a proxy that restarted",
    "    cause unknown",
    "        next step: a run with the pool watched",
]


def test_it_can_be_pasted_into_a_bug_report(story):
    assert incident_text(incident(story), RunClock.of(story.started())) == TEXT


VIOLATION, EXPLAINED, UNKNOWN = ev.Judgement.VIOLATION, ev.Judgement.EXPLAINED, ev.Judgement.UNKNOWN


@pytest.mark.parametrize(
    ("certainty", "judgements", "said"),
    [
        (ev.Certainty.LIKELY, ((VIOLATION, 1),), "most likely, the proxy drops live flows"),
        (ev.Certainty.POSSIBLE, ((EXPLAINED, 1),), "perhaps, the proxy drops live flows"),
        (
            ev.Certainty.CANNOT_TELL,
            ((EXPLAINED, 2), (VIOLATION, 1)),
            "sessions broke, nothing that the pool did excuses",
        ),
        (ev.Certainty.CANNOT_TELL, ((EXPLAINED, 2), (VIOLATION, 0)), "sessions moved or paused, and nothing of it"),
        (ev.Certainty.CANNOT_TELL, ((EXPLAINED, 2), (UNKNOWN, 1)), "sessions moved or paused, and it cannot be judged"),
        (None, ((EXPLAINED, 2), (ev.Judgement.POD_SILENT, 1)), "a pod that is in the pool answered nobody"),
        (None, ((EXPLAINED, 2), (ev.Judgement.CLIENT, 1)), "this client's own machine is a cause"),
        (ev.Certainty.CANNOT_TELL, (), None),
        (None, ((VIOLATION, 1),), "sessions broke, nothing that the pool did excuses"),
        (None, (), None),
    ],
)
def test_a_sentence_says_no_more_than_the_diagnosis_is_sure_of(story, certainty, judgements, said):
    name = "" if certainty is ev.Certainty.CANNOT_TELL else "flow-wipe"
    diagnoses = () if certainty is None else (ev.Diagnosis(name, certainty, ()),)
    sentence = in_short(incident(story, judgements=judgements, diagnoses=diagnoses))
    assert sentence is None if said is None else sentence is not None and sentence.startswith(said)


LOST = "probes were lost, without a change of pod or address; what was seen does not tell what lost them"


@pytest.mark.parametrize(("judgements", "doubtful"), [(((UNKNOWN, 2),), True), (((UNKNOWN, 2), (VIOLATION, 1)), False)])
def test_a_sentence_says_so_where_nothing_could_be_judged(story, judgements, doubtful):
    wiped = (ev.Diagnosis("flow-wipe", ev.Certainty.LIKELY, ()),)
    sentence = in_short(incident(story, judgements=judgements, diagnoses=wiped))
    assert sentence is not None
    assert sentence.endswith("; whether that is a violation cannot be judged") == doubtful


def test_what_was_found_of_the_whole_run_has_its_sentences_too():
    rewritten = ev.Diagnosis("port-rewrite", ev.Certainty.POSSIBLE, ("evidence",))
    unknown = ev.Diagnosis("", ev.Certainty.CANNOT_TELL, ("of it",))
    assert run_text((rewritten, unknown)) == [
        "whole run",
        "    in short: perhaps, the source port is rewritten on the way",
        "    possible: port-rewrite",
        "        evidence",
        "    cause unknown",
        "        of it",
    ]


@pytest.mark.parametrize(
    ("avoidable", "said"), [(1, "1 change of sessions followed"), (2, "2 changes of sessions followed")]
)
def test_moves_that_a_sound_proxy_avoids_are_not_called_harmless(story, avoidable, said):
    moved = incident(story, judgements=((EXPLAINED, 2),), diagnoses=(), avoidable=avoidable)
    sentence = f"the pool changed, and {said} that a sound proxy avoids: the old pod was still ready"
    assert in_short(moved) == sentence
    doubted = incident(story, judgements=((EXPLAINED, 2), (UNKNOWN, 1)), diagnoses=(), avoidable=avoidable)
    assert "cannot be judged" in in_short(doubted)


def test_it_says_no_more_than_there_is(story):
    bare = incident(
        story,
        changes=0,
        outages=0,
        bursts=1,
        strays=0,
        lost=1,
        continuing=True,
        kinds=(),
        cohorts=(),
        context=(),
        judgements=(),
        diagnoses=(),
    )
    assert incident_text(bare, RunClock.of(story.started())) == [
        "incident 3 at 13:35:23.176 for 1.2 s, continuing, 11 of 16 sessions: 1 loss burst, 1 probe lost",
        f"    in short: {LOST}",
    ]


def test_the_console_shows_a_violation_in_bold_red_and_the_rest_quietly(story):
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=True))
    report.emit(story.started())
    report.emit(ev.IncidentClosed(story.at(9), incident(story)))
    report.emit(ev.IncidentClosed(story.at(9), incident(story, judgements=((ev.Judgement.EXPLAINED, 1),))))
    lines = stream.getvalue().splitlines()[2:]
    assert lines[: len(TEXT)] == [
        f"13:35:29.176 [error] {text}"
        if text.startswith(EVIDENCE_INDENT)
        else f"\x1b[1m\x1b[31m13:35:29.176 [error] {text}\x1b[0m"
        for text in TEXT
    ]
    assert lines[len(TEXT)] == f"\x1b[2m13:35:29.176 [info]  {TEXT[0]}\x1b[0m"


def test_a_silence_of_all_is_yellow_everywhere_and_that_of_some_is_not(story):
    silence = {"changes": 0, "outages": 0, "bursts": 16, "sessions": 16, "total_sessions": 16, "lost": 320, "kinds": ()}
    silence |= {"cohorts": (), "context": (), "judgements": (), "diagnoses": ()}
    of_all, of_some = incident(story, **silence), incident(story, **silence | {"bursts": 15, "sessions": 15})
    moved = incident(story, **silence | {"changes": 16, "judgements": ((ev.Judgement.EXPLAINED, 16),)})
    heads = [incident_text(each, RunClock.of(story.started()))[0] for each in (of_all, of_some, moved)]
    assert heads[0] == "incident 3 at 13:35:23.176 for 1.2 s, 16 of 16 sessions: 16 loss bursts, 320 probes lost"
    events = [story.started(), *(ev.IncidentClosed(story.at(9), each) for each in (of_all, of_some, moved))]

    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=True))
    for event in events:
        report.emit(event)
    assert stream.getvalue().splitlines()[2:6] == [
        f"\x1b[33m13:35:29.176 [warn]  {heads[0]}\x1b[0m",
        f"\x1b[33m13:35:29.176 [warn]      in short: {in_short(of_all)}\x1b[0m",
        f"\x1b[2m13:35:29.176 [info]  {heads[1]}\x1b[0m",
        f"\x1b[2m13:35:29.176 [info]      in short: {LOST}\x1b[0m",
    ]
    said = (
        "nobody was answered for a time, so look for what all sessions share: the client's link, the way in, the pods"
    )
    assert (in_short(of_all), in_short(of_some)) == (said, LOST)
    recorded = load(events)
    assert [flag[3] for flag in timeline(recorded)["incidents"]] == ["lost", "lost", "other"]
    colours = dict(text_lines(recorded))
    assert [colours[head] for head in heads] == [Colour.WARNING, None, None]
    page = html_text(recorded)
    for css, head in zip(("silence", "plain", "plain"), heads, strict=True):
        assert f'<summary class="{css}">{head}<' in page


def test_every_report_of_a_record_has_it(story):
    recorded = load([story.started(), ev.IncidentClosed(story.at(9), incident(story))])
    text = [line for line, _ in text_lines(recorded)]
    at = text.index(TEXT[0])
    assert text[at : at + len(TEXT)] == TEXT
    assert TEXT[0] in html_text(recorded)
    assert "    likely: node-rehash\n        11 of 16 sessions\n" in html_text(recorded)
    told = json.loads(json_text(recorded))["incidents"][0]
    assert told["from"] == "2026-11-22T12:35:23.176042Z"
    assert told["kinds"] == {"reflexive_ip": 10, "pod": 4}
    assert told["diagnoses"][0]["certainty"] == "likely"


def test_a_page_shows_incidents_before_the_timeline_and_of_many_those_with_violations_first(story, monkeypatch):
    monkeypatch.setattr(html_module, "FIRST", 2)
    judged = [ev.Judgement.EXPLAINED, ev.Judgement.VIOLATION, ev.Judgement.EXPLAINED, ev.Judgement.VIOLATION]
    numbered = [incident(story, number=n, judgements=((each, 1),)) for n, each in enumerate(judged, 1)]
    page = html_text(load([story.started(), *(ev.IncidentClosed(story.at(9), each) for each in numbered)]))
    assert re.findall(r"incident \d|\d more incidents|id=\"timeline\"", page.split("<script")[0]) == [
        "incident 2",
        "incident 4",
        "2 more incidents",
        "incident 1",
        "incident 3",
        'id="timeline"',
    ]
    said = (
        "judged: 1 violation; in short: most likely, the load balancer or ECMP hashes flows anew when nodes come or go"
    )
    assert f'<span class="said">{said}</span></summary>' in page
    assert page.count("judged: 1 violation") == 2


def test_incidents_that_a_page_leaves_out_are_counted(story, monkeypatch):
    monkeypatch.setattr(html_module, "FIRST", 1)
    monkeypatch.setattr(html_module, "MOST_ROWS", 3)
    numbered = [ev.IncidentClosed(story.at(9), incident(story, number=n)) for n in range(1, 6)]
    page = html_text(load([story.started(), *numbered]))
    assert page.count('class="incident"') == 3
    assert "4 more incidents" in page
    assert "… and 2 more" in page
