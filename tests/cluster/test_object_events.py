"""From the facts before and after to the events."""

from __future__ import annotations

from typing import Any

import pytest

from affinity_tester.cluster.object_events import node_events, pod_events, proxy_events, service_events
from affinity_tester.cluster.objects import Pod, parse_node, parse_pod, parse_service
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject
from fakeapi import node, pod, proxy, service


@pytest.mark.parametrize(
    ("old", "new", "actions"),
    [
        (None, node("n"), [ClusterAction.ADDED]),
        (node("n"), None, [ClusterAction.REMOVED]),
        (node("n"), node("n", uid="another"), [ClusterAction.REMOVED, ClusterAction.ADDED]),
        (node("n"), node("n", ready="False"), [ClusterAction.NOT_READY]),
        (node("n", ready="Unknown"), node("n"), [ClusterAction.READY]),
        (node("n"), node("n", ready="False", cordoned=True), [ClusterAction.NOT_READY, ClusterAction.CORDONED]),
        (node("n", cordoned=True), node("n"), [ClusterAction.UNCORDONED]),
        (node("n"), node("n", internal="10.0.0.1"), []),
    ],
)
def test_nodes(old: Any, new: Any, actions: list[ClusterAction]) -> None:
    told = node_events(7, "n", old and parse_node(old), new and parse_node(new))
    assert told == [ClusterEvent(7, ClusterSubject.NODE, "n", action) for action in actions]


@pytest.mark.parametrize(
    ("old", "new", "restarts"),
    [
        (None, pod("a", restarts=3), []),
        (pod("a"), None, []),
        (pod("a"), pod("a", restarts=1, uid="another"), []),
        (pod("a", restarts=1), pod("a", restarts=1), []),
        (pod("a", restarts=1), pod("a", restarts=2), [{"node": "n1"}]),
        (pod("a", on=""), pod("a", on="", restarts=1, end="Error"), [{"last_end": "Error"}]),
    ],
)
def test_backend_pods(old: Any, new: Any, restarts: list[dict[str, str]]) -> None:
    told = pod_events(7, old and parse_pod(old), new and parse_pod(new))
    assert told == [ClusterEvent(7, ClusterSubject.POD, "a", ClusterAction.RESTARTED, **facts) for facts in restarts]


def proxies(*steps: tuple[Any, Any]) -> list[ClusterEvent]:
    images: dict[tuple[str, str], tuple[str, ...]] = {}
    told: list[ClusterEvent] = []
    for old, new in steps:
        facts: list[Pod | None] = [obj and parse_pod(obj) for obj in (old, new)]
        told += proxy_events(7, facts[0], facts[1], images)
    return told


def proxy_event(name: str, action: ClusterAction, node: str = "n1", **facts: tuple[str, ...]) -> ClusterEvent:
    return ClusterEvent(7, ClusterSubject.PROXY, name, action, node, **facts)


UPGRADE = {"old": ("proxy:1",), "new": ("proxy:2",)}
CREATED, DELETED, PLACED = ClusterAction.CREATED, ClusterAction.DELETED, ClusterAction.PLACED


def test_a_proxy_restarts_moves_and_is_upgraded_in_place() -> None:
    at = proxy("p")
    assert proxies((at, at)) == []
    assert proxies((at, proxy("p", restarts=1))) == [proxy_event("p", ClusterAction.RESTARTED)]
    assert proxies((at, proxy("p", on="n2"))) == [
        proxy_event("p", ClusterAction.MOVED, "", old=("n1",), new=("n2",)),
    ]
    assert proxies((None, at), (at, proxy("p", image="proxy:2"))) == [
        proxy_event("p", CREATED),
        proxy_event("p", ClusterAction.UPGRADED, **UPGRADE),
    ]
    assert proxies((at, proxy("p", uid="another"))) == [proxy_event("p", DELETED), proxy_event("p", CREATED)]


def test_a_rolling_upgrade_is_told_by_the_node_s_new_pod() -> None:
    old, bare, placed = proxy("p1"), proxy("p2", on="", image="proxy:2"), proxy("p2", image="proxy:2")
    assert proxies((None, old), (old, None), (None, bare), (bare, placed)) == [
        proxy_event("p1", CREATED),
        proxy_event("p1", DELETED),
        proxy_event("p2", CREATED, ""),
        proxy_event("p2", PLACED, **UPGRADE),
    ]
    assert proxies((None, old), (None, placed))[1:] == [proxy_event("p2", CREATED, **UPGRADE)]
    assert proxies((bare, proxy("p2", on="n3", image="proxy:2"))) == [proxy_event("p2", PLACED, "n3")]


@pytest.mark.parametrize(
    ("old", "new", "happened"),
    [
        (None, service(), [(CREATED, {})]),
        (service(), None, [(DELETED, {})]),
        (
            service(),
            {**service(), "metadata": {"name": "turn", "uid": "another"}},
            [(DELETED, {}), (CREATED, {})],
        ),
        (service(), service(), []),
        (
            service(),
            service(sessionAffinity="ClientIP", selector={"app": "x"}),
            [(ClusterAction.FIELDS_CHANGED, {"fields": ("selector", "sessionAffinity")})],
        ),
        (service(), service(ingress=()), [(ClusterAction.ADDRESS_CHANGED, {"old": ("203.0.113.7",)})]),
        (
            service(ingress=("203.0.113.7", "lb.example.com")),
            service(ingress=("203.0.113.9",), trafficDistribution="PreferClose"),
            [
                (ClusterAction.FIELDS_CHANGED, {"fields": ("trafficDistribution",)}),
                (
                    ClusterAction.ADDRESS_CHANGED,
                    {"old": ("203.0.113.7", "lb.example.com"), "new": ("203.0.113.9",)},
                ),
            ],
        ),
    ],
)
def test_services(old: Any, new: Any, happened: list[tuple[ClusterAction, dict[str, Any]]]) -> None:
    told = service_events(7, "media/turn", old and parse_service(old), new and parse_service(new))
    assert told == [
        ClusterEvent(7, ClusterSubject.SERVICE, "media/turn", action, **facts) for action, facts in happened
    ]
