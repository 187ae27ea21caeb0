"""Watches what explains by being near: nodes, the backend pods, and the proxies' pods of all namespaces."""

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
"""The pods that forward a Service's packets, by the labels of their usual manifests; no pod fits two of them."""


class ContextWatch:
    """Tells `ClusterEvent`s. What may not be listed is said once, and the rest goes on."""

    def __init__(self, group: WatchGroup, namespace: str) -> None:
        """`namespace`: of the backend pods."""
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
        self._node_names: dict[str, str] = {}
        """Nodes by their InternalIPs, those that are gone too."""
        self._told_names: tuple[tuple[str, str], ...] = ()

    def begin(self) -> None:
        """Start the watches that need to know nothing of the Service."""
        self._group.spawn("nodes", self._nodes.run())
        for number, reflector in enumerate(self._proxies):
            self._group.spawn(f"proxies {number}", reflector.run())

    def watch_pods(self, selector: tuple[tuple[str, str], ...]) -> None:
        """Watch the pods that the Service selects, instead of those that it selected before."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        labels = ",".join(f"{name}={value}" for name, value in selector)
        self._pods = self._group.context_reflector(
            path, parse_pod, self._on_pod, refused="pods", namespace=self._namespace, labels=labels
        )
        self._group.spawn("pods", self._pods.run())

    async def wait_for_first_lists(self) -> None:
        """Wait for the first lists; then say so if no proxy can be seen."""
        await self._nodes.first_list_done.wait()
        if self._pods is not None:
            await self._pods.first_list_done.wait()
        for reflector in self._proxies:
            await reflector.first_list_done.wait()
        if not any(reflector.items for reflector in self._proxies) and not self._group.warned(
            ClusterAction.LIST_FORBIDDEN, "proxies"
        ):
            self._group.warn_once(ClusterAction.NO_PROXY_SEEN)

    def _on_node(self, key: str, old: Node | None, new: Node | None, when: When | None) -> None:
        name = key.removeprefix("/")
        self._node_names.update(dict.fromkeys(new.internal_ips if new else (), name))
        if when is not None:
            self._group.emit(*node_events(when.heard_ns, name, old, new))
            self._tell_names()

    def _on_nodes(self, _when: When, _missed: bool) -> None:
        self._tell_names()

    def _tell_names(self) -> None:
        names = tuple(sorted(self._node_names.items()))
        if names != self._told_names:
            self._told_names = names
            self._group.emit(NodeAddresses(self._group.now_ns(), names))

    def _on_pod(self, _key: str, old: Pod | None, new: Pod | None, when: When | None) -> None:
        if when is not None:
            self._group.emit(*pod_events(when.heard_ns, old, new))

    def _on_proxy(self, _key: str, old: Pod | None, new: Pod | None, when: When | None) -> None:
        events = proxy_events(
            when.heard_ns if when else 0, old, new, self._images
        )  # the first list fills in the images
        if when is not None:
            self._group.emit(*events)
