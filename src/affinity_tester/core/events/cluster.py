"""The backend pool as it is watched, and what happens in the cluster around it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.events.base import Event
from affinity_tester.core.pool import EndpointChange, PoolSnapshot


@dataclass(frozen=True, slots=True)
class PoolWatchStarted(Event):
    """The pool is watched from here on."""

    context: str
    service: str
    """namespace/name."""
    via: str
    """How the target leads there: `load-balancer`, `node-port`, `cluster-ip` or `external-ip`; empty: not known."""
    addressed_ns: int | None = None
    """When the Service was given its address, on the run's clock (it may lie before its zero); None: not known."""


@dataclass(frozen=True, slots=True)
class PoolNotWatched(Event):
    """The pool is not watched: the operator's word that it stands still has to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class PoolObserved(Event):
    """What the pool is: a list, or a change that the watch told.

    What differs from the snapshot before happened in (since_ns, until_ns] (docs/judging.md#dating).
    """

    since_ns: int
    """When the newest list was asked for that does not show it."""
    until_ns: int
    """When the first page of a list that shows it was there, or the watch's news of it, whichever came first."""
    snapshot: PoolSnapshot
    asked_ns: int | None = None
    """It comes from a consistent list that was asked for then: all that happened before is in it. None: a watch told it,
    which may be late, and proves nothing of what else happened."""
    changes: tuple[EndpointChange, ...] = ()
    """How it differs from the snapshot observed before it, causes first; empty for the first, or where it does not."""


@dataclass(frozen=True, slots=True)
class PoolConfirmed(Event):
    """A consistent list shows the pool as known: nothing that happened before it was asked for was missed."""

    asked_ns: int


@dataclass(frozen=True, slots=True)
class PoolUnobserved(Event):
    """The watch is down: since `since_ns` the pool may have changed unseen, until a list is told."""

    since_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class ApiServerAnswered(Event):
    """The API server answered a list of one item, which is asked for every half settle time."""

    asked_ns: int


@dataclass(frozen=True, slots=True)
class WrongPool(Event):
    """Pods answer that were never in the watched pool: the wrong cluster or Service. The pool counts as not watched."""

    pod: str


@dataclass(frozen=True, slots=True)
class NodeAddresses(Event):
    """The nodes' InternalIPs: which reflexive IPs are whose. Told when it changes."""

    names: tuple[tuple[str, str], ...]
    """(IP, node name), in order."""


@dataclass(frozen=True, slots=True)
class PodAddresses(Event):
    """Which reflexive IPs are pods': those of proxies that run as pods. Told when one more is known."""

    names: tuple[tuple[str, str], ...]
    """(IP, namespace/name of the pod), in order. Pods that are gone stay."""


class ClusterSubject(StrEnum):
    """What kind of object a cluster event is about."""

    NODE = "node"
    """A node of the cluster."""
    SERVICE = "service"
    """The Service that is probed."""
    PROXY = "proxy"
    """A pod that forwards the packets of Services, such as kube-proxy's."""
    POD = "pod"
    """A backend pod of the Service."""
    UDP_SERVICE = "UDP service"
    """Another Service with a UDP port: proxies may clean tables at its changes that have this one's flows, too."""
    WATCH = "watch"
    """The watch itself: something that it cannot see. Nothing happened in the cluster."""


class ClusterAction(StrEnum):
    """What happened to the subject of a cluster event."""

    ADDED = "added"
    """NODE: it joined the cluster."""
    REMOVED = "removed"
    """NODE: it left the cluster."""
    READY = "ready"
    """NODE: it became Ready."""
    NOT_READY = "not-ready"
    """NODE: it is not Ready any more."""
    CORDONED = "cordoned"
    """NODE: no new pods are scheduled onto it."""
    UNCORDONED = "uncordoned"
    """NODE: pods are scheduled onto it again."""

    CREATED = "created"
    """SERVICE or PROXY: it is new."""
    DELETED = "deleted"
    """SERVICE or PROXY: it is gone."""
    RESTARTED = "restarted"
    """PROXY or POD: a container of it started anew."""
    UPGRADED = "upgraded"
    """PROXY: it runs other images."""
    PLACED = "placed"
    """A proxy's pod that had no node got one."""
    MOVED = "moved"
    """A proxy's pod is on another node."""

    FIELDS_CHANGED = "fields-changed"
    """The Service was edited."""
    ADDRESS_CHANGED = "address-changed"
    """The Service's load balancer has other addresses."""

    ENDPOINTS_CHANGED = "endpoints-changed"
    """UDP_SERVICE: its EndpointSlices were edited; name is its namespace/name."""

    NODE_PORT_SHARED = "node-port-shared"
    """WATCH: the Service's port is a node port of another UDP Service; `detail`: that one's namespace/name, and the port."""
    LIST_FORBIDDEN = "list-forbidden"
    """WATCH: the objects of `resource` may not be listed."""
    WATCH_FORBIDDEN = "watch-forbidden"
    """WATCH: objects may be listed and not watched: the pool is listed again and again, every `detail`."""
    NO_PROXY_SEEN = "no-proxy-seen"
    """WATCH: no pod of a known proxy is there."""
    UNREADABLE = "unreadable"
    """WATCH: an object is not as the API says; `detail` says how."""
    MORE_UNREADABLE = "more-unreadable"
    """WATCH: so many objects are unreadable that the others are not told one by one."""
    INTERNAL_ERROR = "internal-error"
    """WATCH: this program erred while it watched `resource`; `detail` is the error."""


@dataclass(frozen=True, slots=True)
class ClusterEvent(Event):
    """Something happened in the cluster; it explains by being near, not by changing the pool.

    The fields after `action` have their defaults where they say nothing about it.
    """

    subject: ClusterSubject
    """What kind of object it happened to."""
    name: str
    """The object's; of a Service and for WATCH namespace/name of the Service."""
    action: ClusterAction
    """What happened to it."""
    node: str = ""
    """The node that a pod is on (DELETED: was on); empty where it has none, and for MOVED."""
    old: tuple[str, ...] = ()
    """What was there before: addresses (ADDRESS_CHANGED), the node (MOVED), else a proxy's images."""
    new: tuple[str, ...] = ()
    """What is there instead. A proxy's images are told where they differ from those that ran on its node before."""
    fields: tuple[str, ...] = ()
    """FIELDS_CHANGED: names of the Service's fields, in order."""
    last_end: str = ""
    """RESTARTED: why the container had ended, such as `OOMKilled`; empty where that is not known."""
    resource: str = ""
    """WATCH: which objects: `nodes`, `services`, `pods`, `proxies`, ..."""
    detail: str = ""
    """WATCH: a text from outside: the namespace (LIST_FORBIDDEN; empty: all), or the error."""
