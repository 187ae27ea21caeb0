"""A pod that answers nobody, and a balancer that finds out before the API server does, or that alone does.

Its flows are moved while the pool stands still: no affinity keeps a flow on a dead pod, so that is no violation, whatever
carries the news. Where a session's pod answers others meanwhile, it is one.
"""

from __future__ import annotations

import pytest
from diagnosing import Action, S, World
from network_faults import hung, silent

from affinity_tester.core.events import Case, Certainty, Change, Judgement, OutageCase, Outcome
from affinity_tester.core.identity import Identity
from pools import is_judged


def balanced_anew(w: World) -> None:
    """A balancer's check has failed: it sends the pod's flows, and new ones, to the others."""
    flows = w.on(pod="p1")
    w.heal()
    for session in flows:
        w.move([session], pod=w.rng.choice(["p2", "p3"]))


class Balanced(World):
    """New flows meet the pods in turn, and only the others as soon as a balancer's check has failed."""

    moved_s = 0.0

    def canary(self, node: int | None = None, pod: str | None = None) -> Identity | None:
        pods = ["p1", "p2", "p3"] if self.now < self.moved_s * S else ["p2", "p3"]
        turn = len(self.answered_canaries) + len(self.unanswered_canaries)
        return super().canary(2, pods[turn % len(pods)])


def run(watched: bool, moved_s: float, action: Action = hung) -> World:
    world = Balanced(watched=watched, seconds=70, settle=10 * S, actions=[(20, action), (moved_s, balanced_anew)])
    world.moved_s = moved_s
    return world.run()


def classes(world: World, kind: type[Case]) -> set[Judgement]:
    return {event.judgement for event in world.events if is_judged(event, kind)}


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("moved_s", [27, 30, 50])
def test_flows_that_leave_a_pod_which_answers_nobody_are_no_violation(watched: bool, moved_s: float) -> None:
    world = run(watched, moved_s)
    outages, changes = classes(world, OutageCase), classes(world, Change)
    assert (outages, changes) in [
        ({Judgement.POD_SILENT}, {Judgement.EXPLAINED}),
        ({Judgement.UNKNOWN}, {Judgement.UNKNOWN}),
    ]
    assert moved_s < 50 or outages == {Judgement.POD_SILENT}
    assert world.verdict.outcome is not Outcome.FAIL


@pytest.mark.parametrize("watched", [True, False])
def test_flows_that_leave_a_pod_which_answers_others_are_violations(watched: bool) -> None:
    world = run(watched, 40, lambda w: silent(*w.on(pod="p1")[:2])(w))
    assert classes(world, Change) == {Judgement.VIOLATION}
    assert classes(world, OutageCase) == {Judgement.VIOLATION}


def test_an_ingress_that_new_flows_avoid_is_no_silent_pod_though_under_local_its_pods_go_with_it() -> None:
    w = World(
        watched=True,
        local=True,
        sessions=24,
        pods=6,
        seconds=16,
        interval=S // 5,
        actions=[(3, lambda w: w.network.ingress.dead_nodes.add("n3"))],
    ).run()
    assert classes(w, OutageCase) == {Judgement.POD_SILENT}
    assert w.named == [("dead-target", Certainty.POSSIBLE), ("stale-flow", Certainty.POSSIBLE)]
    assert {d.missing for d in w.diagnoses} == {
        "what new flows avoid: which nodes the balancer holds for healthy, and a capture on the ingress node"
    }


def test_a_hung_pod_under_local_that_new_flows_meet_is_a_silent_pod() -> None:
    w = World(watched=True, local=True, sessions=24, seconds=16, interval=S // 5, actions=[(3, hung)]).run()
    assert w.named == [("pod-silent", Certainty.LIKELY)]
