"""The backend pool: what it is at a moment, and how two moments differ.

The pool is the set of (pod, address, ready, serving, terminating) over the Service's EndpointSlices of one port and
address family, with the Service's spec. Node events, repacked slices and hints do not change it (docs/judging.md#the-pool).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One backend, as the EndpointSlices describe it."""

    uid: str
    """The pod's uid; its address where the slice names no pod."""
    pod: str
    """The pod's name; empty where the slice names none."""
    address: str
    node: str = ""
    """The node's name, for people; another one alone is no change of the pool."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False

    @property
    def label(self) -> str:
        """What it is called in texts: `pod "a"`, or `endpoint 10.0.0.1` where the slice names no pod."""
        return f'pod "{self.pod}"' if self.pod else f"endpoint {self.address}"


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """The pool at one moment."""

    endpoints: frozenset[Endpoint]
    spec: tuple[tuple[str, str], ...] = ()
    """The fields of the Service's spec that steer flows, as (field, value) in order; empty when the Service is not known."""

    def of_pod(self, name: str) -> Endpoint | None:
        """Return the endpoint of the pod of this name; None where there is none."""
        return next((endpoint for endpoint in self.endpoints if endpoint.pod == name), None)

    @property
    def ready_count(self) -> int:
        """How many endpoints new flows may go to."""
        return sum(endpoint.ready for endpoint in self.endpoints)


class EndpointAction(StrEnum):
    """What happened to an endpoint, or to the Service. The order is that of texts: causes stand before consequences."""

    SPEC = "spec"
    """The Service was edited."""
    LEFT = "left"
    """It is in the pool no more."""
    TERMINATING = "terminating"
    """It is being deleted."""
    STOPPED_SERVING = "stopped serving"
    """It answers no more."""
    NOT_READY = "not ready"
    """No new flows may go to it."""
    NOT_TERMINATING = "not terminating"
    """It is not being deleted any more."""
    SERVES = "serves"
    """It answers again."""
    READY = "ready"
    """New flows may go to it."""
    JOINED = "joined"
    """It is new in the pool."""

    @property
    def takes_away(self) -> bool:
        """True if flows of the endpoint may have to go elsewhere."""
        return self in _TAKES_AWAY


_TAKES_AWAY = frozenset(
    {EndpointAction.LEFT, EndpointAction.TERMINATING, EndpointAction.STOPPED_SERVING, EndpointAction.NOT_READY}
)
_RANKS = {action: rank for rank, action in enumerate(EndpointAction)}


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """One way in which two pools differ."""

    action: EndpointAction
    """What became of the endpoint, or of the Service."""
    endpoint: Endpoint | None = None
    """The endpoint after the change (LEFT: before it); None for SPEC."""
    field: str = ""
    """SPEC: which field of the Service."""
    old: str = ""
    """SPEC: the field's value before."""
    new: str = ""
    """SPEC: the field's value after."""

    @property
    def pod(self) -> str:
        """The name of the endpoint's pod; empty where there is none."""
        return self.endpoint.pod if self.endpoint is not None else ""


def differences(before: PoolSnapshot, after: PoolSnapshot) -> tuple[EndpointChange, ...]:
    """Return how two pools differ, in a stable order, causes first; empty when they are the same pool."""
    # Of thousands of endpoints few differ; the rest are the same objects.
    old = {(e.uid, e.address): e for e in before.endpoints - after.endpoints}
    new = {(e.uid, e.address): e for e in after.endpoints - before.endpoints}
    found = [EndpointChange(EndpointAction.LEFT, old[key]) for key in old.keys() - new.keys()]
    found += [EndpointChange(EndpointAction.JOINED, new[key]) for key in new.keys() - old.keys()]
    for key in old.keys() & new.keys():
        action = _action(old[key], new[key])
        if action is not None:
            found.append(EndpointChange(action, new[key]))

    old_spec, new_spec = dict(before.spec), dict(after.spec)
    found += [
        EndpointChange(EndpointAction.SPEC, None, name, old_spec.get(name, "none"), new_spec.get(name, "none"))
        for name in sorted(old_spec.keys() | new_spec.keys())
        if old_spec.get(name) != new_spec.get(name)
    ]

    found.sort(key=lambda change: (_RANKS[change.action], change.endpoint.uid if change.endpoint else change.field))
    return tuple(found)


def _action(was: Endpoint, now: Endpoint) -> EndpointAction | None:
    """Return what happened to an endpoint; None where only its node's name differs."""
    if now.terminating and not was.terminating:
        return EndpointAction.TERMINATING
    if was.ready != now.ready:
        return EndpointAction.READY if now.ready else EndpointAction.NOT_READY
    if was.serving != now.serving:
        return EndpointAction.SERVES if now.serving else EndpointAction.STOPPED_SERVING
    return EndpointAction.NOT_TERMINATING if was.terminating != now.terminating else None
