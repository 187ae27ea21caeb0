"""Finds where a Service is reached, and the Service behind an address."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from affinity_tester.cluster.api import FORBIDDEN, ApiError, pages
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.objects import Node, Service, ServicePort, ServiceRef, Slice, endpoints_of, parse_service
from affinity_tester.cluster.queries import read_nodes, read_service, read_slices
from affinity_tester.cluster.response_errors import one_line
from affinity_tester.core.address import TransportAddress, parse_ip, split_host_port
from affinity_tester.core.pool import Endpoint
from affinity_tester.errors import UserError
from affinity_tester.settings import DEFAULT_PORT

Via = Literal["auto", "load-balancer", "node-port", "cluster-ip"]

OWN_SERVICE = "affinity-tester"
"""The name of the Service that k8s/service.yaml makes."""

LABEL_CHARACTERS = 63
_LABEL = re.compile("[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""A label of RFC 1123: the name of a namespace, and of a Service since Kubernetes 1.34. Before, it began with a letter."""


@dataclass(frozen=True, slots=True)
class Found:
    """A Service, and where it is reached."""

    service: Service
    port: ServicePort
    host: str
    """An IP address, or the host name of a load balancer."""
    host_port: int
    """The port at that host: the Service's, or its node port."""
    via: str
    """`load-balancer`, `node-port`, `cluster-ip` or `external-ip`; empty if the address is none of the Service's."""
    more: tuple[str, ...] = ()
    """Further hosts with the same port: a balancer may have an address in each of its zones."""

    @property
    def target(self) -> str:
        """Host and port, as a user writes them."""
        return self._written(self.host)

    @property
    def more_targets(self) -> tuple[str, ...]:
        """The targets of the further hosts."""
        return tuple(self._written(host) for host in self.more)

    def _written(self, host: str) -> str:
        return f"[{host}]:{self.host_port}" if ":" in host else f"{host}:{self.host_port}"


async def discover(
    cluster: Cluster,
    wanted: str | None = None,
    via: Via = "auto",
    port: int | None = None,
    *,
    has_route: Callable[[TransportAddress], bool] = lambda _address: True,
    every_node: bool = False,
) -> Found:
    """Return where `wanted` ([NAMESPACE/]NAME; None: the tool's own Service) is reached by `via`.

    `port` chooses among several UDP ports, and `has_route` tells if this machine can send to an address. Of several
    addresses, those with endpoints of their family and with a route are taken; of node ports one, or with `every_node`
    all. Raises `UserError`, which says what is missing and what to do.
    """
    ref = _read_ref(cluster, wanted)
    with _cannot_be_looked_up(ref, "give TARGET itself"):
        service = await _read(cluster, ref)
        _check_type(service)
        udp = _choose_port(service, port)
        slices = await read_slices(cluster.api, ref)
        endpoints = None if slices is None else endpoints_of(slices, udp.name, None)
        if endpoints is not None:
            _check_endpoints(service, endpoints)
        way = await _way_in(cluster, service, udp, via, endpoints)
    return _choose_hosts(way, _families(service, udp, slices), has_route, every_node=every_node)


async def look_up(cluster: Cluster, wanted: str, host: str, ports: tuple[int, ...]) -> Found:
    """Return `wanted` as the Service behind a target that the user gave: it needs no address of its own.

    `ports` are those that the user named, the target's first. Raises `UserError` if there is no such Service or port.
    """
    ref = _read_ref(cluster, wanted)
    with _cannot_be_looked_up(ref, "leave --service out"):
        service = await _read(cluster, ref)
        _check_type(service)

    named = (port for number in ports for port in service.udp_ports if number in (port.port, port.node_port))
    udp = next(named, None) or _choose_port(service, None)
    number = ports[0] if ports else udp.port
    via = "node-port" if number == udp.node_port else _via(service, host, host.lower())
    return Found(service, udp, host, number, via or "")


def split_service(wanted: str) -> tuple[str, str]:
    """Return namespace (empty if not given) and name of [NAMESPACE/]NAME. Raises `UserError` if no Service can have it."""
    namespace, slash, name = wanted.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace):
        raise UserError(f"--service wants [NAMESPACE/]NAME, not {wanted!r}")

    for what, each in (("namespace", namespace), ("Service", name)):
        if each:
            _check_label("--service", what, each)
    return namespace, name


def check_namespace(namespace: str) -> None:
    """Raise `UserError` if no namespace can have this name."""
    _check_label("--namespace", "namespace", namespace)


def _check_label(option: str, what: str, name: str) -> None:
    if not (_LABEL.fullmatch(name) and len(name) <= LABEL_CHARACTERS):
        rule = f"lower-case letters, digits and '-' between them, at most {LABEL_CHARACTERS}"
        raise UserError(f"{option}: {name!r} can be no {what}'s name: Kubernetes allows {rule}")


def _read_ref(cluster: Cluster, wanted: str | None) -> ServiceRef:
    namespace, name = split_service(OWN_SERVICE if wanted is None else wanted)
    return ServiceRef(namespace or cluster.namespace, name)


@contextmanager
def _cannot_be_looked_up(ref: ServiceRef, advice: str) -> Iterator[None]:
    """Raise an error of the API as a `UserError` that gives this advice."""
    try:
        yield
    except ApiError as error:
        rights = ", or more rights (k8s/rbac.yaml)" if error.status == FORBIDDEN else ""
        first = f"{error.advice}; or " if error.advice else ""
        raise UserError(f'the Service "{ref}" cannot be looked up ({error}): {first}{advice}{rights}') from error


async def _read(cluster: Cluster, ref: ServiceRef) -> Service:
    service = await read_service(cluster.api, ref)
    if service is None:
        make = "make one with 'make apply-deployment apply-service', or name one with --service NAMESPACE/NAME"
        raise UserError(f'there is no Service "{ref}" (context {cluster.context}): {make}')
    return service


def _choose_port(service: Service, number: int | None) -> ServicePort:
    ports = service.udp_ports
    if not ports:
        has = ", ".join(f"{port.port}/{port.protocol}" for port in service.ports) or "none at all"
        raise UserError(f'Service "{service.ref}" has no UDP port (its ports: {has}): name another with --service')
    for wanted in [number] if number is not None else [DEFAULT_PORT]:
        if (port := service.udp_port(wanted)) is not None:
            return port
    if number is None and len(ports) == 1:
        return ports[0]

    has = ", ".join(str(port.port) for port in ports)
    said = f"no UDP port {number}" if number is not None else "several UDP ports"
    raise UserError(f'Service "{service.ref}" has {said}: choose one of {has} with --target-port')


def _check_type(service: Service) -> None:
    if service.type == "ExternalName":
        name = service.external_name or "another name"
        raise UserError(
            f'Service "{service.ref}" is of type ExternalName: it is only a DNS name for {name}, without endpoints: '
            f"give {name} as TARGET, or name the Service behind it with --service"
        )


def _check_endpoints(service: Service, endpoints: frozenset[Endpoint]) -> None:
    if any(endpoint.ready for endpoint in endpoints):
        return
    if not endpoints and not service.selector:
        raise UserError(
            f'Service "{service.ref}" has no endpoints, and no selector that would give it any: '
            "give it a selector, or make its EndpointSlices"
        )

    selector = ",".join(f"{name}={value}" for name, value in service.selector)
    look = f"kubectl get pods --namespace {service.ref.namespace}" + (f" --selector {selector}" if selector else "")
    has = f"none of its {len(endpoints)} is ready" if endpoints else "it has none at all"
    raise UserError(f'Service "{service.ref}" has no ready endpoints ({has}): see {look}')


def _families(service: Service, port: ServicePort, slices: tuple[Slice, ...] | None) -> frozenset[int]:
    """Return the IP versions of addresses behind which ready endpoints are, as far as that is known.

    The endpoints of a Service with one family are reached by any address: its balancer translates if needed.
    """
    both = {"IPv4": 4, "IPv6": 6}
    if slices is None or len(service.families) == 1:
        return frozenset(both.values())

    ready = (family for family in both if any(each.ready for each in endpoints_of(slices, port.name, family)))
    return frozenset(both[family] for family in ready)


def _choose_hosts(
    way: Found, families: frozenset[int], has_route: Callable[[TransportAddress], bool], *, every_node: bool = False
) -> Found:
    """Keep the hosts of one address family: one with endpoints and a route, or else one with endpoints."""
    hosts = (way.host, *way.more)
    versions = {host: _version(host) for host in hosts}
    served = [host for host in hosts if versions[host] is None or versions[host] in families] or list(hosts)

    routed = [h for h in served if versions[h] is None or has_route(TransportAddress(str(parse_ip(h)), way.host_port))]
    first, *more = routed or served
    if way.via == "node-port" and not every_node:  # every node leads to the Service: one is enough
        more = []
    return replace(way, host=first, more=tuple(host for host in more if versions[host] == versions[first]))


def _version(host: str) -> int | None:
    """Return the IP version of an address; None for a name."""
    try:
        return parse_ip(host).version
    except ValueError:
        return None


async def _way_in(
    cluster: Cluster, service: Service, port: ServicePort, via: Via, endpoints: frozenset[Endpoint] | None
) -> Found:
    """Return every host by which the Service is reached; `_choose_hosts` chooses among them."""
    if via == "auto":
        via = _choose_way(cluster, service)

    match via:
        case "load-balancer":
            if (error := service.ingress_error(port)) is not None:
                where = f"kubectl describe service {service.ref.name} --namespace {service.ref.namespace}"
                serves = f"does not serve UDP port {port.port} ({one_line(error)})"
                raise UserError(f'the load balancer of Service "{service.ref}" {serves}: see {where}')
            if service.ingress:
                return _way(service, port, service.ingress, port.port, via)
            if service.external_ips:
                return _way(service, port, service.external_ips, port.port, "external-ip")
            raise UserError(_no_balancer(service))
        case "cluster-ip":
            if not service.cluster_ips:
                raise UserError(_headless(service))
            return _way(service, port, service.cluster_ips, port.port, via)
        case _:
            return await _node_port(cluster, service, port, endpoints)


def _way(service: Service, port: ServicePort, hosts: Iterable[str], number: int, via: str) -> Found:
    host, *more = dict.fromkeys(hosts)
    return Found(service, port, host, number, via, tuple(more))


def _choose_way(cluster: Cluster, service: Service) -> Via:
    if cluster.inside and service.cluster_ips:
        return "cluster-ip"
    if service.type == "LoadBalancer" or service.external_ips:
        return "load-balancer"
    if service.type == "NodePort":
        return "node-port"
    if service.is_headless:
        raise UserError(_headless(service))
    raise UserError(
        f'Service "{service.ref}" is of type {service.type}, reached only from inside the cluster: '
        "run the client in a pod, or change its type to LoadBalancer or NodePort"
    )


def _headless(service: Service) -> str:
    return f'Service "{service.ref}" has no cluster IP: it is headless; give a pod\'s address as TARGET'


def _no_balancer(service: Service) -> str:
    if service.type != "LoadBalancer":
        return f'Service "{service.ref}" is of type {service.type} and has no load balancer: choose another --via'
    where = f"kubectl describe service {service.ref.name} --namespace {service.ref.namespace}"
    instead = ", or use --via node-port" if any(port.node_port for port in service.udp_ports) else ""
    return f'the load balancer of Service "{service.ref}" has no address yet: wait for it ({where} says why){instead}'


async def _node_port(
    cluster: Cluster, service: Service, port: ServicePort, endpoints: frozenset[Endpoint] | None
) -> Found:
    if port.node_port is None:
        raise UserError(f'Service "{service.ref}" has no node port (type {service.type}): choose another --via')

    nodes = await read_nodes(cluster.api)
    if nodes is None:
        raise UserError(
            f"cannot list nodes to find an address for --via node-port: give TARGET NODE_ADDRESS:{port.node_port}"
        )

    # Under policy Local a node without a ready pod drops what arrives at its node port.
    local = service.policy == "Local" and endpoints is not None
    serving = {endpoint.node for endpoint in endpoints or () if endpoint.ready}
    usable = {name: node for name, node in nodes.items() if node.ready and (not local or name in serving)}
    addresses = _addresses(usable)
    if not addresses:
        which = "that has a ready pod (externalTrafficPolicy is Local)" if local else "that is Ready"
        raise UserError(f"no node {which} has an address: give TARGET NODE_ADDRESS:{port.node_port}")

    return _way(service, port, addresses, port.node_port, "node-port")


def _addresses(nodes: dict[str, Node]) -> list[str]:
    """Return the nodes' ExternalIPs, then their InternalIPs."""
    ordered = [nodes[name] for name in sorted(nodes)]
    external = [ip for node in ordered for ip in node.external_ips]
    return external + [ip for node in ordered for ip in node.internal_ips]


async def find_service(
    cluster: Cluster, target: TransportAddress, name: str = "", unread: list[ObjectError] | None = None
) -> Found | None:
    """Return the Service that `target` leads to; None if no Service has that address.

    Searches all namespaces or, if RBAC forbids that, the current one. `name` is the target as the user wrote it, for
    balancers with a host name. Unreadable Services are left out and added to `unread`. Raises `ApiError`, also if
    neither may be listed.
    """
    unread = [] if unread is None else unread
    if name:
        name, _ = split_host_port(name)

    try:
        return await _search(cluster, "/api/v1/services", target, name, unread)
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise

    return await _search(cluster, f"/api/v1/namespaces/{cluster.namespace}/services", target, name, unread)


async def _search(
    cluster: Cluster, path: str, target: TransportAddress, name: str, unread: list[ObjectError]
) -> Found | None:
    by_node_port: Found | None = None
    async for page in pages(cluster.api, path):
        for obj in page.items:
            try:
                service = parse_service(obj)
            except ObjectError as error:
                unread.append(error)
                continue
            for port in service.udp_ports:
                if port.port == target.port and (via := _via(service, target.ip, name.lower())) is not None:
                    return Found(service, port, target.ip, target.port, via)
                if port.node_port == target.port:
                    by_node_port = Found(service, port, target.ip, target.port, "node-port")

    if by_node_port is None:
        return None

    # Any Service may have this node port number; it counts only at the address of a node.
    nodes = await read_nodes(cluster.api)
    addresses = {ip for node in (nodes or {}).values() for ip in (*node.internal_ips, *node.external_ips)}
    return by_node_port if target.ip in addresses else None


def _via(service: Service, ip: str, name: str) -> str | None:
    """Return how an address or a host name in lower case leads to a Service; None if it does not."""
    if ip in service.ingress or (name and name in (host.lower() for host in service.ingress)):
        return "load-balancer"
    if ip in service.external_ips:
        return "external-ip"
    return "cluster-ip" if ip in service.cluster_ips else None
