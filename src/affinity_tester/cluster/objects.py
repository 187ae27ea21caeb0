"""Parses Kubernetes objects, which are plain JSON, into the few fields that matter here. Pure.

Field names are the API's own. A parser raises `ObjectError` for an object that is not as the API says, and no other error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from affinity_tester.cluster.fields import Fields, ObjectError, compact, parser
from affinity_tester.core.pool import Endpoint

MAX_PORT = 65535
MAX_COUNT = 2**31 - 1
"""Of the API's int32."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ServiceRef(NamedTuple):
    """The namespace and name of a Service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePort(NamedTuple):
    """One of `spec.ports`."""

    name: str
    """Empty if the Service has a single port without a name. EndpointSlices carry the same name."""
    protocol: str
    port: int
    target: str
    node_port: int | None

    def __str__(self) -> str:
        node_port = f":{self.node_port}" if self.node_port else ""
        return f"{self.name or '-'} {self.port}/{self.protocol}->{self.target}{node_port}"


_TRAFFIC_FIELDS = (
    "type",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "sessionAffinity",
    "sessionAffinityTimeout",
    "trafficDistribution",
)
"""Fields of a Service's spec that decide where packets go."""

_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation in which kubectl keeps a copy of the whole object."""


@dataclass(frozen=True, slots=True)
class Service:
    """A Service: what decides where packets go, and where it is reached."""

    ref: ServiceRef
    uid: str
    ports: tuple[ServicePort, ...]
    traffic_fields: tuple[tuple[str, str], ...]
    """The fields of `_TRAFFIC_FIELDS` that are set, in order."""
    selector: tuple[tuple[str, str], ...]
    families: tuple[str, ...]
    """`spec.ipFamilies`: IPv4, IPv6."""
    cluster_ips: tuple[str, ...]
    external_ips: tuple[str, ...]
    ingress: tuple[str, ...]
    """The load balancer's addresses: IPs and host names, in order."""
    source_ranges: tuple[str, ...]
    """`spec.loadBalancerSourceRanges`."""
    fields: tuple[tuple[str, str], ...]
    """Every field of the spec and every annotation as (name, compact JSON), to see what was edited."""
    ingress_errors: tuple[tuple[int, str], ...] = ()
    """UDP ports that the load balancer serves at none of its addresses, with the error that it gives
    (`status.loadBalancer.ingress[].ports[].error`)."""
    external_name: str = ""
    """`spec.externalName`: the name that a Service of type ExternalName stands for."""
    is_headless: bool = False
    """It has no cluster IP, by `clusterIP: None`: its name stands for its pods' addresses."""
    addressed_ns: int | None = None
    """When it got its load balancer's address, else when it was created, in Unix time; None if that is not known."""

    def traffic_field(self, field: str) -> str | None:
        """Return a field of `traffic_fields`; None if it is not set."""
        return dict(self.traffic_fields).get(field)

    @property
    def type(self) -> str:
        """`spec.type`."""
        return self.traffic_field("type") or "ClusterIP"

    @property
    def policy(self) -> str:
        """`spec.externalTrafficPolicy`, or the API's default."""
        return self.traffic_field("externalTrafficPolicy") or "Cluster"

    @property
    def affinity(self) -> str:
        """`spec.sessionAffinity`, or the API's default."""
        return self.traffic_field("sessionAffinity") or "None"

    @property
    def udp_ports(self) -> tuple[ServicePort, ...]:
        """The UDP ports."""
        return tuple(port for port in self.ports if port.protocol == "UDP")

    def udp_port(self, number: int) -> ServicePort | None:
        """Return the UDP port of this number; None if there is none."""
        return next((port for port in self.udp_ports if port.port == number), None)

    def ingress_error(self, port: ServicePort) -> str | None:
        """Return why the load balancer does not serve a UDP port; None if it says nothing of that."""
        return dict(self.ingress_errors).get(port.port)

    @property
    def pool_spec(self) -> tuple[tuple[str, str], ...]:
        """The part of the spec that belongs to the pool (`PoolSnapshot.spec`)."""
        return (*self.traffic_fields, ("ports", ", ".join(str(port) for port in self.ports)))


@parser("Service")
def parse_service(obj: Fields) -> Service:
    """Parse a v1 Service."""
    metadata, spec = obj.part("metadata"), obj.part("spec")

    annotations = metadata.part("annotations").pairs()
    fields = spec.values()
    fields |= {f"annotation {name}": compact(value) for name, value in annotations.items() if name != _APPLIED}

    timeout = spec.part("sessionAffinityConfig").part("clientIP").number("timeoutSeconds", MAX_COUNT)
    values = {name: spec.text(name) for name in _TRAFFIC_FIELDS}
    values["sessionAffinityTimeout"] = "" if timeout is None else f"{timeout} s"

    cluster_ips = spec.texts("clusterIPs") or (spec.text("clusterIP"),)
    balancer = obj.part("status").part("loadBalancer")
    ingress = (each.text("ip") or each.text("hostname") for each in balancer.parts("ingress"))

    return Service(
        ref=ServiceRef(metadata.text("namespace"), metadata.needed("name")),
        uid=metadata.text("uid"),
        ports=tuple(_service_port(port) for port in spec.parts("ports")),
        traffic_fields=tuple((name, values[name]) for name in _TRAFFIC_FIELDS if values[name]),
        selector=tuple(sorted(spec.part("selector").pairs().items())),
        families=spec.texts("ipFamilies"),
        cluster_ips=tuple(ip for ip in cluster_ips if ip and ip != "None"),
        external_ips=spec.texts("externalIPs"),
        ingress=tuple(filter(None, ingress)),
        source_ranges=spec.texts("loadBalancerSourceRanges"),
        fields=tuple(sorted(fields.items())),
        ingress_errors=_ingress_errors(balancer.parts("ingress")),
        external_name=spec.text("externalName"),
        is_headless="None" in cluster_ips,
        addressed_ns=_addressed_ns(metadata),
    )


def _ingress_errors(ingress: list[Fields]) -> tuple[tuple[int, str], ...]:
    """Return the UDP ports with an error at each address of the load balancer."""
    found = [
        {port.number("port", MAX_PORT) or 0: port.text("error") for port in each.parts("ports") if _is_in_error(port)}
        for each in ingress
    ]
    return tuple(item for item in (found[0] if found else {}).items() if all(item[0] in each for each in found))


def _is_in_error(port: Fields) -> bool:
    return port.text("protocol") == "UDP" and bool(port.text("error"))


def _service_port(port: Fields) -> ServicePort:
    number = port.number("port", MAX_PORT)
    if not number:
        raise ObjectError(port.path("port"), "is missing")
    target = port.number_or_text("targetPort", MAX_PORT) or number
    node_port = port.number("nodePort", MAX_PORT) or None
    return ServicePort(port.text("name"), port.text("protocol") or "TCP", number, str(target), node_port)


def _addressed_ns(metadata: Fields) -> int | None:
    """Return when the Service got its balancer's addresses, in Unix time; None if that is not known.

    It is the newest time at which a manager of the status set them, or else the time of creation. An unreadable field of
    this bookkeeping gives None, since it decides nothing about where packets go.
    """
    try:
        managers = metadata.parts("managedFields")
        mine = [m for m in managers if m.text("subresource") == "status" and _sets_addresses(m)]
        times = [time_ns for m in mine if (time_ns := _unix_ns(m.text("time"))) is not None]
        return max(times, default=None) or _unix_ns(metadata.text("creationTimestamp"))
    except ObjectError:
        return None


def _sets_addresses(manager: Fields) -> bool:
    return manager.part("fieldsV1").part("f:status").has("f:loadBalancer")


def _unix_ns(text: str) -> int | None:
    """Return the Unix time of an RFC 3339 text such as 2026-01-02T03:04:05Z; None for anything else."""
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, TypeError, OverflowError):  # TypeError: without a zone
        return None


@dataclass(frozen=True, slots=True)
class Slice:
    """An EndpointSlice of discovery.k8s.io/v1."""

    family: str
    """`addressType`: IPv4, IPv6, FQDN."""
    udp_ports: frozenset[str]
    """The names of its UDP ports."""
    endpoints: tuple[Endpoint, ...]


@parser("EndpointSlice")
def parse_slice(obj: Fields) -> Slice:
    """Parse an EndpointSlice. Hints, zones and the order of endpoints are ignored."""
    obj.part("metadata").needed("name")
    ports = frozenset(port.text("name") for port in obj.parts("ports") if port.text("protocol") == "UDP")
    endpoints = tuple(_endpoint(endpoint) for endpoint in obj.parts("endpoints"))
    return Slice(obj.needed("addressType"), ports, endpoints)


def _endpoint(endpoint: Fields) -> Endpoint:
    """Parse an endpoint.

    A condition that is absent has a default: ready is true, serving is as ready, and terminating is false
    (EndpointConditions of discovery.k8s.io/v1).
    """
    conditions = endpoint.part("conditions")
    ready, serving = conditions.flag("ready"), conditions.flag("serving")
    ready = True if ready is None else ready

    target = endpoint.part("targetRef")
    is_pod = target.text("kind") in ("Pod", "")

    addresses = endpoint.texts("addresses")
    if not addresses or not addresses[0]:
        raise ObjectError(endpoint.path("addresses"), "is empty")
    address = addresses[0]  # all of them are the same endpoint; clients use the first

    return Endpoint(
        uid=(target.text("uid") if is_pod else "") or address,
        pod=target.text("name") if is_pod else "",
        address=address,
        node=endpoint.text("nodeName"),
        ready=ready,
        serving=ready if serving is None else serving,
        terminating=conditions.flag("terminating") or False,
    )


def endpoints_of(slices: Iterable[Slice], port_name: str | None, family: str | None) -> frozenset[Endpoint]:
    """Return the endpoints of one port and address family; None means any UDP port, or any family.

    While a pod moves between slices it may be in both: it counts once, with the better conditions.
    """
    found: dict[tuple[str, str], Endpoint] = {}
    for each in slices:
        if not each.udp_ports or (port_name is not None and port_name not in each.udp_ports):
            continue
        if family is not None and each.family != family:
            continue

        for endpoint in each.endpoints:
            key = (endpoint.uid, endpoint.address)
            known = found.get(key)
            if known is None or _health(endpoint) > _health(known):
                found[key] = endpoint

    return frozenset(found.values())


def _health(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return endpoint.ready, endpoint.serving, not endpoint.terminating


@dataclass(frozen=True, slots=True)
class Node:
    """A Node: its conditions and addresses."""

    uid: str
    ready: bool
    cordoned: bool
    internal_ips: tuple[str, ...]
    external_ips: tuple[str, ...]


@parser("Node")
def parse_node(obj: Fields) -> Node:
    """Parse a v1 Node. It is not ready if its Ready condition is Unknown or missing."""
    metadata, status = obj.part("metadata"), obj.part("status")
    metadata.needed("name")

    addresses = [(each.text("type"), each.needed("address")) for each in status.parts("addresses")]
    ready = [_is_true(each) for each in status.parts("conditions") if each.text("type") == "Ready"]

    return Node(
        uid=metadata.text("uid"),
        ready=any(ready),
        cordoned=obj.part("spec").flag("unschedulable") or False,
        internal_ips=tuple(address for kind, address in addresses if kind == "InternalIP"),
        external_ips=tuple(address for kind, address in addresses if kind == "ExternalIP"),
    )


def _is_true(condition: Fields) -> bool:
    status = condition.text("status")
    if status not in ("True", "False", "Unknown"):
        raise ObjectError(condition.path("status"), "is none of True, False, Unknown")
    return status == "True"


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod: where it runs, what it runs, and its restarts."""

    name: str
    uid: str
    node: str
    images: tuple[str, ...]
    restarts: int
    """The restarts of all its containers."""
    last_end: str
    """Why the container that restarted last had ended (`OOMKilled`, `Error`); empty if that is not known."""
    proxy: str
    """The value of the label that names a proxy (`kube-proxy`, `cilium`, ...); empty for other pods."""
    host_network: bool = False
    """Its addresses are its node's."""


@parser("Pod")
def parse_pod(obj: Fields) -> Pod:
    """Parse a v1 Pod."""
    metadata, spec = obj.part("metadata"), obj.part("spec")

    containers = obj.part("status").parts("containerStatuses")
    ends = [each.part("lastState").part("terminated") for each in containers]
    _, last_end = max(((end.text("finishedAt"), end.text("reason")) for end in ends), default=("", ""))

    labels = metadata.part("labels").pairs()
    return Pod(
        name=metadata.needed("name"),
        uid=metadata.text("uid"),
        node=spec.text("nodeName"),
        images=tuple(each.text("image") for each in spec.parts("containers")),
        restarts=sum(each.number("restartCount", MAX_COUNT) or 0 for each in containers),
        last_end=last_end,
        proxy=labels.get("k8s-app") or labels.get("component") or labels.get("app") or "",
        host_network=spec.flag("hostNetwork") or False,
    )


class Identity(NamedTuple):
    """An object and its version."""

    key: str
    """namespace/name; /name for an object without a namespace."""
    version: str
    """The resourceVersion of the object."""


def identity(obj: Fields) -> Identity:
    """Return the identity of an object of any kind, to be wrapped by a `parser` of that kind."""
    metadata = obj.part("metadata")
    return Identity(f"{metadata.text('namespace')}/{metadata.needed('name')}", metadata.needed("resourceVersion"))
