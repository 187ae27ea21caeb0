"""A cluster without sockets: the store, its controllers and kubelets, with time that the test passes."""

from __future__ import annotations

import json
from typing import Any

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.kube.addresses import LabNetwork
from affinity_tester.lab.kube.admission import Admission
from affinity_tester.lab.kube.cluster import node_object, proxy_template
from affinity_tester.lab.kube.controllers import (
    BalancerController,
    BudgetController,
    Controller,
    DaemonSetController,
    GarbageCollector,
    NodeController,
)
from affinity_tester.lab.kube.deployments import DeploymentController, ReplicaSetController
from affinity_tester.lab.kube.endpoint_slices import EndpointSliceController
from affinity_tester.lab.kube.kubelet import Kubelet, PodTiming
from affinity_tester.lab.kube.pods import is_ready, is_terminating, suffixes
from affinity_tester.lab.kube.request import Answer, Request
from affinity_tester.lab.kube.requests import Requests
from affinity_tester.lab.kube.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    SLICES,
    Json,
    Resource,
    read_path,
)
from affinity_tester.lab.kube.scheduler import Scheduler
from affinity_tester.lab.kube.store import Store
from affinity_tester.units import NS_PER_S

START_NS = 1_800_000_000 * NS_PER_S
NETWORK = LabNetwork(16)
LABELS = {"app": "echo", "part-of": "affinity-tester"}
MERGE = "application/merge-patch+json"


class Runtime:
    """Notes which servers run."""

    def __init__(self) -> None:
        self.running: dict[str, TransportAddress] = {}
        self.names: dict[str, str] = {}

    async def start(self, uid: str, name: str, node: str, address: TransportAddress) -> None:
        self.running[uid] = address
        self.names[uid] = name

    async def stop(self, uid: str) -> None:
        self.running.pop(uid, None)


class World:
    """The cluster."""

    def __init__(self, nodes: int = 3, denied: tuple[str, ...] = ()) -> None:
        self.now_ns = START_NS
        self._uids = 0
        self.store = Store(lambda: self.now_ns, self._uid)
        self.admission = Admission(self.store, 1, NETWORK.service_net)
        self.suffix = suffixes(1)
        self.requests = Requests(self.store, self.admission, self.suffix, denied)
        self.runtime = Runtime()
        self.kubelet = Kubelet(self.store, self.runtime, PodTiming())
        self.controllers: list[Controller] = [
            NodeController(self.store),
            GarbageCollector(self.store),
            DeploymentController(self.store),
            ReplicaSetController(self.store, self.suffix),
            DaemonSetController(self.store, self.suffix),
            Scheduler(self.store),
            EndpointSliceController(self.store, self.suffix),
            BalancerController(self.store, NETWORK.balancer_net, NS_PER_S // 2),
            BudgetController(self.store),
        ]
        for name in ("default", "kube-system"):
            self.add(NAMESPACES, {"metadata": {"name": name}})
        self.nodes = 0
        for _ in range(nodes):
            self.add_node({}, ready=True)

    def _uid(self) -> str:
        self._uids += 1
        return f"uid-{self._uids:04}"

    def add(self, resource: Resource, obj: Json) -> Json:
        return self.store.create(resource, self.admission.admit(resource, obj, None))

    def add_node(self, labels: dict[str, str], *, ready: bool = False) -> str:
        self.nodes += 1
        self.add(NODES, node_object(NETWORK, self.nodes, labels, ready=ready))
        return f"node-{self.nodes}"

    def add_deployment(self, replicas: int = 3, name: str = "echo", labels: Json = LABELS, **spec: Any) -> Json:
        container = {
            "name": "server",
            "image": "echo:1",
            "ports": [{"name": "stun", "containerPort": 3478, "protocol": "UDP"}],
            "resources": {"requests": {"cpu": "100m"}},
        }
        pod_spec = {"terminationGracePeriodSeconds": 15, "containers": [container], **spec}
        return self.add(
            DEPLOYMENTS,
            {
                "metadata": {"name": name, "namespace": "default", "labels": labels},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": labels},
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                    "template": {"metadata": {"labels": labels}, "spec": pod_spec},
                },
            },
        )

    def add_service(self, name: str = "echo", **spec: Any) -> Json:
        port = {"name": "stun", "protocol": "UDP", "port": 3478, "targetPort": "stun"}
        base = {"type": "LoadBalancer", "selector": LABELS, "ports": [port]}
        return self.add(SERVICES, {"metadata": {"name": name, "namespace": "default"}, "spec": {**base, **spec}})

    def add_proxies(self) -> None:
        template = proxy_template(static=False)
        spec = {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}
        self.add(DAEMON_SETS, {"metadata": {"name": "kube-proxy", "namespace": "kube-system"}, "spec": spec})

    # --- time ---------------------------------------------------------------------------------------------------------

    async def settle(self) -> int | None:
        """Let all controllers do what they can do now."""
        for _ in range(100):
            revision = self.store.revision
            due = [each.step(self.now_ns) for each in self.controllers]
            due.append(await self.kubelet.step(self.now_ns))
            if self.store.revision == revision:
                return min((each for each in due if each is not None), default=None)
        raise AssertionError("the controllers do not come to rest")

    async def advance(self, seconds: float) -> None:
        """Let time pass, and all happen in it at its time."""
        end_ns = self.now_ns + round(seconds * NS_PER_S)
        while (due_ns := await self.settle()) is not None and due_ns <= end_ns:
            self.now_ns = due_ns
        self.now_ns = end_ns
        await self.settle()

    # --- looking ------------------------------------------------------------------------------------------------------

    def pods(self, namespace: str = "default") -> list[Json]:
        return self.store.list(PODS, namespace)

    def living(self) -> list[Json]:
        """The ready pods that were not told to end."""
        return [pod for pod in self.pods() if is_ready(pod) and not is_terminating(pod)]

    def conditions(self, name: str = "echo") -> dict[str, tuple[bool, bool, bool]]:
        """(ready, serving, terminating) of each endpoint, by pod."""
        slices = [each for each in self.store.list(SLICES) if each["metadata"]["name"].rpartition("-")[0] == name]
        found = {}
        for endpoint in (each for one in slices for each in one["endpoints"]):
            of = endpoint["conditions"]
            found[endpoint["targetRef"]["name"]] = (of["ready"], of["serving"], of["terminating"])
        return found

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, content_type: str = MERGE, **query: str) -> Answer:
        """Make a request."""

        target = read_path(path)
        assert target is not None, path
        data = b"" if body is None else json.dumps(body).encode()
        return self.requests.answer(Request(method, target, query, content_type, data))


NAMESPACE = "/api/v1/namespaces/default"
WORKLOADS = "/apis/apps/v1/namespaces/default"
