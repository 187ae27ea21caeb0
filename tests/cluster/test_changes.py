"""From the facts before and after to the words."""

from __future__ import annotations

from typing import Any

import pytest

from affinity_tester.cluster.changes import node_events, pod_events, proxy_events, service_events
from affinity_tester.cluster.objects import Pod, parse_node, parse_pod, parse_service
from affinity_tester.core.events import ClusterEvent
from fakeapi import node, pod, proxy, service


@pytest.mark.parametrize(
    ("old", "new", "whats"),
    [
        (None, node("n"), ["added"]),
        (node("n"), None, ["removed"]),
        (node("n"), node("n", uid="another"), ["removed", "added"]),
        (node("n"), node("n", ready="False"), ["not Ready"]),
        (node("n", ready="Unknown"), node("n"), ["Ready"]),
        (node("n"), node("n", ready="False", cordoned=True), ["not Ready", "cordoned"]),
        (node("n", cordoned=True), node("n"), ["uncordoned"]),
        (node("n"), node("n", internal="10.0.0.1"), []),
    ],
)
def test_nodes(old: Any, new: Any, whats: list[str]) -> None:
    told = node_events(7, "n", old and parse_node(old), new and parse_node(new))
    assert told == [ClusterEvent(7, "node", "n", what) for what in whats]


@pytest.mark.parametrize(
    ("old", "new", "whats"),
    [
        (None, pod("a", restarts=3), []),
        (pod("a"), None, []),
        (pod("a"), pod("a", restarts=1, uid="another"), []),
        (pod("a", restarts=1), pod("a", restarts=1), []),
        (pod("a", restarts=1), pod("a", restarts=2), ['restarted on node "n1"']),
        (pod("a", on=""), pod("a", on="", restarts=1, end="Error"), ["restarted (its container ended with Error)"]),
    ],
)
def test_backend_pods(old: Any, new: Any, whats: list[str]) -> None:
    told = pod_events(7, old and parse_pod(old), new and parse_pod(new))
    assert told == [ClusterEvent(7, "pod", "a", what) for what in whats]


def proxies(*steps: tuple[Any, Any]) -> list[tuple[str, str]]:
    images: dict[tuple[str, str], str] = {}
    told: list[ClusterEvent] = []
    for old, new in steps:
        facts: list[Pod | None] = [obj and parse_pod(obj) for obj in (old, new)]
        told += proxy_events(7, facts[0], facts[1], images)
    assert all((event.at_ns, event.subject) == (7, "proxy") for event in told)
    return [(event.name, event.what) for event in told]


def test_a_proxy_restarts_moves_and_is_upgraded_in_place() -> None:
    at = proxy("p")
    assert proxies((at, at)) == []
    assert proxies((at, proxy("p", restarts=1))) == [("p", 'restarted on node "n1"')]
    assert proxies((at, proxy("p", on="n2"))) == [("p", 'moved from node "n1" to node "n2"')]
    assert proxies((None, at), (at, proxy("p", image="proxy:2"))) == [
        ("p", 'created on node "n1"'),
        ("p", 'upgraded on node "n1": image proxy:1 -> proxy:2'),
    ]
    assert proxies((at, proxy("p", uid="another"))) == [("p", 'deleted on node "n1"'), ("p", 'created on node "n1"')]


def test_a_rolling_upgrade_is_told_by_the_node_s_new_pod() -> None:
    old, bare, placed = proxy("p1"), proxy("p2", on="", image="proxy:2"), proxy("p2", image="proxy:2")
    assert proxies((None, old), (old, None), (None, bare), (bare, placed)) == [
        ("p1", 'created on node "n1"'),
        ("p1", 'deleted on node "n1"'),
        ("p2", "created"),
        ("p2", 'placed on node "n1", upgraded: image proxy:1 -> proxy:2'),
    ]
    assert proxies((None, old), (None, placed))[1:] == [
        ("p2", 'created on node "n1", upgraded: image proxy:1 -> proxy:2')
    ]
    assert proxies((bare, proxy("p2", on="n3", image="proxy:2"))) == [("p2", 'placed on node "n3"')]


@pytest.mark.parametrize(
    ("old", "new", "whats"),
    [
        (None, service(), ["created"]),
        (service(), None, ["deleted"]),
        (service(), {**service(), "metadata": {"name": "turn", "uid": "another"}}, ["deleted", "created"]),
        (service(), service(), []),
        (service(), service(sessionAffinity="ClientIP", selector={"app": "x"}), ["changed: selector, sessionAffinity"]),
        (service(), service(ingress=()), ["load-balancer address changed 203.0.113.7 -> none"]),
        (
            service(ingress=("203.0.113.7", "lb.example.com")),
            service(ingress=("203.0.113.9",), trafficDistribution="PreferClose"),
            [
                "changed: trafficDistribution",
                "load-balancer address changed 203.0.113.7, lb.example.com -> 203.0.113.9",
            ],
        ),
    ],
)
def test_services(old: Any, new: Any, whats: list[str]) -> None:
    told = service_events(7, "media/turn", old and parse_service(old), new and parse_service(new))
    assert told == [ClusterEvent(7, "service", "media/turn", what) for what in whats]
