"""Cluster events in words: what happened in the cluster, and what the watch cannot see of it."""

from __future__ import annotations

from affinity_tester.core.diagnosis.cluster_text import action_text
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject, NearFact
from affinity_tester.report.reason_text import endpoint_change_text
from affinity_tester.units import format_offset, quoted

NO_PROXY_SEEN = (
    "no pod of kube-proxy, cilium, calico-node, kube-router or ovn can be seen: proxy events will be missing"
)


def event_text(event: ClusterEvent) -> str:
    """Return a line of the log: `node "n1" not Ready`, `cannot list nodes: node events will be missing`."""
    if event.subject is ClusterSubject.WATCH:
        return _watch_text(event)
    return f"{event.subject} {quoted(event.name)} {action_text(event)}"


def what_text(event: ClusterEvent) -> str:
    """Return what stands after subject and name: `not Ready`; for WATCH all of it."""
    return _watch_text(event) if event.subject is ClusterSubject.WATCH else action_text(event)


def near_text(fact: NearFact) -> str:
    """Return a fact with its distance in time: `node "n1" added 0.3 s before`."""
    if fact.event is not None:
        name = f"{quoted(fact.event.name)} " if fact.event.name else ""
        text = f"{fact.event.subject} {name}{what_text(fact.event)}"
    else:
        text = endpoint_change_text(fact.change) if fact.change is not None else ""

    return f"{text} {format_offset(fact.after_ns)}"


def _watch_text(event: ClusterEvent) -> str:
    match event.action:
        case ClusterAction.LIST_FORBIDDEN:
            return _forbidden_text(event.resource, event.detail)
        case ClusterAction.WATCH_FORBIDDEN:
            every = f"lists every {event.detail} stand in, and date changes less exactly"
            return f"this account may list and not watch: {every} (k8s/rbac.yaml has the rights)"
        case ClusterAction.NO_PROXY_SEEN:
            return NO_PROXY_SEEN
        case ClusterAction.NODE_PORT_SHARED:
            other, _, port = event.detail.rpartition(" ")
            return (
                f"port {port} is a node port of the UDP Service {other}, too: kube-proxy may wipe all flows to it when the "
                "endpoints of that one change (kubernetes/kubernetes#49881)"
            )
        case ClusterAction.MORE_UNREADABLE:
            return "more objects cannot be read"
        case ClusterAction.INTERNAL_ERROR:
            return f"the watch of {event.resource} failed by an internal error ({event.detail})"
        case _:  # UNREADABLE: the error names the object
            return event.detail


def _forbidden_text(resource: str, namespace: str) -> str:
    """Return what may not be listed, and what is therefore not told."""
    match resource:
        case "nodes":
            return "cannot list nodes: node events will be missing"
        case "proxies":
            return "cannot list pods in all namespaces: proxy events will be missing"
        case "services":
            missing = "changes of the Service and restarts of its pods will be missing"
            return f"cannot list services in namespace {namespace}: {missing}"
        case _:
            return f"cannot list {resource} in namespace {namespace}: restarts of backend pods will be missing"
