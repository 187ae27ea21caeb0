"""The pool's differences in words, and what a timeline knows of a moment."""

from __future__ import annotations

import pytest

from affinity_tester.core.pool import Endpoint, PoolChange, PoolSnapshot, PoolTimeline, differences

A = Endpoint("uid-a", "a", "10.0.0.1", "n1")
B = Endpoint("uid-b", "b", "10.0.0.2", "n2")


def pool(*endpoints: Endpoint, **spec: str) -> PoolSnapshot:
    return PoolSnapshot(frozenset(endpoints), tuple(sorted(spec.items())))


def but(endpoint: Endpoint, **values: object) -> Endpoint:
    fields = {name: getattr(endpoint, name) for name in Endpoint.__slots__}
    return Endpoint(**{**fields, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (pool(A), pool(A), ()),
        (pool(A), pool(but(A, node="n9")), ()),
        (pool(A, B), pool(A), ('pod "b" left the pool',)),
        (pool(A), pool(A, B), ('pod "b" joined the pool',)),
        (pool(A), pool(A, but(B, ready=False)), ('pod "b" joined the pool, not ready',)),
        (pool(A), pool(but(A, uid="uid-2")), ('pod "a" left the pool', 'pod "a" joined the pool')),
        (pool(A), pool(but(A, ready=False)), ('pod "a" became not ready',)),
        (pool(but(A, ready=False)), pool(A), ('pod "a" became ready',)),
        (pool(A), pool(but(A, serving=False)), ('pod "a" no longer serves',)),
        (pool(but(A, serving=False)), pool(A), ('pod "a" serves',)),
        (pool(A), pool(but(A, ready=False, terminating=True)), ('pod "a" is terminating, still serving',)),
        (
            pool(A),
            pool(but(A, ready=False, serving=False, terminating=True)),
            ('pod "a" is terminating',),
        ),
        (pool(but(A, terminating=True)), pool(A), ('pod "a" is no longer terminating',)),
        (pool(but(A, pod="")), pool(), ("endpoint 10.0.0.1 left the pool",)),
        (
            pool(A, policy="Cluster"),
            pool(A, affinity="ClientIP"),
            ("the Service's affinity changed none -> ClientIP", "the Service's policy changed Cluster -> none"),
        ),
    ],
)
def test_differences_are_told_in_words(before: PoolSnapshot, after: PoolSnapshot, said: tuple[str, ...]) -> None:
    assert differences(before, after) == said


def test_a_snapshot_counts_what_is_ready_and_finds_a_pod() -> None:
    snapshot = pool(A, but(B, ready=False))
    assert snapshot.ready_count == 1
    assert snapshot.of_pod("a") == A
    assert snapshot.of_pod("c") is None


def test_a_watch_tells_changes_and_confirms_nothing() -> None:
    timeline = PoolTimeline()
    timeline.observed(10, 10, pool(A), 10)
    timeline.observed(20, 20, pool(B))
    assert timeline.confirmed_ns == 10


def test_an_empty_timeline_knows_nothing() -> None:
    timeline = PoolTimeline()
    assert not timeline.watched
    assert timeline.first_ns is None
    timeline.confirmed(5)
    assert timeline.confirmed_ns is None
    assert timeline.gap_within(0, 10) is None
    assert timeline.still_ns(0, 10, 2) == 10


def test_a_timeline_knows_changes_gaps_and_how_far_it_reaches() -> None:
    timeline = PoolTimeline()
    assert timeline.observed(10, 10, pool(A), 10) is None
    assert timeline.first_ns == 10
    change = timeline.observed(50, 50, pool(A, B), 50)
    assert change == PoolChange(50, 50, ('pod "b" joined the pool',))
    assert timeline.confirmed_ns == 50
    timeline.confirmed(40)
    assert timeline.confirmed_ns == 50
    timeline.unobserved(60)
    timeline.unobserved(65)
    assert timeline.gap_within(55, 60) is None
    assert timeline.gap_within(55, 61) == (60, 61)
    assert timeline.observed(60, 90, pool(B), 90) == PoolChange(60, 90, ('pod "a" left the pool',))
    assert timeline.gap_within(0, 100) == (60, 90)
    assert timeline.gap_within(0, 20) == (0, 10)
    assert timeline.gap_within(20, 60) is None
    assert timeline.change_within(40, 60) == change
    assert timeline.change_within(51, 89) is None
    assert timeline.change_perhaps_within(70, 80) == PoolChange(60, 90, ('pod "a" left the pool',))
    assert timeline.change_perhaps_within(91, 99) is None
    assert timeline.ever_had("a")
    assert not timeline.ever_had("c")
    assert timeline.still_ns(0, 200, 5) == (45 - 10) + (200 - 95)


def test_a_watch_that_resumes_without_missing_anything_leaves_no_gap() -> None:
    timeline = PoolTimeline()
    timeline.observed(10, 10, pool(A), 10)
    timeline.unobserved(20)
    assert timeline.still_ns(10, 50, 0) == 10
    timeline.confirmed(40)
    assert timeline.gap_within(10, 40) is None
    assert timeline.still_ns(10, 50, 0) == 40


def test_a_pod_with_two_endpoints_serves_while_one_of_them_does() -> None:
    timeline = PoolTimeline()
    other = but(A, address="10.0.0.9")
    timeline.observed(10, 10, pool(A, other), 10)
    timeline.observed(20, 20, pool(other), 20)
    assert timeline.serving_throughout("a", 10, 25)
    timeline.observed(30, 30, pool(but(other, serving=False)), 30)
    assert not timeline.serving_throughout("a", 10, 35)


def test_serving_throughout_looks_at_every_snapshot_that_holds_in_the_time() -> None:
    timeline = PoolTimeline()
    timeline.observed(10, 10, pool(A, B), 10)
    timeline.observed(20, 20, pool(A, but(B, ready=False, serving=False)), 20)
    timeline.observed(30, 30, pool(A), 30)
    assert timeline.serving_throughout("a", 0, 100)
    assert timeline.serving_throughout("b", 5, 15)
    assert timeline.serving_throughout("b", 0, 12)
    assert not timeline.serving_throughout("b", 0, 5)
    assert not timeline.serving_throughout("b", 15, 25)
    assert not timeline.serving_throughout("b", 35, 40)


def test_a_pod_that_was_replaced_under_its_name_did_not_serve_throughout() -> None:
    timeline = PoolTimeline()
    timeline.observed(10, 10, pool(A, B), 10)
    timeline.observed(20, 20, pool(but(A, uid="another", address="10.0.0.9"), B), 20)
    assert timeline.serving_throughout("b", 10, 30)
    assert timeline.serving_throughout("a", 20, 30)
    assert not timeline.serving_throughout("a", 10, 30)


def test_a_pod_found_gone_by_a_list_may_have_gone_at_the_start_of_the_gap() -> None:
    timeline = PoolTimeline()
    timeline.observed(10, 10, pool(A, B), 10)
    timeline.unobserved(20)
    timeline.observed(20, 50, pool(B), 50)
    assert timeline.serving_throughout("a", 10, 19)
    assert not timeline.serving_throughout("a", 10, 30)
