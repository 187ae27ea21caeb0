"""Which sessions had to move, which are excused, and what of them is still a break: few events, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_experiment_analysis import ACTION, MS, ROLLBACK, TARGET, Run, S, endpoint, name, violation, who
from test_experiment_doubts import OVERLAY, entered, is_unsure, node

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ActionStep,
    ClusterAction,
    ClusterEvent,
    NodeAddresses,
    OutageCase,
    SendingStopped,
    SessionStarted,
)
from affinity_tester.core.experiment.results import Held
from affinity_tester.core.identity import Identity

TOLD = ROLLBACK + 5 * S
BROKEN_BY_ANOTHER = "1 session broken or silent since something else went away: CLIENT-0"


# --- pods that end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moved_ns", "beyond"), [(ACTION + 2 * S, ()), (ACTION + 500 * MS, ("CLIENT-0",))])
def test_a_pod_may_be_left_from_when_it_is_told_to_end(moved_ns: int, beyond: tuple[str, ...]) -> None:
    run = entered("pod-delete", "10.0.0.1").act("a").pool(ACTION + 3 * S, a=endpoint("a", terminating=True))
    outcome = run.pool(ACTION + 8 * S, a=None).move(0, moved_ns, who("b", port=5)).end()
    assert (outcome.held, outcome.beyond) == (Held.NO if beyond else Held.YES, beyond)


def test_a_pod_that_ends_by_another_cause_may_be_left_while_it_serves() -> None:
    run = entered("not-ready", "10.0.0.1").act("a")
    run.pool(ACTION + S, a=endpoint("a", ready=False, terminating=True))
    run.pool(ACTION + 3 * S, b=endpoint("b", ready=False, terminating=True)).pool(ACTION + 8 * S, b=None)
    outcome = run.pool(ACTION + 9 * S, a=None).move(1, ACTION + 2 * S, who("c", port=5)).end()
    assert (outcome.held, outcome.beyond) == (Held.YES, ())
    assert "CLIENT-1" in outcome.excused


def test_a_pod_that_is_removed_in_place_of_the_added_one_had_to_move_its_own() -> None:
    run = Run("scale-up").act().pool(ACTION + S, d=endpoint("d", ready=False)).pool(ACTION + 2 * S, d=endpoint("d"))
    run.pool(ROLLBACK + S, c=None)
    for number in (2, 5):
        run.move(number, ROLLBACK + 2 * S, who("d", port=5 + number))
    outcome = run.end()
    assert (outcome.held, outcome.least, outcome.beyond) == (Held.YES, ("CLIENT-2", "CLIENT-5"), ())


@pytest.mark.parametrize(
    ("experiment", "left_ns"),
    [("scale-up", ACTION + 2 * S), ("baseline", ROLLBACK + 2 * S), ("pod-kill", ROLLBACK + S)],
)
def test_only_an_undoing_takes_away_what_the_action_did_not_name(experiment: str, left_ns: int) -> None:
    run = Run(experiment).act("a").pool(left_ns, c=None).move(2, left_ns + S, who("b", port=5))
    outcome = run.end()
    assert (outcome.least, outcome.excused, outcome.beyond) == ((), ("CLIENT-2", "CLIENT-5"), ())


def test_who_met_a_pod_that_left_by_another_cause_is_excused() -> None:
    run = Run().act("a").pool(ACTION + S, a=None).move(0, ACTION + 2 * S, who("b", port=5)).pool(ACTION + 6 * S, b=None)
    outcome = run.move(0, ACTION + 7 * S, who("c", port=6)).end()
    assert (outcome.held, outcome.excused) == (Held.YES, ("CLIENT-0", "CLIENT-1", "CLIENT-4", "CLIENT-7"))


def test_an_undoing_that_never_began_took_nothing_away() -> None:
    run = Run("scale-up").act().pool(ACTION + S, c=None).add(node("n-a", ACTION + S))
    run.add(ActionStep(ACTION + 2 * S, "interrupted", failed=True), SendingStopped(ACTION + 3 * S, interrupted=True))
    assert run.analysis().outcome().reasons[0] == "interrupted"


# --- nodes -------------------------------------------------------------------------------------------------------------


def test_a_node_that_leaves_late_by_another_cause_excuses_its_sessions() -> None:
    run = entered("pod-delete", "10.0.0.1").act("a").pool(ACTION + S, a=None).add(node("n-a", ROLLBACK + S))
    outcome = run.move(1, ROLLBACK + 2 * S, who("b", "10.0.0.2", 5)).end()
    assert (outcome.held, outcome.excused) == (Held.YES, ("CLIENT-1", "CLIENT-2"))


def test_who_went_to_a_node_that_left_by_another_cause_is_excused() -> None:
    run = entered("pod-delete", "10.0.0.1").act("a").pool(ACTION + S, a=None)
    run.move(3, ACTION + 2 * S, who("b", "10.0.0.1", 5)).add(node("n-a", ACTION + 5 * S, ClusterAction.NOT_READY))
    outcome = run.move(3, ACTION + 6 * S, who("b", "10.0.0.2", 6)).end()
    assert (outcome.held, outcome.excused) == (Held.YES, ("CLIENT-1", "CLIENT-2", "CLIENT-3"))


def test_who_had_to_leave_a_node_must_not_stay_silent() -> None:
    run = entered("command", "10.0.0.1").act().add(node("n-a", ACTION + S))
    run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).add(violation(OutageCase(150, ACTION + 5 * S), TOLD))
    assert run.end().reasons == ("1 session stayed silent: CLIENT-1",)


@pytest.mark.parametrize(
    ("experiment", "ingress", "moved", "reason"),
    [
        ("pod-delete", "10.0.0.1", False, BROKEN_BY_ANOTHER),
        ("pod-delete", OVERLAY, False, BROKEN_BY_ANOTHER),
        ("pod-delete", "10.0.0.9", False, "1 session stayed silent: CLIENT-0"),
        ("pod-delete", "10.0.0.1", True, "1 session stayed silent: CLIENT-0"),
        ("pod-delete", OVERLAY, True, "1 session stayed silent: CLIENT-0"),
        ("command", OVERLAY, False, "1 session stayed silent: CLIENT-0"),
    ],
    ids=["lost", "hidden", "another-node", "left-it", "left-hidden", "by-the-command"],
)
def test_who_had_to_move_may_be_silent_where_its_node_left_by_another_cause(
    experiment: str, ingress: str, moved: bool, reason: str
) -> None:
    run = entered(experiment, ingress).act(*("a" if experiment == "pod-delete" else "")).pool(ACTION + S, a=None)
    run.add(node("n-a", ACTION + 3 * S, ClusterAction.NOT_READY))
    if moved:
        run.move(0, ACTION + 2 * S, who("b", "10.0.0.2", 5))
    assert run.add(violation(OutageCase(140, ACTION + 4 * S), TOLD, name(0))).end().reasons == (reason,)


@pytest.mark.parametrize(
    ("news", "held"),
    [
        ([(1, ClusterAction.REMOVED), (3, ClusterAction.ADDED)], Held.NO),
        ([(1, ClusterAction.NOT_READY), (3, ClusterAction.READY)], Held.NO),
        ([(1, ClusterAction.NOT_READY), (3, ClusterAction.READY), (7, ClusterAction.UNCORDONED)], Held.NO),
        ([(1, ClusterAction.REMOVED), (3, ClusterAction.READY)], Held.YES),
        ([(1, ClusterAction.NOT_READY), (3, ClusterAction.READY), (7, ClusterAction.NOT_READY)], Held.YES),
    ],
    ids=["joined-anew", "ready", "ready-and-uncordoned", "removed-for-good", "not-ready-again"],
)
def test_who_came_in_once_a_node_was_back_did_not_leave_it_as_it_went(
    news: list[tuple[int, ClusterAction]], held: Held
) -> None:
    run = entered("command", "10.0.0.1").act().add(*(node("n-a", ACTION + at * S, action) for at, action in news))
    run.pool(ACTION + 4 * S, b=None).move(4, ACTION + 5 * S, who("c", "10.0.0.1", 5))
    outcome = run.move(4, ACTION + 8 * S, who("c", "10.0.0.2", 6)).end()
    assert (outcome.held, outcome.beyond) == (held, ("CLIENT-4",) if held is Held.NO else ())


def test_the_new_owner_of_an_address_did_not_go_away() -> None:
    run = entered("command", "10.0.0.1").act().add(node("n-x", ACTION + S))
    run.add(NodeAddresses(ACTION + 3 * S, (("10.0.0.9", "n-new"),))).pool(ACTION + 4 * S, b=None)
    run.move(4, ACTION + 5 * S, who("c", "10.0.0.9", 5)).move(4, ACTION + 8 * S, who("c", "10.0.0.2", 6))
    assert run.end().beyond == ("CLIENT-4",)


def test_addresses_of_nodes_may_be_told_after_sessions_began() -> None:
    run = entered("command", "10.0.0.1")
    run.events = [replace(event, at_ns=2 * S) if isinstance(event, NodeAddresses) else event for event in run.events]
    assert run.act().add(node("n-a", ACTION + S)).end().least == ("CLIENT-0", "CLIENT-1", "CLIENT-2")


def test_a_node_that_joins_takes_nothing_away() -> None:
    joined: ClusterEvent = node("n-new", ACTION + S, ClusterAction.ADDED)
    assert entered("node-scaleup", "10.0.0.1").act().add(joined).end().held is Held.YES


def test_what_went_away_is_named() -> None:
    run = Run("command").act().add(node("n-x", ACTION + S)).pool(ACTION + S, a=None, b=None)
    assert run.end().least_reason == 'pods "a", "b" and ingress node "n-x" went away'
    three = Run("command").act().pool(ACTION + S, a=None, b=None, c=None)
    assert three.end().least_reason == 'pods "a", "b", "c" went away'
    other = Run("baseline").act().add(node("n-x", ACTION + S)).pool(ACTION + S, a=None)
    assert other.end().least_reason == (
        'no pod and no ingress node went away; by another cause pod "a" and node "n-x" left too, or may have:'
        " 3 sessions excused"
    )


# --- sessions ----------------------------------------------------------------------------------------------------------


def test_what_a_reply_does_not_carry_is_as_it_was() -> None:
    run = Run().act("a").pool(ACTION + S, a=None)
    run.served[name(0)] = Identity(run.served[name(0)].reflexive)
    outcome = run.move(0, ACTION + 2 * S, who("b", port=5)).end()
    assert (outcome.held, outcome.moved) == (Held.YES, ("CLIENT-0",))


@pytest.mark.parametrize("moves", [0, 1])
def test_a_pod_that_is_named_later_than_the_first_answer_was_there_before(moves: int) -> None:
    run = Run()
    named = run.served[name(0)]
    run.answer_as(lambda number, served: served if number else Identity(served.reflexive))
    if moves:
        moved = Identity(TransportAddress("10.0.0.2", 77))
        run.move(0, 2 * S, moved)
        named = named._replace(reflexive=moved.reflexive)
    run.act("a").pool(ACTION + S, a=None)
    run.served[name(0)] = named
    outcome = run.move(0, ACTION + 2 * S, who("b", port=5)).end()
    assert (outcome.held, outcome.least) == (Held.YES, ("CLIENT-0", "CLIENT-3", "CLIENT-6"))


def test_a_session_that_was_never_answered_is_none_of_an_experiment() -> None:
    outcome = Run("baseline").add(SessionStarted(0, "CLIENT-99", TARGET)).act().end()
    assert outcome.sessions == 8
    assert outcome.reasons == ("no steady state before the action: 1 of 9 sessions were never answered",)


def test_a_flow_that_shows_no_address_came_in_through_its_pods_node_under_policy_local() -> None:
    run = Run("command", policy="Local")
    run.answer_as(lambda _, served: served._replace(reflexive=None))
    assert run.act().add(node("n-a", ACTION + S)).end().least == ("CLIENT-0", "CLIENT-3", "CLIENT-6")


def test_the_node_of_a_pod_that_the_pool_never_showed_is_not_known() -> None:
    run = Run(sessions=16, policy="Local")
    run.answer_as(lambda _, served: served._replace(node=None))
    run.act("a").pool(ACTION + S, a=None).move(
        0, ACTION + 2 * S, Identity(TransportAddress("192.168.1.5", 9), "z", None, b"z")
    )
    assert is_unsure(run.move(0, ACTION + 4 * S, who("b", port=6)).end())


def test_a_session_may_move_whose_own_address_was_not_told() -> None:
    run = Run("baseline")
    run.events = [event for event in run.events if not isinstance(event, SessionStarted)]
    assert run.act().move(1, ACTION + S, who("c", port=5)).end().beyond == ("CLIENT-1",)


@pytest.mark.parametrize("pod", [None, "z"])
def test_another_process_of_a_pod_that_the_pool_never_showed_is_no_move(pod: str | None) -> None:
    run = Run("baseline")
    run.answer_as(lambda _, served: Identity(served.reflexive, pod, None, b"i"))
    outcome = run.act().move(1, ACTION + S, run.served[name(1)]._replace(instance=b"j")).end()
    assert (outcome.moved, outcome.held) == ((), Held.UNKNOWN)


def test_a_move_is_beyond_nothing_where_the_least_is_not_known() -> None:
    outcome = Run().act("a").move(1, ACTION + S, who("c", port=5)).end(listed=False)
    assert (outcome.moved, outcome.least, outcome.beyond) == (("CLIENT-1",), None, ())
