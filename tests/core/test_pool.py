"""The pool's differences in words, and what a timeline knows of a moment."""

from __future__ import annotations

import pytest

from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot, differences
from affinity_tester.core.pool_timeline import PoolChange, PoolTimeline, Span, without
from affinity_tester.report.reason_text import endpoint_change_text
from pools import observe

A = Endpoint("uid-a", "a", "10.0.0.1", "n1")
B = Endpoint("uid-b", "b", "10.0.0.2", "n2")


def pool(*endpoints: Endpoint, **spec: str) -> PoolSnapshot:
    return PoolSnapshot(frozenset(endpoints), tuple(sorted(spec.items())))


def but(endpoint: Endpoint, **values: object) -> Endpoint:
    fields = {name: getattr(endpoint, name) for name in Endpoint.__slots__}
    return Endpoint(**{**fields, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "actions", "said"),
    [
        (pool(A), pool(A), "", ()),
        (pool(A), pool(but(A, node="n9")), "", ()),
        (pool(A, B), pool(A), "left", ('pod "b" left the pool',)),
        (pool(A), pool(A, B), "joined", ('pod "b" joined the pool',)),
        (pool(A), pool(A, but(B, ready=False)), "joined", ('pod "b" joined the pool, not ready',)),
        (
            pool(A),
            pool(but(A, uid="uid-2")),
            "left, joined",
            ('pod "a" left the pool', 'pod "a" joined the pool'),
        ),
        (pool(A), pool(but(A, ready=False)), "not ready", ('pod "a" became not ready',)),
        (pool(but(A, ready=False)), pool(A), "ready", ('pod "a" became ready',)),
        (pool(A), pool(but(A, serving=False)), "stopped serving", ('pod "a" no longer serves',)),
        (pool(but(A, serving=False)), pool(A), "serves", ('pod "a" serves',)),
        (
            pool(A),
            pool(but(A, ready=False, terminating=True)),
            "terminating",
            ('pod "a" is terminating, still serving',),
        ),
        (
            pool(A),
            pool(but(A, ready=False, serving=False, terminating=True)),
            "terminating",
            ('pod "a" is terminating',),
        ),
        (pool(but(A, terminating=True)), pool(A), "not terminating", ('pod "a" is no longer terminating',)),
        (pool(but(A, pod="")), pool(), "left", ("endpoint 10.0.0.1 left the pool",)),
        (
            pool(A, policy="Cluster"),
            pool(A, affinity="ClientIP"),
            "spec, spec",
            ("the Service's affinity changed none -> ClientIP", "the Service's policy changed Cluster -> none"),
        ),
    ],
)
def test_differences_are_told_in_words(
    before: PoolSnapshot, after: PoolSnapshot, actions: str, said: tuple[str, ...]
) -> None:
    found = differences(before, after)
    assert ", ".join(change.action for change in found) == actions
    assert tuple(endpoint_change_text(change) for change in found) == said


def test_causes_stand_before_consequences() -> None:
    c = Endpoint("uid-c", "c", "10.0.0.3")
    before, after = pool(A, but(c, ready=False), policy="Cluster"), pool(B, c, policy="Local")
    assert [(change.action, change.pod, change.action.takes_away) for change in differences(before, after)] == [
        (EndpointAction.SPEC, "", False),
        (EndpointAction.LEFT, "a", True),
        (EndpointAction.READY, "c", False),
        (EndpointAction.JOINED, "b", False),
    ]


def test_a_snapshot_counts_what_is_ready_and_finds_a_pod() -> None:
    snapshot = pool(A, but(B, ready=False))
    assert snapshot.ready_count == 1
    assert snapshot.of_pod("a") == A
    assert snapshot.of_pod("c") is None


def test_a_watch_tells_changes_and_confirms_nothing() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A), 10)
    observe(timeline, 20, 20, pool(B))
    assert timeline.confirmed_ns == 10


def test_an_empty_timeline_knows_nothing() -> None:
    timeline = PoolTimeline()
    assert not timeline.watched
    assert timeline.first_ns is None
    timeline.confirmed(5)
    assert timeline.confirmed_ns is None
    assert timeline.gap_within(0, 10) is None
    assert timeline.stable_ns(0, 10, 2) == 10


def test_a_timeline_knows_changes_gaps_and_how_far_it_reaches() -> None:
    timeline = PoolTimeline()
    assert observe(timeline, 10, 10, pool(A), 10) is None
    assert timeline.first_ns == 10
    joined = observe(timeline, 50, 50, pool(A, B), 50)
    assert joined == PoolChange(50, 50, (EndpointChange(EndpointAction.JOINED, B),))
    assert joined.changes == (EndpointChange(EndpointAction.JOINED, B),)
    assert timeline.confirmed_ns == 50
    timeline.confirmed(40)
    assert timeline.confirmed_ns == 50
    assert timeline.confirmed_after(49)
    assert not timeline.confirmed_after(50)
    timeline.unobserved(60)
    timeline.unobserved(65)
    assert not timeline.observing
    assert timeline.gap_within(55, 60) is None
    assert timeline.gap_within(55, 61) == (60, 61)
    left = observe(timeline, 60, 90, pool(B), 90)
    assert left == PoolChange(60, 90, (EndpointChange(EndpointAction.LEFT, A),))
    assert timeline.observing
    assert timeline.gap_within(0, 100) == (60, 90)
    assert timeline.gap_within(0, 20) == (0, 10)
    assert timeline.gap_within(20, 60) is None
    assert timeline.has_seen("a")
    assert not timeline.has_seen("c")
    assert timeline.stable_ns(0, 200, 5) == (45 - 10) + (200 - 95)
    assert timeline.stable_ns(0, 200, 5, [(20, 30), (25, 55)]) == (20 - 10) + (200 - 95)


def test_a_change_is_surely_within_a_reach_or_perhaps_or_not() -> None:
    """The reach is closed on both sides; a change happened after the start of its interval, at its end at the latest."""
    timeline = PoolTimeline()
    observe(timeline, 0, 0, pool(A), 0)
    joined = observe(timeline, 40, 50, pool(A, B))
    left = observe(timeline, 60, 90, pool(B))

    def within(from_ns: int, to_ns: int) -> tuple[list[PoolChange], list[PoolChange]]:
        return list(timeline.surely_within(from_ns, to_ns)), list(timeline.perhaps_within(from_ns, to_ns))

    assert within(40, 90) == ([left, joined], [left, joined])
    assert within(40, 50) == ([joined], [joined])
    assert within(41, 50) == within(40, 49) == ([], [joined])
    assert within(50, 60) == ([], [joined])
    assert within(51, 60) == within(0, 40) == within(91, 99) == ([], [])
    assert within(90, 95) == within(70, 80) == ([], [left])


def test_a_change_of_a_known_moment_is_within_a_reach_that_ends_or_begins_at_it() -> None:
    timeline = PoolTimeline()
    observe(timeline, 0, 0, pool(A), 0)
    joined = observe(timeline, 50, 50, pool(A, B), 50)
    for reach in ((50, 60), (40, 50)):
        assert list(timeline.surely_within(*reach)) == list(timeline.perhaps_within(*reach)) == [joined]


def test_changes_stay_in_order_though_news_does_not() -> None:
    """A list may tell what a watch told first, and what it tells besides is no older to a reader than that."""
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A), 10)
    observe(timeline, 10, 80, pool(A, B))
    assert observe(timeline, 70, 60, pool(B)) == PoolChange(70, 80, (EndpointChange(EndpointAction.LEFT, A),))
    assert observe(timeline, 90, 85, pool(A, B)) == PoolChange(85, 85, (EndpointChange(EndpointAction.JOINED, A),))


def test_a_snapshot_of_the_watch_closes_no_gap() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A), 10)
    timeline.unobserved(20)
    observe(timeline, 20, 30, pool(A, B))
    assert not timeline.observing
    assert timeline.gap_within(25, 40) == (20, 40)
    observe(timeline, 20, 35, pool(A, B), 32)
    assert timeline.gap_within(25, 40) == (20, 35)


def test_it_is_known_whether_and_when_a_pod_stopped_serving() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A, but(B, serving=False)), 10)
    assert (timeline.serves("a"), timeline.serves("b"), timeline.serves("c")) == (True, False, False)
    assert timeline.stopped("a") is None
    assert timeline.stopped("c") is None
    observe(timeline, 20, 30, pool(but(A, ready=False, terminating=True), B), 25)
    assert (timeline.serves("a"), timeline.serves("b"), timeline.stopped("a")) == (True, True, None)
    observe(timeline, 40, 50, pool(B))
    assert (timeline.serves("a"), timeline.stopped("a")) == (False, Span(40, 50))
    observe(timeline, 60, 70, pool(A, B))
    assert (timeline.serves("a"), timeline.stopped("a")) == (True, Span(40, 50))
    observe(timeline, 80, 90, pool(but(A, uid="another", address="10.0.0.9"), B))
    assert (timeline.serves("a"), timeline.stopped("a")) == (True, Span(80, 90))


def test_a_pod_that_had_stopped_serving_leaves_later() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A, B), 10)
    observe(timeline, 20, 30, pool(but(A, serving=False), B))
    assert (timeline.stopped("a"), timeline.left("a")) == (Span(20, 30), None)
    observe(timeline, 40, 50, pool(B))
    assert timeline.stopped("a") == timeline.left("a") == Span(40, 50)
    observe(timeline, 60, 60, pool(but(A, uid="another"), B), 60)
    observe(timeline, 70, 70, pool(but(A, uid="another", serving=False), B), 70)
    assert (timeline.serves("a"), timeline.stopped("a"), timeline.left("a")) == (False, Span(70, 70), Span(40, 50))
    assert (timeline.left("b"), timeline.left("c")) == (None, None)


def test_a_pod_stopped_serving_when_it_first_did_not() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A), 10)
    observe(timeline, 20, 20, pool(but(A, ready=False, serving=False)))
    observe(timeline, 30, 30, pool(but(A, ready=False, serving=False, terminating=True)))
    assert (timeline.serves("a"), timeline.stopped("a")) == (False, Span(20, 20))


def test_it_is_known_when_no_endpoint_was_ready() -> None:
    timeline = PoolTimeline()
    observe(timeline, 0, 0, pool(but(A, ready=False)), 0)
    assert timeline.emptied_within(0, 10) == (True, None)
    observe(timeline, 10, 20, pool(A))
    assert timeline.emptied_within(20, 100) is None
    observe(timeline, 50, 60, pool())
    observe(timeline, 90, 100, pool(A))
    refilled = Span(90, 100)
    assert timeline.emptied_within(60, 90) == (True, refilled)
    assert timeline.emptied_within(55, 60) == (True, refilled)
    assert timeline.emptied_within(55, 59) == (False, refilled)  # it was emptied by 60 only
    assert timeline.emptied_within(40, 50) is None
    assert timeline.emptied_within(90, 99) == (True, refilled)
    assert timeline.emptied_within(95, 99) == (False, refilled)  # it was refilled after 90 and by 100
    assert timeline.emptied_within(100, 120) is None
    assert timeline.emptied_within(0, 30) == (True, Span(10, 20))


def test_what_is_cut_out_of_a_time_may_overlap_and_reach_beyond_it() -> None:
    assert without(10, 100, []) == 90
    assert without(10, 100, [(40, 60), (0, 20), (50, 70), (90, 200)]) == (40 - 20) + (90 - 70)
    assert without(10, 100, [(0, 200)]) == 0
    assert without(10, 5, []) == 0


def test_a_watch_that_resumes_without_missing_anything_leaves_no_gap() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A), 10)
    timeline.unobserved(20)
    assert timeline.stable_ns(10, 50, 0) == 10
    timeline.confirmed(40)
    assert timeline.gap_within(10, 40) is None
    assert timeline.stable_ns(10, 50, 0) == 40


def test_a_pod_with_two_endpoints_serves_while_one_of_them_does() -> None:
    timeline = PoolTimeline()
    other = but(A, address="10.0.0.9")
    observe(timeline, 10, 10, pool(A, other), 10)
    observe(timeline, 20, 20, pool(other), 20)
    assert timeline.serving_throughout("a", 10, 25)
    observe(timeline, 30, 30, pool(but(other, serving=False)), 30)
    assert not timeline.serving_throughout("a", 10, 35)


def test_which_of_a_pod_s_endpoints_serves_makes_no_difference() -> None:
    """A set has no order, so one pod of many would show one."""
    names = [f"p{number}" for number in range(20)]
    both = [(Endpoint(name, name, "10.0.0.1", serving=False), Endpoint(name, name, "10.0.0.2")) for name in names]
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(*(each for pair in both for each in pair)), 10)
    assert all(timeline.serves(name) for name in names)
    observe(timeline, 20, 20, pool(*(silent for silent, _ in both)), 20)
    assert not any(timeline.serves(name) for name in names)
    assert not any(timeline.left(name) for name in names)


def test_all_that_is_learnt_of_the_pool_or_of_what_is_not_known_is_news() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A), 10)
    assert timeline.revision == 1
    observe(timeline, 20, 20, pool(A))
    assert timeline.revision == 2
    timeline.unobserved(30)
    assert timeline.revision == 3
    timeline.unobserved(40)
    assert timeline.revision == 4
    timeline.confirmed(50)
    assert timeline.revision == 5


def test_serving_throughout_looks_at_every_snapshot_that_holds_in_the_time() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A, B), 10)
    observe(timeline, 20, 20, pool(A, but(B, ready=False, serving=False)), 20)
    observe(timeline, 30, 30, pool(A), 30)
    assert timeline.serving_throughout("a", 0, 100)
    assert timeline.serving_throughout("b", 5, 15)
    assert timeline.serving_throughout("b", 0, 12)
    assert not timeline.serving_throughout("b", 0, 5)
    assert not timeline.serving_throughout("b", 15, 25)
    assert not timeline.serving_throughout("b", 35, 40)
    assert timeline.serving_throughout("c", 0, 100) is False


def test_a_pod_that_was_replaced_under_its_name_did_not_serve_throughout() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A, B), 10)
    observe(timeline, 20, 20, pool(but(A, uid="another", address="10.0.0.9"), B), 20)
    assert timeline.serving_throughout("b", 10, 30)
    assert timeline.serving_throughout("a", 21, 30)
    assert timeline.serving_throughout("a", 20, 30) is False
    assert timeline.serving_throughout("a", 10, 30) is False


def test_a_pod_found_gone_by_a_list_may_have_gone_at_the_start_of_the_gap() -> None:
    timeline = PoolTimeline()
    observe(timeline, 10, 10, pool(A, B), 10)
    timeline.unobserved(20)
    observe(timeline, 20, 50, pool(B), 50)
    assert timeline.serving_throughout("a", 10, 20) is True
    assert timeline.serving_throughout("a", 10, 30) is None
    assert timeline.serving_throughout("a", 20, 50) is False
    assert timeline.serving_throughout("a", 51, 60) is False
