"""The log for people, line by line."""

import io

import pytest

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.reasons import (
    ClientPaused,
    MorePoolChanges,
    NoReadyEndpoint,
    NothingExplains,
    PodRestarted,
    PodStopped,
    PoolNotObserved,
    PoolState,
)
from affinity_tester.core.pool import Endpoint, PoolSnapshot, differences
from affinity_tester.report.console import ConsoleReport, StatsMode
from affinity_tester.report.logging import configure

ONE, TWO = "CLIENT-1058228236", "CLIENT-7"
S = 1_000_000_000


def show(*events: ev.Event, stats: StatsMode = "auto", colour: bool = False) -> list[str]:
    """The lines of these events, without those of the start if it is among them."""
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=colour), stats=stats)
    opening = 0
    for event in events:
        report.emit(event)
        if isinstance(event, ev.RunStarted):
            opening = stream.getvalue().count("\n")
    report.close()
    return stream.getvalue().splitlines()[opening:]


def test_the_familiar_lines_in_their_exact_forms(story):
    before = Identity(TransportAddress("10.240.0.4", 40312), "affinity-tester-f7b7c454b-vvwtx")
    after = Identity(TransportAddress("10.240.0.7", 61022), "affinity-tester-f7b7c454b-wmd4l")
    assert show(
        story.started(),
        story.stats(ONE, 0, before, sent=73, answered=73),
        story.seen(ONE, 260.12, before=before, after=after),
    ) == [
        "13:35:20.176 [info]  CLIENT-1058228236 sent 73 messages of which 0 message(s) lost, "
        'served by pod "affinity-tester-f7b7c454b-vvwtx"',
        "13:39:40.298 [error] CLIENT-1058228236 x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022",
        '13:39:40.298 [error] CLIENT-1058228236 pod_name changed "affinity-tester-f7b7c454b-vvwtx" -> '
        '"affinity-tester-f7b7c454b-wmd4l"',
    ]


def test_the_opening_says_date_offset_version_target_and_probes(story):
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=False))
    report.emit(story.started(lost_guarantees=("kernel receive timestamps",), connected=True))
    assert stream.getvalue().splitlines() == [
        "13:35:20.176 [info]  2026-11-22 UTC+01:00, affinity-tester 0.1.0",
        "13:35:20.176 [info]  2 sessions to 203.0.113.7:3478 (udp.example.com): a probe of 288 bytes "
        "every 100 ms each, on connected sockets, lost after 2 s",
        "13:35:20.176 [warn]  not on this platform: kernel receive timestamps",
    ]


@pytest.mark.parametrize(
    ("name", "sessions", "told"),
    [
        ("stun.example.org", 2, "198.51.100.7:3478 (stun.example.org): asked from the sockets of 2 sessions"),
        ("198.51.100.7", 100, "198.51.100.7:3478: asked from the sockets of 8 sessions"),
    ],
)
def test_the_opening_says_what_the_reference_is_and_who_asks_it(story, name, sessions, told):
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=False))
    reference = TransportAddress("198.51.100.7", 3478)
    report.emit(story.started(sessions=sessions, reference=reference, reference_name=name))
    assert stream.getvalue().splitlines()[2:] == [f"13:35:20.176 [info]  reference {told}, every 800 ms each"]


def test_a_target_that_was_no_name_is_said_once(story):
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=False))
    report.emit(story.started(sessions=1, target_name="203.0.113.7"))
    assert stream.getvalue().splitlines()[1] == (
        "13:35:20.176 [info]  1 session to 203.0.113.7:3478: a probe of 288 bytes every 100 ms each, lost after 2 s"
    )


@pytest.mark.parametrize(
    ("probed", "unprobed", "said"),
    [
        (2, 0, "2 addresses of udp.example.com (203.0.113.7:3478, 203.0.113.8:3478)"),
        (2, 1, "2 of 3 addresses of udp.example.com (203.0.113.7:3478, 203.0.113.8:3478; not to [2001:db8::1]:3478)"),
        (1, 1, "1 of 2 addresses of udp.example.com (203.0.113.7:3478; not to [2001:db8::1]:3478)"),
    ],
)
def test_a_name_with_several_addresses_says_which_are_probed(story, probed, unprobed, said):
    addresses = (TransportAddress("203.0.113.7", 3478), TransportAddress("203.0.113.8", 3478))
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=False))
    left = (TransportAddress("2001:db8::1", 3478),) * unprobed
    report.emit(story.started(sessions=10, addresses=addresses if probed > 1 else (), unprobed=left))
    assert stream.getvalue().splitlines()[1] == (
        f"13:35:20.176 [info]  10 sessions to {said}: a probe of 288 bytes every 100 ms each, lost after 2 s"
    )


def test_colours_tell_statistics_changes_and_judgements_apart(story):
    violation = ev.CaseJudged(
        story.at(13), ONE, story.change(), ev.Judgement.VIOLATION, None, (NothingExplains(PoolState.NOT_WATCHED),)
    )
    explained = ev.CaseJudged(story.at(13), ONE, story.change(), ev.Judgement.EXPLAINED, True, ())
    assert show(
        story.started(),
        story.stats(ONE, 1, story.pod_a, sent=1, answered=1),
        story.seen(after=story.pod_a._replace(pod="pod-b")),
        violation,
        explained,
        colour=True,
    ) == [
        '13:35:21.176 [info]  CLIENT-1058228236 sent 1 messages of which 0 message(s) lost, served by pod "pod-a"',
        '\x1b[31m13:35:23.178 [error] CLIENT-1058228236 pod_name changed "pod-a" -> "pod-b"\x1b[0m',
        "\x1b[1m\x1b[31m13:35:33.176 [error]     VIOLATION (cluster not watched, endpoints assumed unchanged) "
        "(CLIENT-1058228236, changed 13:35:23.178)\x1b[0m",
        "\x1b[2m13:35:33.176 [info]      explained; old pod still ready (CLIENT-1058228236, changed 13:35:23.178)\x1b[0m",
    ]


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        (
            {"pod": "pod-b", "node": "node-2", "instance": b"\x02" * 8},
            ['[error] CLIENT-7 pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"'],
        ),
        ({"node": "node-2"}, ['[error] CLIENT-7 node_name changed "node-1" -> "node-2"']),
        ({"instance": b"\x02" * 8}, ['[warn]  CLIENT-7 pod "pod-a" restarted: same name, new instance']),
        (
            {"instance": b"\x02" * 8, "reflexive": TransportAddress("2001:db8::1", 9)},
            [
                "[error] CLIENT-7 x_address changed 10.240.0.4:40312 -> [2001:db8::1]:9",
                '[warn]  CLIENT-7 pod "pod-a" restarted: same name, new instance',
            ],
        ),
    ],
)
def test_each_kind_of_change_has_its_line(story, changed, lines):
    shown = show(story.started(), story.seen(TWO, after=story.pod_a._replace(**changed)))
    assert shown == [f"13:35:23.178 {line}" for line in lines]


def test_a_foreign_server_is_named_by_its_software(story):
    coturn = Identity(TransportAddress("192.0.2.9", 4000), software="Coturn-4.6")
    other = coturn._replace(software="Coturn-4.7")
    assert show(
        story.started(),
        ev.ForeignServer(story.at(0), "Coturn-4.6"),
        story.stats(ONE, 1, coturn, sent=5, answered=5),
        story.seen(before=coturn, after=other),
    ) == [
        '13:35:20.176 [warn]  answered by "Coturn-4.6", which names no pod: only x_address and SOFTWARE are tracked',
        '13:35:21.176 [info]  CLIENT-1058228236 sent 5 messages of which 0 message(s) lost, served by "Coturn-4.6" at '
        "x_address 192.0.2.9:4000",
        '13:35:23.178 [error] CLIENT-1058228236 software changed "Coturn-4.6" -> "Coturn-4.7"',
    ]


def test_what_a_server_calls_itself_cannot_steer_the_terminal(story):
    evil = Identity(TransportAddress("192.0.2.9", 4000), pod='p\x1b[2J\n\u202e"')
    assert show(story.started(), story.stats(ONE, 1, evil, sent=1, answered=1)) == [
        "13:35:21.176 [info]  CLIENT-1058228236 sent 1 messages of which 0 message(s) lost, "
        'served by pod "p\\x1b[2J\\n\\u202e""'
    ]


def test_a_session_line_adds_only_what_is_not_zero(story):
    all_odd = {"late": 3, "reordered": 2, "duplicate": 1, "timer_misses": 4, "send_errors": 5, "socket_drops": 6}
    assert show(
        story.started(),
        story.stats(ONE, 1, None, sent=73),
        story.stats(ONE, 2, story.pod_a, sent=73, answered=0, lost=73),
        story.stats(ONE, 3, story.pod_a, sent=73, answered=73, **all_odd),
    ) == [
        "13:35:21.176 [info]  CLIENT-1058228236 sent 73 messages of which 0 message(s) lost, no answer yet",
        "13:35:22.176 [info]  CLIENT-1058228236 sent 73 messages of which 73 message(s) lost, no answer, "
        'last served by pod "pod-a"',
        '13:35:23.176 [info]  CLIENT-1058228236 sent 73 messages of which 0 message(s) lost, served by pod "pod-a", '
        "3 late, 2 reordered, 1 duplicate, 4 skipped, 5 send error(s), 6 socket drop(s)",
    ]


def test_many_sessions_have_one_line_with_the_worst_named(story):
    lost = {"CLIENT-1": 2, "CLIENT-2": 0, "CLIENT-3": 7, "CLIENT-4": 2, "CLIENT-5": 1}
    events = [
        story.stats(name, 10, story.pod_a, sent=100, answered=100 - count, lost=count, changes=name == "CLIENT-4")
        for name, count in lost.items()
    ]
    events.append(story.stats("CLIENT-6", 10, None, sent=100))
    pods = tuple(
        ev.GroupCounts(ev.GroupKind.POD, name, 3, 50_000, 50_000 - lost, lost, changes, None, None)
        for name, lost, changes in (("pod-a", 1_012, 1), ("pod-b", 0, 0), ("pod-c", 0, 7), (None, 3, 0))
    )
    tick = ev.StatsTick(
        story.at(10), 6, ev.Counts(sent=99_873, lost=1_012, changes=1, late=2), ev.Counts(), pods, silent=1
    )
    clean = ev.StatsTick(story.at(20), 1, ev.Counts(sent=100, answered=100), ev.Counts())
    quiet = story.stats("CLIENT-1", 20, story.pod_b, sent=100, answered=100)
    expected = [
        "13:35:30.176 [info]  6 sessions sent 99,873 messages of which 1,012 message(s) lost, served by 3 pods, "
        "1 session without an answer, 1 change(s), 2 late; "
        "by pod: pod-a (1,012 of its 50,000 probes lost, 1 left it), pod-c (7 left it); worst: "
        "CLIENT-3 (7 lost, 0 change(s)), CLIENT-4 (2 lost, 1 change(s)), CLIENT-1 (2 lost, 0 change(s))",
        "13:35:40.176 [info]  1 session sent 100 messages of which 0 message(s) lost",
    ]
    assert show(story.started(sessions=21), *events, tick, quiet, clean) == expected
    assert show(story.started(sessions=2), *events, tick, quiet, clean, stats="total") == expected


def test_the_worst_are_named_by_what_tells_them_apart(story):
    def groups(kind: ev.GroupKind, *lost: int) -> list[ev.GroupCounts]:
        return [
            ev.GroupCounts(kind, f"{kind}-{n}", 2, 200, 200 - count, count, 0, None, None)
            for n, count in enumerate(lost)
        ]

    by_ip = groups(ev.GroupKind.REFLEXIVE_IP, 90, 0, 0)
    by_node = groups(ev.GroupKind.NODE, 30, 60)
    by_pod = groups(ev.GroupKind.POD, 30, 30, 30, 0)
    tick = ev.StatsTick(story.at(10), 6, ev.Counts(sent=800, lost=90), ev.Counts(), (*by_pod, *by_node, *by_ip))
    (line,) = show(story.started(sessions=21), tick)
    assert line.endswith("served by 4 pods; by reflexive IP: reflexive_ip-0 (90 of its 200 probes lost)")

    tick = ev.StatsTick(story.at(10), 6, ev.Counts(sent=800, lost=90), ev.Counts(), (*by_node[:1], *by_ip[:1]))
    (line,) = show(story.started(sessions=21), tick)
    assert line.endswith("messages of which 90 message(s) lost")


def test_where_only_the_worst_are_told_nothing_is_said_of_all(story):
    bad = story.stats("CLIENT-3", 10, story.pod_a, sent=100, lost=100)
    tick = ev.StatsTick(story.at(10), 1_000, ev.Counts(sent=99_900, lost=100), ev.Counts())
    assert show(story.started(sessions=1_000), bad, tick) == [
        "13:35:30.176 [info]  1,000 sessions sent 99,900 messages of which 100 message(s) lost; "
        "worst: CLIENT-3 (100 lost, 0 change(s))"
    ]


@pytest.mark.parametrize(("sessions", "stats"), [(20, "auto"), (21, "session")])
def test_few_sessions_or_the_wish_for_it_give_each_its_line_and_no_total(story, sessions, stats):
    tick = ev.StatsTick(story.at(10), sessions, ev.Counts(sent=1), ev.Counts(sent=1))
    lines = show(story.started(sessions=sessions), story.stats(TWO, 10, None, sent=1), tick, stats=stats)
    assert lines == ["13:35:30.176 [info]  CLIENT-7 sent 1 messages of which 0 message(s) lost, no answer yet"]


def test_a_revised_change_is_told_only_when_its_words_differ(story):
    change = story.change()
    narrower = story.change(3, seq=28)
    third = story.pod_a._replace(pod="pod-c")
    other = story.change(after=third)
    assert show(
        story.started(),
        ev.ChangeRevised(story.at(4), ONE, narrower, change),
        ev.ChangeRevised(story.at(5), ONE, other, change),
        ev.ChangeWithdrawn(story.at(6), ONE, other, 2),
    ) == [
        '13:35:25.176 [info]      revised: pod_name changed "pod-a" -> "pod-c" '
        "(CLIENT-1058228236, a later reply came between)",
        '13:35:26.176 [info]      withdrawn: pod_name changed "pod-a" -> "pod-c" '
        "(CLIENT-1058228236, a later reply made it part of another change)",
    ]


@pytest.mark.parametrize(
    ("judgement", "avoidable", "reasons", "line"),
    [
        (
            "violation",
            None,
            (NothingExplains(PoolState.NOT_WATCHED),),
            "[error]     VIOLATION (cluster not watched, endpoints assumed unchanged)",
        ),
        (
            "explained",
            None,
            (PodStopped("a", -800_000_000),),
            '[info]      explained by: pod "a" left the pool or stopped serving 0.8 s before',
        ),
        (
            "explained",
            False,
            (NoReadyEndpoint(), MorePoolChanges(2)),
            "[info]      explained by: no endpoint was ready; 2 more changes of the pool then; old pod gone",
        ),
        (
            "idle",
            None,
            (ClientPaused(40_000_000_000),),
            "[info]      idle: 40.0 s without a probe, longer than the affinity window",
        ),
        (
            "unknown",
            None,
            (PoolNotObserved(2_000_000_000),),
            "[warn]      unknown: the pool could not be observed for 2.0 s around it",
        ),
        ("pod-restart", None, (PodRestarted(),), "[info]      pod-restart: the same pod answers with a new instance"),
    ],
)
def test_each_judgement_has_its_line(story, judgement, avoidable, reasons, line):
    judged = ev.Judgement(judgement)
    change = ev.CaseJudged(story.at(13), ONE, story.change(), judged, avoidable, reasons)
    outage = ev.CaseJudged(story.at(14), TWO, ev.OutageCase(9, story.at(2)), judged, avoidable, reasons)
    assert show(story.started(), change, outage) == [
        f"13:35:33.176 {line} (CLIENT-1058228236, changed 13:35:23.178)",
        f"13:35:34.176 {line} (CLIENT-7, unanswered since 13:35:22.176)",
    ]


def test_a_restart_is_not_said_twice(story):
    judged = ev.CaseJudged(story.at(13), ONE, story.change(), ev.Judgement.POD_RESTART, None, ())
    assert show(story.started(), judged) == []


def test_the_other_facts_of_a_session(story):
    last = ev.RepliedProbe(9, story.at(1.9), story.pod_a)
    refused = ev.NetworkError(story.at(8), ONE, 3, "ECONNREFUSED", "203.0.113.7")
    wrong, right = TransportAddress("10.0.0.9", 3478), TransportAddress("203.0.113.7", 3478)
    assert show(
        story.started(),
        ev.OutageStarted(story.at(7), ONE, 0, story.at(2), None),
        ev.OutageStarted(story.at(7), ONE, 10, story.at(2), last),
        ev.OutageEnded(story.at(7.9), ONE, 10, story.at(2), 590, last),
        ev.WrongSource(story.at(8), ONE, wrong, right, 5, story.at(7.9), story.pod_b),
        ev.WrongSource(story.at(8), ONE, wrong, right, 5, story.at(7.9), story.pod_b, wildcard=True),
        ev.CrossDelivered(story.at(8), ONE, "CLIENT-7", 5, story.at(7.9), story.pod_b, right),
        ev.ConflictingDuplicate(story.at(8), ONE, 5, story.pod_a, story.pod_b),
        ev.ConflictingDuplicate(
            story.at(8), ONE, 5, story.pod_a, story.pod_a._replace(reflexive=story.pod_b.reflexive)
        ),
        refused,
        ev.NetworkError(story.at(8), ONE, None, "EPROTO", None),
        ev.ClientFault(story.at(8), ONE, ev.ClientFaultKind.SOCKET_DROPS, "12 replies dropped at a full buffer"),
        ev.CanaryResult(story.at(9), ONE, story.at(7), None),
        ev.CanaryResult(story.at(9), ONE, story.at(7), story.pod_b),
        ev.ClientFault(story.at(9), ONE, ev.ClientFaultKind.EXHAUSTED),
        # and those that say nothing here
        ev.SessionStarted(story.at(9), ONE, TransportAddress("192.0.2.1", 5)),
        ev.ProbesLost(story.at(9), ONE, 1, 2, story.at(1), story.at(1.1)),
        ev.LateReply(story.at(9), ONE, 1, 3 * S),
        ev.ReferenceResult(story.at(9), ONE, story.at(8), TransportAddress("198.51.100.7", 5)),
    ) == [
        "13:35:27.176 [error] CLIENT-1058228236 never answered, for 5 s now, while others are answered",
        "13:35:27.176 [error] CLIENT-1058228236 unanswered since 13:35:22.176 (5 s), while others are answered; "
        'last served by pod "pod-a"',
        '13:35:28.076 [error] CLIENT-1058228236 answered again after 5.9 s (590 probes), by pod "pod-a"',
        '13:35:28.176 [error] CLIENT-1058228236 answered from the wrong source 10.0.0.9:3478 (pod "pod-b"), '
        "probes go to 203.0.113.7:3478",
        '13:35:28.176 [error] CLIENT-1058228236 answered from the wrong source 10.0.0.9:3478 (pod "pod-b", '
        "which listens on a wildcard), probes go to 203.0.113.7:3478",
        "13:35:28.176 [error] CLIENT-1058228236 got a reply that was meant for CLIENT-7, from 203.0.113.7:3478 "
        '(pod "pod-b")',
        '13:35:28.176 [warn]  CLIENT-1058228236 probe 5 was answered twice and differently: pod "pod-a", then pod "pod-b"',
        "13:35:28.176 [warn]  CLIENT-1058228236 probe 5 was answered twice and differently: "
        "x_address 10.240.0.4:40312, then x_address 10.240.0.7:61022",
        "13:35:28.176 [warn]  CLIENT-1058228236 heard ICMP error ECONNREFUSED (port unreachable: nothing listens there) "
        "from 203.0.113.7",
        "13:35:28.176 [warn]  CLIENT-1058228236 heard ICMP error EPROTO",
        "13:35:29.176 [warn]  CLIENT-1058228236 local problem: socket-drops: 12 replies dropped at a full buffer",
        "13:35:29.176 [info]      a test probe from a new port is not answered (CLIENT-1058228236)",
        '13:35:29.176 [info]      a test probe from a new port is answered by pod "pod-b" (CLIENT-1058228236)',
        "13:35:29.176 [warn]  CLIENT-1058228236 ended: it sent all the 4,294,967,296 probes that a session has numbers for",
    ]


def test_the_other_facts_of_a_run(story):
    assert show(
        story.started(),
        ev.ForeignServer(story.at(0), None),
        ev.NoReplies(story.at(5), 5 * S),
        ev.SendingStopped(story.at(6), interrupted=True),
        ev.RunEnded(story.at(7), aborted=True),
    ) == [
        "13:35:20.176 [warn]  answered by a server, which names no pod: only x_address and SOFTWARE are tracked",
        "13:35:25.176 [warn]  no session is answered after 5 s: check the address and the port, that the Service has "
        "ready endpoints, that firewalls let UDP pass both ways, and that AFFINITY_KEY is the same on both sides",
        "13:35:26.176 [info]  sending stopped; the last replies may still come, then the last judgements",
        "13:35:27.176 [warn]  stopped at once: judgements still open are unknown",
    ]


def test_a_reference_that_is_silent(story):
    assert show(
        story.started(),
        ev.NoReferenceReplies(story.at(5), 5 * S),
        ev.NoReferenceReplies(story.at(6), 6 * S, "it answers with the error 401 Unauthorized"),
    ) == [
        "13:35:25.176 [warn]  the reference has given no address after 5 s: check its address and port, and that firewalls "
        "let UDP pass both ways; without it a change of this side's own NAT cannot be told from one of the cluster",
        "13:35:26.176 [warn]  the reference has given no address after 6 s: it answers with the error 401 Unauthorized",
    ]


def test_the_cluster_is_cyan_and_a_pool_tells_what_differs(story):
    first = PoolSnapshot(
        frozenset({Endpoint("1", "pod-a", "10.0.0.1"), Endpoint("2", "pod-b", "10.0.0.2", ready=False)})
    )
    second = PoolSnapshot(frozenset({Endpoint("2", "pod-b", "10.0.0.2")}))
    lines = show(
        story.started(),
        ev.PoolObserved(story.at(0), story.at(0), story.at(0), first),
        ev.ClusterEvent(story.at(1), ev.ClusterSubject.NODE, "pool1-000003", ev.ClusterAction.ADDED),
        ev.PoolConfirmed(story.at(1), story.at(1)),
        ev.PoolObserved(story.at(2), story.at(2), story.at(2), second, None, differences(first, second)),
        ev.PoolUnobserved(story.at(3), story.at(2), "the API server closed the connection"),
        ev.WrongPool(story.at(4), "pod-x"),
        ev.FaultInjected(story.at(5), 2, "node-rehash", 'node "n4" joins', (ONE,)),
        colour=True,
    )
    assert lines == [
        "\x1b[36m13:35:20.176 [event] the pool is watched: 1 of 2 endpoints ready\x1b[0m",
        '\x1b[36m13:35:21.176 [event] node "pool1-000003" added\x1b[0m',
        '\x1b[36m13:35:22.176 [event] pod "pod-a" left the pool\x1b[0m',
        '\x1b[36m13:35:22.176 [event] pod "pod-b" became ready\x1b[0m',
        "\x1b[36m13:35:23.176 [event] the pool is not observed any more: the API server closed the connection\x1b[0m",
        '\x1b[33m13:35:24.176 [warn]  pod "pod-x" answers, which was never in the watched pool: wrong cluster or Service; '
        "the pool counts as not watched\x1b[0m",
        '\x1b[36m13:35:25.176 [event] injected: node "n4" joins\x1b[0m',
    ]


def test_what_cannot_be_watched_is_a_sentence_of_its_own(story):
    watch, forbidden = ev.ClusterSubject.WATCH, ev.ClusterAction.LIST_FORBIDDEN
    event = ev.ClusterEvent(story.at(0), watch, "media/turn", forbidden, resource="nodes")
    assert show(story.started(), event) == ["13:35:20.176 [event] cannot list nodes: node events will be missing"]


@pytest.mark.parametrize(("via", "way"), [("load-balancer", ", by its load-balancer"), ("", "")])
def test_what_is_watched_is_said(story, via, way):
    assert show(story.started(), ev.PoolWatchStarted(story.at(0), "kind-test", "media/turn", via)) == [
        f'13:35:20.176 [info]  watching Service "media/turn" in context "kind-test"{way}'
    ]


def test_an_interrupted_watch_says_when_it_is_back_and_whether_something_was_missed(story):
    before = PoolSnapshot(frozenset({Endpoint("1", "pod-a", "10.0.0.1")}))
    after = PoolSnapshot(frozenset({Endpoint("1", "pod-a", "10.0.0.1"), Endpoint("2", "pod-b", "10.0.0.2")}))
    assert show(
        story.started(),
        ev.PoolObserved(story.at(0), story.at(0), story.at(0), before, story.at(0)),
        ev.PoolUnobserved(story.at(1), story.at(0.5), "the connection to the API server broke"),
        ev.PoolConfirmed(story.at(2.5), story.at(2.5)),
        ev.PoolConfirmed(story.at(3), story.at(3)),
        ev.PoolUnobserved(story.at(4), story.at(3.5), "the connection to the API server broke"),
        ev.PoolObserved(story.at(6), story.at(3.5), story.at(6), after, story.at(5.9), differences(before, after)),
        ev.PoolUnobserved(story.at(7), story.at(6), "the API server has forgotten the changes"),
        ev.PoolConfirmed(story.at(7), story.at(7)),
    )[1:] == [
        "13:35:21.176 [event] the pool is not observed any more: the connection to the API server broke",
        "13:35:22.676 [event] the pool is observed again after 1.5 s, and nothing was missed",
        "13:35:24.176 [event] the pool is not observed any more: the connection to the API server broke",
        "13:35:26.176 [event] the pool is observed again after 2 s",
        '13:35:26.176 [event] pod "pod-b" joined the pool',
        "13:35:27.176 [event] the pool is not observed any more: the API server has forgotten the changes",
        "13:35:27.176 [event] the pool is observed again, and nothing was missed",
    ]


def test_what_the_cluster_said_before_the_run_began_has_no_earlier_time_than_its_first_line(story):
    pool = PoolSnapshot(frozenset({Endpoint("1", "pod-a", "10.0.0.1")}))
    assert show(
        story.started(), ev.PoolObserved(story.at(-0.5), story.at(-0.5), story.at(-0.5), pool, story.at(-0.6))
    ) == ["13:35:20.176 [event] the pool is watched: 1 of 1 endpoint ready"]


def test_the_times_of_the_log_never_run_backwards(story):
    """After a stop of this process it reads replies whose times lie before what it has said already."""
    silent = ev.NoReplies(story.at(9), 9 * S, "")
    lines = show(
        story.started(),
        silent,
        story.seen(ONE, 3),
        story.seen(TWO, 8.5),
        ev.PoolUnobserved(story.at(8), story.at(8), "the watch ended"),
        story.stats(ONE, 9.5, story.pod_b, sent=1, answered=1),
    )
    assert [line[:12] for line in lines] == ["13:35:29.176"] * 6 + ["13:35:29.676"]
    assert lines[1:6] == [
        "13:35:29.176 [error] CLIENT-1058228236 x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022 (at 13:35:23.178)",
        '13:35:29.176 [error] CLIENT-1058228236 pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"'
        " (at 13:35:23.178)",
        "13:35:29.176 [error] CLIENT-7 x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022",
        '13:35:29.176 [error] CLIENT-7 pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"',
        "13:35:29.176 [event] the pool is not observed any more: the watch ended (at 13:35:28.176)",
    ]


def own_fault(
    story,
    session: str,
    at: float,
    fault: ev.ClientFaultKind = ev.ClientFaultKind.SEND_ERROR,
    detail: str = "ENETUNREACH: no way",
) -> ev.Event:
    return ev.ClientFault(story.at(at), session, fault, detail)


def test_a_fault_of_this_machine_is_one_line_for_all_sessions_that_meet_it(story):
    many = [own_fault(story, f"CLIENT-{number}", 2 + number / 200) for number in range(100)]
    later = own_fault(story, "CLIENT-100", 3.5)
    tick = story.stats(ONE, 3, None, sent=1)
    assert show(story.started(), *many, tick, later) == [
        "13:35:23.176 [warn]  100 sessions: local problem: send-error: ENETUNREACH: no way",
        "13:35:23.176 [info]  CLIENT-1058228236 sent 1 messages of which 0 message(s) lost, no answer yet",
        "13:35:23.676 [warn]  CLIENT-100 local problem: send-error: ENETUNREACH: no way",
    ]


def test_faults_of_this_machine_are_told_apart_but_for_their_numbers(story):
    assert show(
        story.started(),
        own_fault(story, "CLIENT-1", 2, ev.ClientFaultKind.SOCKET_DROPS, "3 replies dropped"),
        own_fault(story, "CLIENT-2", 2, ev.ClientFaultKind.LOCAL_ADDRESS, "EINVAL: none"),
        own_fault(story, "CLIENT-3", 2, ev.ClientFaultKind.SOCKET_DROPS, "17 replies dropped"),
    ) == [
        "13:35:22.176 [warn]  2 sessions: local problem: socket-drops: 3 replies dropped (and the like)",
        "13:35:22.176 [warn]  CLIENT-2 local problem: local-address: EINVAL: none",
    ]


def test_a_fault_of_this_machine_waits_a_second_at_most_though_nothing_else_happens(story):
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=False))
    report.emit(story.started())
    opening = len(stream.getvalue())
    report.emit(own_fault(story, "CLIENT-1", 2))
    report.advance(story.at(2.9))
    assert stream.getvalue()[opening:] == ""
    report.advance(story.at(3))
    fault = "CLIENT-1 local problem: send-error: ENETUNREACH: no way"
    assert stream.getvalue()[opening:] == f"13:35:23.176 [warn]  {fault}\n"


def test_a_storm_is_folded_by_the_second_and_by_sort(story):
    events = [story.seen(f"CLIENT-{i}", 3 + i / 1000, after=story.pod_a._replace(pod="pod-b")) for i in range(60)]
    judged = [
        ev.CaseJudged(story.at(3.1), f"CLIENT-{i}", story.change(), ev.Judgement.EXPLAINED, None, ()) for i in range(51)
    ]
    stats = story.stats(ONE, 3.5, story.pod_b, sent=1, answered=1)
    lines = show(story.started(), *events, *judged, stats, story.seen(TWO, 4.5), story.seen(ONE, 4.4))
    assert lines[49] == '13:35:23.227 [error] CLIENT-49 pod_name changed "pod-a" -> "pod-b"'
    assert lines[50:] == [
        '13:35:23.676 [info]  CLIENT-1058228236 sent 1 messages of which 0 message(s) lost, served by pod "pod-b"',
        "13:35:23.676 [info]      51 sessions: explained (changed 13:35:23.178)",
        "13:35:23.676 [error] … and 10 more red lines in this second",
        "13:35:24.678 [error] CLIENT-7 x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022",
        '13:35:24.678 [error] CLIENT-7 pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"',
        "13:35:24.678 [error] CLIENT-1058228236 x_address changed 10.240.0.4:40312 -> 10.240.0.7:61022",
        '13:35:24.678 [error] CLIENT-1058228236 pod_name changed "pod-a" -> "pod-b", node_name "node-1" -> "node-2"',
    ]


def test_what_is_folded_at_the_end_is_told_by_close(story):
    events = [story.seen(f"CLIENT-{i}", 3, after=story.pod_a._replace(pod="pod-b")) for i in range(1_284)]
    assert show(story.started(), *events)[-1] == "13:35:23.178 [error] … and 1,234 more red lines in this second"


def test_a_new_day_is_announced(story):
    assert show(story.started(), story.stats(TWO, 37_480, None, sent=1)) == [
        "00:00:00.176 [info]  2026-11-23 UTC+01:00",
        "00:00:00.176 [info]  CLIENT-7 sent 1 messages of which 0 message(s) lost, no answer yet",
    ]


def test_nothing_may_come_before_the_start_of_the_run(story):
    with pytest.raises(ValueError, match="SessionStats came before RunStarted"):
        show(story.stats(ONE, 1, None))


def test_a_reflexive_address_that_is_a_node_s_is_shown_with_its_name(story):
    change = story.change(3)
    assert show(
        story.started(),
        ev.NodeAddresses(story.at(0), (("10.240.0.4", "pool1-000001"),)),
        ev.ChangeSeen(story.at(3), ONE, change),
    )[0] == (
        '13:35:23.176 [error] CLIENT-1058228236 x_address changed 10.240.0.4:40312 (node "pool1-000001") -> '
        "10.240.0.7:61022"
    )


def test_an_icmp_error_that_all_sessions_hear_is_told_by_the_first(story):
    errors = [ev.NetworkError(story.at(1), f"CLIENT-{n}", 0, "ECONNREFUSED", "203.0.113.7") for n in range(9)]
    words = "heard ICMP error ECONNREFUSED (port unreachable: nothing listens there) from 203.0.113.7"
    assert show(story.started(), *errors) == [
        *(f"13:35:21.176 [warn]  CLIENT-{n} {words}" for n in range(3)),
        "13:35:21.176 [warn]  more sessions may hear ECONNREFUSED; the summary counts them",
    ]


def test_the_wait_for_judgements_says_how_long_and_how_to_end_it(story):
    assert show(story.started(), ev.Settling(story.at(5), 2, 15 * S)) == [
        "13:35:25.176 [info]  2 judgements still to come, in at most 15 s (Ctrl-C: leave them unknown)",
    ]
