"""Watches what may explain a change though it is not part of the pool: nodes, backend pods, and the pods of proxies."""

from __future__ import annotations

from affinity_tester.cluster.object_events import node_events, pod_events, proxy_events
from affinity_tester.cluster.objects import Node, Pod, parse_node, parse_pod
from affinity_tester.cluster.reflector import Reflector
from affinity_tester.cluster.resource_versions import When
from affinity_tester.cluster.watch_group import WatchGroup
from affinity_tester.core.events import ClusterAction, NodeAddresses

PROXY_LABELS = (
    "k8s-app in (kube-proxy,cilium,calico-node,kube-router)",
    "component=kube-proxy,k8s-app notin (kube-proxy,cilium,calico-node,kube-router)",
    "app=ovnkube-node,component!=kube-proxy,k8s-app notin (kube-proxy,cilium,calico-node,kube-router)",
)
"""Label selectors of the pods that forward a Service's packets, from their usual manifests. No pod matches two of them."""


class ContextWatch:
    """Emits `ClusterEvent`s and `NodeAddresses`. What RBAC forbids gets one warning, and the rest is watched."""

    def __init__(self, group: WatchGroup, namespace: str) -> None:
        """`namespace` is that of the Service and its pods."""
        self._group = group
        self._namespace = namespace
        self._nodes = group.context_reflector(
            "/api/v1/nodes", parse_node, self._on_node, refused="nodes", listed=self._on_nodes
        )
        self._proxies = [
            group.context_reflector("/api/v1/pods", parse_pod, self._on_proxy, refused="proxies", labels=labels)
            for labels in PROXY_LABELS
        ]
        self._pods: Reflector[Pod] | None = None
        self._images: dict[tuple[str, str], tuple[str, ...]] = {}
        """Images by proxy and node, for `proxy_events`."""
        self._node_names: dict[str, str] = {}
        """Node name by InternalIP. Nodes that are gone stay: their addresses may still be seen as sources."""
        self._emitted_names: tuple[tuple[str, str], ...] = ()
        """What the newest `NodeAddresses` said."""

    def begin(self) -> None:
        """Start the watches that do not depend on the Service: nodes and proxies."""
        self._group.spawn("nodes", self._nodes.run())
        for number, reflector in enumerate(self._proxies):
            self._group.spawn(f"proxies {number}", reflector.run())

    def watch_pods(self, selector: tuple[tuple[str, str], ...]) -> None:
        """Watch the pods that `selector` matches. They replace those of the selector before."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        labels = ",".join(f"{name}={value}" for name, value in selector)
        self._pods = self._group.context_reflector(
            path, parse_pod, self._on_pod, refused="pods", namespace=self._namespace, labels=labels
        )
        self._group.spawn("pods", self._pods.run())

    def is_node(self, ip: str) -> bool:
        """True if a node has, or had, this InternalIP."""
        return ip in self._node_names

    async def wait_for_first_lists(self) -> None:
        """Wait until each first list is read or refused; then warn if there is no pod of a known proxy."""
        await self._nodes.first_list_done.wait()
        if self._pods is not None:
            await self._pods.first_list_done.wait()

        for reflector in self._proxies:
            await reflector.first_list_done.wait()

        # Where the list is forbidden, a warning has said so; that no proxy is seen would say nothing then.
        if not any(reflector.items for reflector in self._proxies) and not self._group.warned(
            ClusterAction.LIST_FORBIDDEN, "proxies"
        ):
            self._group.warn_once(ClusterAction.NO_PROXY_SEEN)

    def _on_node(self, key: str, old: Node | None, new: Node | None, when: When | None) -> None:
        name = key.removeprefix("/")
        self._node_names.update(dict.fromkeys(new.internal_ips if new else (), name))
        if when is not None:
            self._group.emit(*node_events(when.heard_ns, name, old, new))
            self._emit_names()

    def _on_nodes(self, _when: When, _missed: bool) -> None:
        self._emit_names()

    def _emit_names(self) -> None:
        names = tuple(sorted(self._node_names.items()))
        if names != self._emitted_names:
            self._emitted_names = names
            self._group.emit(NodeAddresses(self._group.now_ns(), names))

    def _on_pod(self, _key: str, old: Pod | None, new: Pod | None, when: When | None) -> None:
        if when is not None:
            self._group.emit(*pod_events(when.heard_ns, old, new))

    def _on_proxy(self, _key: str, old: Pod | None, new: Pod | None, when: When | None) -> None:
        # The first list, which has no time, is no news; it only fills in the images.
        events = proxy_events(when.heard_ns if when else 0, old, new, self._images)
        if when is not None:
            self._group.emit(*events)
