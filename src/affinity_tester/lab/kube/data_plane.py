"""The data plane's sockets: node ports and balancers' addresses, between clients and pods, as `ServiceProxy` says.

    client  <->  (node's InternalIP, node port) or (balancer's address, port)  | proxy |  source socket  <->  pod

Each flow has a source socket on its node's address, as behind a masquerade; under policy Local on an address that stands
for the client's (`lab.source_nat`). All are on loopback. A reply leaves from where its request came in.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.pool import Endpoint
from affinity_tester.lab.balancer import SWEEP_S, Sources, received
from affinity_tester.lab.kube.endpoint_slices import SERVICE_NAME
from affinity_tester.lab.kube.faults import Faults
from affinity_tester.lab.kube.pods import condition, is_ready
from affinity_tester.lab.kube.resources import NODES, PODS, SERVICES, SLICES, Json
from affinity_tester.lab.kube.service_proxy import NodeView, ProxyTiming, ServiceProxy, ServiceView
from affinity_tester.lab.kube.store import Store
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.net.addresses import bind_udp
from affinity_tester.units import NS_PER_S

PROXY_LABELS = ("k8s-app", "component")
"""The labels of which one is `kube-proxy` at a proxy's pod: a DaemonSet's, a static pod's."""

FORGET_NS = 300 * NS_PER_S
"""After so long without a packet it is forgotten where a client's packets came in; no flow lives that long."""


class Front(NamedTuple):
    """Where clients send to."""

    address: TransportAddress
    node: str | None
    """Whose node port it is; None: the balancer's."""


class ServicePort:
    """One UDP port of one Service: its sockets, and the proxies that decide for them."""

    def __init__(self, proxy: ServiceProxy, sources: Sources, now_ns: Callable[[], int]) -> None:
        """Begin without a socket; `proxy` claims its addresses at `sources`. Needs a running event loop."""
        self.proxy = proxy
        self.refused = 0
        """Datagrams that the machine did not let pass."""
        self._sources = sources
        self._now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        self._fronts: dict[Front, socket.socket] = {}
        self._came_in: dict[TransportAddress, tuple[socket.socket, int]] = {}
        """By client: where its newest packet came in, and when."""
        sources.on_open = self._source_opened

    def listen(self, fronts: set[Front]) -> None:
        """Listen at these addresses and no others. Raises `UserError` for one that cannot be bound."""
        for front in self._fronts.keys() - fronts:
            self._close(self._fronts.pop(front))
        for front in fronts - self._fronts.keys():
            sock = self._fronts[front] = bind_udp(*front.address)
            self._loop.add_reader(sock, partial(self._front_readable, sock, front.node))

    def sweep(self) -> None:
        """Close the source sockets of flows that are idle."""
        now_ns = self._now_ns()
        for sock in self._sources.release(self.proxy.network.expire(now_ns)):
            self._close(sock)
        self._came_in = {client: known for client, known in self._came_in.items() if now_ns - known[1] < FORGET_NS}

    def close(self) -> None:
        """Close every socket."""
        self.listen(set())
        for sock in self._sources.release(frozenset()):
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        sock.close()

    def _source_opened(self, source: TransportAddress, sock: socket.socket) -> None:
        self._loop.add_reader(sock, partial(self._source_readable, source, sock))

    def _front_readable(self, front: socket.socket, node: str | None) -> None:
        for data, client in received(front):
            now_ns = self._now_ns()
            self._came_in[client] = front, now_ns
            try:
                entry = self.proxy.forward(client, node, now_ns)
            except OSError:
                self.refused += 1
                continue
            if entry is not None:
                self._send(self._sources[entry.source], data, entry.pod.address)

    def _source_readable(self, source: TransportAddress, sock: socket.socket) -> None:
        for data, sender in received(sock):
            client = self.proxy.network.reverse(source, sender, self._now_ns())
            front = self._came_in.get(client) if client is not None else None
            # Under the fault `spray` pods answer that the flow table does not have; their replies pass the node all the same.
            if client is not None and front is not None and front[0].fileno() >= 0:
                self._send(front[0], data, client)

    def _send(self, sock: socket.socket, data: bytes, to: TransportAddress) -> None:
        try:
            sock.sendto(data, to)
        except OSError:
            self.refused += 1


class DataPlane:
    """The data plane of all Services."""

    def __init__(self, store: Store, *, seed: int, stand_in_net: str, faults: Faults, timing: ProxyTiming) -> None:
        """Begin without a Service. `stand_in_net` is two octets of the addresses that stand for clients' own."""
        self._store = store
        self._seed = seed
        self._stand_in_net = stand_in_net
        self._faults = faults
        self._timing = timing
        self._ports: dict[tuple[str, str], ServicePort] = {}
        """By uid of the Service and name of its port."""
        self._refused = 0
        """Of the ports that are gone."""
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def step(self, now_ns: int) -> int | None:
        """Follow the objects as they are now; return when something is due next. Raises `UserError`."""
        nodes = tuple(self._nodes())
        due = []
        wanted = {}
        for service in self._store.list(SERVICES):
            for port in service["spec"]["ports"]:
                if port["protocol"] == "UDP":
                    wanted[service["metadata"]["uid"], port.get("name", "")] = service, port
        for key in self._ports.keys() - wanted.keys():
            self._remove(key)
        for key, (service, port) in wanted.items():
            served = self._ports.get(key) or self._add(key)
            due.append(served.proxy.step(self._view(service, port, nodes), now_ns))
            served.listen(set(_fronts(service, port, nodes)))
        return min((each for each in due if each is not None), default=None)

    @property
    def refused(self) -> int:
        """Datagrams that the machine did not let pass: losses that nobody wanted."""
        return self._refused + sum(port.refused for port in self._ports.values())

    def close(self) -> None:
        """Close every socket."""
        self._sweeper.cancel()
        for key in list(self._ports):
            self._remove(key)

    def _add(self, key: tuple[str, str]) -> ServicePort:
        sources = Sources()
        proxy = ServiceProxy(
            seed=self._seed + len(self._ports),
            claim=sources.claim,
            stand_in_net=self._stand_in_net,
            faults=self._faults,
            timing=self._timing,
        )
        added = self._ports[key] = ServicePort(proxy, sources, self._store.unix_ns)
        return added

    def _remove(self, key: tuple[str, str]) -> None:
        port = self._ports.pop(key)
        port.close()
        self._refused += port.refused

    def _sweep(self) -> None:
        for port in self._ports.values():
            port.sweep()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _nodes(self) -> Iterator[NodeView]:
        proxies = {}
        for pod in self._store.list(PODS, "kube-system"):
            labels = pod["metadata"].get("labels") or {}
            if is_ready(pod) and "kube-proxy" in {labels.get(label) for label in PROXY_LABELS}:
                proxies[pod["spec"]["nodeName"]] = pod["status"]["containerStatuses"][0]["containerID"]
        for node in self._store.list(NODES):
            name = node["metadata"]["name"]
            ready = condition(node, "Ready").get("status") == "True"
            bridge = f"{node['spec']['podCIDR'].rpartition('.')[0]}.1"
            yield NodeView(name, internal_ip(node), bridge, ready, proxies.get(name, ""))

    def _view(self, service: Json, port: Json, nodes: tuple[NodeView, ...]) -> ServiceView:
        metadata, spec = service["metadata"], service["spec"]
        endpoints, number = [], 0
        for each in self._store.list(SLICES, metadata["namespace"]):
            if each["metadata"].get("labels", {}).get(SERVICE_NAME) != metadata["name"]:
                continue
            numbers = [known["port"] for known in each["ports"] if known["name"] == port.get("name", "")]
            if numbers:
                number = numbers[0]
                endpoints += [_endpoint(found) for found in each["endpoints"]]
        client = spec.get("sessionAffinityConfig", {}).get("clientIP", {})
        return ServiceView(
            policy=Policy(spec.get("externalTrafficPolicy", "Cluster")),
            affinity=Affinity(spec["sessionAffinity"]),
            affinity_ns=client.get("timeoutSeconds", 0) * NS_PER_S,
            endpoints=frozenset(endpoints),
            port=number,
            nodes=nodes,
        )


def internal_ip(node: Json) -> str:
    """Return a node's InternalIP."""
    return str(next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"))


def _endpoint(found: Json) -> Endpoint:
    conditions, target = found["conditions"], found["targetRef"]
    return Endpoint(
        uid=target["uid"],
        pod=target["name"],
        address=found["addresses"][0],
        node=found["nodeName"],
        ready=conditions["ready"],
        serving=conditions["serving"],
        terminating=conditions["terminating"],
    )


def _fronts(service: Json, port: Json, nodes: tuple[NodeView, ...]) -> Iterator[Front]:
    if "nodePort" in port:
        for node in nodes:
            yield Front(TransportAddress(node.ip, port["nodePort"]), node.name)
    for ingress in service["status"].get("loadBalancer", {}).get("ingress") or ():
        yield Front(TransportAddress(ingress["ip"], port["port"]), None)
