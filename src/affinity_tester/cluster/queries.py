"""Reads a Service, its EndpointSlices and the nodes once: for discovery, and to explain why nothing answers."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

from affinity_tester.cluster.api import FORBIDDEN, NOT_FOUND, Api, ApiError, list_all
from affinity_tester.cluster.fields import ObjectError, name_of
from affinity_tester.cluster.objects import Node, Service, ServiceRef, Slice, parse_node, parse_service, parse_slice
from affinity_tester.core.address import TransportAddress


async def read_service(api: Api, ref: ServiceRef) -> Service | None:
    """Return the Service; None if there is none of this name. Raises `ApiError`."""
    try:
        path = f"/api/v1/namespaces/{quote(ref.namespace, safe='')}/services/{quote(ref.name, safe='')}"
        return parse_service(await api.get(path))
    except ApiError as error:
        if error.status == NOT_FOUND:
            return None
        raise


async def read_slices(api: Api, ref: ServiceRef) -> tuple[Slice, ...] | None:
    """Return a Service's EndpointSlices; None if RBAC forbids it or one of them is unreadable. Raises `ApiError`."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{ref.namespace}/endpointslices"
    try:
        found = await list_all(api, path, [("labelSelector", f"kubernetes.io/service-name={ref.name}")], limit=5)
        return tuple(parse_slice(obj) for obj in found)
    except ObjectError:
        return None
    except ApiError as error:
        if error.status == FORBIDDEN:
            return None
        raise


async def read_nodes(api: Api) -> dict[str, Node] | None:
    """Return the readable nodes by name; None if RBAC forbids to list them. Raises `ApiError`."""
    nodes = {}
    try:
        for obj in await list_all(api, "/api/v1/nodes", limit=20):
            with suppress(ObjectError):
                nodes[name_of(obj)] = parse_node(obj)
    except ApiError as error:
        if error.status == FORBIDDEN:
            return None
        raise
    return nodes


def family_of(service: Service, target: TransportAddress | None) -> str | None:
    """Return the address family of the endpoints that a target's packets go to: IPv4, IPv6, or None if unknown."""
    if len(service.families) == 1:
        return service.families[0]  # even where a balancer translates between the families
    if target is None:
        return None
    return "IPv6" if target.is_ipv6 else "IPv4"
