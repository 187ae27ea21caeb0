"""A cluster event in words: the same in the log, in the JSON log, near an incident and as a diagnosis's evidence."""

from __future__ import annotations

import pytest

from affinity_tester.core.diagnosis.cluster_text import happened_to
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject, NearFact
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange
from affinity_tester.report.cluster_text import event_text, near_text, what_text

NODE, PROXY, SERVICE = ClusterSubject.NODE, ClusterSubject.PROXY, ClusterSubject.SERVICE
UPGRADE = {"old": ("proxy:1",), "new": ("proxy:2", "side:2")}


def event(subject: ClusterSubject, action: ClusterAction, **facts: object) -> ClusterEvent:
    return ClusterEvent(7, subject, "x", action, **facts)


@pytest.mark.parametrize(
    ("told", "what", "evidence"),
    [
        (event(NODE, ClusterAction.ADDED), "added", 'node "x" was added'),
        (event(NODE, ClusterAction.REMOVED), "removed", 'node "x" was removed'),
        (event(NODE, ClusterAction.READY), "Ready", 'node "x" became Ready'),
        (event(NODE, ClusterAction.NOT_READY), "not Ready", 'node "x" became not Ready'),
        (event(NODE, ClusterAction.CORDONED), "cordoned", 'node "x" was cordoned'),
        (event(NODE, ClusterAction.UNCORDONED), "uncordoned", 'node "x" was uncordoned'),
        (event(SERVICE, ClusterAction.CREATED), "created", 'service "x" was created'),
        (event(SERVICE, ClusterAction.DELETED), "deleted", 'service "x" was deleted'),
        (
            event(SERVICE, ClusterAction.FIELDS_CHANGED, fields=("ports", "selector")),
            "changed: ports, selector",
            'service "x" was changed: ports, selector',
        ),
        (
            event(SERVICE, ClusterAction.ADDRESS_CHANGED, new=("::1", "lb.example.com")),
            "load-balancer address changed none -> ::1, lb.example.com",
            'service "x": load-balancer address changed none -> ::1, lb.example.com',
        ),
        (event(PROXY, ClusterAction.CREATED, node="n1"), 'created on node "n1"', 'proxy "x" was created on node "n1"'),
        (
            event(PROXY, ClusterAction.CREATED, node="n1", **UPGRADE),
            'created on node "n1", upgraded: image proxy:1 -> proxy:2, side:2',
            'proxy "x" was created on node "n1", upgraded: image proxy:1 -> proxy:2, side:2',
        ),
        (
            event(PROXY, ClusterAction.PLACED, node="n1", **UPGRADE),
            'placed on node "n1", upgraded: image proxy:1 -> proxy:2, side:2',
            'proxy "x": placed on node "n1", upgraded: image proxy:1 -> proxy:2, side:2',
        ),
        (
            event(PROXY, ClusterAction.UPGRADED, node="n1", **UPGRADE),
            'upgraded on node "n1": image proxy:1 -> proxy:2, side:2',
            'proxy "x" was upgraded on node "n1": image proxy:1 -> proxy:2, side:2',
        ),
        (
            event(PROXY, ClusterAction.MOVED, old=("n1",), new=("n2",)),
            'moved from node "n1" to node "n2"',
            'proxy "x": moved from node "n1" to node "n2"',
        ),
        (
            event(ClusterSubject.POD, ClusterAction.RESTARTED, node="n1", last_end="OOMKilled"),
            'restarted on node "n1" (its container ended with OOMKilled)',
            'pod "x" was restarted on node "n1" (its container ended with OOMKilled)',
        ),
    ],
)
def test_what_happened(told: ClusterEvent, what: str, evidence: str) -> None:
    assert what_text(told) == what
    assert event_text(told) == f'{told.subject} "x" {what}'
    assert happened_to(told) == evidence


@pytest.mark.parametrize(
    ("action", "facts", "text"),
    [
        (ClusterAction.LIST_FORBIDDEN, {"resource": "nodes"}, "cannot list nodes: node events will be missing"),
        (
            ClusterAction.LIST_FORBIDDEN,
            {"resource": "proxies"},
            "cannot list pods in all namespaces: proxy events will be missing",
        ),
        (
            ClusterAction.LIST_FORBIDDEN,
            {"resource": "services", "detail": "media"},
            "cannot list services in namespace media: changes of the Service and restarts of its pods will be missing",
        ),
        (
            ClusterAction.LIST_FORBIDDEN,
            {"resource": "pods", "detail": "media"},
            "cannot list pods in namespace media: restarts of backend pods will be missing",
        ),
        (
            ClusterAction.NO_PROXY_SEEN,
            {},
            "no pod of kube-proxy, cilium, calico-node, kube-router or ovn can be seen: proxy events will be missing",
        ),
        (ClusterAction.UNREADABLE, {"detail": 'Node "x" cannot be read'}, 'Node "x" cannot be read'),
        (ClusterAction.MORE_UNREADABLE, {}, "more objects cannot be read"),
        (
            ClusterAction.INTERNAL_ERROR,
            {"resource": "slices", "detail": "KeyError: 'bug'"},
            "the watch of slices failed by an internal error (KeyError: 'bug')",
        ),
    ],
)
def test_what_the_watch_cannot_see_is_a_sentence_of_its_own(
    action: ClusterAction, facts: dict[str, str], text: str
) -> None:
    told = event(ClusterSubject.WATCH, action, **facts)
    assert event_text(told) == what_text(told) == text


def test_what_is_near_has_its_distance() -> None:
    added = event(NODE, ClusterAction.ADDED)
    left = EndpointChange(EndpointAction.LEFT, Endpoint("u", "a", "10.0.0.1"))
    moved = ClusterEvent(7, SERVICE, "", ClusterAction.ADDRESS_CHANGED, old=("192.0.2.1",))
    assert near_text(NearFact(7, -1_900_000_000, event=added)) == 'node "x" added 1.9 s before'
    assert near_text(NearFact(7, 900_000_000, change=left)) == 'pod "a" left the pool 0.9 s after'
    assert near_text(NearFact(7, 0, moved)) == "service load-balancer address changed 192.0.2.1 -> none 0.0 s before"
    assert near_text(NearFact(7, 0)) == " 0.0 s before"  # a record may hold anything
