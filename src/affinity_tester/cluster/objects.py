"""Kubernetes objects as plain JSON, and the few of their fields that matter here. Pure.

Field names are the API's own. An optional field may be absent or null; both mean its default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from affinity_tester.core.pool import Endpoint

Json = Mapping[str, Any]


class ServiceRef(NamedTuple):
    """Which Service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePort(NamedTuple):
    """One of `spec.ports`."""

    name: str
    """Empty where the Service has a single port without a name; EndpointSlices carry the same name."""
    protocol: str
    port: int
    target: str
    node_port: int | None

    def __str__(self) -> str:
        node_port = f":{self.node_port}" if self.node_port else ""
        return f"{self.name or '-'} {self.port}/{self.protocol}->{self.target}{node_port}"


_POOL_FIELDS = (
    "type",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "sessionAffinity",
    "sessionAffinityTimeout",
    "trafficDistribution",
)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation that repeats the whole object; kubectl's own bookkeeping."""


@dataclass(frozen=True, slots=True)
class Service:
    """What of a Service steers flows, and where it is reached."""

    ref: ServiceRef
    uid: str
    ports: tuple[ServicePort, ...]
    steering: tuple[tuple[str, str], ...]
    """The single-valued fields of the spec that steer flows, in order; what is not set is left out."""
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
    """Every field of the spec, and every annotation, as (name, compact JSON): to tell what was changed."""

    def steer(self, field: str) -> str | None:
        """One of the steering fields."""
        return dict(self.steering).get(field)

    @property
    def type(self) -> str:
        """`spec.type`."""
        return self.steer("type") or "ClusterIP"

    @property
    def udp_ports(self) -> tuple[ServicePort, ...]:
        """Those that a probe can use."""
        return tuple(port for port in self.ports if port.protocol == "UDP")

    def udp_port(self, number: int) -> ServicePort | None:
        """The UDP port of this number."""
        return next((port for port in self.udp_ports if port.port == number), None)

    @property
    def pool_spec(self) -> tuple[tuple[str, str], ...]:
        """What belongs to the pool's identity (`PoolSnapshot.spec`)."""
        return (*self.steering, ("ports", ", ".join(str(port) for port in self.ports)))


def parse_service(obj: Json) -> Service:
    """Read a v1 Service."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    balancer = (obj.get("status") or {}).get("loadBalancer") or {}
    timeout = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    values = {**spec, "sessionAffinityTimeout": f"{timeout} s" if timeout is not None else None}
    fields = {name: _compact(value) for name, value in spec.items()}
    annotations = metadata.get("annotations") or {}
    fields |= {f"annotation {name}": _compact(value) for name, value in annotations.items() if name != _APPLIED}
    cluster_ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return Service(
        ref=ServiceRef(metadata.get("namespace", ""), metadata["name"]),
        uid=metadata.get("uid", ""),
        ports=tuple(_service_port(port) for port in spec.get("ports") or ()),
        steering=tuple((name, str(values[name])) for name in _POOL_FIELDS if values.get(name) is not None),
        selector=tuple(sorted((spec.get("selector") or {}).items())),
        families=tuple(spec.get("ipFamilies") or ()),
        cluster_ips=tuple(ip for ip in cluster_ips if ip and ip != "None"),
        external_ips=tuple(spec.get("externalIPs") or ()),
        ingress=tuple(filter(None, (i.get("ip") or i.get("hostname") for i in balancer.get("ingress") or ()))),
        source_ranges=tuple(spec.get("loadBalancerSourceRanges") or ()),
        fields=tuple(sorted(fields.items())),
    )


def _service_port(port: Json) -> ServicePort:
    number = port["port"]
    target = str(port.get("targetPort", number))
    return ServicePort(port.get("name") or "", port.get("protocol") or "TCP", number, target, port.get("nodePort"))


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice of discovery.k8s.io/v1."""

    family: str
    """`addressType`: IPv4, IPv6, FQDN."""
    udp_ports: frozenset[str]
    """Names of its UDP ports."""
    endpoints: tuple[Endpoint, ...]


def parse_slice(obj: Json) -> Slice:
    """Read an EndpointSlice; hints, zones and the order of endpoints are left behind."""
    ports = frozenset(port.get("name") or "" for port in obj.get("ports") or () if port.get("protocol") == "UDP")
    endpoints = tuple(_endpoint(endpoint) for endpoint in obj.get("endpoints") or ())
    return Slice(obj.get("addressType", ""), ports, endpoints)


def _endpoint(endpoint: Json) -> Endpoint:
    """Absent: ready is true, serving is as ready, terminating is false (EndpointConditions of discovery.k8s.io/v1)."""
    conditions = endpoint.get("conditions") or {}
    ready = conditions.get("ready")
    ready = True if ready is None else ready
    serving = conditions.get("serving")
    target = endpoint.get("targetRef") or {}
    pod = target if target.get("kind", "Pod") == "Pod" else {}
    address = endpoint["addresses"][0]  # all are the same endpoint; clients use the first
    return Endpoint(
        uid=pod.get("uid") or address,
        pod=pod.get("name") or "",
        address=address,
        node=endpoint.get("nodeName") or "",
        ready=ready,
        serving=ready if serving is None else serving,
        terminating=bool(conditions.get("terminating")),
    )


def pool_of(slices: Iterable[Slice], port_name: str | None, family: str | None) -> frozenset[Endpoint]:
    """The endpoints of one port and address family; None: of any UDP port, of any family.

    While a pod moves between slices it may stand in both: it counts once, with its better conditions.
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
    """What of a Node is told."""

    uid: str
    ready: bool
    cordoned: bool
    internal_ips: tuple[str, ...]
    external_ips: tuple[str, ...]


def parse_node(obj: Json) -> Node:
    """Read a v1 Node; a Ready condition that is Unknown or missing is not ready."""
    status = obj.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    addresses = status.get("addresses") or ()
    return Node(
        uid=obj["metadata"].get("uid", ""),
        ready=ready,
        cordoned=bool((obj.get("spec") or {}).get("unschedulable")),
        internal_ips=tuple(a["address"] for a in addresses if a.get("type") == "InternalIP"),
        external_ips=tuple(a["address"] for a in addresses if a.get("type") == "ExternalIP"),
    )


@dataclass(frozen=True, slots=True)
class Pod:
    """What of a Pod is told."""

    name: str
    uid: str
    node: str
    images: tuple[str, ...]
    restarts: int
    """Of all its containers."""
    last_end: str
    """Why the container that restarted last had ended (`OOMKilled`, `Error`); empty when that is not known."""
    proxy: str
    """The value of the label that names a proxy (`kube-proxy`, `cilium`, ...); empty for others."""


def parse_pod(obj: Json) -> Pod:
    """Read a v1 Pod."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    containers = (obj.get("status") or {}).get("containerStatuses") or ()
    ends = [((c.get("lastState") or {}).get("terminated") or {}) for c in containers]
    newest = max(ends, key=lambda end: end.get("finishedAt") or "", default={})
    labels = metadata.get("labels") or {}
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        node=spec.get("nodeName") or "",
        images=tuple(c.get("image") or "" for c in spec.get("containers") or ()),
        restarts=sum(c.get("restartCount") or 0 for c in containers),
        last_end=newest.get("reason") or "",
        proxy=labels.get("k8s-app") or labels.get("component") or labels.get("app") or "",
    )
