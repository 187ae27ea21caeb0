"""Compares an object before and after a change, and says as `ClusterEvent`s what happened to it. Pure.

`old` is None for an object that is new, and `new` is None for one that is gone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from affinity_tester.cluster.objects import Node, Pod, Service
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject


def node_events(at_ns: int, name: str, old: Node | None, new: Node | None) -> list[ClusterEvent]:
    """Return what happened to a node. Another uid under the same name is another node: removed, then added."""
    if old is not None and new is not None and old.uid == new.uid:
        actions = []
        if old.ready != new.ready:
            actions.append(ClusterAction.READY if new.ready else ClusterAction.NOT_READY)
        if old.cordoned != new.cordoned:
            actions.append(ClusterAction.CORDONED if new.cordoned else ClusterAction.UNCORDONED)
    else:
        actions = [ClusterAction.REMOVED] if old is not None else []
        actions += [ClusterAction.ADDED] if new is not None else []

    return [ClusterEvent(at_ns, ClusterSubject.NODE, name, action) for action in actions]


def pod_events(at_ns: int, old: Pod | None, new: Pod | None) -> list[ClusterEvent]:
    """Return the restart of a backend pod's container. That a pod came or went is a change of the pool."""
    if old is None or new is None or old.uid != new.uid or new.restarts <= old.restarts:
        return []
    return [_restarted(at_ns, ClusterSubject.POD, new)]


def proxy_events(
    at_ns: int, old: Pod | None, new: Pod | None, images: dict[tuple[str, str], tuple[str, ...]]
) -> list[ClusterEvent]:
    """Return what happened to a pod of a proxy.

    `images` has the images that ran before by proxy and node, and is updated. A rolling upgrade deletes one pod and
    creates another: only the images of the node's pod before show that the new one is an upgrade.
    """
    events = []
    if old is not None and (new is None or new.uid != old.uid):
        events.append(ClusterEvent(at_ns, ClusterSubject.PROXY, old.name, ClusterAction.DELETED, node=old.node))
        old = None  # another uid: what is there now is another pod
    if new is None:
        return events

    before = images.get((new.proxy, new.node), new.images)
    upgraded = before != new.images
    if new.node:
        images[new.proxy, new.node] = new.images

    def with_images(action: ClusterAction) -> ClusterEvent:
        event = ClusterEvent(at_ns, ClusterSubject.PROXY, new.name, action, node=new.node)
        return replace(event, old=before, new=new.images) if upgraded else event

    if old is None:
        return [*events, with_images(ClusterAction.CREATED)]

    if old.node and new.node != old.node:
        moved = ClusterEvent(at_ns, ClusterSubject.PROXY, new.name, ClusterAction.MOVED)
        events.append(replace(moved, old=(old.node,), new=(new.node,)))
    elif not old.node and new.node:
        events.append(with_images(ClusterAction.PLACED))
    elif upgraded:
        events.append(with_images(ClusterAction.UPGRADED))
    if new.restarts > old.restarts:
        events.append(_restarted(at_ns, ClusterSubject.PROXY, new))

    return events


def service_events(at_ns: int, name: str, old: Service | None, new: Service | None) -> list[ClusterEvent]:
    """Return what happened to a Service. Fields are those of its spec, and its annotations."""
    service = partial(ClusterEvent, at_ns, ClusterSubject.SERVICE, name)
    events = []
    if old is not None and (new is None or new.uid != old.uid):
        events.append(service(ClusterAction.DELETED))

    if new is not None and (old is None or new.uid != old.uid):
        events.append(service(ClusterAction.CREATED))
    elif old is not None and new is not None:
        before, after = dict(old.fields), dict(new.fields)
        changed = sorted(field for field in before.keys() | after.keys() if before.get(field) != after.get(field))
        if changed:
            events.append(service(ClusterAction.FIELDS_CHANGED, fields=tuple(changed)))
        if old.ingress != new.ingress:
            events.append(service(ClusterAction.ADDRESS_CHANGED, old=old.ingress, new=new.ingress))

    return events


def _restarted(at_ns: int, subject: ClusterSubject, pod: Pod) -> ClusterEvent:
    return ClusterEvent(at_ns, subject, pod.name, ClusterAction.RESTARTED, node=pod.node, last_end=pod.last_end)
