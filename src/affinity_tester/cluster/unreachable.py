"""Explains why probes get no reply, from what the cluster's API tells."""

from __future__ import annotations

from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import Node, Service, ServicePort, ServiceRef, endpoints_of
from affinity_tester.cluster.queries import family_of, read_nodes, read_service, read_slices
from affinity_tester.cluster.response_errors import one_line
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.pool import Endpoint


async def explain_no_reply(cluster: Cluster, ref: ServiceRef, port: int, target: TransportAddress) -> str | None:
    """Return the likeliest reason why a Service's UDP port does not answer at `target`; None if no reason is seen.

    Reads the Service, its endpoints and the nodes once, now. An error of the API gives None.
    """
    try:
        service = await read_service(cluster.api, ref)
        if service is None:
            return f'there is no Service "{ref}" any more'
        udp = service.udp_port(port)
        if udp is None:
            return f'Service "{ref}" has no UDP port {port} any more'
        slices = await read_slices(cluster.api, ref)
        nodes = await read_nodes(cluster.api)
    except ApiError:
        return None

    endpoints = None if slices is None else endpoints_of(slices, udp.name, family_of(service, target))
    return likeliest_reason(service, udp, target, endpoints, nodes, inside=cluster.inside)


def likeliest_reason(
    service: Service,
    port: ServicePort,
    target: TransportAddress,
    endpoints: frozenset[Endpoint] | None,
    nodes: dict[str, Node] | None,
    *,
    inside: bool,
) -> str | None:
    """Return the first reason that fits, the surest first; None if none fits. Pure.

    `endpoints` and `nodes` are None if they may not be read.
    """
    if service.type == "ExternalName":
        return (
            f'Service "{service.ref}" is only a DNS name for {service.external_name or "another"}: it has no endpoints'
        )

    if endpoints is not None and not endpoints:
        selector = ", ".join(f"{name}={value}" for name, value in service.selector)
        why = f": no pod has the labels {selector}" if selector else ": it has no selector, and nobody gave it any"
        return f'Service "{service.ref}" has no endpoints{why}'

    ready = None if endpoints is None else {endpoint.node for endpoint in endpoints if endpoint.ready}
    if endpoints is not None and not ready:
        return f'none of the {len(endpoints)} endpoints of Service "{service.ref}" is ready'

    # Probes to a node port: kube-proxy drops them under policy Local where the node has no ready pod.
    at_node = next((name for name, node in (nodes or {}).items() if target.ip in _addresses(node)), None)
    local = service.policy == "Local"
    if at_node is not None and target.port == port.node_port:
        if local and ready is not None and at_node not in ready:
            return f'externalTrafficPolicy is Local, and node "{at_node}" has no ready pod of Service "{service.ref}"'
        return f'probes go to node port {port.node_port} of node "{at_node}": do firewalls let UDP in there?'

    if target.ip in service.cluster_ips:
        return None if inside else f"{target.ip} is a cluster IP, reached only from inside the cluster"

    if (error := service.ingress_error(port)) is not None:
        return f'the load balancer of Service "{service.ref}" does not serve UDP port {port.port} ({one_line(error)})'

    if service.type == "LoadBalancer" and not service.ingress and target.ip not in service.external_ips:
        return f'the load balancer of Service "{service.ref}" has no address yet'

    # Only where all of the balancer's addresses are IPs: what a host name resolves to is not known here.
    ips = [address for address in service.ingress if address.replace(".", "").isdigit() or ":" in address]
    if ips and len(ips) == len(service.ingress) and target.ip not in (*ips, *service.external_ips):
        return f'the load balancer of Service "{service.ref}" is at {", ".join(ips)} now, and probes go to {target.ip}'

    if service.source_ranges:
        ranges = ", ".join(service.source_ranges)
        return f"loadBalancerSourceRanges lets in {ranges} only: is this client's address among them?"

    if local and ready is not None and nodes and len(ready) < len(nodes):
        has = f"{len(ready)} of {len(nodes)} nodes have a ready pod"
        return f"externalTrafficPolicy is Local and {has}: does the balancer's health check leave out the rest?"
    return None


def _addresses(node: Node) -> tuple[str, ...]:
    return node.internal_ips + node.external_ips
