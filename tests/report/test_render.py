"""A recorded run as text, JSON, JUnit and HTML."""

import json
import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_event

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.judging.reasons import NothingExplains, PodReplaced, PoolState
from affinity_tester.errors import UserError
from affinity_tester.report import recorded_run as recorded_run_module
from affinity_tester.report.html import html_text
from affinity_tester.report.junit import junit_text
from affinity_tester.report.recorded_run import load
from affinity_tester.report.render import json_text, text_lines
from affinity_tester.report.text import printable

ONE, TWO = "CLIENT-1058228236", "CLIENT-7"
NOT_WATCHED = NothingExplains(PoolState.NOT_WATCHED)
EVIL = "<script>alert(1)</script>\"'&\x1b[2J"


def test_text_tells_the_verdict_first_and_lists_what_happened_above_the_summary(story):
    lines = [text for text, _ in text_lines(load(story.run()))]
    assert lines[:11] == [
        "2026-11-22 UTC+01:00, affinity-tester 0.1.0",
        "2 sessions to 203.0.113.7:3478 (udp.example.com): a probe of 288 bytes every 100 ms each, lost after 2 s",
        "FAIL: 1 violation",
        "",
        "changes and outages",
        "13:35:23.178 CLIENT-1058228236 x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022; "
        'pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"',
        "    VIOLATION (cluster not watched, endpoints assumed unchanged)",
        "13:35:40.176 CLIENT-7 unanswered for 100 probes",
        '    explained by: pod "pod-a" was restarted or replaced; old pod gone',
        "",
        "FAIL: 1 violation",
    ]


def test_text_of_a_run_that_was_killed(story):
    lines = [text for text, _ in text_lines(load(story.run()[:4]))]
    assert lines[-5:] == [
        "    not judged",
        "",
        "the record ends at 13:35:23.178, before the run did, so there is no summary: 2 sessions had started",
        "",
        "no verdict: the run was cut short before it was judged (report --rejudge does it)",
    ]


def test_text_lists_no_more_than_fits_a_bug_report(story):
    changes = [story.seen(t=3 + n / 10, number=n) for n in range(1, 61)]
    lines = [text for text, _ in text_lines(load([story.started(), *changes]))]
    assert "… and 10 more" in lines
    assert sum("x_address changed" in line for line in lines) == 50


def test_a_revised_change_is_one_and_a_withdrawn_one_none(story):
    third = story.pod_a._replace(pod="pod-c")
    recorded = load(
        [
            story.started(),
            story.seen(number=1),
            story.seen(t=4, number=2),
            ev.ChangeRevised(story.at(5), ONE, story.change(after=third), story.change()),
            ev.ChangeWithdrawn(story.at(6), ONE, story.change(4, number=2), 1),
        ]
    )
    assert [entry.facts for entry in recorded.entries] == [('pod_name changed "pod-a" -> "pod-c"',)]


def test_json_is_one_object_of_the_whole_run(story):
    told = json.loads(json_text(load(story.run())))
    assert sorted(told) == [
        "changes", "diagnoses", "foreign_server", "incidents", "judged", "left_out", "outages", "run", "sessions", "strays",
        "summary", "verdict", "watch",
    ]  # fmt: skip
    assert told["run"]["target"] == "203.0.113.7:3478"
    assert [session["session"] for session in told["sessions"]] == [ONE, TWO]
    assert told["summary"]["total"]["sent"] == 2000
    assert told["verdict"]["outcome"] == "FAIL"
    change = told["changes"][0].pop("change")
    assert change["kinds"] == ["reflexive_ip", "reflexive_port", "pod", "node", "instance"]
    assert told["changes"] == [
        {
            "session": ONE,
            "at": "2026-11-22T12:35:23.178042Z",
            "judgement": "violation",
            "avoidable": None,
            "reasons": ["cluster not watched, endpoints assumed unchanged"],
        }
    ]
    assert told["outages"] == [
        {
            "session": TWO,
            "at": "2026-11-22T12:35:40.176042Z",
            "until": "2026-11-22T12:35:50.176042Z",
            "judgement": "explained",
            "avoidable": False,
            "reasons": ['pod "pod-a" was restarted or replaced'],
        }
    ]
    assert told["judged"]["changes"] == {judgement.value: 0 for judgement in ev.Judgement} | {"violation": 1}
    assert told["judged"]["outages"] == {judgement.value: 0 for judgement in ev.Judgement} | {"explained": 1}


def test_json_of_a_run_that_was_killed_has_nulls(story):
    started = ev.OutageStarted(story.at(25), TWO, 200, story.at(20), None)
    told = json.loads(json_text(load([*story.run()[:4], started])))
    assert (told["summary"], told["verdict"], told["sessions"]) == (None, None, [])
    assert told["outages"][0] == {
        "session": TWO,
        "at": "2026-11-22T12:35:40.176042Z",
        "until": None,
        "judgement": None,
        "avoidable": None,
        "reasons": [],
    }


def test_junit_fails_the_session_with_a_violation_and_the_verdict(story):
    assert junit_text(load(story.run())).splitlines() == [
        "<testsuites>",
        '  <testsuite name="affinity-tester udp.example.com" tests="3" failures="2" errors="0" skipped="0" '
        'time="100.000" timestamp="2026-11-22T12:35:20.176042Z">',
        '    <testcase classname="affinity-tester.session" name="CLIENT-1058228236" time="100.000">',
        '      <failure type="violation" message="13:35:23.178 x_address changed 10.240.0.4:40312 -&gt; 10.240.0.7:61022; '
        "pod_name changed &quot;pod-a&quot; -&gt; &quot;pod-b&quot;, node_name &quot;node-1&quot; -&gt; &quot;node-2&quot;: "
        'VIOLATION (cluster not watched, endpoints assumed unchanged)">'
        "13:35:23.178 x_address changed 10.240.0.4:40312 -&gt; 10.240.0.7:61022; "
        'pod_name changed "pod-a" -&gt; "pod-b", node_name "node-1" -&gt; "node-2": '
        "VIOLATION (cluster not watched, endpoints assumed unchanged)</failure>",
        "    </testcase>",
        '    <testcase classname="affinity-tester.session" name="CLIENT-7" time="100.000" />',
        '    <testcase classname="affinity-tester.run" name="verdict" time="100.000">',
        '      <failure type="FAIL" message="FAIL: 1 violation">FAIL: 1 violation</failure>',
        "    </testcase>",
        "  </testsuite>",
        "</testsuites>",
    ]


@pytest.mark.parametrize(
    ("verdict", "counts", "tag"),
    [
        (ev.Verdict(0, ev.Outcome.PASS, ("no violation",), "0 in 300", 0, 300, 1), ("0", "0"), "system-out"),
        (ev.Verdict(0, ev.Outcome.INCONCLUSIVE, ("nothing answered",), "", 0, 0, 0), ("0", "1"), "error"),
        (None, ("0", "1"), "error"),
    ],
)
def test_junit_is_green_for_pass_alone(story, verdict, counts, tag):
    events = [story.started(), *([verdict] if verdict else [])]
    suite = ET.fromstring(junit_text(load(events)))[0]
    assert (suite.get("failures"), suite.get("errors")) == counts
    assert [child.tag for child in suite[-1]] == [tag]


class Page(HTMLParser):
    """Checks that every tag is closed in order, and gathers tags and text."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data + "\n"


def test_html_shows_the_run(story):
    extra = ev.ClusterEvent(story.at(2), ev.ClusterSubject.NODE, "pool1-000003", ev.ClusterAction.ADDED)
    page = Page(html_text(load([*story.run()[:3], extra, *story.run()[3:]])))
    for said in (
        "FAIL: 1 violation",
        "VIOLATION (cluster not watched, endpoints assumed unchanged)",
        'explained by: pod "pod-a" was restarted or replaced; old pod gone',
        'node "pool1-000003" added',
        "longest gap",
        "this client: 0 probes skipped (0 %), 0 send errors (0 %), 0 socket drops (0 %)",
    ):
        assert said in page.text
    data = embedded(html_text(load(story.run())))
    rows = {row["name"]: row for row in data["sessions"]["rows"]}
    assert [mark[2] for mark in rows[ONE]["marks"]] == ["violation"]
    assert (rows[TWO]["marks"][0][:3], rows[TWO]["lost"]) == ([20.0, 30.0, "other"], [[20.0, 20.1, 2]])
    pods, nodes, ips = data["lanes"]
    assert [lane["name"] for lane in pods["rows"]] == ["pod-a", "no answer, or not told"]
    assert [lane["violation"] for lane in pods["rows"]] == [[[3, 1]], []]
    assert [lane["name"] for lane in nodes["rows"]] == ["node-1", "no answer, or not told"]
    assert ips["rows"][0]["name"] == "10.240.0.4"
    known = ev.NodeAddresses(story.at(1), (("10.240.0.4", "node-1"), ("node-1", "not a node of that name")))
    named = embedded(html_text(load([*story.run()[:3], known, *story.run()[3:]])))["lanes"]
    assert [lanes["rows"][0]["name"] for lanes in named] == ["pod-a", "node-1", "10.240.0.4 (node-1)"]
    assert dict(zip(data["table"]["head"], data["table"]["rows"][0], strict=True))["violations"] == 1


def embedded(page: str) -> Any:
    """The data that a page carries."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(data)


def test_html_asks_nothing_of_anybody_and_runs_its_own_scripts_alone(story):
    page = html_text(load(story.run()))
    tags = Page(page).tags
    assert {tag for tag, _ in tags}.isdisjoint({"link", "img", "iframe", "object", "base", "form"})
    assert not any({"src", "onclick", "onload", "style"} & attrs.keys() for _, attrs in tags)
    assert "url(" not in page
    assert "default-src 'none'" in page
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for script in scripts:
        assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page
    assert len(scripts) == page.count("'sha256-") == 2


def test_known_issues_are_links(story):
    named = ev.Diagnosis("flow-wipe", ev.Certainty.LIKELY, ("11 of 16",), "", "", ("kubernetes/kubernetes#122740",))
    first, *events = story.run()
    page = html_text(load([first, ev.RunDiagnosed(story.at(1), (named,)), *events]))
    link = "https://github.com/kubernetes/kubernetes/issues/122740"
    assert ("a", {"href": link}) in Page(page).tags


def evil_run(story) -> list[ev.Event]:
    """Everything that others name is an attack."""
    who = story.pod_a._replace(pod=EVIL, node=EVIL, software=EVIL, reflexive=TransportAddress(EVIL, 1))
    judged = ev.CaseJudged(
        story.at(4), EVIL, story.change(before=who), ev.Judgement.VIOLATION, None, (PodReplaced(EVIL),)
    )
    return [
        story.started(target_name=EVIL, version=EVIL, lost_guarantees=(EVIL,), target=TransportAddress(EVIL, 1)),
        ev.SessionStarted(story.at(0), EVIL, TransportAddress(EVIL, 1)),
        ev.ForeignServer(story.at(0), EVIL),
        story.seen(EVIL, before=who),
        judged,
        ev.ProbesLost(story.at(5), EVIL, 1, 1, story.at(2), story.at(2)),
        ev.ClusterEvent(story.at(5), ev.ClusterSubject.PROXY, EVIL, ev.ClusterAction.RESTARTED, EVIL, last_end=EVIL),
        ev.ClusterEvent(story.at(5), ev.ClusterSubject.WATCH, EVIL, ev.ClusterAction.UNREADABLE, detail=EVIL),
        ev.PoolUnobserved(story.at(5), story.at(5), EVIL),
        ev.SessionSummary(
            story.at(6), EVIL, TransportAddress(EVIL, 1), ev.Counts(), ev.Losses(), ev.RttStats(), (), 0, 0, who
        ),
        ev.RunSummary(story.at(6), 1, ev.Counts(changes=1), ev.Losses(), ev.RttStats(), (), 0),
        ev.Verdict(story.at(6), ev.Outcome.FAIL, (EVIL,), EVIL, 1, 1, 1),
    ]


def test_what_others_say_is_escaped_in_every_form(story):
    recorded = load(evil_run(story))
    page = html_text(recorded)
    assert [tag for tag, _ in Page(page).tags].count("script") == page.count("<script") == 3  # data, uPlot, our own
    assert embedded(page)["table"]["rows"][0][0] == printable(EVIL)
    document = junit_text(recorded)
    ET.fromstring(document)
    text = "\n".join(text for text, _ in text_lines(recorded))
    for shown in (page, document, text):
        assert "\x1b" not in shown
    assert json.loads(json_text(recorded))["verdict"]["reasons"] == [EVIL]


@given(st.lists(any_event, max_size=8), st.integers(-80_000, 80_000))
@settings(max_examples=100)
def test_no_record_makes_a_report_fail(events, offset_s):
    start = ev.RunStarted(0, 0, offset_s, "", TransportAddress("::", 1), "", 1, 1, 1, 288, False, ())
    recorded = load([start, *(event for event in events if not isinstance(event, ev.RunStarted))])
    Page(html_text(recorded))
    ET.fromstring(junit_text(recorded))
    json.loads(json_text(recorded))
    assert text_lines(recorded)


def test_of_too_many_changes_the_first_are_kept_and_the_others_counted(story, monkeypatch):
    monkeypatch.setattr(recorded_run_module, "MOST_ENTRIES", 3)
    changes = [story.seen(t=3 + n, number=n) for n in range(1, 8)]
    judged = ev.CaseJudged(story.at(20), ONE, changes[6].change, ev.Judgement.VIOLATION, None, ())
    lost = [ev.ProbesLost(story.at(9), ONE, n, 1, story.at(2), story.at(2)) for n in range(5)]
    near = [ev.ClusterEvent(story.at(9), ev.ClusterSubject.NODE, str(n), ev.ClusterAction.ADDED) for n in range(5)]
    recorded = load([story.started(), *changes, judged, *lost, *near])
    assert [entry.change for entry in recorded.entries] == [seen.change for seen in changes[:3]]
    assert (recorded.left_out, len(recorded.losses), len(recorded.context)) == (4, 3, 3)
    assert recorded.results.tally.changes(ev.Judgement.VIOLATION) == 1
    assert "… and 4 more" in [text for text, _ in text_lines(recorded)]
    assert "… and 4 more" in html_text(recorded)


def test_a_record_without_a_run_is_the_users_to_mend(story):
    for events in ([], [story.ending()[-1]]):
        with pytest.raises(UserError, match="the record has no run in it"):
            load(events)
    with pytest.raises(UserError, match="the record is damaged: an offset of 90000 s from UTC is no offset"):
        load([story.started(utc_offset_s=90_000)])


def test_every_form_has_what_only_the_whole_run_shows_whether_it_was_watched_and_replies_that_arrived_elsewhere(story):
    spread = ev.Diagnosis("client-ip-spread", ev.Certainty.LIKELY, ("2 of 2 sessions met 2 pods",))
    astray = ev.StrayCase(ev.Stray.CROSS_DELIVERED, 7, story.at(5))
    first, *events, verdict = story.run()
    recorded = load(
        [
            first,
            ev.PoolNotWatched(story.at(0), "no cluster"),
            ev.CaseJudged(story.at(6), TWO, astray, ev.Judgement.VIOLATION, None, (NOT_WATCHED,)),
            *events,
            ev.RunDiagnosed(story.at(101), (spread,)),
            verdict,
        ]
    )
    lines = [text for text, _ in text_lines(recorded)]
    assert lines[2].startswith("cluster not watched (no cluster): ")
    assert f"13:35:25.176 {TWO} got a reply meant for another session" in lines
    at = lines.index("whole run")
    assert lines[at + 1 : at + 4] == [
        "    in short: most likely, sessionAffinity ClientIP is set, and one client's sessions have several pods (it is kept "
        "per node, or not at all)",
        "    likely: client-ip-spread",
        "        2 of 2 sessions met 2 pods",
    ]

    told = json.loads(json_text(recorded))
    assert [diagnosis["name"] for diagnosis in told["diagnoses"]] == ["client-ip-spread"]
    assert told["watch"] == [lines[2]]
    assert [(each["session"], each["what"], each["judgement"]) for each in told["strays"]] == [
        (TWO, ["got a reply meant for another session"], "violation")
    ]
    assert len(told["outages"]) == 1

    page, suites = html_text(recorded), junit_text(recorded)
    for said in ("client-ip-spread", "cluster not watched (no cluster)", "got a reply meant for another session"):
        assert said in page
        assert said in suites
