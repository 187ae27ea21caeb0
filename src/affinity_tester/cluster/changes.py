"""What happened to an object, from its facts before and after, as `ClusterEvent`s. Pure. None: it was, or is, not there."""

from __future__ import annotations

from affinity_tester.cluster.objects import Node, Pod, Service
from affinity_tester.core.events import ClusterEvent


def node_events(at_ns: int, name: str, old: Node | None, new: Node | None) -> list[ClusterEvent]:
    """Added, removed, Ready, not Ready, cordoned, uncordoned; another uid under the same name is another node."""
    if old is not None and new is not None and old.uid == new.uid:
        said = []
        if old.ready != new.ready:
            said.append("Ready" if new.ready else "not Ready")
        if old.cordoned != new.cordoned:
            said.append("cordoned" if new.cordoned else "uncordoned")
    else:
        said = (["removed"] if old is not None else []) + (["added"] if new is not None else [])
    return [ClusterEvent(at_ns, "node", name, what) for what in said]


def pod_events(at_ns: int, old: Pod | None, new: Pod | None) -> list[ClusterEvent]:
    """A backend pod's container restarted. That it came or went is told by the pool."""
    if old is None or new is None or old.uid != new.uid or new.restarts <= old.restarts:
        return []
    return [ClusterEvent(at_ns, "pod", new.name, _restarted(new))]


def proxy_events(
    at_ns: int, old: Pod | None, new: Pod | None, images: dict[tuple[str, str], str]
) -> list[ClusterEvent]:
    """A proxy's pod was created, deleted, recreated, moved, restarted or upgraded.

    `images` remembers, by proxy and node, the images that ran there: a rolling upgrade deletes one pod and creates
    another, and only so the new one is known to be an upgrade. It is brought up to date.
    """
    told = []
    if old is not None and (new is None or new.uid != old.uid):
        told.append(ClusterEvent(at_ns, "proxy", old.name, f"deleted{_on(old)}"))
    if new is not None:
        said = []
        image = ", ".join(new.images)
        before = images.get((new.proxy, new.node), image)
        upgraded = f"image {before} -> {image}" if before != image else ""
        if new.node:
            images[new.proxy, new.node] = image
        if old is None or new.uid != old.uid:
            said.append(f"created{_on(new)}" + (f", upgraded: {upgraded}" if upgraded else ""))
        else:
            if old.node and new.node != old.node:
                said.append(f'moved from node "{old.node}" to node "{new.node}"')
            elif not old.node and new.node:
                said.append(f'placed on node "{new.node}"' + (f", upgraded: {upgraded}" if upgraded else ""))
            elif upgraded:
                said.append(f"upgraded{_on(new)}: {upgraded}")
            if new.restarts > old.restarts:
                said.append(_restarted(new))
        told += [ClusterEvent(at_ns, "proxy", new.name, what) for what in said]
    return told


def service_events(at_ns: int, name: str, old: Service | None, new: Service | None) -> list[ClusterEvent]:
    """Created, deleted, load-balancer address changed, or which fields of the spec and annotations were changed."""
    said = []
    if old is not None and (new is None or new.uid != old.uid):
        said.append("deleted")
    if new is not None and (old is None or new.uid != old.uid):
        said.append("created")
    elif old is not None and new is not None:
        before, after = dict(old.fields), dict(new.fields)
        changed = sorted(field for field in before.keys() | after.keys() if before.get(field) != after.get(field))
        if changed:
            said.append(f"changed: {', '.join(changed)}")
        if old.ingress != new.ingress:
            addresses = [", ".join(service.ingress) or "none" for service in (old, new)]
            said.append(f"load-balancer address changed {addresses[0]} -> {addresses[1]}")
    return [ClusterEvent(at_ns, "service", name, what) for what in said]


def _restarted(pod: Pod) -> str:
    why = f" (its container ended with {pod.last_end})" if pod.last_end else ""
    return f"restarted{_on(pod)}{why}"


def _on(pod: Pod) -> str:
    return f' on node "{pod.node}"' if pod.node else ""
