"""What the nodes' proxies and the balancer do with one port of one Service, as the cluster changes. Pure.

It keeps a `NetworkModel`, and copies what kube-proxy 1.36 was measured to do (docs/failure-modes.md) and what its code says:

- Live flows stay where they are at any change of endpoints, policy or affinity: the kernel's entry decides, and the rules
  are only asked for the first packet of a flow.
- About a second after a change, each node drops the entries of pods that are no *serving* endpoint any more, unless none
  serves at all. "Changes to the service should not affect existing flows, so we do not take traffic policies, topology, or
  terminating status of the service into account" (kubernetes/kubernetes, pkg/proxy/conntrack/cleanup.go,
  CleanStaleEntries). A node whose proxy does not run does it when that runs again.
- New flows go to ready endpoints, and to terminating ones that serve where none is ready (KEP-1669), under policy Local to
  those of the node.
- A proxy that starts again changes nothing by itself.

The balancer keeps its flows' nodes, too, as the clouds' balancers do with flow tables: new flows are hashed over the Ready
nodes, under policy Local over those with a ready pod; a node's flows go elsewhere when it is gone, or has had no serving
pod for the time of the health check.

All nodes learn of a change at once, but for the entries: the milliseconds between their proxies' syncs are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.pool import Endpoint
from affinity_tester.lab.kube.faults import Faults
from affinity_tester.lab.model import Affinity, Entry, Pod, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.units import NS_PER_S

UDP_TIMEOUT_NS, UDP_STREAM_TIMEOUT_NS = 30 * NS_PER_S, 120 * NS_PER_S
"""nf_conntrack_udp_timeout and nf_conntrack_udp_timeout_stream, as Linux and kube-proxy leave them."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, as the data plane needs it."""

    name: str
    ip: str
    bridge_ip: str
    """Of its pods' bridge."""
    ready: bool
    proxy: str
    """The containerID of its proxy; empty while none runs."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One port of a Service, its endpoints and the nodes: all that decides where packets go."""

    policy: Policy
    affinity: Affinity
    affinity_ns: int
    endpoints: frozenset[Endpoint]
    port: int
    """Of the endpoints."""
    nodes: tuple[NodeView, ...]

    @property
    def serving(self) -> frozenset[str]:
        """Return the pods that serve."""
        return frozenset(endpoint.pod for endpoint in self.endpoints if endpoint.serving)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTiming:
    """How long the data plane takes."""

    clean_ns: int = NS_PER_S
    """From the end of an endpoint until its entries are dropped, with those of the endpoints that end meanwhile: 0.3 to
    1.6 s were measured (docs/failure-modes.md)."""
    check_ns: int = NS_PER_S
    """Until the balancer's health check fails a node without a serving pod (policy Local); in clouds 10 to 30 s."""


class ServiceProxy:
    """The proxies of all nodes and the balancer, for one port of one Service."""

    def __init__(
        self,
        *,
        seed: int,
        claim: Callable[[TransportAddress], bool],
        stand_in_net: str,
        faults: Faults,
        timing: ProxyTiming,
    ) -> None:
        """Begin without nodes and endpoints; `claim` takes a source address and says whether it was free."""
        self.network = NetworkModel(
            seed=seed,
            log=lambda _event: None,
            claim=claim,
            stand_in_net=stand_in_net,
            idle_ns=faults.conntrack_timeout_ns or UDP_TIMEOUT_NS,
            stream_ns=faults.conntrack_timeout_ns or UDP_STREAM_TIMEOUT_NS,
        )
        self.network.one_packet = faults.spray
        self._faults = faults
        self._timing = timing
        self._view: ServiceView | None = None
        self._proxies: dict[str, str] = {}
        """The newest containerID of each node's proxy."""
        self._running: dict[str, bool] = {}
        """By node: whether its proxy runs now."""
        self._clean_due: dict[str, int] = {}
        """By node: when its entries are looked through."""
        self._unfit: dict[str, int] = {}
        """By node: since when it has no pod that serves, under policy Local."""

    def forward(self, client: TransportAddress, node: str | None, now_ns: int) -> Entry | None:
        """Return the way of a packet that came to a node's port, or to the balancer (None); None when it is dropped."""
        pinned = self.network.ingress.pinned
        if node is not None:
            if node not in self.network.nodes:
                return None
            pinned[client] = node
        entry = self.network.forward(client, now_ns)
        if node is None and client not in pinned and (chosen := self.network.ingress.node_of(client)) is not None:
            pinned[client] = chosen
        return entry

    def step(self, view: ServiceView, now_ns: int) -> int | None:
        """Take what the cluster is now, and do what is due; return when something is due next."""
        before, self._view = self._view, view
        network = self.network
        network.policy, network.affinity, network.affinity_ns = view.policy, view.affinity, view.affinity_ns
        self._take_nodes(view)
        if before is None or view.endpoints != before.endpoints:
            self._take_endpoints(view)
        if before is not None and (before.serving - view.serving or (view.serving and not before.serving)):
            for node in network.nodes:
                self._clean_due.setdefault(node, now_ns + self._timing.clean_ns)
        changed = before is not None and (view.policy, view.affinity) != (before.policy, before.affinity)
        if changed and self._faults.policy_flush:
            self._flush()
        self._take_proxies(view)
        self._clean(view, now_ns)
        self._check_nodes(view, now_ns)

        running = (at_ns for node, at_ns in self._clean_due.items() if self._running.get(node))
        checks = (since_ns + self._timing.check_ns for since_ns in self._unfit.values())
        return min((at_ns for at_ns in (*running, *checks) if at_ns > now_ns), default=None)

    # --- what changed -------------------------------------------------------------------------------------------------

    def _take_nodes(self, view: ServiceView) -> None:
        ingress, names = self.network.ingress, {node.name for node in view.nodes}
        for node in view.nodes:
            if node.name not in ingress.nodes:
                ingress.add_node(node.name, node.ip, hashed=False, bridge_ip=node.bridge_ip)
        for name in ingress.nodes.keys() - names:
            ingress.remove_node(name)
            self._unpin(name)
            for kept in (self._clean_due, self._unfit, self._proxies, self._running):
                kept.pop(name, None)

    def _take_endpoints(self, view: ServiceView) -> None:
        network, names = self.network, {endpoint.pod for endpoint in view.endpoints}
        for endpoint in view.endpoints:
            if endpoint.pod not in network.pods:
                address = TransportAddress(endpoint.address, view.port)
                network.add_pod(
                    Pod(name=endpoint.pod, node=endpoint.node, address=address, instance=b"", uid=endpoint.uid)
                )
            network.set_conditions(
                endpoint.pod, ready=endpoint.ready, serving=endpoint.serving, terminating=endpoint.terminating
            )
            if endpoint.terminating and not endpoint.serving:
                network.dead_pods.add(endpoint.pod)
        for name in network.pods.keys() - names:
            network.dead_pods.add(name)
            network.remove_pod(name, flush=False)

        if self._faults.flush_on_change:
            self._flush()
        if self._faults.early_flush:
            self._keep_entries_of({each.pod for each in view.endpoints if each.ready}, network.nodes)

    def _take_proxies(self, view: ServiceView) -> None:
        for node in view.nodes:
            before = self._proxies.get(node.name, "")
            if node.proxy and before not in {"", node.proxy} and self._faults.proxy_restart_flush:
                self.network.flush_flows(node.name)
            self._running[node.name] = bool(node.proxy)
            self._proxies[node.name] = node.proxy or before

    # --- what follows -------------------------------------------------------------------------------------------------

    def _clean(self, view: ServiceView, now_ns: int) -> None:
        """Drop the entries of pods that do not serve any more, at the nodes where that is due and a proxy runs."""
        due = [node for node, at_ns in self._clean_due.items() if at_ns <= now_ns and self._running.get(node)]
        for node in due:
            del self._clean_due[node]
        if view.serving and not self._faults.stale_entries:
            self._keep_entries_of(view.serving, due)

    def _check_nodes(self, view: ServiceView, now_ns: int) -> None:
        """Let the balancer's health check decide which nodes get new flows, and which keep theirs."""
        ingress, local = self.network.ingress, view.policy is Policy.LOCAL
        ready = {endpoint.node for endpoint in view.endpoints if endpoint.ready}
        serving = {endpoint.node for endpoint in view.endpoints if endpoint.serving}
        hashed = {node.name for node in ingress.nodes.values() if node.hashed}
        wanted = {node.name for node in view.nodes if node.ready and (not local or node.name in ready)}
        for name in wanted - hashed:
            ingress.join_hash(name, 1.0)
        for name in hashed - wanted:
            ingress.leave_hash(name)
        if self._faults.node_join_rehash and wanted != hashed:
            ingress.pinned.clear()

        unfit = {node.name for node in view.nodes if local and node.name not in serving}
        self._unfit = {name: self._unfit.get(name, now_ns) for name in unfit}
        for name, since_ns in self._unfit.items():
            if now_ns - since_ns >= self._timing.check_ns:
                self._unpin(name)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _unpin(self, node: str) -> None:
        pinned = self.network.ingress.pinned
        for client in [client for client, name in pinned.items() if name == node]:
            del pinned[client]

    def _flush(self) -> None:
        for node in self.network.nodes:
            self.network.flush_flows(node)

    def _keep_entries_of(self, pods: Collection[str], nodes: Iterable[str]) -> None:
        for node in nodes:
            entries = self.network.nodes[node].entries
            for name in {entry.pod.name for entry in entries.values()}.difference(pods):
                self.network.flush_pod(name, node)
