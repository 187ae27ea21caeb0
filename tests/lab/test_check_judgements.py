"""What was judged, held against what the faults declare and against the truth: it fails for every way to be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    Change,
    ChangeSeen,
    Counts,
    CrossDelivered,
    Event,
    Judgement,
    Losses,
    OutageCase,
    OutageEnded,
    OutageStarted,
    Outcome,
    PoolObserved,
    PoolUnobserved,
    RepliedProbe,
    RttStats,
    RunEnded,
    SendingStopped,
    SessionStarted,
    SessionSummary,
    Stray,
    StrayCase,
    Verdict,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind, differing
from affinity_tester.core.pool import PoolSnapshot
from affinity_tester.lab.compare import Findings, compare
from affinity_tester.lab.fault import Fault
from affinity_tester.lab.faults import Blackout, CrossDelivery, PodAdded, PortRewrite, StuckFlows
from affinity_tester.lab.injection import BROKEN, FOREVER_NS, LOST, UNAVOIDABLE, VIOLATION, Effect, Injection, Symptom
from affinity_tester.lab.lab_record import LabRecord
from affinity_tester.lab.packet_log import Direction, Dropped, PacketEvent, Rerouted

S = 1_000_000_000
MS = 1_000_000
FLOW = TransportAddress("127.0.0.1", 40_000)
FRONT = TransportAddress("127.0.0.1", 3478)
OLD = Identity(TransportAddress("127.1.0.1", 1000), "pod-1", "node-1", b"1" * 8)
NEW = OLD._replace(reflexive=TransportAddress("127.1.0.1", 2000))
EMPTY = PoolSnapshot(frozenset())


@dataclass
class Run:
    """A run of one session and one fault, with a settle time of 2 s, from 0 to 60 s."""

    injection: Injection
    fault: Fault = field(default_factory=lambda: PortRewrite(at_ns=10 * S))
    packets: list[PacketEvent] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    lost: int = 0
    truth: tuple[int, ...] = ()
    told: tuple[tuple[int, int], ...] = ((0, 0),)
    move_ns: int = 2 * S
    expected_outcomes: frozenset[Outcome] = frozenset(Outcome)
    verdict: Outcome | None = Outcome.FAIL

    def findings(self) -> Findings:
        record = LabRecord([self.fault], 2 * S, self.move_ns, self.expected_outcomes)
        record.feed(SessionStarted(0, "B", FLOW))
        record.inject(self.injection)
        for at_ns in self.truth:
            record.pool_changed(at_ns)
        for since_ns, until_ns in self.told:
            record.feed(PoolObserved(until_ns, since_ns, until_ns, EMPTY))
        for packet in self.packets:
            record.log_packet(packet)
        for event in self.events:
            record.feed(event)
        record.feed(SendingStopped(60 * S, interrupted=False))
        record.feed(
            SessionSummary(
                at_ns=60 * S,
                session="B",
                local=FLOW,
                total=Counts(lost=self.lost),
                losses=Losses(unknown=self.lost),
                rtt=RttStats(),
                kinds=(),
                longest_gap_ns=0,
                unanswered_ns=0,
                serving=OLD,
            )
        )
        if self.verdict is not None:
            record.feed(Verdict(60 * S, self.verdict, ("x",), "", 1, 1, 1))
        return compare(record)

    def problems(self) -> list[str]:
        findings = self.findings()
        return [problem for row in findings.rows for problem in row.problems] + list(findings.unexpected)


# --- changes ---------------------------------------------------------------------------------------------------------


def changed(judgement: Judgement | None, avoidable: bool | None = None) -> Run:
    """The rewrite of a port at 10 s, declared a violation, was judged so."""
    change = Change(
        number=1,
        kinds=differing(OLD, NEW),
        before=RepliedProbe(99, 10 * S - 60 * MS, OLD),
        after=RepliedProbe(100, 10 * S + 40 * MS, NEW),
        seen_ns=10 * S + 41 * MS,
        longest_pause_ns=100 * MS,
        settled_ns=10 * S + 41 * MS,
    )
    run = Run(
        Injection(
            1, 10 * S, "done", 10 * S, (Effect(FLOW, frozenset({Kind.REFLEXIVE_PORT}), changes_judged=VIOLATION),)
        )
    )
    run.packets.append(Rerouted(FLOW, 10 * S + 40 * MS, OLD, NEW))
    run.events.append(ChangeSeen(10 * S + 41 * MS, "B", change))
    if judgement is not None:
        run.events.append(CaseJudged(13 * S, "B", change, judgement, avoidable, ("so",)))
    return run


def test_a_change_that_is_judged_as_declared_passes_and_is_shown() -> None:
    (row,) = changed(Judgement.VIOLATION).findings().rows
    assert (row.problems, row.seen) == ((), "1 session: reflexive_port 1, judged violation 1")


@pytest.mark.parametrize("judgement", [Judgement.EXPLAINED, Judgement.IDLE, Judgement.UNKNOWN])
def test_a_change_that_is_judged_otherwise_fails(judgement: Judgement) -> None:
    assert changed(judgement).problems() == [f"B: its change was judged {judgement.value}, not violation"]


def test_a_change_without_a_judgement_fails_where_the_run_was_judged() -> None:
    assert changed(None).problems() == ["B: its change of reflexive_port was not judged"]
    run = changed(None)
    run.verdict = None
    assert run.problems() == []


@pytest.mark.parametrize("pool_ns", [8 * S, 12 * S])
def test_a_change_of_the_pool_near_it_must_explain_what_nobody_declared(pool_ns: int) -> None:
    for judgement, problems in (
        (Judgement.EXPLAINED, []),
        (Judgement.VIOLATION, ["B: its change was judged violation, though the pool changed near it"]),
    ):
        run = changed(judgement)
        run.truth, run.told = (pool_ns,), ((0, 0), (pool_ns, pool_ns))
        assert run.problems() == problems


def test_late_news_of_the_pool_never_explains_a_change_and_may_leave_it_in_doubt() -> None:
    """The pool changed at 7 s, more than the settle time before, and the client could know that of 6 s to 9 s only."""
    for judgement, problems in (
        (Judgement.UNKNOWN, []),
        (Judgement.VIOLATION, []),
        (Judgement.EXPLAINED, ["B: its change was judged explained, not violation"]),
    ):
        run = changed(judgement)
        run.truth, run.told = (7 * S,), ((0, 0), (6 * S, 9 * S))
        assert run.problems() == problems


def test_a_declared_explanation_needs_its_change_of_the_pool() -> None:
    run = changed(Judgement.EXPLAINED, avoidable=False)
    run.injection = Injection(
        1, 10 * S, "done", 10 * S, (Effect(FLOW, frozenset({Kind.REFLEXIVE_PORT}), changes_judged=UNAVOIDABLE),)
    )
    assert run.problems() == ["B: its change was judged explained, though the pool did not change near it"]
    run.truth, run.told = (10 * S,), ((0, 0), (9 * S, 10 * S))
    assert run.problems() == []


def test_what_could_not_be_known_of_the_pool_excuses_unknown() -> None:
    run = changed(Judgement.UNKNOWN)
    run.told = ((9 * S, 9 * S),)
    assert run.problems() == [], "the pool was not known before"
    run = changed(Judgement.UNKNOWN)
    run.events.append(RunEnded(20 * S, aborted=True))
    assert run.problems() == []
    run = changed(Judgement.UNKNOWN)
    run.events += [PoolUnobserved(9 * S, 8 * S, "gone"), PoolObserved(11 * S, 8 * S, 11 * S, EMPTY)]
    assert run.problems() == []
    run = changed(Judgement.UNKNOWN)
    run.told = ((0, 0), (9 * S, 9 * S + 1))
    assert run.problems() == ["B: its change was judged unknown, not violation"], "it was known when the pool changed"


# --- outages ---------------------------------------------------------------------------------------------------------


def quiet_session(judgement: Judgement | None, *, told_ns: int = 16 * S, end_ns: int | None = None) -> Run:
    """A flow is dead from 10 s on, which is declared a violation."""
    outage = OutageStarted(told_ns, "B", 100, 10 * S, RepliedProbe(99, 10 * S - 100 * MS, OLD))
    must = frozenset({Symptom.OUTAGE, Symptom.LOSS_UP})
    run = Run(
        Injection(1, 10 * S, "done", FOREVER_NS, (Effect(FLOW, must, LOST, outages_judged=BROKEN),)),
        StuckFlows(at_ns=10 * S),
        lost=1,
    )
    run.packets.append(Dropped(FLOW, 10 * S, Direction.UP, "stale-entry"))
    run.events.append(outage)
    if judgement is not None:
        run.events.append(CaseJudged(17 * S, "B", OutageCase(100, 10 * S), Judgement.UNKNOWN, None, ()))
        run.events.append(CaseJudged(18 * S, "B", OutageCase(100, 10 * S), judgement, None, ("so",)))
    if end_ns is not None:
        run.events.append(OutageEnded(end_ns, "B", 100, 10 * S, 1, RepliedProbe(200, end_ns, OLD)))
    return run


def test_the_newest_judgement_of_an_outage_counts_and_is_shown() -> None:
    (row,) = quiet_session(Judgement.VIOLATION).findings().rows
    assert (row.problems, row.seen) == (
        (),
        "1 session: lost (direction unknown) 1, outage 1, outage judged violation 1",
    )


@pytest.mark.parametrize("judgement", [Judgement.EXPLAINED, Judgement.POD_SILENT, Judgement.UNKNOWN])
def test_an_outage_that_is_judged_otherwise_fails(judgement: Judgement) -> None:
    assert quiet_session(judgement).problems() == [f"B: its outage was judged {judgement.value}, not violation"]


def test_an_outage_without_a_judgement_fails() -> None:
    assert quiet_session(None).problems() == ["B: its outage was not judged"]


def test_an_outage_is_told_in_time() -> None:
    assert quiet_session(Judgement.VIOLATION, told_ns=18 * S).problems() == []
    assert quiet_session(Judgement.VIOLATION, told_ns=19 * S).problems() == [
        "B: its outage was told 9.0 s after it began"
    ]


def test_an_outage_after_the_silence_of_all_is_told_in_time_after_that() -> None:
    run = quiet_session(Judgement.VIOLATION, told_ns=25 * S)
    run.injection = Injection(1, 10 * S, "dark, and a flow dead", FOREVER_NS, run.injection.effects, blackout_ns=8 * S)
    run.events += [BlackoutStarted(16 * S, 10 * S, 1), BlackoutEnded(18 * S, 10 * S, 18 * S, 80, 2)]
    assert run.problems() == []
    run.events[0] = OutageStarted(27 * S, "B", 100, 10 * S, None)
    assert run.problems() == ["B: its outage was told 17.0 s after it began"]


def test_a_change_of_the_pool_explains_an_outage_for_as_long_as_a_proxy_may_take_and_no_longer() -> None:
    for end_ns, problems in (
        (26 * S, []),  # 11 s + 2 s in which flows may move + 13 s in which it is proved that they did not
        (26 * S + 1, ["B: its outage was judged explained, not violation"]),
        (None, ["B: its outage was judged explained, not violation"]),
    ):
        run = quiet_session(Judgement.EXPLAINED, end_ns=end_ns)
        run.truth, run.told = (11 * S,), ((0, 0), (11 * S, 11 * S))
        assert run.problems() == problems
    run = quiet_session(Judgement.EXPLAINED, end_ns=40 * S)
    run.truth, run.told, run.move_ns = (11 * S,), ((0, 0), (11 * S, 11 * S)), 20 * S
    assert run.problems() == [], "a balancer's check may decide when they move"
    for elsewhere_ns in (8 * S - 1, 41 * S):
        run.truth = (elsewhere_ns,)
        assert run.problems() == ["B: its outage was judged explained, not violation"], "it is not near the outage"


def test_an_outage_that_ends_soon_may_be_unproved() -> None:
    assert quiet_session(Judgement.UNKNOWN, end_ns=19 * S - 1).problems() == []
    assert quiet_session(Judgement.UNKNOWN, end_ns=19 * S).problems() == [
        "B: its outage was judged unknown, not violation"
    ]
    assert quiet_session(Judgement.EXPLAINED, end_ns=19 * S - 1).problems() == [
        "B: its outage was judged explained, not violation"
    ]


def test_an_outage_near_doubtful_news_of_the_pool_may_be_unknown() -> None:
    run = quiet_session(Judgement.UNKNOWN)
    run.truth, run.told = (7 * S,), ((0, 0), (6 * S, 9 * S))
    assert run.problems() == []


# --- stray replies ---------------------------------------------------------------------------------------------------


def strayed(stray: Stray, judgement: Judgement | None) -> Run:
    symptom = {Stray.WRONG_SOURCE: Symptom.WRONG_SOURCE, Stray.CROSS_DELIVERED: Symptom.CROSS_DELIVERED}[stray]
    run = Run(
        Injection(1, 10 * S, "done", 13 * S, (Effect(FLOW, frozenset({symptom}), strays_judged=BROKEN),)),
        CrossDelivery(at_ns=10 * S, for_ns=3 * S),
    )
    if stray is Stray.WRONG_SOURCE:
        run.events.append(WrongSource(11 * S, "B", FLOW, FRONT, 110, 11 * S - MS, OLD))
    else:
        run.events.append(CrossDelivered(11 * S, "B", "A", 110, 11 * S - MS, OLD, FRONT))
    if judgement is not None:
        run.events.append(CaseJudged(14 * S, "B", StrayCase(stray, 110, 11 * S), judgement, None, ("so",)))
    return run


@pytest.mark.parametrize("stray", Stray)
def test_a_stray_reply_is_judged_as_declared_or_said_to_be_wrong(stray: Stray) -> None:
    (row,) = strayed(stray, Judgement.VIOLATION).findings().rows
    symptom = stray.value.replace("-", "_")
    assert (row.problems, row.seen) == ((), f"1 session: {symptom} 1, {stray.value} judged violation 1")
    assert strayed(stray, None).problems() == [f"B: its {stray.value} reply was not judged"]
    assert strayed(stray, Judgement.INFORMATION).problems() == [
        f"B: its {stray.value} reply was judged information, not violation"
    ]
    for judgement in (Judgement.EXPLAINED, Judgement.UNKNOWN):
        assert strayed(stray, judgement).problems() == [
            f"B: its {stray.value} reply was judged {judgement.value}, not violation"
        ]


def test_a_stray_reply_near_a_change_of_the_pool_is_explained() -> None:
    run = strayed(Stray.WRONG_SOURCE, Judgement.EXPLAINED)
    run.truth, run.told = (10 * S,), ((0, 0), (10 * S, 10 * S))
    assert run.problems() == []
    run = strayed(Stray.WRONG_SOURCE, Judgement.UNKNOWN)
    run.told = ((0, 0), (1 * S, 10 * S))
    assert run.problems() == []


# --- the run ---------------------------------------------------------------------------------------------------------


def dark(*events: Event, for_ns: int = 8 * S) -> list[str]:
    run = Run(
        Injection(1, 10 * S, "dark", 10 * S + for_ns, (Effect(FLOW, frozenset()),), blackout_ns=for_ns),
        Blackout(at_ns=10 * S),
    )
    run.events += events
    return run.problems()


STARTED = BlackoutStarted(15 * S, 10 * S, 1)
ENDED = BlackoutEnded(18 * S, 10 * S, 18 * S, 80, 2)


def test_a_blackout_is_told_in_time_and_its_end_too() -> None:
    assert dark(STARTED, ENDED) == []
    assert dark() == ["no blackout was told"]
    assert dark(STARTED) == ["the end of the blackout was not told"]
    late = BlackoutStarted(19 * S, 10 * S, 1)
    assert dark(late, ENDED) == ["the blackout was told 9.0 s after it began"]
    assert dark(STARTED, for_ns=50 * S) == [], "it lasts to the end"
    early = BlackoutEnded(18 * S, 10 * S, 4 * S, 0, 2)
    assert dark(STARTED, early) == ["the blackout ended by what was told -14.0 s after its end"]


def test_a_short_silence_of_all_may_be_told_and_a_moments_may_not() -> None:
    sooner = BlackoutEnded(16 * S, 10 * S, 16 * S, 60, 2)
    assert dark(for_ns=6 * S) == dark(STARTED, sooner, for_ns=6 * S) == []
    assert dark(STARTED, ENDED, for_ns=3 * S) == [
        "a blackout was told, 0.0 s after the first fault, which nothing caused"
    ]


def test_a_blackout_at_another_time_is_a_false_one() -> None:
    assert dark(STARTED, ENDED, BlackoutStarted(35 * S, 30 * S, 1)) == [
        "a blackout was told, 20.0 s after the first fault, which nothing caused"
    ]


def test_the_clients_verdict_is_held_to_what_the_plan_wants() -> None:
    run = Run(
        Injection(1, 10 * S, "a pod joins", 10 * S, unobservable=True),
        PodAdded(at_ns=10 * S),
        expected_outcomes=frozenset({Outcome.FAIL}),
    )
    assert run.problems() == []
    run.verdict = Outcome.PASS
    assert run.problems() == ["the client's verdict was PASS, not FAIL"]
    run.expected_outcomes = frozenset({Outcome.FAIL, Outcome.INCONCLUSIVE})
    assert run.problems() == ["the client's verdict was PASS, not FAIL or INCONCLUSIVE"]
    run.verdict = None
    assert run.problems() == []
