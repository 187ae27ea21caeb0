"""A cluster event as a line of the log, as `what` of the JSON log, and near an incident."""

from __future__ import annotations

import pytest

from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject, NearFact
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange
from affinity_tester.report.cluster_text import event_text, near_text, what_text

NODE, SERVICE = ClusterSubject.NODE, ClusterSubject.SERVICE


def event(subject: ClusterSubject, action: ClusterAction, **facts: object) -> ClusterEvent:
    return ClusterEvent(7, subject, "x", action, **facts)


def test_what_happened_stands_after_subject_and_name() -> None:
    told = event(NODE, ClusterAction.NOT_READY)
    assert (event_text(told), what_text(told)) == ('node "x" not Ready', "not Ready")


def test_that_another_services_endpoints_changed_is_a_line() -> None:
    told = event(ClusterSubject.UDP_SERVICE, ClusterAction.ENDPOINTS_CHANGED)
    assert event_text(told) == 'UDP service "x" endpoints changed'


@pytest.mark.parametrize(
    ("action", "facts", "text"),
    [
        (
            ClusterAction.WATCH_FORBIDDEN,
            {"detail": "2 s"},
            "this account may list and not watch: lists every 2 s stand in, and date changes less exactly"
            " (k8s/rbac.yaml has the rights)",
        ),
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
        (
            ClusterAction.NODE_PORT_SHARED,
            {"resource": "services", "detail": "other/dns 31000"},
            "port 31000 is a node port of the UDP Service other/dns, too: kube-proxy may wipe all flows to it when the "
            "endpoints of that one change (kubernetes/kubernetes#49881)",
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
