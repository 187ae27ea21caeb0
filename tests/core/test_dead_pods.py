"""A pod that answers nobody, and a balancer that finds out before the API server does, or that alone does.

Its flows are moved while the pool stands still: no affinity keeps a flow on a dead pod, so that is no violation, whatever
carries the news. Where a session's pod answers others meanwhile, it is one.
"""

from __future__ import annotations

import pytest
from deeds import Deed, hung, silent
from diagnosing import S, World

from affinity_tester.core.events import ChangeJudged, Judgement, OutageJudged, Outcome
from affinity_tester.core.identity import Identity


def balanced_anew(w: World) -> None:
    """A balancer's check has failed: it sends the pod's flows, and new ones, to the others."""
    flows = w.on(pod="p1")
    w.dead.clear()
    held = w.endpoints.pop("p1")
    w.move(flows)
    w.endpoints["p1"] = held


def run(watched: bool, moved_s: float, deed: Deed = hung) -> World:
    world = World(watched=watched, seconds=70, settle=10 * S, deeds=[(20, deed), (moved_s, balanced_anew)])

    def canary() -> Identity | None:
        pod = world.rng.choice(["p1", "p2", "p3"] if world.now < moved_s * S else ["p2", "p3"])
        return None if pod in world.gone_pods else world.fresh(0, 2, pod)

    world.canary = canary  # type: ignore[method-assign]
    return world.run()


def classes(world: World, kind: type[OutageJudged] | type[ChangeJudged]) -> set[Judgement]:
    return {event.judgement for event in world.events if isinstance(event, kind)}


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("moved_s", [27, 30, 50])
def test_flows_that_leave_a_pod_which_answers_nobody_are_no_violation(watched: bool, moved_s: float) -> None:
    world = run(watched, moved_s)
    outages, changes = classes(world, OutageJudged), classes(world, ChangeJudged)
    assert (outages, changes) in [
        ({Judgement.POD_SILENT}, {Judgement.EXPLAINED}),
        ({Judgement.UNKNOWN}, {Judgement.UNKNOWN}),
    ]
    assert moved_s < 50 or outages == {Judgement.POD_SILENT}
    assert world.verdict.outcome is not Outcome.FAIL


@pytest.mark.parametrize("watched", [True, False])
def test_flows_that_leave_a_pod_which_answers_others_are_violations(watched: bool) -> None:
    world = run(watched, 40, lambda w: silent(*w.on(pod="p1")[:2])(w))
    assert classes(world, ChangeJudged) == {Judgement.VIOLATION}
    assert classes(world, OutageJudged) == {Judgement.VIOLATION}
