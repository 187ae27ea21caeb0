"""Reads what an experiment ran on: versions, the proxy and its mode, the CNI, the cloud, the balancer.

Whatever is refused or absent is left empty, and named: it keeps no experiment from running.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from affinity_tester.cluster.api import FORBIDDEN, NOT_FOUND, Api, ApiError, Json, list_all, read_page
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.context_watch import PROXY_LABELS
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.providers import cloud_of
from affinity_tester.cluster.response_errors import one_line
from affinity_tester.core.experiment.results import RanOn

CNIS = {
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "anetd": "Cilium (GKE Dataplane V2)",
    "aws-node": "AWS VPC CNI",
    "azure-cns": "Azure CNI",
    "kube-flannel-ds": "flannel",
    "kube-flannel": "flannel",
    "antrea-agent": "Antrea",
    "ovnkube-node": "OVN-Kubernetes",
    "kube-router": "kube-router",
    "weave-net": "Weave Net",
    "kindnet": "kindnet",
}
"""DaemonSets of CNIs, by the names in their usual manifests."""

SYSTEM = "/api/v1/namespaces/kube-system/configmaps"
FELIX = "/apis/crd.projectcalico.org/v1/felixconfigurations/default"
"""Calico's configuration, where it is stored in the API server (docs.tigera.io, Felix configuration)."""

MODE = re.compile(r"^mode:[ \t]*[\"']?([a-z]*)", re.MULTILINE)
"""In kube-proxy's KubeProxyConfiguration. Empty: the platform's default."""

MODE_FLAG = re.compile(r"--proxy-mode[= ]([a-z]+)")
DEFAULT_MODE = "iptables mode (the default)"
"""On Linux (kube-proxy --proxy-mode)."""

REPLACES = ("true", "strict")
"""Values of Cilium's kube-proxy-replacement with which it serves all Services (true since 1.14; before, strict)."""

BALANCER = re.compile(r"load-?balancer|metallb|lb-?ipam|kube-vip|cilium\.io/|cloud\.google\.com/", re.IGNORECASE)
"""Annotations of a Service that are about its balancer."""

MAX_BALANCER = 160
"""Characters of a text about the balancer."""


class _Reader:
    """Reads objects, and remembers what could not be read."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.missing: list[str] = []

    def note(self, what: str, error: ApiError) -> None:
        if error.status != NOT_FOUND:
            why = "not allowed" if error.status == FORBIDDEN else str(error)
            self.missing.append(f"{what}: not readable ({why})")

    async def get(self, what: str, path: str) -> Json:
        """Return an object; empty if there is none, or it cannot be read."""
        try:
            return await self._api.get(path)
        except ApiError as error:
            self.note(what, error)
            return {}

    async def list(self, what: str, path: str) -> list[Json] | None:
        """Return objects; None if they cannot be listed."""
        try:
            return [each for each in await list_all(self._api, path, limit=20) if isinstance(each, dict)]
        except ApiError as error:
            self.note(what, error)
            return None

    async def first(self, what: str, path: str, labels: str) -> Json:
        """Return one of the objects with these labels; empty if there is none, or it cannot be listed."""
        try:
            page = await read_page(self._api, path, [("labelSelector", labels)], 1)
        except ApiError as error:
            self.note(what, error)
            return {}
        first = page.items[0] if page.items else {}
        return first if isinstance(first, dict) else {}


async def read_ran_on(cluster: Cluster, services: Sequence[ServiceRef], via: str) -> RanOn:
    """Return what the cluster and the Services say about themselves. Raises nothing but what is a bug."""
    reader = _Reader(cluster.api)
    nodes, daemonsets = await asyncio.gather(
        reader.list("nodes", "/api/v1/nodes"), reader.list("CNI", "/apis/apps/v1/daemonsets")
    )
    version, config, cilium, felix = await asyncio.gather(
        reader.get("Kubernetes version", "/version"),
        reader.get("kube-proxy's configuration", f"{SYSTEM}/kube-proxy"),
        reader.get("Cilium's configuration", f"{SYSTEM}/cilium-config"),
        reader.get("Calico's configuration", FELIX),
    )
    pods = await asyncio.gather(*(reader.first("proxy", "/api/v1/pods", labels) for labels in PROXY_LABELS))
    found = await asyncio.gather(*(reader.get("Service", _service_path(ref)) for ref in services))
    info = [_at(node, "status", "nodeInfo") or {} for node in nodes or ()]
    proxy = _proxy(pods, config, cilium, felix, [str(each.get("kubeletVersion", "")) for each in info])
    return RanOn(
        context=cluster.context,
        kubernetes=_text(version.get("gitVersion")),
        nodes=None if nodes is None else len(nodes),
        os=_counted(info, "osImage"),
        kernels=_counted(info, "kernelVersion"),
        runtimes=_counted(info, "containerRuntimeVersion"),
        kubelets=_counted(info, "kubeletVersion"),
        proxy=proxy,
        cni=_cni(daemonsets or ()),
        cloud=_cloud(nodes or ()),
        balancer=_balancer(found),
        via=via,
        missing=tuple(dict.fromkeys(reader.missing)),
    )


def _service_path(ref: ServiceRef) -> str:
    return f"/api/v1/namespaces/{quote(ref.namespace, safe='')}/services/{quote(ref.name, safe='')}"


def _counted(info: Iterable[Mapping[str, Any]], name: str) -> tuple[tuple[str, int], ...]:
    """Return the values of a field with how many nodes have each, the most frequent first."""
    counts = Counter(text for each in info if (text := _text(each.get(name))))
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _proxy(pods: Iterable[Json], config: Json, cilium: Json, felix: Json, kubelets: Sequence[str]) -> str:
    """Return what forwards the packets of Services, as far as it can be seen."""
    labels = [_at(pod, "metadata", "labels") or {} for pod in pods]
    names = {value for each in labels for value in (each.get("k8s-app"), each.get("component"), each.get("app"))}
    if _text(_at(cilium, "data", "kube-proxy-replacement")) in REPLACES:
        return "Cilium in kube-proxy's place"
    if _at(felix, "spec", "bpfEnabled") is True:
        return "Calico (eBPF) in kube-proxy's place"
    if "kube-proxy" in names or config:
        return f"kube-proxy, {_mode(config, pods)}"
    for name, text in (("kube-router", "kube-router"), ("ovnkube-node", "OVN-Kubernetes")):
        if name in names:
            return text
    if any("+k3s" in version or "+rke2" in version for version in kubelets):
        return "kube-proxy inside the node's agent (k3s)"
    return ""


def _mode(config: Json, pods: Iterable[Json]) -> str:
    """Return kube-proxy's mode: its flag's, which wins over its configuration, or its configuration's."""
    for pod in pods:
        for container in _at(pod, "spec", "containers") or ():
            words = " ".join(str(word) for name in ("command", "args") for word in container.get(name) or ())
            flag = MODE_FLAG.search(words)
            if flag:
                return f"{flag[1]} mode"
    for text in (_at(config, "data") or {}).values():
        mode = MODE.search(str(text))
        if mode:
            return f"{mode[1]} mode" if mode[1] else DEFAULT_MODE
    return "mode unknown"


def _cni(daemonsets: Iterable[Json]) -> str:
    """Return the CNIs that are known by their DaemonSets, with their versions."""
    found = []
    for daemonset in daemonsets:
        name = CNIS.get(_text(_at(daemonset, "metadata", "name")))
        if name:
            containers = _at(daemonset, "spec", "template", "spec", "containers") or [{}]
            tag = _text(containers[0].get("image")).partition("@")[0].rpartition("/")[2].partition(":")[2]
            found.append(f"{name} {tag}".strip())
    return ", ".join(sorted(found))


def _cloud(nodes: Iterable[Json]) -> str:
    """Return the clouds of the nodes; for one that is not known, how its providerID begins."""
    found = set()
    for node in nodes:
        provider = _text(_at(node, "spec", "providerID"))
        cloud = cloud_of(provider)
        found.add(provider.partition(":")[0] if cloud == "none" else cloud)
    return ", ".join(sorted(filter(None, found)))


def _balancer(services: Iterable[Json]) -> str:
    """Return what the Services of type LoadBalancer say about their balancers."""
    found = []
    for service in services:
        if _at(service, "spec", "type") != "LoadBalancer":
            continue
        kind = _text(_at(service, "spec", "loadBalancerClass")) or "the cluster's default"
        annotations = _at(service, "metadata", "annotations") or {}
        about = [f"{name}={value}" for name, value in sorted(annotations.items()) if BALANCER.search(name)]
        found.append(one_line(", ".join((kind, *about)), MAX_BALANCER))
    return "; ".join(dict.fromkeys(found))


def _at(obj: Any, *path: str) -> Any:
    """Return the value at a path of an object; None if there is none."""
    for name in path:
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj


def _text(value: object) -> str:
    """Return a text from outside as one line; empty for anything else."""
    return one_line(value) if isinstance(value, str) else ""
