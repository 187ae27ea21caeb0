"""A cluster event in words, as a report's line and as a diagnosis's evidence."""

from __future__ import annotations

import pytest

from affinity_tester.core.diagnosis.cluster_text import action_text, happened_to
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject

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
    assert action_text(told) == what
    assert happened_to(told) == evidence
