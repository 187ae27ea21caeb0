"""What breaks a requirement, and what leaves it open: moves that the cluster made for sure or not, silences, and edits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_experiment_analysis import ACTION, LOCAL, MS, PODS, TARGET, Run, S, endpoint, name, violation, who

from affinity_tester.core.events import (
    CaseJudged,
    ChangeSeen,
    ChangeWithdrawn,
    Judgement,
    OutageCase,
    PoolObserved,
    RunStarted,
)
from affinity_tester.core.experiment.results import Held
from affinity_tester.core.judging.reasons import PodAnswersNobody, PoolPerhapsChanged, Reason
from affinity_tester.core.pool import EndpointAction, EndpointChange, PoolSnapshot, differences

ALL = tuple(map(name, range(8)))


def newest_change(run: Run) -> ChangeSeen:
    return next(event for event in reversed(run.events) if isinstance(event, ChangeSeen))


def judge(run: Run, judgement: Judgement, *reasons: Reason) -> Run:
    """Judge the newest move."""
    seen = newest_change(run)
    return run.add(CaseJudged(seen.at_ns + 9 * S, seen.session, seen.change, judgement, None, reasons))


def move_all(run: Run, judgement: Judgement = Judgement.EXPLAINED) -> Run:
    """Move all sessions within a second, as a NAT of the client's may do."""
    for number in range(8):
        to = who(PODS[(number + 1) % 3], f"10.0.0.{1 + number % 2}", 3000 + number)
        run.move(number, ACTION + 2 * S + number * MS, to, judgement)
    return run


def edit(run: Run, at: int, policy: str, affinity: str) -> Run:
    """Edit the Service."""
    assert run.newest is not None
    snapshot = PoolSnapshot(run.newest.endpoints, (("externalTrafficPolicy", policy), ("sessionAffinity", affinity)))
    run.add(PoolObserved(at, at - 100 * MS, at, snapshot, None, differences(run.newest, snapshot)))
    run.newest = snapshot
    return run


# --- who made a move ---------------------------------------------------------------------------------------------------


def test_no_nat_moved_sessions_whose_own_address_pods_have_seen() -> None:
    run = Run("scale-up")
    run.answer_as(lambda number, served: served if number else who("a", LOCAL, 40_000))
    run.move(0, 2 * S, who("a", "10.0.0.1", 2)).act().pool(ACTION + S, d=endpoint("d"))
    assert move_all(run).end().beyond == ALL


def test_a_violation_has_been_weighed_against_the_clients_nat() -> None:
    assert move_all(Run("baseline").act(), Judgement.VIOLATION).end().beyond == ALL


def test_a_move_is_no_less_real_where_the_pool_changed_perhaps() -> None:
    perhaps = PoolPerhapsChanged(EndpointChange(EndpointAction.JOINED, endpoint("d")), 4 * S, -S)
    run = Run("scale-up").act().move(1, ACTION + 2 * S, who("c", port=5), None)
    assert judge(run, Judgement.UNKNOWN, perhaps).end().beyond == ("CLIENT-1",)


def test_a_violation_that_is_withdrawn_was_none() -> None:
    run = Run("baseline").act().move(1, ACTION + S, who("c", port=5), Judgement.VIOLATION)
    seen = newest_change(run)
    outcome = run.add(ChangeWithdrawn(ACTION + 12 * S, seen.session, seen.change, 2)).end()
    assert (outcome.held, outcome.violations) == (Held.YES, 0)


# --- silences ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doubt", ["unclear", "unsure", "dead"])
def test_a_silence_after_a_doubtful_move_breaks_nothing(doubt: str) -> None:
    run = Run("pod-delete" if doubt == "unsure" else "baseline").act("b")
    match doubt:
        case "unclear":
            run.move(1, ACTION + S, who("c", port=5), Judgement.CLIENT)
        case "unsure":
            run.pool(ACTION + S, b=None).move(1, ACTION + 2 * S, who("z", port=5)).move(1, ACTION + 3 * S, who("c"))
        case "dead":
            judge(run.move(1, ACTION + S, who("c", port=5), None), Judgement.EXPLAINED, PodAnswersNobody("b", 3, 9))
    outcome = run.add(violation(OutageCase(140, ACTION + 4 * S), ACTION + 15 * S)).end()
    assert outcome.held is Held.UNKNOWN
    assert "1 session broken or silent since something else went away: CLIENT-1" in outcome.reasons


@pytest.mark.parametrize(
    ("since_ns", "reason"),
    [
        (ACTION - 200 * MS, "1 session stayed silent: CLIENT-1"),
        (ACTION - 300 * MS, "no steady state before the action: a violation (CLIENT-1)"),
    ],
)
def test_two_probes_before_the_action_may_be_lost_by_chance(since_ns: int, reason: str) -> None:
    run = Run("baseline").act().add(violation(OutageCase(98, since_ns), ACTION + 9 * S))
    assert run.end().reasons == (reason,)


def test_a_node_with_a_ready_pod_strands_nobody() -> None:
    outcome = Run("baseline", policy="Local").act().end(silent=[1])
    assert outcome.reasons == ("1 session silent at the end, the cause is not known: CLIENT-1",)


# --- the Service -------------------------------------------------------------------------------------------------------


def test_all_edits_of_the_service_are_told() -> None:
    assert edit(Run("baseline").act(), ACTION + S, "Local", "ClientIP").end().reasons == (
        "the Service was edited meanwhile, by none of this: externalTrafficPolicy Cluster -> Local,"
        " sessionAffinity None -> ClientIP",
    )


def test_a_policy_that_changed_before_the_action_or_another_field_tests_nothing() -> None:
    run = edit(Run("policy-flip"), 2 * S, "Local", "None").act()
    assert edit(run, ACTION + S, "Local", "ClientIP").end().reasons == (
        "the Service was edited meanwhile, by none of this: sessionAffinity None -> ClientIP",
        "the watch never showed another policy: nothing was tested",
    )


# --- texts -------------------------------------------------------------------------------------------------------------


def test_a_reference_that_was_asked_is_not_advised() -> None:
    run = Run("baseline").act().move(1, ACTION + S, who("c", port=5), Judgement.UNKNOWN)
    begun = run.events[0]
    assert isinstance(begun, RunStarted)
    run.events[0] = replace(begun, reference=TARGET)
    assert run.end().reasons == (
        "1 session moved, and it may not be the cluster that moved them (the reference did not settle it): CLIENT-1",
    )


def test_moves_of_which_it_is_not_known_whether_they_had_to_be_are_counted() -> None:
    run = Run("baseline").act()
    for number in range(4):
        run.move(number, ACTION + S, who("z", port=5), Judgement.CLIENT)
        run.move(number, ACTION + 2 * S, who("c", port=6), Judgement.CLIENT)
    assert run.end().reasons[1] == (
        "4 sessions moved, and it is not known whether they had to, as their ingress node is not known or left only later,"
        " or the pool does not show their pod: CLIENT-0, CLIENT-1, CLIENT-2 and 1 more"
    )
