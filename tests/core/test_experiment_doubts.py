"""What is known of where sessions had been, and of what went away when, and what an experiment makes of too little."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_experiment_analysis import ACTION, PODS, ROLLBACK, Run, S, endpoint, name, violation, who

from affinity_tester.core.events import (
    CaseJudged,
    ChangeSeen,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Judgement,
    NodeAddresses,
    OutageCase,
    PoolObserved,
    RunStarted,
)
from affinity_tester.core.experiment.results import CellOutcome, Held
from affinity_tester.core.judging.reasons import NodeNotReady, PodAnswersNobody, Reason
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint

OVERLAY = "10.244.1.0"
"""A node's address in the overlay, which its Node object does not have."""

BALANCER, NODE_PORT = "load-balancer", "node-port"


def entered(experiment: str, ingress: str, *, via: str = BALANCER, hidden: int = 3) -> Run:
    """So many of 16 sessions came in through one address, the others through 10.0.0.2; flows settle in 2 s."""
    run = Run(experiment, via=via, sessions=16)
    run.answer_as(lambda number, was: who(was.pod, ingress if number < hidden else "10.0.0.2", 1000 + number))
    begun = run.events[0]
    assert isinstance(begun, RunStarted)
    run.events[0] = replace(begun, rules=Rules(settle_ns=2 * S))
    return run


def node(name: str, at: int, action: ClusterAction = ClusterAction.REMOVED) -> ClusterEvent:
    return ClusterEvent(at, ClusterSubject.NODE, name, action)


def is_unsure(outcome: CellOutcome) -> bool:
    return outcome.held is Held.UNKNOWN and "it is not known whether they had to" in outcome.reasons[0]


# --- ingress nodes that are not known ----------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["command", "baseline"])
def test_an_overlay_hides_who_came_in_through_a_node_that_went_away(experiment: str) -> None:
    run = entered(experiment, OVERLAY).act().add(node("n-x", ACTION + S))
    moved = run.move(1, ACTION + 2 * S, who("c", "10.0.0.2", 5)).end()
    assert is_unsure(moved)
    assert "0 of 13 sessions that had to stay moved" in moved.claim
    assert moved.claim.endswith("; of 3 others it is not known whether they had to move")


def test_all_move_and_none_is_known_to_have_had_to() -> None:
    run = entered("policy-flip", OVERLAY, hidden=16).act().pool(ACTION + S, policy="Local")
    for number in range(16):
        run.move(number, ACTION + 2 * S, who("ab"[number % 3 == 0], "10.244.2.0", 5 + number))
    assert is_unsure(run.pool(ROLLBACK + S, policy="Cluster").end())


def test_who_may_have_come_in_through_a_lost_node_may_be_silent() -> None:
    silence = violation(OutageCase(130, ACTION + 2 * S), ACTION + 9 * S)
    lost = entered("baseline", OVERLAY).act().add(node("n-x", ACTION + S), silence).end()
    assert lost.reasons == ("1 session broken or silent since something else went away: CLIENT-1",)
    assert entered("command", OVERLAY).act().add(node("n-x", ACTION + S), silence).end().held is Held.NO


@pytest.mark.parametrize(
    ("experiment", "held"), [("command", Held.UNKNOWN), ("node-drain", Held.UNKNOWN), ("scale-up", Held.NO)]
)
def test_nodes_that_may_not_be_listed_may_have_been_taken_away(experiment: str, held: Held) -> None:
    run = entered(experiment, "10.0.0.1").act()
    run.events = [event for event in run.events if not isinstance(event, NodeAddresses)]
    outcome = run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).end()
    assert outcome.held is held
    assert is_unsure(outcome) == (held is Held.UNKNOWN)
    unlisted = outcome.least_reason == "no pod went away; whether a node left is not known: nodes may not be listed"
    assert unlisted == (held is Held.UNKNOWN)


def test_a_pod_that_was_evicted_is_known_where_nodes_are_not() -> None:
    run = entered("command", "10.0.0.1").act().pool(ACTION + S, a=None)
    run.events = [event for event in run.events if not isinstance(event, NodeAddresses)]
    for number in range(0, 16, 3):
        run.move(number, ACTION + 2 * S, who("b", "10.0.0.2", 2000 + number))
    assert run.end().held is Held.YES


def test_another_node_may_have_the_address_of_one_that_left() -> None:
    names = (("10.0.0.1", "n-a"), ("10.0.0.2", "n-b"), ("10.0.0.9", "n-new"))
    run = entered("command", "10.0.0.9").act().add(node("n-x", ACTION + S), NodeAddresses(ACTION + 3 * S, names))
    run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).move(4, ACTION + 4 * S, who("b", "10.0.0.9", 6))
    outcome = run.move(4, ACTION + 5 * S, who("b", "10.0.0.2", 7)).end()
    assert (outcome.least, outcome.beyond) == (("CLIENT-0", "CLIENT-1", "CLIENT-2"), ("CLIENT-4",))


# --- when nodes go, and come back --------------------------------------------------------------------------------------


def drained(via: str = BALANCER) -> Run:
    """Sessions 0 to 2 come in through n-a, which is drained of pod a, where sessions 0 and 3 are, among others."""
    run = entered("node-drain", "10.0.0.1", via=via).act("a", nodes=("n-a",)).pool(ACTION + S, a=None)
    for number in range(0, 16, 3):
        run.move(number, ACTION + 2 * S, who("b", "10.0.0.2", 2000 + number))
    return run


@pytest.mark.parametrize(
    ("session", "ingress", "is_back"),
    [(0, "10.0.0.1", True), (0, OVERLAY, True), (0, "10.0.0.9", False), (3, "10.0.0.1", False), (3, OVERLAY, False)],
    ids=["back", "hidden", "elsewhere", "was-never-there", "hidden-and-was-never-there"],
)
def test_who_lost_pod_and_node_may_come_back_to_the_node(session: int, ingress: str, is_back: bool) -> None:
    outcome = drained().move(session, ROLLBACK + S, who("c", ingress, 3000)).end()
    assert outcome.held is (Held.YES if is_back else Held.NO)


def test_who_left_a_hidden_node_may_come_back_to_any() -> None:
    run = entered("node-drain", OVERLAY).act(nodes=("n-a",)).move(1, ACTION + S, who("b", "10.0.0.2", 5))
    assert run.move(1, ROLLBACK + S, who("b", "10.0.0.1", 6)).end().beyond == ()


@pytest.mark.parametrize(("via", "held"), [(BALANCER, Held.YES), (NODE_PORT, Held.NO)])
def test_only_a_balancer_leaves_a_drained_node_out(via: str, held: Held) -> None:
    assert drained(via).move(1, ACTION + 3 * S, who("b", "10.0.0.2", 5)).end().held is held


@pytest.mark.parametrize(("back_ns", "beyond"), [(ROLLBACK + S, ()), (ROLLBACK + 3 * S, ("CLIENT-1",))])
def test_a_drained_node_that_has_long_been_back_must_be_left_no_more(back_ns: int, beyond: tuple[str, ...]) -> None:
    run = drained().move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).move(1, back_ns, who("b", "10.0.0.1", 6))
    assert run.move(1, ROLLBACK + 5 * S, who("b", "10.0.0.2", 7)).end().beyond == beyond


def test_nobody_comes_back_to_a_drained_node_before_it_is_brought_back() -> None:
    run = drained().move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).move(1, ACTION + 6 * S, who("b", "10.0.0.1", 6))
    assert run.end().beyond == ("CLIENT-1",)


def test_a_node_that_is_back_by_itself_calls_no_flow_back() -> None:
    run = entered("baseline", "10.0.0.1").act().add(node("n-a", ACTION + S, ClusterAction.NOT_READY))
    run.add(node("n-a", ACTION + 3 * S, ClusterAction.READY)).move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5))
    assert run.move(1, ROLLBACK + S, who("b", "10.0.0.1", 6)).end().beyond == ("CLIENT-1",)


@pytest.mark.parametrize(
    ("news", "moved_ns", "held"),
    [
        ([node("n-a", ACTION + 6 * S)], ACTION + 5 * S, Held.YES),
        ([node("n-a", ACTION + 6 * S)], ACTION + 2 * S, Held.UNKNOWN),
        ([node("n-a", ACTION + 2 * S, ClusterAction.CORDONED), node("n-a", ACTION + 6 * S)], ACTION + 2 * S, Held.YES),
        ([node("n-a", ACTION + 6 * S, ClusterAction.CORDONED)], ACTION + 7 * S, Held.NO),
        ([node("n-a", ACTION + 6 * S, ClusterAction.NOT_READY)], ACTION + 2 * S, Held.UNKNOWN),
        (
            [node("n-a", ACTION + 6 * S), node("n-a", ACTION + 7 * S, ClusterAction.UNCORDONED)],
            ACTION + 8 * S,
            Held.YES,
        ),
        (
            [
                node("n-a", ACTION + S, ClusterAction.CORDONED),
                node("n-a", ACTION + 2 * S, ClusterAction.UNCORDONED),
                node("n-a", ACTION + 8 * S),
            ],
            ACTION + 3 * S,
            Held.UNKNOWN,
        ),
        ([node("n-z", ACTION + S, ClusterAction.CORDONED), node("n-a", ACTION + 8 * S)], ACTION + 3 * S, Held.UNKNOWN),
    ],
    ids=[
        "as-it-went",
        "long-before",
        "cordoned",
        "only-cordoned",
        "before-not-ready",
        "removed-for-good",
        "cordoned-no-more",
        "another-cordoned",
    ],
)
def test_a_balancer_may_know_that_a_node_goes(news: list[ClusterEvent], moved_ns: int, held: Held) -> None:
    run = entered("command", "10.0.0.1").act().add(*news)
    assert run.move(1, moved_ns, who("b", "10.0.0.2", 5)).end().held is held


def test_the_news_that_a_node_left_may_be_late() -> None:
    run = entered("command", "10.0.0.1", via=NODE_PORT).act().add(node("n-a", ACTION + 6 * S))
    assert is_unsure(run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).end())


def test_a_node_that_joined_anew_must_be_left_no_more() -> None:
    run = entered("command", "10.0.0.1").act()
    run.add(node("n-a", ACTION + S), node("n-a", ACTION + 3 * S, ClusterAction.ADDED))
    run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).move(4, ACTION + 4 * S, who("b", "10.0.0.1", 6))
    run.move(0, ACTION + 2 * S, who("b", "10.0.0.2", 8)).move(0, ACTION + 4 * S, who("b", "10.0.0.1", 9))
    assert run.move(0, ACTION + 6 * S, who("b", "10.0.0.2", 10)).end().beyond == ("CLIENT-0", "CLIENT-4")


# --- pods --------------------------------------------------------------------------------------------------------------


def test_endpoints_without_names_tell_not_whose_pod_went_away() -> None:
    run = Run()
    run.events = [event for event in run.events if not isinstance(event, PoolObserved)]
    run.newest = None
    run.endpoints = {pod: Endpoint(f"10.1.0.{number}", "", f"10.1.0.{number}") for number, pod in enumerate(PODS)}
    run.pool(0, asked=True).act("a").pool(ACTION + S, a=None)
    outcome = run.move(0, ACTION + 2 * S, who("b", port=9)).end()
    assert outcome.least_reason == "not known: the watched pool does not name all pods that answered"


def test_of_a_pod_that_the_pool_never_showed_nothing_is_known() -> None:
    run = Run(sessions=16).act("a").pool(ACTION + S, a=None)
    run.move(0, ACTION + 2 * S, who("z", port=5)).move(0, ACTION + 4 * S, who("b", port=6))
    assert is_unsure(run.end())


@pytest.mark.parametrize("reason", [PodAnswersNobody("a", 3, 9), NodeNotReady("n-a", "a")])
def test_no_affinity_keeps_a_flow_on_a_pod_that_answers_nobody(reason: Reason) -> None:
    run = Run("baseline").act().move(0, ACTION + 8 * S, who("b", port=9), None, sent=ACTION + S)
    seen = run.events[-1]
    assert isinstance(seen, ChangeSeen)
    run.add(CaseJudged(ACTION + 9 * S, name(0), seen.change, Judgement.EXPLAINED, False, (reason,)))
    outcome = run.end()
    assert (outcome.held, outcome.reasons) == (Held.UNKNOWN, ("1 session left a pod that answered nobody: CLIENT-0",))
    assert run.move(0, ROLLBACK, who("c", port=9)).end().beyond == ("CLIENT-0",)


def test_a_pod_that_left_before_the_action_may_be_left_after_it() -> None:
    run = entered("baseline", "10.0.0.1").pool(3 * S, a=None).act().move(0, ACTION + S, who("b", port=3))
    outcome = run.end()
    assert (outcome.held, len(outcome.excused)) == (Held.YES, 6)


def test_a_pod_that_served_again_before_the_action_stays() -> None:
    run = entered("baseline", "10.0.0.1")
    run.pool(2 * S, a=endpoint("a", ready=False, serving=False)).pool(3 * S, a=endpoint("a")).act()
    assert run.move(0, ACTION + S, who("b", port=3)).end().beyond == ("CLIENT-0",)


@pytest.mark.parametrize(("moved_ns", "held"), [(ACTION + 3 * S, Held.YES), (ACTION + 8 * S, Held.NO)])
def test_a_pod_that_has_long_served_again_must_be_left_no_more(moved_ns: int, held: Held) -> None:
    run = entered("baseline", "10.0.0.1").act()
    run.pool(ACTION + S, a=endpoint("a", ready=False, serving=False)).pool(ACTION + 2 * S, a=endpoint("a"))
    assert run.move(0, moved_ns, who("b", port=4)).end().held is held


def test_of_sessions_that_are_all_excused_nothing_is_claimed() -> None:
    run = Run("baseline").act().add(node("n-a", ACTION + S, ClusterAction.NOT_READY))
    reason = "only 0 sessions that nothing else excused: a fault that moves every second one may have missed them"
    assert run.end().reasons == (reason,)
