"""The other controllers: the proxy's pods, balancers' addresses, budgets, nodes, and what ends with its owner."""

from __future__ import annotations

from typing import Protocol

from affinity_tester.lab.kube.pods import NewSuffix, is_available, is_ready, is_terminating, pod_of
from affinity_tester.lab.kube.resources import (
    BUDGETS,
    DAEMON_SETS,
    DEPLOYMENTS,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    SLICES,
    Json,
    controller_of,
)
from affinity_tester.lab.kube.selectors import matches
from affinity_tester.lab.kube.store import Store
from affinity_tester.units import NS_PER_S

MIRROR = "kubernetes.io/config.mirror"
"""The annotation of a mirror pod, which stands in the API for a static pod of its node."""


class Controller(Protocol):
    """Something that brings the objects nearer to what they are meant to be."""

    def step(self, now_ns: int) -> int | None:
        """Do what is to be done now (Unix time), and return when to be called again at the latest; None: at a change."""
        ...


class DaemonSetController:
    """Keeps a pod of each DaemonSet on each node, cordoned ones too; one that ends is replaced when it is gone."""

    def __init__(self, store: Store, new_suffix: NewSuffix) -> None:
        self._store = store
        self._new_suffix = new_suffix

    def step(self, now_ns: int) -> int | None:
        """Make the pods that are missing."""
        for daemon_set in self._store.list(DAEMON_SETS):
            uid, name = daemon_set["metadata"]["uid"], daemon_set["metadata"]["name"]
            pods = [pod for pod in self._store.list(PODS) if controller_of(pod) == uid]
            nodes = [node["metadata"]["name"] for node in self._store.list(NODES)]
            for node in sorted(set(nodes) - {pod["spec"]["nodeName"] for pod in pods}):
                pod = pod_of(daemon_set["spec"]["template"], daemon_set, f"{name}-{self._new_suffix(5)}")
                pod["spec"]["nodeName"] = node
                self._store.create(PODS, pod)
            self._write_status(daemon_set, len(nodes))
        return None

    def _write_status(self, daemon_set: Json, nodes: int) -> None:
        uid = daemon_set["metadata"]["uid"]
        ready = sum(is_available(pod) for pod in self._store.list(PODS) if controller_of(pod) == uid)
        status = {
            "observedGeneration": daemon_set["metadata"]["generation"],
            "desiredNumberScheduled": nodes,
            "currentNumberScheduled": nodes,
            "updatedNumberScheduled": nodes,
            "numberReady": ready,
            "numberAvailable": ready,
            "numberMisscheduled": 0,
        }
        self._store.modify(DAEMON_SETS, daemon_set, lambda new: new.update(status=status))


class MirrorPods:
    """Shows a static pod on each node, as its kubelet does: a mirror pod that is deleted is shown again at once.

    The static pod itself goes on, under the same containerID (kubelet, `pkg/kubelet/pod/mirror_client.go`).
    """

    def __init__(self, store: Store, template: Json, name: str) -> None:
        """`template` is that of the static pods, which are called `name`-NODE, in kube-system."""
        self._store = store
        self._template = template
        self._name = name

    def step(self, now_ns: int) -> int | None:
        """Make the mirror pods that are missing."""
        for node in self._store.list(NODES):
            name = f"{self._name}-{node['metadata']['name']}"
            if self._store.find(PODS, "kube-system", name) is None:
                owner = {**node, "metadata": {**node["metadata"], "namespace": "kube-system"}}
                pod = pod_of(self._template, owner, name)
                pod["spec"]["nodeName"] = node["metadata"]["name"]
                pod["metadata"]["annotations"][MIRROR] = "static"
                self._store.create(PODS, pod)
        return None


class BalancerController:
    """Gives Services of type LoadBalancer an address, as a cloud's controller does, `delay_ns` after they ask for one."""

    def __init__(self, store: Store, net: str, delay_ns: int) -> None:
        """`net` is the first three octets of the addresses."""
        self._store = store
        self._net = net
        self._delay_ns = delay_ns
        self._asked: dict[str, int] = {}
        """By uid of a Service: when it was first seen without an address."""

    def step(self, now_ns: int) -> int | None:
        """Give and take addresses; return when the next one is due."""
        waiting: dict[str, int] = {}
        for service in self._store.list(SERVICES):
            ingress = service["status"].get("loadBalancer", {}).get("ingress")
            if service["spec"]["type"] != "LoadBalancer":
                if ingress:
                    self._store.modify(SERVICES, service, lambda new: new.update(status={"loadBalancer": {}}))
                continue
            if ingress:
                continue
            uid = service["metadata"]["uid"]
            since_ns = self._asked.get(uid, now_ns)
            if now_ns - since_ns < self._delay_ns:
                waiting[uid] = since_ns
                continue
            status = {"loadBalancer": {"ingress": [{"ip": self._free_ip(), "ipMode": "VIP"}]}}
            self._store.modify(SERVICES, service, lambda new, given=status: new.update(status=given))  # type: ignore[misc]
        self._asked = waiting
        return min((since_ns + self._delay_ns for since_ns in waiting.values()), default=None)

    def _free_ip(self) -> str:
        balancers = (service["status"].get("loadBalancer", {}) for service in self._store.list(SERVICES))
        taken = {each["ip"] for balancer in balancers for each in balancer.get("ingress") or ()}
        return next(ip for ip in (f"{self._net}.{number}" for number in range(1, 255)) if ip not in taken)


class GarbageCollector:
    """Deletes what is controlled by an object that is gone, and the pods of nodes that are gone (pod garbage collector)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def step(self, now_ns: int) -> int | None:
        """Delete what has lost its owner."""
        kinds = (NODES, DEPLOYMENTS, REPLICA_SETS, DAEMON_SETS, SERVICES)
        uids = {obj["metadata"]["uid"] for kind in kinds for obj in self._store.list(kind)}
        for resource in (REPLICA_SETS, SLICES, PODS):
            for obj in self._store.list(resource):
                owner = controller_of(obj)
                if owner and owner not in uids and not is_terminating(obj):
                    self._store.delete(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])

        nodes = {node["metadata"]["name"] for node in self._store.list(NODES)}
        for pod in self._store.list(PODS):
            if pod["spec"].get("nodeName", "") not in {"", *nodes}:
                self._store.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], 0)
        return None


class BudgetController:
    """Counts how many pods each PodDisruptionBudget lets go (policy/v1)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def step(self, now_ns: int) -> int | None:
        """Write the budgets' status."""
        for budget in self._store.list(BUDGETS):
            status = budget_status(self._store, budget)
            self._store.modify(BUDGETS, budget, lambda new, given=status: new.update(status=given))  # type: ignore[misc]
        return None


def budget_status(store: Store, budget: Json) -> Json:
    """Return a budget's status as of now: an expected pod is one that does not terminate, a healthy one is ready too."""
    metadata, spec = budget["metadata"], budget["spec"]
    pods = [
        pod
        for pod in store.list(PODS, metadata["namespace"])
        if matches(spec.get("selector"), pod["metadata"].get("labels") or {}) and not is_terminating(pod)
    ]
    wanted = {
        each["metadata"]["uid"]: each["spec"]["replicas"] for each in store.list(REPLICA_SETS, metadata["namespace"])
    }
    # As many as the controllers ask for, not as many as there are: a pod that is being replaced counts as missing.
    controllers = {controller_of(pod) for pod in pods}
    expected = sum(wanted.get(uid, 0) for uid in controllers) or len(pods)
    healthy = sum(is_ready(pod) for pod in pods)
    if "maxUnavailable" in spec:
        desired = max(0, expected - _of(spec["maxUnavailable"], expected))
    else:
        desired = _of(spec.get("minAvailable", 1), expected)
    return {
        "observedGeneration": metadata["generation"],
        "expectedPods": expected,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": max(0, healthy - desired),
    }


def _of(value: int | str, count: int) -> int:
    """Return a number, or a percentage of the count, rounded up."""
    return value if isinstance(value, int) else -(-int(value.removesuffix("%")) * count // 100)


class NodeController:
    """Makes a new node Ready when it has been there for `start_ns`, as its kubelet does once its network is up."""

    def __init__(self, store: Store, start_ns: int = NS_PER_S) -> None:
        self._store = store
        self._start_ns = start_ns
        self._seen: dict[str, int] = {}
        """By uid of a node that is not Ready: when it was first seen."""

    def step(self, now_ns: int) -> int | None:
        """Make nodes Ready; return when the next one is due."""
        waiting = {}
        for node in self._store.list(NODES):
            ready = next(each for each in node["status"]["conditions"] if each["type"] == "Ready")
            if ready["status"] == "True":
                continue
            uid = node["metadata"]["uid"]
            since_ns = self._seen.get(uid, now_ns)
            if now_ns - since_ns < self._start_ns:
                waiting[uid] = since_ns
            else:
                self._store.modify(NODES, node, _make_ready)
        self._seen = waiting
        return min((since_ns + self._start_ns for since_ns in waiting.values()), default=None)


def _make_ready(new: Json) -> None:
    for each in new["status"]["conditions"]:
        if each["type"] == "Ready":
            each.update(status="True", reason="KubeletReady")
