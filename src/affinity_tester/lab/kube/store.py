"""The objects of the lab's cluster, with versions and a history, as etcd and the API server's registry keep them. Pure.

Every change has a revision, which is the object's resourceVersion. A change of the spec raises `generation`, and so does
one of a Deployment's annotations (registry/apps/deployment/strategy.go), but for its controller's, which come with the
status; one that changes nothing makes no revision (apiserver, GuaranteedUpdate of its storage). A pod is deleted gracefully:
first it gets a deletionTimestamp, and its kubelet removes it in the end (registry/core/pod/strategy.go).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.resources import DEPLOYMENTS, PODS, Json, Resource, copied, key_of
from affinity_tester.units import NS_PER_US

HISTORY = 5_000
"""Changes that watches may ask for; older ones are 410. An API server keeps five minutes of them."""

Key = tuple[str, str]
"""Namespace (empty where there is none) and name."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(unix_ns: int) -> str:
    """Return a metav1.Time: RFC 3339, in whole seconds."""
    return f"{_EPOCH + timedelta(microseconds=unix_ns // NS_PER_US):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of an object."""

    revision: int
    resource: Resource
    old: Json | None
    """None: it is new."""
    new: Json | None
    """None: it is gone."""

    def event(self, fits: Callable[[Json], bool]) -> Json | None:
        """Return what a watch of the objects that fit tells of it: an object may begin or cease to fit; None: nothing."""
        was, now = self.old is not None and fits(self.old), self.new is not None and fits(self.new)
        if now:
            return {"type": "MODIFIED" if was else "ADDED", "object": self.new}
        if not was:
            return None
        known = self.new or self.old
        assert known is not None, "a change has an object"
        gone = {**known, "metadata": {**known["metadata"], "resourceVersion": str(self.revision)}}
        return {"type": "DELETED", "object": gone}


class Store:
    """All objects. Objects that it returns must not be changed."""

    def __init__(self, unix_ns: Callable[[], int], new_uid: Callable[[], str]) -> None:
        """Begin empty, with the wall clock in nanoseconds and a maker of uids."""
        self.revision = 1000
        self.unix_ns = unix_ns
        self._new_uid = new_uid
        self._objects: dict[Resource, dict[Key, Json]] = {}
        self._history: deque[Change] = deque()
        self._forgotten = self.revision
        """The newest revision that is in the history no more."""
        self._listeners: list[Callable[[Change], None]] = []

    def scratch(self) -> Store:
        """Return a copy that nobody listens to, for what is tried and not kept (`dryRun=All`)."""
        copy = Store(self.unix_ns, self._new_uid)
        copy.revision = copy._forgotten = self.revision
        copy._objects = {resource: dict(objects) for resource, objects in self._objects.items()}
        return copy

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """Return an object. Raises `StatusError` if it is not there."""
        found = self.find(resource, namespace, name)
        if found is None:
            raise failures.not_found(resource, name)
        return found

    def find(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return an object; None if it is not there."""
        return self._objects.get(resource, {}).get((namespace, name))

    def list(self, resource: Resource, namespace: str = "") -> list[Json]:
        """Return the objects of a kind by namespace and name; `namespace`: those in it."""
        found = sorted(self._objects.get(resource, {}).items())
        return [obj for (of, _), obj in found if namespace in {"", of}]

    def since(self, revision: int) -> Iterator[Change]:
        """Yield the changes after a revision. Raises `StatusError` (410) where some of them are forgotten."""
        if revision < self._forgotten:
            raise failures.expired(f"too old resource version: {revision} ({self._forgotten})")
        return (change for change in list(self._history) if change.revision > revision)

    def compact(self) -> None:
        """Forget the history: watches from before are 410."""
        self._history.clear()
        self._forgotten = self.revision

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Tell each change from now on."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Change], None]) -> None:
        """Tell this one no more."""
        self._listeners.remove(listener)

    # --- writing ------------------------------------------------------------------------------------------------------

    def create(self, resource: Resource, obj: Json) -> Json:
        """Add an object and return it. Raises `StatusError` if it is there already."""
        key = key_of(obj)
        if key in self._objects.get(resource, {}):
            raise failures.already_exists(resource, key[1])

        new: Json = copied(obj)
        new["apiVersion"], new["kind"] = resource.api_version, resource.kind
        metadata = new["metadata"]
        metadata.pop("generateName", None)
        metadata["uid"] = self._new_uid()
        metadata["creationTimestamp"] = timestamp(self.unix_ns())
        if "spec" in new or "endpoints" in new:
            metadata["generation"] = 1
        self._put(resource, None, new)
        return new

    def update(self, resource: Resource, obj: Json) -> Json:
        """Replace an object and return it. Raises `StatusError` where uid or resourceVersion are given and differ."""
        return self._replace(resource, copied(obj), annotations_count=resource is DEPLOYMENTS)

    def _replace(self, resource: Resource, new: Json, *, annotations_count: bool = False) -> Json:
        """Do what `update` does; the object is kept as it is given."""
        namespace, name = key_of(new)
        old = self.get(resource, namespace, name)
        metadata, before = new["metadata"], old["metadata"]
        if (uid := metadata.get("uid") or before["uid"]) != before["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
            raise failures.conflict(resource, name, why)
        if (metadata.get("resourceVersion") or before["resourceVersion"]) != before["resourceVersion"]:
            raise failures.stale(resource, name)

        for field in ("uid", "creationTimestamp", "generation", "resourceVersion"):
            if field in before:
                metadata[field] = before[field]
        new["apiVersion"], new["kind"] = resource.api_version, resource.kind
        if new == old:
            return old
        annotated = annotations_count and (metadata.get("annotations") or {}) != (before.get("annotations") or {})
        if "generation" in before and (annotated or _meant(new) != _meant(old)):
            metadata["generation"] = before["generation"] + 1
        self._put(resource, old, new)
        return new

    def modify(self, resource: Resource, obj: Json, change: Callable[[Json], None]) -> Json:
        """Apply a controller's change to a copy of an object as it is now; keep that and return it. Raises `StatusError`."""
        new = copied(self.get(resource, *key_of(obj)))
        change(new)
        return self._replace(resource, new)

    def delete(self, resource: Resource, namespace: str, name: str, grace_s: int | None = None) -> Json:
        """Delete an object and return it as it was last; a pod gracefully, in `grace_s` (None: its own time), unless 0.

        Raises `StatusError` if it is not there. A pod that terminates already gets a shorter time, and never a longer one.
        """
        old = self.get(resource, namespace, name)
        if resource is PODS and old["spec"].get("nodeName"):  # a pod that runs nowhere has no kubelet to wait for
            known = old["metadata"].get("deletionGracePeriodSeconds")
            grace_s = old["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
            if grace_s > 0:
                return old if known is not None and known <= grace_s else self._terminate(old, grace_s)
        self._put(resource, old, None)
        return old

    def _terminate(self, pod: Json, grace_s: int) -> Json:
        # The time is when the grace period is over (apiserver, registry/rest/delete.go).
        ends_ns = self.unix_ns() + grace_s * 1_000_000_000

        def terminate(new: Json) -> None:
            new["metadata"]["deletionTimestamp"] = timestamp(ends_ns)
            new["metadata"]["deletionGracePeriodSeconds"] = grace_s

        return self.modify(PODS, pod, terminate)

    def _put(self, resource: Resource, old: Json | None, new: Json | None) -> None:
        self.revision += 1
        known = self._objects.setdefault(resource, {})
        if new is not None:
            new["metadata"]["resourceVersion"] = str(self.revision)
            known[key_of(new)] = new
        elif old is not None:
            del known[key_of(old)]

        change = Change(self.revision, resource, old, new)
        self._history.append(change)
        while len(self._history) > HISTORY:
            self._forgotten = self._history.popleft().revision
        for listener in tuple(self._listeners):
            listener(change)


def _meant(obj: Json) -> Json:
    """Return what an object is meant to be: all but its metadata and status."""
    return {name: value for name, value in obj.items() if name not in {"metadata", "status"}}
