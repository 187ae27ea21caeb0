"""Many facts of one kind as one line."""

from __future__ import annotations

from affinity_tester.core import events as ev
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange
from affinity_tester.report.fold import near_lines

S = 1_000_000_000


def pod(number: int, action: EndpointAction, seconds: float) -> ev.NearFact:
    endpoint = Endpoint(f"uid-{number}", f"p{number}", f"10.0.0.{number}")
    return ev.NearFact(0, round(seconds * S), change=EndpointChange(action, endpoint))


def field(name: str, old: str, new: str) -> ev.NearFact:
    return ev.NearFact(0, -S, change=EndpointChange(EndpointAction.SPEC, None, name, old, new))


def node(number: int, action: ev.ClusterAction, seconds: float) -> ev.NearFact:
    return ev.NearFact(0, round(seconds * S), event=ev.ClusterEvent(0, ev.ClusterSubject.NODE, f"n{number}", action))


def test_a_rollout_is_a_line_for_each_step_of_it() -> None:
    facts = []
    for number in range(18):
        facts += [
            pod(number, EndpointAction.JOINED, number / 2 - 6),
            pod(number, EndpointAction.READY, number / 2 - 5),
            pod(number + 50, EndpointAction.TERMINATING, number / 2 - 4),
            pod(number + 50, EndpointAction.LEFT, number / 2 + 1),
        ]
    assert near_lines(facts) == [
        '18 pods joined the pool 6.0 s before to 2.5 s after: "p0", "p1", "p2" and 15 more',
        '18 pods became ready 5.0 s before to 3.5 s after: "p0", "p1", "p2" and 15 more',
        '18 pods are terminating, still serving 4.0 s before to 4.5 s after: "p50", "p51", "p52" and 15 more',
        '18 pods left the pool 1.0 s to 9.5 s after: "p50", "p51", "p52" and 15 more',
    ]


def test_two_of_a_kind_are_told_each() -> None:
    assert near_lines([pod(1, EndpointAction.LEFT, -2), pod(2, EndpointAction.LEFT, -1)]) == [
        'pod "p1" left the pool 2.0 s before',
        'pod "p2" left the pool 1.0 s before',
    ]


def test_a_pod_that_does_the_same_again_and_again_is_one() -> None:
    facts = [pod(1, EndpointAction.READY, seconds) for seconds in (-5, -3, -1)]
    assert near_lines(facts) == ['1 pod became ready, 3 times in all 5.0 s to 1.0 s before: "p1"']


def test_the_fields_of_a_deleted_service_are_one_line_and_an_edited_one_is_as_it_was() -> None:
    gone = [field("externalTrafficPolicy", "Local", "none"), field("sessionAffinity", "None", "none")]
    edited = field("sessionAffinity", "None", "ClientIP")
    assert near_lines([*gone, edited]) == [
        "the Service was deleted, and what was set of it: externalTrafficPolicy, sessionAffinity 1.0 s before",
        "the Service's sessionAffinity changed None -> ClientIP 1.0 s before",
    ]
    assert near_lines(gone[:1]) == ["the Service's externalTrafficPolicy changed Local -> none 1.0 s before"]


def test_nodes_are_folded_too() -> None:
    facts = [node(number, ev.ClusterAction.NOT_READY, -number) for number in range(1, 5)]
    assert near_lines(facts) == ['4 nodes not Ready 4.0 s to 1.0 s before: "n1", "n2", "n3" and 1 more']


def test_the_fields_of_services_that_changed_are_theirs() -> None:
    changed = ev.ClusterAction.FIELDS_CHANGED
    events = [ev.ClusterEvent(0, ev.ClusterSubject.SERVICE, name, changed) for name in ("a", "b", "b")]
    facts = [ev.NearFact(0, -S, event=event) for event in events]
    assert near_lines(facts) == ['fields of 2 services changed, 3 times in all 1.0 s before: "a", "b"']
