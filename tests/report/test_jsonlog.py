"""The log for machines, whole objects."""

import io
import json
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from strategies import EVENT_CLASSES, any_event, concrete

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.judging.reasons import NothingExplains, PoolState
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.report.jsonlog import JUDGED_NAMES, MILLISECONDS, MOMENTS, NAMES, RULES, SECONDS, JsonReport
from affinity_tester.report.logging import StatsMode, configure

ONE = "CLIENT-1058228236"
MS = 1_000_000

WHY = NothingExplains(PoolState.NOT_WATCHED)
SAID = "cluster not watched, endpoints assumed unchanged"


def log(*events: ev.Event) -> list[dict[str, object]]:
    """What is told of these events, but for the rules, which stand after the start."""
    return [line for line in all_lines(*events) if line["event"] != "run.rules"]


def all_lines(*events: ev.Event) -> list[dict[str, object]]:
    """Without the words and the run's id, which all have."""
    return [
        {key: value for key, value in line.items() if key not in {"message", "run"}} for line in whole_lines(*events)
    ]


def whole_lines(*events: ev.Event, stats: StatsMode = "auto") -> list[dict[str, object]]:
    stream = io.StringIO()
    report = JsonReport(configure(format="json", stream=stream, colour=True), stats=stats)
    for event in events:
        report.emit(event)
    report.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


CHANGE = {
    "number": 1,
    "kinds": ["reflexive_ip", "reflexive_port", "pod", "node", "instance"],
    "before": {
        "seq": 29,
        "sent": "2026-11-22T12:35:23.076042Z",
        "identity": {
            "reflexive": "10.240.0.4:40312",
            "pod": "pod-a",
            "node": "node-1",
            "instance": "0101010101010101",
            "software": "affinity-tester/0.1.0",
        },
    },
    "after": {
        "seq": 30,
        "sent": "2026-11-22T12:35:23.176042Z",
        "identity": {
            "reflexive": "10.240.0.7:61022",
            "pod": "pod-b",
            "node": "node-2",
            "instance": "0202020202020202",
            "software": "affinity-tester/0.1.0",
        },
    },
    "seen": "2026-11-22T12:35:23.178042Z",
    "longest_pause_ms": 100.0,
    "settled": "2026-11-22T12:35:25.176042Z",
}


def test_a_change_is_told_once_for_each_kind_with_all_there_is_to_know(story):
    common = {"time": "2026-11-22T12:35:23.178042Z", "level": "warn"}
    of = {"session": ONE, "change": CHANGE}
    assert log(story.started(), story.seen())[1:] == [
        common | {"event": "session.x_address_changed", "from": "10.240.0.4:40312", "to": "10.240.0.7:61022"} | of,
        common | {"event": "session.pod_changed", "from": "pod-a", "to": "pod-b"} | of,
        common | {"event": "session.node_changed", "from": "node-1", "to": "node-2"} | of,
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"node": "node-2"}, [("session.node_changed", "warn", "node-1", "node-2")]),
        ({"instance": b"\x02" * 8}, [("session.pod_restarted", "warn", "01" * 8, "02" * 8)]),
        ({"instance": b""}, [("session.pod_restarted", "warn", "01" * 8, "")]),
        (
            {"reflexive": TransportAddress("2001:db8::1", 9)},
            [("session.x_address_changed", "warn", "10.240.0.4:40312", "[2001:db8::1]:9")],
        ),
    ],
)
def test_each_kind_of_change_has_its_name(story, changed, told):
    shown = log(story.started(), story.seen(after=story.pod_a._replace(**changed)))[1:]
    assert [(line["event"], line["level"], line["from"], line["to"]) for line in shown] == told


def test_a_foreign_server_that_calls_itself_otherwise(story):
    before = story.pod_a._replace(pod=None, node=None, instance=None, software="a")
    shown = log(story.started(), story.seen(before=before, after=before._replace(software="b")))[1:]
    assert [(line["event"], line["from"], line["to"]) for line in shown] == [("session.software_changed", "a", "b")]


def test_the_start_of_a_run_and_its_rules(story):
    rules = Rules(settle_ns=5_000_000_000, max_loss=0.25)
    assert all_lines(story.started(rules=rules)) == [
        {
            "time": "2026-11-22T12:35:20.176042Z",
            "level": "info",
            "event": "run.started",
            "utc_offset_s": 3600,
            "version": "0.1.0",
            "target": "203.0.113.7:3478",
            "target_name": "udp.example.com",
            "sessions": 2,
            "interval_s": 0.1,
            "loss_threshold_s": 2.0,
            "request_size": 288,
            "connected": False,
            "lost_guarantees": [],
            "sizes": [],
            "addresses": [],
            "unprobed": [],
            "reference": None,
            "reference_name": "",
            "dscp": None,
        },
        {
            "time": "2026-11-22T12:35:20.176042Z",
            "level": "info",
            "event": "run.rules",
            "settle_s": 5.0,
            "affinity_window_s": 30.0,
            "max_loss": 0.25,
            "fail_on_avoidable": False,
            "balancer_check_s": 35.0,
        },
    ]


def test_the_end_of_a_session_and_the_verdict(story):
    shown = log(story.started(), story.ending()[0], story.ending()[-1])[1:]
    counts = dict.fromkeys((field.name for field in fields(ev.Counts)), 0)
    counts |= {"sent": 1000, "answered": 990, "lost": 10, "late": 1, "duplicate": 2, "reordered": 3, "changes": 1}
    assert shown == [
        {
            "time": "2026-11-22T12:37:12.176042Z",
            "level": "info",
            "event": "session.summary",
            "session": ONE,
            "local": "192.0.2.1:50001",
            "total": counts | {"pairs": 989},
            "losses": {"up": 1, "down": 2, "unknown": 7},
            "rtt": {
                "count": 990,
                "min_ms": 0.025,
                "mean_ms": 0.7,
                "p50_ms": 0.25,
                "p90_ms": 1.52,
                "p99_ms": 12.04,
                "max_ms": 1203.4,
                "jitter_ms": 0.09,
            },
            "kinds": {"reflexive_ip": 1, "reflexive_port": 1, "pod": 1, "node": 1, "instance": 1},
            "longest_gap_ms": 102.0,
            "unanswered_ms": 0.0,
            "serving": CHANGE["after"]["identity"],
        },
        {
            "time": "2026-11-22T12:37:12.176042Z",
            "level": "error",
            "event": "run.verdict",
            "outcome": "FAIL",
            "reasons": ["1 violation"],
            "strength": "",
            "violations": 1,
            "judged_pairs": 1988,
            "still_s": 100.0,
        },
    ]


def test_what_is_not_known_is_null_and_never_left_out(story):
    assert log(story.started(), story.ending()[1])[1]["rtt"] == {
        "count": 0,
        **dict.fromkeys(("min_ms", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "jitter_ms")),
    }


LEVELS = {
    ev.Judgement.VIOLATION: "error",
    ev.Judgement.UNKNOWN: "warn",
    ev.Judgement.CLIENT: "warn",
    ev.Judgement.POD_SILENT: "warn",
    ev.Judgement.IDLE: "info",
    ev.Judgement.EXPLAINED: "info",
    ev.Judgement.POD_RESTART: "info",
    ev.Judgement.INFORMATION: "info",
}


def test_nothing_is_an_error_before_it_is_judged():
    assert [cls.__name__ for cls, (_, level) in NAMES.items() if level == "error"] == []
    assert {NAMES[cls][1] for cls in (ev.OutageStarted, ev.WrongSource, ev.CrossDelivered)} == {"warn"}


@pytest.mark.parametrize(("judgement", "level"), LEVELS.items())
def test_a_violation_is_an_error(story, judgement, level):
    judged = ev.CaseJudged(story.at(13), ONE, story.change(), ev.Judgement(judgement), True, (WHY, WHY))
    assert log(story.started(), judged)[1] == {
        "time": "2026-11-22T12:35:33.176042Z",
        "level": level,
        "event": "session.change_judged",
        "session": ONE,
        "change": CHANGE,
        "judgement": judgement,
        "avoidable": True,
        "reasons": [SAID, SAID],
    }


def test_the_judgement_of_an_outage_has_its_own_name_and_says_whether_it_lasts(story):
    judged = ev.CaseJudged(
        story.at(13), ONE, ev.OutageCase(7, story.at(4)), ev.Judgement.EXPLAINED, False, (WHY,), lasts=True
    )
    assert log(story.started(), judged)[1] == {
        "time": "2026-11-22T12:35:33.176042Z",
        "level": "info",
        "event": "session.outage_judged",
        "session": ONE,
        "since_seq": 7,
        "since": "2026-11-22T12:35:24.176042Z",
        "judgement": "explained",
        "avoidable": False,
        "reasons": [SAID],
        "lasts": True,
    }


def test_the_judgement_of_a_stray_reply_has_its_own_name_and_is_never_avoidable(story):
    stray = ev.StrayCase(ev.Stray.CROSS_DELIVERED, 7, story.at(4))
    judged = ev.CaseJudged(story.at(13), ONE, stray, ev.Judgement.VIOLATION, None, (WHY,))
    assert log(story.started(), judged)[1] == {
        "time": "2026-11-22T12:35:33.176042Z",
        "level": "error",
        "event": "session.stray_judged",
        "session": ONE,
        "stray": "cross-delivered",
        "seq": 7,
        "heard": "2026-11-22T12:35:24.176042Z",
        "judgement": "violation",
        "reasons": [SAID],
    }


def test_an_inconclusive_verdict_is_a_warning(story):
    verdict = ev.Verdict(story.at(1), ev.Outcome.INCONCLUSIVE, ("nothing answered",), "", 0, 0, 0)
    assert log(story.started(), verdict)[1]["level"] == "warn"


def test_a_pool_lists_its_endpoints_in_order(story):
    pool = PoolSnapshot(
        frozenset({Endpoint("2", "b", "10.0.0.2"), Endpoint("1", "a", "10.0.0.1")}), (("policy", "Local"),)
    )
    shown = log(story.started(), ev.PoolObserved(story.at(1), story.at(0), story.at(1), pool))[1]
    rest = {"node": "", "ready": True, "serving": True, "terminating": False}
    assert shown == {
        "time": "2026-11-22T12:35:21.176042Z",
        "level": "info",
        "event": "pool.observed",
        "since": "2026-11-22T12:35:20.176042Z",
        "until": "2026-11-22T12:35:21.176042Z",
        "snapshot": {
            "endpoints": [
                {"uid": "1", "pod": "a", "address": "10.0.0.1"} | rest,
                {"uid": "2", "pod": "b", "address": "10.0.0.2"} | rest,
            ],
            "spec": {"policy": "Local"},
        },
        "asked": None,
        "changes": [],
    }


def test_a_cluster_event_has_its_action_and_its_words(story):
    facts = {"node": "n1", "old": ("proxy:1",), "new": ("proxy:2",)}
    placed = ev.ClusterEvent(story.at(1), ev.ClusterSubject.PROXY, "kube-proxy-1", ev.ClusterAction.PLACED, **facts)
    hidden = ev.ClusterEvent(
        story.at(1), ev.ClusterSubject.WATCH, "", ev.ClusterAction.LIST_FORBIDDEN, resource="nodes"
    )
    common = {"time": "2026-11-22T12:35:21.176042Z", "level": "info", "event": "cluster.event"}
    assert log(story.started(), placed, hidden)[1:] == [
        common
        | {
            "subject": "proxy",
            "name": "kube-proxy-1",
            "action": "placed",
            "node": "n1",
            "old": ["proxy:1"],
            "new": ["proxy:2"],
            "what": 'placed on node "n1", upgraded: image proxy:1 -> proxy:2',
        },
        common
        | {
            "subject": "watch",
            "name": "",
            "action": "list-forbidden",
            "resource": "nodes",
            "what": "cannot list nodes: node events will be missing",
        },
    ]


def test_a_session_without_numbers_left_has_an_event_of_its_own(story):
    exhausted = ev.ClientFault(story.at(1), ONE, ev.ClientFaultKind.EXHAUSTED)
    drops = ev.ClientFault(story.at(1), ONE, ev.ClientFaultKind.SOCKET_DROPS, "3 replies")
    common = {"time": "2026-11-22T12:35:21.176042Z", "level": "warn", "session": ONE}
    assert log(story.started(), exhausted, drops)[1:] == [
        common | {"event": "session.exhausted"},
        common | {"event": "session.client_fault", "fault": "socket-drops", "detail": "3 replies"},
    ]


def test_what_is_near_an_incident_is_told_in_words(story):
    added = ev.ClusterEvent(story.at(1), ev.ClusterSubject.NODE, "n1", ev.ClusterAction.ADDED)
    near = (ev.NearFact(story.at(1), -500_000_000, event=added),)
    incident = ev.Incident(1, 0, 0, False, 1, 1, 1, 0, 0, 0, 0, (), (), near, (), ())
    shown = log(story.started(), ev.IncidentClosed(story.at(2), incident))[1]
    assert shown["incident"]["near"] == ['node "n1" added 0.5 s before']


def test_nothing_is_folded(story):
    assert len(log(story.started(), *[story.seen()] * 100)) == 301


def test_a_warning_of_the_report_itself(story):
    stream = io.StringIO()
    report = JsonReport(configure(format="json", stream=stream, colour=False))
    report.warn("too early to have a time")
    report.emit(story.started())
    report.warn("the record ends here")
    assert json.loads(stream.getvalue().splitlines()[-1]) == {
        "time": "2026-11-22T12:35:20.176042Z",
        "level": "warn",
        "event": "report.warning",
        "message": "the record ends here",
        "run": "",
        "text": "the record ends here",
    }


def test_every_line_has_the_runs_id_and_its_words_in_front(story):
    events = [story.started(run_id="0123456789abcdef"), *story.run()[1:]]
    for line in whole_lines(*events):
        assert list(line)[:5] == ["time", "level", "event", "message", "run"]
        assert line["run"] == "0123456789abcdef"
        assert line["level"] in {"debug", "info", "warn", "error"}
        assert isinstance(line["message"], str)
        assert line["message"] == line["message"].strip()
        assert line["message"]
        assert "run_id" not in line


def test_the_message_is_what_a_person_reads_in_the_other_form(story):
    moved = story.seen()
    violation = ev.CaseJudged(
        story.at(13), ONE, story.change(), ev.Judgement.VIOLATION, None, (NothingExplains(PoolState.NOT_WATCHED),)
    )
    names = ev.NodeAddresses(story.at(2), (("10.240.0.7", "node-2"),))
    ready = PoolSnapshot(frozenset({Endpoint("1", "a", "10.0.0.1")}), ())
    lines = whole_lines(
        story.started(),
        ev.SessionStarted(story.at(0), ONE, TransportAddress("192.0.2.1", 50001)),
        ev.FirstAnswer(story.at(0.1), ONE, 0, story.pod_a),
        ev.PoolObserved(story.at(1), story.at(0), story.at(1), ready),
        ev.PoolUnobserved(story.at(1.5), story.at(1.2), "the watch ended"),
        ev.PoolConfirmed(story.at(2), story.at(1.9)),
        names,
        moved,
        violation,
        story.stats(ONE, 14, story.pod_b, sent=1, answered=1),
        ev.ProbesLost(story.at(15), ONE, 100, 3, story.at(12), story.at(12.2)),
        ev.LateReply(story.at(15), ONE, 100, 2_500 * MS),
        ev.LossDirection(story.at(15), ONE, 100, 103, 2, 1),
        ev.RunEnded(story.at(20), False),
    )
    assert [(line["event"], line["level"], line["message"]) for line in lines] == [
        ("run.started", "info", "2026-11-22 UTC+01:00, affinity-tester 0.1.0; 2 sessions to 203.0.113.7:3478"
         " (udp.example.com): a probe of 288 bytes every 100 ms each, lost after 2 s"),
        ("run.rules", "info", "judged by: settle time 10 s, affinity window 30 s, balancer check 35 s"),
        ("session.started", "debug", f"{ONE} sends from 192.0.2.1:50001"),
        ("session.first_answer", "debug", f'{ONE} first answered by pod "pod-a", which sees it as 10.240.0.4:40312'),
        ("pool.observed", "info", "the pool is watched: 1 of 1 endpoint ready"),
        ("pool.unobserved", "info", "the pool is not observed any more: the watch ended"),
        ("pool.confirmed", "info", "the pool is observed again after 500 ms, and nothing was missed"),
        ("cluster.node_addresses", "info", "addresses of 1 node are known"),
        ("session.x_address_changed", "warn",
         f'{ONE} x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022 (node "node-2")'),
        ("session.pod_changed", "warn", f'{ONE} pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"'),
        ("session.node_changed", "warn", f'{ONE} node_name changed "node-1" -> "node-2"'),
        ("session.change_judged", "error",
         f"VIOLATION (cluster not watched, endpoints assumed unchanged) ({ONE}, changed 13:35:23.178)"),
        ("session.stats", "info", f'{ONE} sent 1 messages of which 0 message(s) lost, served by pod "pod-b"'),
        ("session.probes_lost", "info", f"{ONE} lost 3 probes, from number 100 on"),
        ("session.late_reply", "info", f"{ONE} probe 100 was answered after 2.5 s, when it counted as lost"),
        ("session.loss_directed", "info",
         f"{ONE} of probes 100 to 103 2 were lost on the way up and 1 on the way down"),
        ("run.ended", "info", "the run is over"),
    ]  # fmt: skip


def test_what_comes_all_the_time_is_debug_and_has_a_sentence_too(story):
    answers = ((story.at(4), "192.0.2.9:40000"), (story.at(5), None))
    lines = whole_lines(
        story.started(),
        ev.PoolObserved(story.at(1), story.at(0.5), story.at(1), PoolSnapshot(())),
        ev.PoolConfirmed(story.at(2), story.at(1.9)),
        ev.ApiServerAnswered(story.at(3), story.at(2.9)),
        *(
            ev.ReferenceResult(at_ns, ONE, at_ns, None if text is None else TransportAddress("192.0.2.9", 40000))
            for at_ns, text in answers
        ),
        ev.PathsAnswered(story.at(6), (), ()),
        ev.PodAddresses(story.at(7), (("10.0.0.9", "ingress/proxy-a"),)),
    )[3:]
    assert [(line["event"], line["level"], line["message"]) for line in lines] == [
        ("pool.confirmed", "debug", "a new list shows no change of the pool"),
        ("cluster.api_answered", "debug", "the API server answers"),
        ("session.reference_result", "debug", f"{ONE} the reference sees it as 192.0.2.9:40000"),
        ("session.reference_result", "debug", f"{ONE} the reference did not answer"),
        ("run.paths_answered", "debug", "the sessions in no outage are answered by 0 pods, behind 0 reflexive IPs"),
        ("cluster.pod_addresses", "info", "known of proxies that run as pods: 1 address"),
    ]


@pytest.mark.parametrize(("judgements", "level"), [(((ev.Judgement.VIOLATION, 1),), "error"), ((), "info")])
def test_an_incident_is_told_in_its_heading_and_a_sentence(story, judgements, level):
    flow_wipe = ev.Diagnosis("flow-wipe", ev.Certainty.LIKELY, ())
    incident = ev.Incident(
        1, story.at(0), story.at(1), False, 1, 2, 1, 0, 0, 0, 0, (), (), (), judgements, (flow_wipe,)
    )
    for event in (ev.IncidentOngoing(story.at(2), incident), ev.IncidentClosed(story.at(3), incident)):
        told = whole_lines(story.started(), event)[-1]
        assert told["level"] == level
        goes_on = ", goes on" if isinstance(event, ev.IncidentOngoing) else ""
        assert told["message"] == (
            f"incident 1 at 13:35:20.176 for 1 s{goes_on}, 1 of 2 sessions: 1 change; most likely, the proxy drops live"
            " flows though the pool is unchanged (a restart, a periodic sync)"
        )


def test_total_means_total(story):
    events = [story.started(), story.stats(ONE, 1, story.pod_a, sent=1), *story.ending()]
    lines = whole_lines(*events, stats="total")
    assert "session.stats" not in [line["event"] for line in lines]
    assert [line["session"] for line in lines if line["event"] == "session.summary"] == [ONE], (
        "nothing happened to the other"
    )
    assert "session.stats" in [line["event"] for line in whole_lines(*events)]


def test_nothing_may_come_before_the_start_of_the_run(story):
    with pytest.raises(ValueError, match="Verdict came before RunStarted"):
        log(story.ending()[-1])


def test_every_event_has_a_name_and_no_two_the_same():
    assert set(NAMES) | {ev.ChangeSeen, ev.CaseJudged} == set(EVENT_CLASSES)
    assert set(JUDGED_NAMES) == set(concrete(ev.Case))
    names = [*(name for name, _ in NAMES.values()), RULES, *JUDGED_NAMES.values()]
    assert len(set(names)) == len(names)


def test_every_time_in_an_event_is_a_moment_or_a_duration_with_a_unit():
    names: set[str] = set()
    waiting: list[object] = [*EVENT_CLASSES, *concrete(ev.Case)]
    while waiting:
        cls = waiting.pop()
        hints = get_type_hints(cls) if is_dataclass(cls) or hasattr(cls, "_fields") else {}
        names |= {name for name in hints if name.endswith("_ns")}
        waiting += [part for hint in hints.values() for part in (hint, *getattr(hint, "__args__", ()))]
    assert names - {"wall_ns"} == MOMENTS | MILLISECONDS | SECONDS


@given(any_event)
@settings(max_examples=100)
def test_any_event_becomes_json(event):
    start = ev.RunStarted(0, 0, 0, "", TransportAddress("::", 1), "", 1, 1, 1, 288, False, ())
    shown = log(start, event) if not isinstance(event, ev.RunStarted) or abs(event.utc_offset_s) < 86_400 else []
    assert all(line["event"] for line in shown)
