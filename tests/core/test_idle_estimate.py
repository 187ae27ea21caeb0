"""What samples say together, by example (against a model of connection tracking: test_idle_simulated.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.advice import KnownTimeout, keep_alive_ns, matching
from affinity_tester.core.idle.estimate import Curve, Standing, curves
from affinity_tester.core.idle.model import Direction, Fate, FlowState, Property, SampleResult, Step
from affinity_tester.core.idle.results import IdleResult, second_round
from affinity_tester.core.idle.view import PathView
from affinity_tester.core.pool import Endpoint, PoolSnapshot

S = 1_000_000_000


def never(_result: SampleResult) -> bool:
    return False


WHO = Identity(TransportAddress("10.0.0.1", 4000), "a", "node-1", b"12345678")
ELSE = Identity(TransportAddress("10.0.0.2", 5000), "b", "node-2", b"87654321")
CLUSTER = PathView(policy="Cluster", affinity="None", pods_by_node=(("node-1", 2),), translated=True)


def sample(silence_s: int, fate: Fate = Fate.ANSWERED, after: Identity | None = WHO, **more: object) -> SampleResult:
    step = Step(Direction.CLIENT, FlowState.STREAM, silence_s * S)
    values: dict[str, object] = {
        "step": step, "fate": fate, "begun_ns": 0, "ended_ns": 1, "before": WHO, "after": after, "sent": 13, "answered": 13
    }  # fmt: skip
    return SampleResult(**values | more)  # type: ignore[arg-type]


def curve_of(results: list[SampleResult], view: PathView = CLUSTER) -> Curve:
    (curve,) = curves(results, view, never)
    return curve


def standings(curve: Curve, wanted: Property = Property.FLOW) -> list[Standing]:
    return [step.count(wanted).standing for step in curve.steps]


def test_three_dead_flows_of_twenty_may_be_lost_probes_and_four_may_not() -> None:
    for dead, standing in ((3, Standing.KEPT), (4, Standing.LOST)):
        results = [sample(5)] * (20 - dead) + [sample(5, Fate.DEAD, None)] * dead
        assert standings(curve_of(results)) == [standing]


def test_one_changed_flow_of_twenty_is_no_kept_step() -> None:
    curve = curve_of([sample(5)] * 19 + [sample(5, after=ELSE)])
    assert standings(curve) == [Standing.MIXED]
    step = curve.steps[0]
    assert (step.new_pod, step.new_node, step.new_port, step.new_address) == (1, 1, 1, 1)
    assert curve.estimate(Property.FLOW).kept_ns is None
    assert step.count(Property.FLOW).most_lost == pytest.approx(0.249, abs=0.001)


def test_a_shorter_step_that_is_lost_is_odd_where_a_longer_one_is_kept() -> None:
    curve = curve_of([sample(5, after=ELSE)] * 20 + [sample(10)] * 20 + [sample(20, after=ELSE)] * 20)
    flow = curve.estimate(Property.FLOW)
    assert (flow.kept_ns, flow.lost_ns, flow.odd_ns) == (10 * S, 20 * S, (5 * S,))


def test_half_of_the_samples_must_count() -> None:
    results = [sample(5)] * 9 + [sample(5, Fate.LATE)] * 11
    curve = curve_of(results)
    assert standings(curve) == [Standing.UNKNOWN]
    assert curve.steps[0].unusable == ((Fate.LATE, 11),)
    assert curve.steps[0].usable == 9
    assert second_round([curve], 20) == ((curve.steps[0].step, 11),)


def test_a_step_that_was_cut_off_says_nothing() -> None:
    assert standings(curve_of([sample(5)] * 10 + [sample(6)] * 9)) == [Standing.KEPT, Standing.UNKNOWN]


def test_a_server_that_delays_nothing_is_not_asked_again() -> None:
    curve = curve_of([sample(5, Fate.NOT_DELAYED, None)] * 20)
    assert second_round([curve], 20) == ()


def test_half_of_many_samples_are_enough() -> None:
    for late, standing in ((20, Standing.KEPT), (21, Standing.UNKNOWN)):
        assert standings(curve_of([sample(5)] * 20 + [sample(5, Fate.LATE)] * late)) == [standing]


def test_a_step_counts_what_became_of_its_samples() -> None:
    results = [
        *[sample(5, begun_ns=7)] * 4,
        *[sample(5, resent=True, after=ELSE)] * 3,
        *[sample(5, resent=True)] * 2,
        *[sample(5, heard=False)] * 5,
        *[sample(5, heard=True)] * 6,
        sample(5, Fate.DEAD, None),
    ]
    (curve,) = curves(results, CLUSTER, lambda result: result.begun_ns == 7)
    (step,) = curve.steps
    assert (curve.direction, curve.state) == (Direction.CLIENT, FlowState.STREAM)
    assert (step.samples, step.void, step.ambiguous, step.resent, step.unheard, step.dead) == (21, 4, 3, 2, 5, 1)
    assert step.usable == 14
    assert [curve.estimate(wanted).wanted for wanted in Property] == list(Property)


def test_a_packet_of_the_pod_that_is_not_heard_loses_the_flow_alone() -> None:
    curve = curve_of([sample(5)] * 10 + [sample(5, heard=False)] * 10)
    assert standings(curve) == [Standing.LOST]
    assert standings(curve, Property.PORT) == [Standing.KEPT]


@pytest.mark.parametrize(
    ("heard", "after", "lost", "standing"),
    [
        (False, WHO, 15, Standing.KEPT),
        (False, WHO, 17, Standing.LOST),
        (True, ELSE, 1, Standing.MIXED),
        (None, None, 7, Standing.KEPT),
        (None, None, 8, Standing.LOST),
    ],
)
def test_the_pods_one_packet_is_lost_more_often_than_two_probes(
    heard: bool | None, after: Identity | None, lost: int, standing: Standing
) -> None:
    lossy = {"sent": 10, "answered": 7}
    kept = sample(5, heard=None if heard is None else True, **lossy)
    other = sample(5, Fate.ANSWERED if after else Fate.DEAD, after, heard=heard, **lossy)
    assert standings(curve_of([kept] * (20 - lost) + [other] * lost)) == [standing]


def test_flows_that_met_their_old_pod_again_are_counted_in() -> None:
    view = PathView(policy="Local", affinity="None", pods_by_node=(("node-1", 2),))
    count = curve_of([sample(5)] * 15 + [sample(5, after=ELSE)] * 5, view).steps[0].count(Property.FLOW)
    assert (count.alike, count.expired) == (0.5, 0.5)
    assert curve_of([sample(5, Fate.LATE)] * 5).steps[0].count(Property.FLOW).alike == 0


def test_a_restarted_pod_says_nothing() -> None:
    curve = curve_of([sample(5)] * 10 + [sample(5, after=WHO._replace(instance=b"another "))] * 10)
    assert (curve.steps[0].restarted, curve.steps[0].usable) == (10, 10)
    assert standings(curve) == [Standing.KEPT]


def test_one_pod_of_a_node_says_nothing_under_policy_local() -> None:
    pool = PoolSnapshot(
        frozenset(
            {
                Endpoint("1", "a", "10.1.0.1", "node-1"),
                Endpoint("2", "b", "10.1.0.2", "node-2"),
                Endpoint("3", "c", "10.1.0.3", "node-2"),
                Endpoint("4", "d", "10.1.0.4", "node-2", ready=False),
            }
        )
    )
    view = PathView.of([], pool, policy="Local", affinity="None", via="load-balancer")
    assert view.pods_by_node == (("node-1", 1), ("node-2", 2))
    assert view.pods == 3
    assert view.pod_tells
    assert not view.port_tells
    alone, beside = sample(5), sample(5, before=ELSE, after=ELSE)
    assert view.chance_alike(alone, Property.POD) == 1
    assert view.chance_alike(beside, Property.POD) == 0.5
    assert standings(curve_of([alone] * 10 + [beside] * 20, view)) == [Standing.KEPT]
    assert curve_of([alone] * 10 + [beside] * 20, view).steps[0].count(Property.FLOW).of == 20
    assert standings(curve_of([alone] * 20, view)) == [Standing.UNKNOWN]


def test_what_cannot_look_different_says_so_if_it_does() -> None:
    view = PathView(policy="Local", affinity="ClientIP", pods_by_node=(("node-1", 2),))
    assert view.hides
    count = curve_of([sample(5, after=ELSE)] * 20, view).steps[0].count(Property.FLOW)
    assert (count.standing, count.kept, count.of, count.expired) == (Standing.LOST, 0, 20, 0.0)
    assert curve_of([sample(5)] * 20, view).steps[0].count(Property.FLOW).expired == 0


def test_the_cluster_ip_is_not_masqueraded_whatever_the_policy() -> None:
    seen = PathView.of(
        [sample(5, local_port=4000)], None, policy="Cluster", affinity="", via="cluster-ip", is_cluster_ip=True
    )
    assert not seen.translated
    assert not seen.port_tells
    assert not PathView(policy="Local", is_cluster_ip=True).is_local


def test_a_view_says_what_the_replies_and_the_watch_say() -> None:
    nameless = WHO._replace(node=None)
    beside = WHO._replace(pod="c")
    results = [sample(5, after=ELSE, local_port=4001), sample(5, before=nameless, after=beside, local_port=4000)]
    view = PathView.of(results, None, policy="Local", affinity="ClientIP", via="cluster-ip", is_cluster_ip=True)
    assert view == PathView(
        policy="Local",
        affinity="ClientIP",
        via="cluster-ip",
        is_cluster_ip=True,
        pods_by_node=(("", 1), ("node-1", 2), ("node-2", 1)),
        translated=True,
    )


TWO, ONE, NAMELESS = (("node-1", 2),), (("node-1", 1),), (("", 2),)


@pytest.mark.parametrize(
    ("wanted", "view", "chance"),
    [
        (Property.POD, PathView(affinity="ClientIP", pods_by_node=TWO), 0),
        (Property.POD, PathView(affinity="ClientIP", pods_by_node=ONE), 1),
        (Property.POD, PathView(affinity="None", pods_by_node=TWO), 0.5),
        (Property.POD, PathView(affinity="None", policy="Local", pods_by_node=NAMELESS), 0.5),
        (Property.PORT, PathView(translated=True), 0),
        (Property.PORT, PathView(), 1),
        (Property.ADDRESS, PathView(policy="Local"), 0),
        (Property.FLOW, PathView(policy="Local", affinity="ClientIP", pods_by_node=TWO), 1),
    ],
)
def test_a_flow_made_anew_looks_alike_by_chance(wanted: Property, view: PathView, chance: float) -> None:
    before = WHO._replace(node=None) if view.pods_by_node is NAMELESS else WHO
    assert view.chance_alike(sample(5, before=before), wanted) == chance


def test_another_port_says_nothing_of_a_pod_that_is_the_only_one() -> None:
    view = PathView(policy="Cluster", affinity="None", pods_by_node=ONE, translated=True)
    other = WHO._replace(reflexive=TransportAddress("10.0.0.1", 4001))
    curve = curve_of([sample(5, after=other)] * 20, view)
    assert standings(curve, Property.PORT) == [Standing.LOST]
    assert curve.steps[0].count(Property.POD).of == 0


def test_any_pod_may_be_drawn_where_no_policy_keeps_flows_at_their_node() -> None:
    pods = (("node-1", 1), ("node-2", 3))
    view = PathView(policy="Local", affinity="None", is_cluster_ip=True, pods_by_node=pods)
    assert view.chance_alike(sample(5), Property.POD) == 0.25
    assert PathView(policy="Cluster", affinity="None", pods_by_node=(("node-1", 1), ("node-2", 1))).pod_tells


def test_a_pod_of_a_node_that_has_none_any_more_says_nothing_under_policy_local() -> None:
    view = PathView(policy="Local", affinity="None", pods_by_node=(("node-2", 2),))
    assert view.chance_alike(sample(5), Property.POD) == 1


def test_without_a_service_what_looks_kept_counts_as_kept() -> None:
    view = PathView.of([sample(5, local_port=4000)], None, policy="", affinity="", via="")
    assert view.hides
    assert standings(curve_of([sample(5)] * 20, view)) == [Standing.KEPT]


def test_a_foreign_server_shows_addresses_alone() -> None:
    foreign = WHO._replace(pod=None, node=None, instance=None)
    results = [sample(5, before=foreign, after=foreign, local_port=4001)] * 20
    view = PathView.of([*results, sample(5, Fate.NOT_STARTED, None, before=None)], None, policy="", affinity="", via="")
    assert (view.pods, view.translated) == (0, True)
    assert standings(curve_of(results, view)) == [Standing.KEPT]
    assert standings(curve_of(results, view), Property.POD) == [Standing.UNKNOWN]
    silent = sample(5, before=Identity(), after=Identity(), local_port=4001)
    assert PathView.of([silent], None, policy="", affinity="", via="").pods == 0


def test_lost_probes_before_the_silence_excuse_lost_ones_after_it() -> None:
    lossy = {"sent": 10, "answered": 6}
    results = [sample(5, **lossy)] * 13 + [sample(5, Fate.DEAD, None, **lossy)] * 7
    assert standings(curve_of(results)) == [Standing.KEPT]
    assert standings(curve_of([sample(5)] * 13 + [sample(5, Fate.DEAD, None)] * 7)) == [Standing.LOST]


def test_a_pool_of_nobody_is_replaced_by_who_answered() -> None:
    view = PathView.of([sample(5)], PoolSnapshot(frozenset()), policy="Cluster", affinity="None", via="")
    assert view.pods == 1


def test_nothing_measured_says_nothing() -> None:
    result = IdleResult.of([], CLUSTER, never, longest_ns=S, watched=False, planned=0)
    assert (result.curves, result.void, result.is_conclusive, result.is_unbroken) == ((), 0, False, False)
    assert result.keep_alive_ns is None
    assert keep_alive_ns([]) is None


def test_a_target_that_answers_nothing_is_told_from_one_that_answered_once() -> None:
    silent = replace(sample(5), fate=Fate.NOT_STARTED)

    def measured(*results: SampleResult) -> IdleResult:
        return IdleResult.of(results, CLUSTER, never, longest_ns=S, watched=False, planned=2)

    assert measured(silent, silent).is_unanswered
    assert not measured(silent, sample(5)).is_unanswered
    assert not measured().is_unanswered


def test_a_short_keep_alive_is_no_whole_second() -> None:
    assert str(keep_alive_ns([curve_of([sample(1)] * 20)])) == "500000000"


def test_a_keep_alive_is_half_of_what_was_kept_in_whole_seconds() -> None:
    assert str(keep_alive_ns([curve_of([sample(29)] * 20)])) == "14000000000"


def test_a_timeout_matches_where_the_curve_breaks() -> None:
    curve = curve_of([sample(28)] * 20 + [sample(35, after=ELSE)] * 20)
    here = KnownTimeout("here", 30 * S)
    others = [
        KnownTimeout("too short", 27 * S),
        KnownTimeout("too long", 36 * S),
        KnownTimeout("another state's", 30 * S, state=FlowState.ONE_EXCHANGE),
    ]
    assert matching(curve, [here, *others]) == (here,)
    edges = [KnownTimeout("half a second less", 28 * S - S // 2), KnownTimeout("more", 35 * S + S // 2)]
    assert matching(curve, edges) == tuple(edges)
    assert matching(curve_of([sample(28)] * 20), [here]) == ()
    assert matching(curve_of([sample(28, after=ELSE)] * 20), [here]) == ()
