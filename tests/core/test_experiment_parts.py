"""The parts of an experiment's analysis that stand alone: the steady state, blackouts, phases and names."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_experiment_analysis import ACTION, JUDGEMENT, MS, ROLLBACK, STOP, TARGET, Run, S, name, who

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ActionStep,
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    Certainty,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    Diagnosis,
    Event,
    FirstAnswer,
    Incident,
    IncidentClosed,
    Judgement,
    OutageCase,
    OutageEnded,
    OutageStarted,
    Phase,
    PhaseStarted,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    ProbesLost,
    RepliedProbe,
    RunDiagnosed,
    RunStarted,
    SendingStopped,
    SessionStarted,
    SessionSummary,
)
from affinity_tester.core.events.counts import Counts, Losses, RttStats
from affinity_tester.core.experiment import blackouts
from affinity_tester.core.experiment.blackouts import SessionBlackouts, nearest_rank
from affinity_tester.core.experiment.names_seen import NamesSeen
from affinity_tester.core.experiment.phases import Phases
from affinity_tester.core.experiment.pool_history import PoolHistory
from affinity_tester.core.experiment.results import Blackouts, PhaseSpan
from affinity_tester.core.experiment.session_moves import SessionMoves
from affinity_tester.core.experiment.steady import SteadyState
from affinity_tester.core.identity import Kind
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot

STARTED = RunStarted(0, 0, 0, "0", TARGET, "x", 2, 100 * MS, 2 * S, 288, connected=False, lost_guarantees=())
LOCAL = TransportAddress("192.168.1.5", 40_000)
READY = (
    STARTED,
    *(SessionStarted(0, name(number), LOCAL) for number in (1, 2)),
    *(FirstAnswer(MS, name(number), 0, who("a")) for number in (1, 2)),
    PhaseStarted(S, Phase.STEADY),
)


def change(*kinds: Kind) -> Change:
    return Change(1, kinds, RepliedProbe(0, 0, who("a")), RepliedProbe(1, S, who("b")), S, S, S)


EMPTY = PoolSnapshot(frozenset())
LEFT = (EndpointChange(EndpointAction.LEFT, Endpoint("u", "a", "10.1.0.1")),)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "it has not begun"),
        ([STARTED, PhaseStarted(S, Phase.STEADY)], "0 of 2 sessions have started"),
        ([*READY[:3], READY[5]], "2 of 2 sessions were never answered"),
        ([*READY[:4], READY[5]], "1 of 2 sessions were never answered"),
        ([replace(STARTED, sessions=1), READY[1], READY[3], READY[5]], ""),
        (READY, ""),
        (
            [*READY, ChangeSeen(8 * S, name(1), change(Kind.POD))],
            "CLIENT-1 moved 2.0 s ago, 5.0 s without it are wanted",
        ),
        ([*READY, ChangeSeen(5 * S, name(1), change(Kind.POD))], ""),
        ([*READY, ChangeSeen(8 * S, name(1), change(Kind.INSTANCE))], ""),
        (
            [*READY, CaseJudged(7 * S, name(2), OutageCase(1, S), Judgement.VIOLATION, None, ())],
            "a violation was found (CLIENT-2) 3.0 s ago, 5.0 s without it are wanted",
        ),
        ([*READY, OutageStarted(8 * S, name(1), 1, 3 * S, None)], "1 session not answered any more, such as CLIENT-1"),
        (
            [
                *READY,
                OutageStarted(8 * S, name(1), 1, 3 * S, None),
                OutageEnded(9 * S, name(1), 1, 3 * S, 60, RepliedProbe(61, 9 * S, who("a"))),
            ],
            "CLIENT-1 was silent until 1.0 s ago, 5.0 s without it are wanted",
        ),
        ([*READY, BlackoutStarted(8 * S, 3 * S, 2)], "no session is answered"),
        (
            [*READY, BlackoutStarted(8 * S, 3 * S, 2), BlackoutEnded(9 * S, 3 * S, 9 * S, 60, 1)],
            "no session was answered until 1.0 s ago, 5.0 s without it are wanted",
        ),
        ([*READY, PoolUnobserved(2 * S, 2 * S, "down")], "the pool is not observed"),
        (
            [*READY, PoolUnobserved(2 * S, 2 * S, "down"), PoolObserved(3 * S, S, 3 * S, EMPTY)],
            "the pool is not observed",
        ),
        ([*READY, PoolUnobserved(2 * S, 2 * S, "down"), PoolConfirmed(3 * S, 2 * S)], ""),
        (
            [*READY, PoolUnobserved(8 * S, 8 * S, "down"), PoolConfirmed(9 * S, 8 * S)],
            "the pool was not observed 2.0 s ago, 5.0 s without it are wanted",
        ),
        ([*READY, PoolUnobserved(2 * S, 2 * S, "down"), PoolObserved(3 * S, S, 3 * S, EMPTY, 2 * S)], ""),
        (
            [*READY, PoolObserved(9 * S, 8 * S, 9 * S, EMPTY, None, LEFT)],
            "the endpoints changed 1.0 s ago, 5.0 s without it are wanted",
        ),
        ([*READY, ProbesLost(8 * S, name(1), 50, 3, 5 * S, 5 * S + 200 * MS)], ""),
        ([*READY, ProbesLost(8 * S, name(1), 1, 1, 5 * S, 5 * S)], ""),
        (
            [*READY, ProbesLost(9 * S, name(1), 50, 21, 5 * S, 7 * S)],
            "CLIENT-1 was silent 1.0 s ago, 5.0 s without it are wanted",
        ),
        (
            [
                *READY,
                ProbesLost(7 * S, name(1), 50, 3, 5 * S, 5 * S + 200 * MS),
                ProbesLost(9 * S, name(1), 53, 20, 5 * S + 300 * MS, 7 * S + 200 * MS),
            ],
            "CLIENT-1 was silent 1.0 s ago, 5.0 s without it are wanted",
        ),
    ],
)
def test_a_steady_state_is_a_time_in_which_nothing_happens(events: list[Event], reason: str) -> None:
    steady = SteadyState(5 * S)
    for event in events:
        steady.feed(event)
    assert steady.reason(10 * S) == reason


def test_it_must_last() -> None:
    steady = SteadyState(5 * S)
    for event in READY:
        steady.feed(event)
    assert steady.reason(4 * S) == "it has lasted for 3.0 s, 5.0 s are wanted"
    assert steady.reason(6 * S) == ""


# --- blackouts ---------------------------------------------------------------------------------------------------------


def lost(session: int, first: int, count: int, since: int) -> ProbesLost:
    return ProbesLost(since + 5 * S, name(session), first, count, since, since + (count - 1) * 100 * MS)


def ended(session: int, unanswered_ns: int) -> SessionSummary:
    return SessionSummary(STOP + S, name(session), LOCAL, Counts(), Losses(), RttStats(), (), 0, unanswered_ns, None)


def blackouts_of(*events: Event) -> tuple[Blackouts, int]:
    blackouts = SessionBlackouts()
    for event in (STARTED, *events):
        match event:
            case PhaseStarted(phase=Phase.ACTION):
                blackouts.begin(event.at_ns)
            case PhaseStarted():
                blackouts.end(event.at_ns)
            case _:
                blackouts.feed(event)
    return blackouts.summary([name(number) for number in range(1, 5)]), blackouts.lost


ACTS, JUDGES = PhaseStarted(ACTION, Phase.ACTION), PhaseStarted(JUDGEMENT, Phase.JUDGEMENT)


def test_of_each_session_the_longest_run_counts() -> None:
    found, count = blackouts_of(
        lost(1, 5, 9, S),  # before the action
        ACTS,
        lost(1, 80, 30, 8 * S),  # it goes on into the action
        lost(1, 200, 2, 15 * S),
        lost(2, 110, 3, 11 * S),
        lost(2, 113, 2, 11 * S + 300 * MS),  # the same run
        lost(2, 150, 1, 16 * S),
        JUDGES,
        lost(3, 310, 9, 31 * S),  # after the rollback
        lost(4, 299, 5, JUDGEMENT - 100 * MS),  # it began before its end
    )
    assert found == Blackouts(3, 500 * MS, 1_000 * MS, 1_000 * MS, 0, (500 * MS, 500 * MS, 1_000 * MS))
    assert count == 10 + 2 + 5 + 1 + 1


def test_a_run_of_lost_probes_is_told_in_parts() -> None:
    found, _ = blackouts_of(ACTS, *(lost(1, 110 + 3 * part, 3, 11 * S + part * 300 * MS) for part in range(3)))
    assert found.lasted_ns == (900 * MS,)


def test_a_window_begins_with_its_first_probe_and_ends_before_the_judgement() -> None:
    assert blackouts_of(ACTS, lost(1, 99, 2, ACTION - 100 * MS))[1] == 1
    assert blackouts_of(ACTS, lost(1, 100, 1, ACTION))[1] == 1
    found, count = blackouts_of(ACTS, JUDGES, lost(1, 300, 1, JUDGEMENT))
    assert (found.sessions, count) == (0, 0)


def test_of_twenty_sessions_one_is_longer_than_the_95th_percentile() -> None:
    blackouts = SessionBlackouts()
    blackouts.begin(ACTION)
    for number in range(1, 21):
        blackouts.feed(lost(number, 110, 1 + number, 11 * S))
    assert blackouts.summary([name(number) for number in range(1, 21)]).p95_ns == 19 * 100 * MS


def test_an_answer_that_was_told_ends_a_blackout_where_it_was_sent() -> None:
    seen = Change(1, (Kind.POD,), RepliedProbe(109, 0, who("a")), RepliedProbe(113, 12 * S, who("b")), S, S, S)
    found, _ = blackouts_of(
        ACTS,
        ChangeSeen(12 * S, name(1), seen),
        lost(1, 110, 3, 11 * S),
        lost(2, 110, 60, 11 * S),
        OutageEnded(20 * S, name(2), 110, 11 * S, 60, RepliedProbe(170, 19 * S, who("a"))),
    )
    assert found.lasted_ns == (S, 8 * S)


def test_who_is_silent_at_the_end_is_so_until_sending_stopped() -> None:
    events = (ACTS, lost(1, 300, 50, 30 * S), lost(2, 110, 1, 11 * S))
    found, _ = blackouts_of(*events, SendingStopped(STOP, interrupted=False), ended(1, 9 * S), ended(2, 0))
    assert found == Blackouts(2, 100 * MS, 10 * S, 10 * S, 1, (100 * MS, 10 * S))
    assert blackouts_of(ended(1, 2 * S), ended(2, 2 * S - 1))[0].still_silent == 1
    cut, _ = blackouts_of(*events, ended(1, 9 * S))
    assert cut.worst_ns == 5 * S


def test_nobody_lost_a_probe() -> None:
    assert blackouts_of(ACTS) == (Blackouts(0, None, None, None, 0, ()), 0)


@pytest.mark.parametrize(("percent", "rank"), [(1, 1), (50, 2), (51, 3), (75, 3), (76, 4), (95, 4), (100, 4)])
def test_the_nearest_rank(percent: int, rank: int) -> None:
    assert nearest_rank([1, 2, 3, 4], percent) == rank


# --- phases and names --------------------------------------------------------------------------------------------------


def phases_of(*events: Event) -> Phases:
    phases = Phases()
    for event in events:
        phases.feed(event)
    return phases


def test_phases_end_where_the_next_begins() -> None:
    phases = phases_of(
        PhaseStarted(S, Phase.STEADY, 0),
        PhaseStarted(ACTION, Phase.ACTION, 100),
        PhaseStarted(ROLLBACK, Phase.ROLLBACK, 180),
        PhaseStarted(ROLLBACK + S, Phase.ROLLBACK, 190),  # told twice
        PhaseStarted(JUDGEMENT, Phase.JUDGEMENT, 300),
        SendingStopped(STOP, interrupted=False),
    )
    assert phases.spans() == (
        PhaseSpan("steady", S, ACTION),
        PhaseSpan("action", ACTION, ROLLBACK),
        PhaseSpan("rollback", ROLLBACK, JUDGEMENT),
        PhaseSpan("judgement", JUDGEMENT, STOP),
    )
    assert (phases.end_ns, phases.sent_within()) == (JUDGEMENT, 200)


def test_an_experiment_that_was_cut_short_ends_with_what_there_is() -> None:
    assert phases_of().spans() == ()
    assert phases_of(PhaseStarted(S, Phase.STEADY), ActionStep(2 * S, "x")).end_ns == 2 * S
    judged = CaseJudged(STOP + S, name(1), change(Kind.POD), Judgement.EXPLAINED, None, ())
    assert phases_of(ACTS, SendingStopped(STOP, interrupted=True), judged).end_ns == STOP


def test_a_phase_that_lasts_for_no_time_stays_in_its_place() -> None:
    begun = [Phase.STEADY, Phase.ACTION, Phase.RECOVERY, Phase.ROLLBACK, Phase.JUDGEMENT]
    assert [span.name for span in phases_of(*(PhaseStarted(S, phase) for phase in begun)).spans()] == begun


@pytest.mark.parametrize(
    ("action", "judgement", "sent"), [(100, 300, 200), (0, 300, 300), (None, 300, None), (100, None, None)]
)
def test_probes_are_counted_where_both_ends_are(action: int | None, judgement: int | None, sent: int | None) -> None:
    phases = phases_of(PhaseStarted(ACTION, Phase.ACTION, action), PhaseStarted(JUDGEMENT, Phase.JUDGEMENT, judgement))
    assert phases.sent_within() == sent


def test_what_the_undoing_could_not_do_is_no_failure_of_the_action() -> None:
    steps = [ActionStep(S, "a", failed=failed, undo=undo) for failed in (True, False) for undo in (True, False)]
    assert phases_of(*steps).failed == ["a"]
    assert phases_of(*steps[:1]).failed == []


def closed(to_ns: int, *diagnoses: tuple[str, Certainty]) -> IncidentClosed:
    found = tuple(Diagnosis(each, certainty, ()) for each, certainty in diagnoses)
    incident = Incident(
        1, 0, to_ns, continuing=False, sessions=1, total_sessions=1, changes=1, outages=0, bursts=0, strays=0, lost=0,
        kinds=(), cohorts=(), context=(), judgements=(), diagnoses=found,
    )  # fmt: skip
    return IncidentClosed(to_ns, incident)


def test_names_are_told_once_with_their_best_certainty() -> None:
    likely, possible = Certainty.LIKELY, Certainty.POSSIBLE
    names = NamesSeen()
    for event in (
        STARTED,
        closed(S, ("early", likely)),
        closed(12 * S, ("stale-flow", possible), ("", Certainty.CANNOT_TELL)),
        closed(13 * S, ("flow-wipe", likely), ("node-rehash", possible)),
        closed(14 * S, ("flow-wipe", possible)),
        RunDiagnosed(STOP, (Diagnosis("stale-flow", likely, ()), Diagnosis("mtu", possible, ()))),
        RunDiagnosed(STOP, (Diagnosis("client-ip-spread", possible, ()),)),
        closed(STOP, ("idle-expiry", likely)),
    ):
        names.feed(event)
    found = ("likely stale-flow", "likely flow-wipe", "likely idle-expiry", "possible client-ip-spread")
    assert names.names(ACTION) == found
    assert names.names(0) == ("likely early", *found)


@given(
    st.integers(0, 50),
    st.integers(1, 40),
    st.integers(0, 60),
    st.integers(-5, 120),
    st.one_of(st.none(), st.integers(-5, 120)),
)
def test_probes_in_a_window_are_counted_as_if_one_by_one(
    first: int, count: int, lasted: int, since: int, until: int | None
) -> None:
    lasted = lasted if count > 1 else 0
    event = ProbesLost(first, "a", 0, count, first, first + lasted)
    sent = [first + Fraction(at * lasted, max(1, count - 1)) for at in range(count)]
    within = sum(ns >= since and (until is None or ns < until) for ns in sent)
    assert blackouts._count_within(event, since, until) == within
    huge = ProbesLost(0, "a", 0, 1 << 62, 0, 1 << 62)
    assert blackouts._count_within(huge, 1 << 61, None) == pytest.approx(1 << 61, abs=2)


def test_the_newest_pod_of_each_session_is_counted_while_it_runs() -> None:
    run = Run("pod-delete", sessions=4).move(1, ACTION, who("a", port=7)).move(2, ACTION, who(None, port=8))
    analysis = run.analysis()
    assert analysis.sessions.by_pod() == {"a": 3, "c": 1}  # a reply without a name leaves it as it was
    assert analysis.sessions.changed == 2
    assert analysis.timeline.watched


def test_sessions_that_were_never_answered_or_name_no_pod_are_at_none() -> None:
    moves = SessionMoves()
    moves.feed(SessionStarted(0, "CLIENT-1", TARGET))
    assert (moves.by_pod(), moves.changed) == ({}, 0)
    moves.feed(FirstAnswer(MS, "CLIENT-1", 0, who(None)))
    assert (moves.by_pod(), moves.changed) == ({}, 0)


def test_of_a_session_that_changes_all_the_time_the_first_changes_are_kept() -> None:
    moves = SessionMoves()
    seen = [replace(change(Kind.POD), number=number) for number in range(1, 301)]
    for event in (FirstAnswer(MS, name(1), 0, who("a")), *(ChangeSeen(S, name(1), each) for each in seen)):
        moves.feed(event)
    pool = PoolHistory()
    moves.feed(ChangeWithdrawn(S, name(1), seen[-1], 1))
    assert len(moves.moves(name(1), pool)) == 256
    moves.feed(ChangeRevised(S, name(1), replace(seen[0], kinds=(Kind.NODE,)), seen[0]))
    assert len(moves.moves(name(1), pool)) == 255
