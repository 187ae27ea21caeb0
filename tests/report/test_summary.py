"""The end of a run in text."""

import io

import pytest

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Kind
from affinity_tester.core.judging.tally import Tally
from affinity_tester.report.console import ConsoleReport
from affinity_tester.report.groups import group_tables
from affinity_tester.report.logging import Colour, configure
from affinity_tester.report.results import RunResults
from affinity_tester.report.summary import summary, verdict_lines

MS = 1_000_000


def of(*events: ev.Event) -> list[str]:
    results = RunResults()
    for event in events:
        results.add(event)
    return [text for text, _ in summary(results)]


def test_a_run_with_a_violation(story):
    assert of(*story.run()) == [
        "",
        "FAIL: 1 violation",
        "changes judged: 1 violation",
        "outages judged: 1 explained",
        "this client: 0 probes skipped (0 %), 0 send errors (0 %), 0 socket drops (0 %)",
        "",
        "probes (1 session with losses, changes or silence at the end, and all)",
        "                   sent  answered  lost  up  down  unknown  late  duplicate  reordered",
        "CLIENT-1058228236  1000       990    10   1     2        7     1          2          3",
        "all                2000      1990    10   1     2        7     1          2          3",
        "",
        "round-trip times in ms",
        "                   answers    min   mean    p50   p90   p99   max  jitter",
        "CLIENT-1058228236      990  0.025  0.700  0.250  1.52  12.0  1203   0.090",
        "all                    990  0.025  0.700  0.250  1.52  12.0  1203   0.090",
        "",
        "changes by kind",
        "                   changes  ip  port  pod  node  instance  software  longest gap",
        "CLIENT-1058228236        1   1     1    1     1         1         0       102 ms",
        "all                      1   1     1    1     1         1         0       102 ms",
        "",
        "by pod",
        "       sessions  sent  answered  lost    loss  p50 ms  p99 ms  changes",
        "pod-a         1  1500      1490    10  0.67 %   0.250    12.0        1",
        "pod-b         1   500       500     0     0 %   0.250    12.0        0",
        "",
        "by reflexive IP (mostly the node that the packets came in through)",
        "                     sessions  sent  answered  lost    loss  p50 ms  p99 ms  changes",
        "10.240.0.4                  1  1500      1490    10  0.67 %   0.250    12.0        1",
        "10.240.0.7 (node-2)         1   500       500     0     0 %   0.250    12.0        0",
    ]


def test_a_quiet_run_needs_no_table_of_changes_and_tells_what_was_heard_besides(story):
    total = ev.Counts(
        sent=998,
        answered=998,
        timer_misses=2,
        send_errors=1,
        socket_drops=3,
        own_losses=2,
        wrong_source=4,
        cross_delivered=7,
        network_errors=1,
        undecodable=5,
        pending=6,
    )
    rtt = ev.RttStats(998, *[1_000 * MS] * 7)
    lines = of(
        story.started(),
        ev.RunSummary(story.at(9), 1, total, ev.Losses(), rtt, (), 0),
        ev.Verdict(
            story.at(9), ev.Outcome.PASS, ("no violation (cluster not watched)",), "0 violations in 997 pairs", 0, 0, 0
        ),
    )
    assert lines == [
        "",
        "PASS: 0 violations in 997 pairs",
        "      no violation (cluster not watched)",
        "this client: 2 probes skipped (0.2 %), 1 send error (0.1 %), 3 socket drops (0.2 %)",
        "neither answered nor lost yet at the end: 6 probes",
        "also: 4 from a wrong source, 7 cross-delivered, 1 ICMP error, 5 not STUN",
        "",
        "probes",
        "     sent  answered  lost  up  down  unknown  late  duplicate  reordered",
        "all   998       998     0   0     0        0     0          0          0",
        "",
        "round-trip times in ms",
        "     answers   min  mean   p50   p90   p99   max  jitter",
        "all      998  1000  1000  1000  1000  1000  1000    1000",
    ]


def test_of_many_sessions_the_worst_ten_have_a_row(story):
    ends = [
        ev.SessionSummary(
            story.at(9),
            f"CLIENT-{n}",
            TransportAddress("192.0.2.1", n),
            ev.Counts(sent=100, lost=n % 7, changes=n % 2),
            ev.Losses(),
            ev.RttStats(),
            (),
            0,
            0,
            None,
        )
        for n in range(21)
    ]
    lines = of(
        story.started(), *ends, ev.RunSummary(story.at(9), 1, ev.Counts(sent=2100), ev.Losses(), ev.RttStats(), (), 0)
    )
    table = lines.index("probes (the 10 worst of 19 sessions with losses, changes or silence at the end, and all)")
    named = [line.split()[0] for line in lines[table + 2 : table + 13]]
    assert named == [f"CLIENT-{n}" for n in (13, 6, 20, 5, 19, 12, 11, 4, 18, 3)] + ["all"]


def test_a_row_of_a_group_stands_where_there_are_two_to_compare(story):
    def group(kind: ev.GroupKind, name: str | None, sessions: int = 1, lost: int = 0) -> ev.GroupCounts:
        return ev.GroupCounts(kind, name, sessions, 1000, 1000 - lost, lost, 0, MS, None)

    one_of_each = (
        group(ev.GroupKind.POD, "pod-a"),
        group(ev.GroupKind.NODE, "node-1"),
        group(ev.GroupKind.REFLEXIVE_IP, "10.0.0.1"),
    )
    assert [table.caption for table in group_tables(one_of_each, {})] == ["by pod"]
    foreign = (group(ev.GroupKind.POD, None), group(ev.GroupKind.REFLEXIVE_IP, "10.0.0.1"))
    assert group_tables(foreign, {}) == []

    many = [group(ev.GroupKind.POD, f"pod-{n}", sessions=n, lost=n == 3) for n in range(25)]
    (table,) = group_tables([*many, group(ev.GroupKind.POD, None, lost=2)], {})
    assert table.caption == "by pod (20 of 26)"
    assert [row[0] for row in table.rows][:4] == ["no answer, or not told", "pod-3", "pod-24", "pod-23"]


def test_it_fits_a_hundred_columns_with_large_numbers(story):
    total = ev.Counts(36_000_000, 36_000_000, *[36_000] * 14)
    rtt = ev.RttStats(36_000, *[1_999_000_000] * 7)
    losses = ev.Losses(36_000, 36_000, 36_000)
    kinds = tuple((kind, 36_000) for kind in Kind)
    local = TransportAddress("192.0.2.1", 50001)
    end = ev.SessionSummary(story.at(9), "CLIENT-2147483647", local, total, losses, rtt, kinds, 59_900 * MS, 0, None)
    run = ev.RunSummary(story.at(9), 1, total, losses, rtt, kinds, 59_900 * MS)
    lines = of(story.started(), end, run)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("outcome", "colour"), [("PASS", Colour.GOOD), ("INCONCLUSIVE", Colour.DOUBTFUL), ("FAIL", Colour.VIOLATION)]
)
def test_the_verdict_has_its_colour_and_all_its_reasons(outcome, colour):
    verdict = ev.Verdict(0, ev.Outcome(outcome), ("one", "two"), "", 0, 0, 0)
    assert verdict_lines(verdict) == [(f"{outcome}: one", colour), (" " * len(outcome) + "  two", colour)]


def test_no_verdict_is_said_to_be_none():
    assert verdict_lines(None) == [
        ("no verdict: the run was cut short before it was judged (report --rejudge does it)", Colour.DOUBTFUL)
    ]


def test_avoidable_moves_are_told_apart(story):
    judged = ev.CaseJudged(story.at(13), "CLIENT-1", story.change(), ev.Judgement.EXPLAINED, True, ())
    assert of(story.started(), judged) == [
        "",
        "no verdict: the run was cut short before it was judged (report --rejudge does it)",
        "changes judged: 1 explained",
        "avoidable (the old pod was still ready): 1",
    ]


class TestTally:
    def judged(self, story, number, judgement, *, avoidable=None):
        return ev.CaseJudged(story.at(1), "CLIENT-1", story.change(number=number), judgement, avoidable, ())

    def test_a_later_judgement_replaces_the_earlier(self, story):
        tally = Tally()
        tally.add(self.judged(story, 1, ev.Judgement.EXPLAINED, avoidable=True))
        tally.add(self.judged(story, 2, ev.Judgement.EXPLAINED, avoidable=True))
        tally.add(self.judged(story, 1, ev.Judgement.VIOLATION))
        assert (tally.changes(ev.Judgement.EXPLAINED), tally.changes(ev.Judgement.VIOLATION)) == (1, 1)
        assert tally.avoidable == 1

    def test_a_withdrawn_change_is_counted_no_more(self, story):
        tally = Tally()
        tally.add(self.judged(story, 1, ev.Judgement.VIOLATION))
        tally.withdraw(ev.ChangeWithdrawn(story.at(2), "CLIENT-1", story.change(number=1), 2))
        tally.withdraw(ev.ChangeWithdrawn(story.at(2), "CLIENT-1", story.change(number=7), 2))
        assert tally.changes(ev.Judgement.VIOLATION) == 0

    def test_an_outage_and_a_change_of_the_same_number_are_two(self, story):
        tally = Tally()
        tally.add(self.judged(story, 1, ev.Judgement.VIOLATION))
        tally.add(ev.CaseJudged(story.at(1), "CLIENT-1", ev.OutageCase(1, story.at(0)), ev.Judgement.UNKNOWN, None, ()))
        assert (tally.changes(ev.Judgement.VIOLATION), tally.outages(ev.Judgement.UNKNOWN)) == (1, 1)

    def test_its_memory_is_bounded_and_its_counts_are_not(self, story):
        tally = Tally(limit=10)
        for number in range(1, 101):
            tally.add(self.judged(story, number, ev.Judgement.VIOLATION))
        assert (tally.changes(ev.Judgement.VIOLATION), len(tally._newest)) == (100, 10)


def test_the_console_ends_with_the_summary(story):
    stream = io.StringIO()
    report = ConsoleReport(configure(format="console", stream=stream, colour=False))
    for event in story.run():
        report.emit(event)
    lines = of(*story.run())
    assert stream.getvalue().splitlines()[-len(lines) :] == lines


def test_the_reference_has_a_line_of_its_own(story):
    reference = TransportAddress("198.51.100.7", 3478)
    started = story.started(reference=reference, reference_name="198.51.100.7")
    mapped = TransportAddress("192.0.2.1", 5)
    said = [
        ev.ReferenceResult(2, "CLIENT-1", 1, mapped),
        ev.ReferenceResult(3, "CLIENT-2", 2, mapped),
        ev.ReferenceResult(4, "CLIENT-1", 3, None),
        ev.ReferenceResult(5, "CLIENT-1", 4, mapped),
    ]
    moved = ev.ReferenceResult(6, "CLIENT-1", 5, mapped._replace(port=6))

    def line(*events: ev.Event) -> str:
        (told,) = [text for text in of(started, *events, *story.run()[1:]) if "reference" in text]
        return told

    assert line(*said) == "reference 198.51.100.7:3478: 3 of 4 requests answered, no mapped address changed"
    assert line(*said, moved) == "reference 198.51.100.7:3478: 4 of 5 requests answered, 1 mapped address changed"
    assert line() == "reference 198.51.100.7:3478: gave no address"
    assert line(ev.NoReferenceReplies(9, 9, "ICMP error ECONNREFUSED came back")) == (
        "reference 198.51.100.7:3478: gave no address (ICMP error ECONNREFUSED came back)"
    )
