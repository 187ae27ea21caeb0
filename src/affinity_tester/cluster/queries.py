"""Single reads of what a Service is and has, for discovery and for explaining silence."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

from affinity_tester.cluster.api import FORBIDDEN, NOT_FOUND, Api, ApiError, list_all
from affinity_tester.cluster.fields import ObjectError, name_of
from affinity_tester.cluster.objects import Node, Service, ServiceRef, Slice, parse_node, parse_service, parse_slice
from affinity_tester.core.address import TransportAddress


async def read_service(api: Api, ref: ServiceRef) -> Service | None:
    """The Service; None where there is none. Raises `ApiError`."""
    try:
        path = f"/api/v1/namespaces/{quote(ref.namespace, safe='')}/services/{quote(ref.name, safe='')}"
        return parse_service(await api.get(path))
    except ApiError as error:
        if error.status == NOT_FOUND:
            return None
        raise


async def read_slices(api: Api, ref: ServiceRef) -> tuple[Slice, ...] | None:
    """The EndpointSlices of a Service; None where they may not be listed, or one cannot be read. Raises `ApiError`."""
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
    """All nodes that can be read, by name; None where they may not be listed. Raises `ApiError`."""
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
    """Which of the Service's address families a target's packets go to: IPv4, IPv6, or None where it cannot be told."""
    if len(service.families) == 1:
        return service.families[0]  # also behind a balancer that translates
    if target is None:
        return None
    return "IPv6" if target.is_ipv6 else "IPv4"
