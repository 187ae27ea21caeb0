"""The whole cluster: its objects, controllers, kubelets, data plane and API server, in one event loop."""

from __future__ import annotations

import asyncio
import platform
import random
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from affinity_tester import __version__, clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.kube.addresses import LabNetwork, claim_network
from affinity_tester.lab.kube.admission import Admission
from affinity_tester.lab.kube.api_server import ApiServer
from affinity_tester.lab.kube.controllers import (
    BalancerController,
    BudgetController,
    Controller,
    DaemonSetController,
    GarbageCollector,
    MirrorPods,
    NodeController,
)
from affinity_tester.lab.kube.data_plane import DataPlane
from affinity_tester.lab.kube.deployments import DeploymentController, ReplicaSetController
from affinity_tester.lab.kube.discovery import GIT_VERSION
from affinity_tester.lab.kube.endpoint_slices import EndpointSliceController
from affinity_tester.lab.kube.faults import Faults
from affinity_tester.lab.kube.kubelet import EchoPods, Kubelet, PodTiming
from affinity_tester.lab.kube.pods import suffixes
from affinity_tester.lab.kube.requests import Requests
from affinity_tester.lab.kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    SERVICES,
    Json,
    Resource,
)
from affinity_tester.lab.kube.scheduler import Autoscaler, Scheduler
from affinity_tester.lab.kube.service_proxy import ProxyTiming
from affinity_tester.lab.kube.store import Store
from affinity_tester.units import NS_PER_MS, NS_PER_S

MAX_ROUNDS = 200
"""Rounds in which the controllers must come to rest; a rollout of many pods takes some ten."""

PORT = 3478
"""Of the echo servers and their Service (k8s/*.yaml)."""

_KINDS = {resource.kind: resource for resource in (DEPLOYMENTS, SERVICES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabClusterSettings:
    """What a lab's cluster is like."""

    seed: int = 1
    nodes: int = 3
    faults: Faults = field(default_factory=Faults)
    pods: PodTiming = field(default_factory=PodTiming)
    proxies: ProxyTiming = field(default_factory=ProxyTiming)
    balancer_ns: int = 500 * NS_PER_MS
    """Until a Service of type LoadBalancer has an address."""
    autoscale: bool = False
    """Add nodes for pods that fit nowhere."""
    static_proxies: bool = False
    """Proxies are static pods, shown by mirror pods, in place of a DaemonSet's."""
    denied: tuple[str, ...] = ()
    """Rights that the user lacks, as `VERB:RESOURCE`."""


class LabCluster:
    """A running cluster; `start` makes one, `close` ends it and leaves nothing behind."""

    def __init__(self, settings: LabClusterSettings, network: LabNetwork, lock: socket.socket) -> None:
        """Begin without an object; `start` makes a complete one. `lock` holds the network until `close`."""
        self.network = network
        self._lock = lock
        self._settings = settings
        offset_ns = time.time_ns() - clock.now_ns()  # the wall clock may be set; distances must not change with it
        uids = random.Random(f"{settings.seed}/uids")  # noqa: S311 - repeatable, not secret
        self.store = Store(lambda: clock.now_ns() + offset_ns, lambda: _uid(uids))
        self._admission = Admission(self.store, settings.seed, network.service_net)
        self._pods = EchoPods()
        self._kubelet = Kubelet(self.store, self._pods, settings.pods)
        self._plane = DataPlane(
            self.store,
            seed=settings.seed,
            stand_in_net=network.stand_in_net,
            faults=settings.faults,
            timing=settings.proxies,
        )
        self._new_suffix = suffixes(settings.seed)
        self._controllers = self._make_controllers()
        self._wake = asyncio.Event()
        self.store.listen(lambda _change: self._wake.set())
        self._server: ApiServer | None = None

    @classmethod
    async def start(cls, settings: LabClusterSettings, objects: Iterable[Json], namespace: str) -> Self:
        """Start a cluster with these Deployments and Services in this namespace. Raises `UserError`."""
        network, lock = claim_network(PORT)
        self = cls(settings, network, lock)
        try:
            self._add_basic_objects(namespace)
            for obj in objects:
                resource = _KINDS[obj["kind"]]
                self._add(resource, {**obj, "metadata": {**obj["metadata"], "namespace": namespace}})
            requests = Requests(self.store, self._admission, self._new_suffix, settings.denied)
            self._server = await ApiServer.start(self.store, requests)
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def address(self) -> TransportAddress:
        """Return where the API server listens."""
        assert self._server is not None, "it is started"
        return TransportAddress("127.0.0.1", self._server.port)

    @property
    def refused(self) -> int:
        """Datagrams that the machine did not let pass: losses that nobody wanted."""
        return self._plane.refused

    async def run(self) -> None:
        """Keep the cluster going, for ever. Raises `UserError` where an address cannot be bound."""
        while True:
            self._wake.clear()
            due_ns = await self._settle()
            timeout_s = None if due_ns is None else max(0, due_ns - self.store.unix_ns()) / NS_PER_S
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Close every socket."""
        if self._server is not None:
            await self._server.close()
        self._plane.close()
        await self._pods.close()
        self._lock.close()

    def is_ready(self, namespace: str) -> bool:
        """True if every Deployment is available, every balancer has its address and every node is Ready."""
        services = self.store.list(SERVICES, namespace)
        balanced = [each for each in services if each["spec"]["type"] == "LoadBalancer"]
        return (
            all(
                each.get("status", {}).get("availableReplicas", 0) == each["spec"]["replicas"]
                for each in self.store.list(DEPLOYMENTS, namespace)
            )
            and all(each["status"]["loadBalancer"].get("ingress") for each in balanced)
            and all(
                each.get("status", {}).get("numberReady", 0) == len(self.store.list(NODES))
                for each in self.store.list(DAEMON_SETS)
            )
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _settle(self) -> int | None:
        """Let all controllers do what they can do now; return when something is due."""
        for _ in range(MAX_ROUNDS):
            now_ns = self.store.unix_ns()
            revision = self.store.revision
            due = [await self._kubelet.step(now_ns)]  # first: what is gone answers no more when others hear of it
            changed = self.store.revision != revision
            for controller in self._controllers:
                revision = self.store.revision
                due.append(controller.step(now_ns))
                changed |= self.store.revision != revision
                await asyncio.sleep(0)  # packets and requests wait for one controller at most, about a millisecond
            due.append(self._plane.step(now_ns))
            if not changed:
                return min((each for each in due if each is not None), default=None)
        raise RuntimeError("the controllers do not come to rest")

    def _make_controllers(self) -> list[Controller]:
        store, new_suffix = self.store, self._new_suffix
        controllers: list[Controller] = [
            NodeController(store),
            GarbageCollector(store),
            DeploymentController(store),
            ReplicaSetController(store, new_suffix),
            DaemonSetController(store, new_suffix),
            Scheduler(store),
            EndpointSliceController(store, new_suffix),
            BalancerController(store, self.network.balancer_net, self._settings.balancer_ns),
            BudgetController(store),
        ]
        if self._settings.static_proxies:
            controllers.append(MirrorPods(store, proxy_template(static=True), "kube-proxy"))
        if self._settings.autoscale:
            controllers.append(Autoscaler(store, self._add_node))
        return controllers

    def _add(self, resource: Resource, obj: Json) -> None:
        self.store.create(resource, self._admission.admit(resource, obj, None))

    def _add_basic_objects(self, namespace: str) -> None:
        for name in {"default", "kube-system", "kube-node-lease", namespace}:
            self._add(NAMESPACES, {"metadata": {"name": name}, "status": {"phase": "Active"}})
        for number in range(1, self._settings.nodes + 1):
            self._add(NODES, node_object(self.network, number, {}, ready=True))
        metadata = {"name": "kube-proxy", "namespace": "kube-system"}
        config = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
        self._add(CONFIG_MAPS, {"metadata": metadata, "data": {"config.conf": config}})
        if not self._settings.static_proxies:
            template = proxy_template(static=False)
            spec = {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}
            labels = template["metadata"]["labels"]
            self._add(DAEMON_SETS, {"metadata": {**metadata, "labels": labels}, "spec": spec})

    def _add_node(self, labels: dict[str, str]) -> str:
        names = {node["metadata"]["name"] for node in self.store.list(NODES)}
        number = next(number for number in range(1, 255) if f"node-{number}" not in names)
        self._add(NODES, node_object(self.network, number, labels, ready=False))
        return f"node-{number}"


def _uid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], f"4{digits[13:16]}", f"a{digits[17:20]}", digits[20:]))


def node_object(network: LabNetwork, number: int, labels: dict[str, str], *, ready: bool) -> Json:
    """Return a new Node."""
    name = f"node-{number}"
    capacity = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels},
        },
        "spec": {
            "podCIDR": network.pod_cidr(number),
            "podCIDRs": [network.pod_cidr(number)],
            "providerID": f"affinity-tester-lab://{name}",
        },
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": network.node_ip(number)},
                {"type": "Hostname", "address": name},
            ],
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False", "reason": "KubeletReady"}],
            "nodeInfo": {
                "kernelVersion": platform.release(),
                "osImage": "Affinity Tester lab (emulated)",
                "operatingSystem": "linux",
                "architecture": platform.machine(),
                "kubeletVersion": GIT_VERSION,
                "kubeProxyVersion": GIT_VERSION,
                "containerRuntimeVersion": f"affinity-tester://{__version__}",
            },
        },
    }


def proxy_template(*, static: bool) -> Json:
    """Return the template of kube-proxy's pods: kubeadm's DaemonSet has one label, the static pods of GKE another."""
    labels = {"component": "kube-proxy", "tier": "node"} if static else {"k8s-app": "kube-proxy"}
    return {
        "metadata": {"labels": labels},
        "spec": {
            "hostNetwork": True,
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 30,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "kube-proxy", "image": f"registry.k8s.io/kube-proxy:{GIT_VERSION}"}],
        },
    }
