"""The action that empties a node: node-drain. It cordons the node, and evicts its pods by the Eviction API.

It never touches pods without a controller, which nobody would make anew, nor those that a drain leaves: a DaemonSet's,
mirrors of static pods, and pods that have ended.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.changes import ChangingAction
from affinity_tester.cluster.actions.originals import Change, make_change, metadata_of, value_at
from affinity_tester.cluster.actions.own_pool import (
    ENDED,
    OwnPool,
    condition,
    listed,
    name_of,
    node_of,
    pod_path,
    uid_of,
)
from affinity_tester.cluster.actions.settle import Copies, Resource, wait_until
from affinity_tester.cluster.api import CONFLICT, NOT_FOUND, TOO_MANY_REQUESTS, ApiError, Json, list_all
from affinity_tester.cluster.response_errors import BUDGET
from affinity_tester.errors import UserError

MIRROR = "kubernetes.io/config.mirror"
"""The annotation of the mirror of a static pod."""

CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
ALL_PODS = "/api/v1/pods"
NODES_PATH = "/api/v1/nodes"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node with pods of ours."""

    node: Json
    evicted: tuple[Json, ...]
    """The pods that a drain evicts."""
    hindrance: str
    """Why it is not drained; empty if it can be."""


class NodeDrain(ChangingAction):
    """Cordon a node that has an echo server, evict its pods, and uncordon it after."""

    name = "node-drain"

    async def prepare(self) -> None:
        """Choose the node: the one that was named, else the one with the fewest pods to evict. Raises `UserError`."""
        self.pool = await OwnPool.read(self.context)
        self.pool.require(2, "a drain needs")
        api = self.context.api
        nodes = [node for node in await list_all(api, NODES_PATH, limit=20) if isinstance(node, dict)]
        pods = [pod for pod in await list_all(api, ALL_PODS) if isinstance(pod, dict)]
        ours = {node_of(pod) for pod in self.pool.pods}

        wanted = self.options.node
        if wanted and wanted not in map(name_of, nodes):
            raise UserError(f"there is no node {wanted}: kubectl get nodes")
        candidates = [
            self._candidate(node, nodes, pods)
            for node in nodes
            if name_of(node) == wanted or (not wanted and name_of(node) in ours)
        ]
        possible = [each for each in candidates if not each.hindrance]
        if not possible:
            reasons = listed([f"{name_of(each.node)}: {each.hindrance}" for each in candidates])
            raise UserError(
                f"no node can be drained ({reasons or 'no echo server runs on a node'}): name one with --node"
            )
        self._choose(min(possible, key=lambda each: (len(each.evicted), name_of(each.node))))

    def _choose(self, chosen: Candidate) -> None:
        self.node = name_of(chosen.node)
        self.evicted = chosen.evicted
        self._told: set[str] = set()
        change = Change(
            path=f"{NODES_PATH}/{self.node}",
            what=f"node {self.node}",
            field="spec.unschedulable",
            to=True,
            text=f"cordon node {self.node}",
        )
        self.changes = ((change, chosen.node),)

    def _candidate(self, node: Json, nodes: list[Json], pods: list[Json]) -> Candidate:
        here = [pod for pod in pods if node_of(pod) == name_of(node) and value_at(pod, "status.phase") not in ENDED]
        evicted = tuple(pod for pod in here if not is_mirror(pod) and owner_kind(pod) != "DaemonSet")
        others = [each for each in nodes if name_of(each) != name_of(node) and is_usable(each)]
        return Candidate(node, evicted, self._hindrance(node, evicted, others))

    def _hindrance(self, node: Json, evicted: Iterable[Json], others: list[Json]) -> str:
        """Return why a node is not drained; empty if it can be."""
        labels = metadata_of(node).get("labels") or {}
        if name_of(node) in self.context.client_nodes or self._is_this_machine(node):
            return "the client runs on it"
        if any(label in labels for label in CONTROL_PLANE) and name_of(node) != self.options.node:
            return "it has the control plane"
        if not is_usable(node):
            return "it is cordoned or not ready"
        if not others:
            return "no other node could take its pods"
        bare = [f"{namespace_of(pod)}/{name_of(pod)}" for pod in evicted if not owner_kind(pod)]
        if bare:
            return f"pods without a controller, which would not come back: {listed(bare)}"
        with_data = [f"{namespace_of(pod)}/{name_of(pod)}" for pod in evicted if has_emptydir(pod)]
        if with_data and not self.options.delete_emptydir_data:
            return f"pods with emptyDir volumes, whose data would be lost: {listed(with_data)}"
        return ""

    def _is_this_machine(self, node: Json) -> bool:
        addresses = {each.get("address") for each in value_at(node, "status.addresses") or []}
        own = {address.partition("%")[0] for address in self.context.client_addresses}
        return any(not ipaddress.ip_address(each).is_loopback for each in own & addresses)

    @property
    def text(self) -> str:
        """Which node, and how many pods."""
        return f"drain node {self.node} ({len(self.evicted)} pods)"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not brought back."""
        return (
            f"{len(self.evicted)} pods of all namespaces are evicted from {self.node}: it is uncordoned after, but they do"
            " not come back to it",
        )

    def calls(self) -> tuple[Call, ...]:
        """Return the cordon, and the evictions."""
        return (*super().calls(), *map(eviction, self.evicted))

    def reads(self) -> tuple[Right, ...]:
        """To read nodes and all pods, and to see them go."""
        watched = (right for resource in self._resources for right in resource.rights)
        return (*super().reads(), *self.pool.rights, Right("list", "", "nodes"), Right("list", "", "pods"), *watched)

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (*self.pool.resources, Resource(ALL_PODS, fields=f"spec.nodeName={self.node}"))

    async def act(self) -> None:
        """Cordon it, and evict its pods. Raises `UserError` where a PodDisruptionBudget does not allow it."""
        ((cordon, _),) = self.changes
        await make_change(self.context, self.name, cordon)
        for pod in self.evicted:
            await self._evict(pod)

    async def _evict(self, pod: Json) -> None:
        named = f"{namespace_of(pod)}/{name_of(pod)}"
        try:
            await self._send(f"evict pod {named}", eviction(pod))
        except ApiError as error:
            if error.status in (NOT_FOUND, CONFLICT):  # it went by itself; 409: another one has its name
                return
            if error.status == TOO_MANY_REQUESTS and BUDGET in error.causes:
                raise UserError(
                    f"the disruption budget of pod {named} does not allow its eviction now: kubectl get pdb -A, and try again"
                ) from error
            raise
        self._told.add(uid_of(pod))

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until the evicted pods are gone, and the echo servers are all ready elsewhere."""
        on_node = self._resources[-1]

        def missing(copies: Copies) -> str:
            left = [name_of(pod) for pod in copies[on_node] if uid_of(pod) in self._told]
            if left:
                return f"{listed(left)} still on {self.node}"
            return self.pool.missing(copies, self.pool.replicas)

        await wait_until(self.context, self._resources, missing, limit_s)

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until the node is usable again, and the echo servers are all ready."""
        nodes = Resource(NODES_PATH, name=self.node)

        def missing(copies: Copies) -> str:
            if not any(map(is_usable, copies[nodes])):
                return f"node {self.node} is cordoned or not ready"
            return self.pool.missing(copies, self.pool.replicas)

        await wait_until(self.context, (*self.pool.resources, nodes), missing, limit_s)

    @property
    def removed_pods(self) -> frozenset[str]:
        """The pods that were told to go."""
        return frozenset(self._told)

    @property
    def removed_nodes(self) -> frozenset[str]:
        """The node: a balancer may leave a cordoned one out, and under policy Local one without pods."""
        return frozenset({self.node})


def eviction(pod: Json) -> Call:
    """Return the eviction of a pod (policy/v1): the API server asks its budgets."""
    namespace, name = namespace_of(pod), name_of(pod)
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": uid_of(pod)}},
    }
    return Call(Verb.CREATE, f"{pod_path(namespace, name)}/eviction", body)


def namespace_of(obj: Json) -> str:
    """Return an object's namespace."""
    return str(metadata_of(obj).get("namespace", ""))


def owner_kind(pod: Json) -> str:
    """Return the kind of a pod's controller; empty if it has none."""
    owners = metadata_of(pod).get("ownerReferences") or []
    return next((str(owner.get("kind", "")) for owner in owners if owner.get("controller")), "")


def is_mirror(pod: Json) -> bool:
    """True for the mirror of a static pod, which the kubelet of its node runs whatever the API server is told."""
    annotations = metadata_of(pod).get("annotations") or {}
    owners = metadata_of(pod).get("ownerReferences") or []
    return MIRROR in annotations or any(owner.get("kind") == "Node" for owner in owners)


def has_emptydir(pod: Json) -> bool:
    """True if a pod has volumes whose data goes with it."""
    return any(volume.get("emptyDir") is not None for volume in value_at(pod, "spec.volumes") or [])


def is_usable(node: Json) -> bool:
    """True if a node is ready and takes pods."""
    return condition(node, "Ready").get("status") == "True" and not value_at(node, "spec.unschedulable")
