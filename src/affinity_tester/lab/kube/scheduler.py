"""The scheduler, and an autoscaler that adds nodes for pods that fit nowhere.

The scheduler filters and scores as kube-scheduler does (`pkg/scheduler/framework/plugins`): a node must be Ready, not
cordoned, have the CPU that is asked for, and meet required podAntiAffinity, that of the pods already there too; among the
rest it takes the one with the fewest pods like this one, then the one with the fewest pods. A pod that fits nowhere stays
Pending with the condition PodScheduled = False, reason Unschedulable, until something changes.
"""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.lab.kube.pods import condition, cpu_request, is_terminating, milli_cpu, set_condition
from affinity_tester.lab.kube.resources import NODES, PODS, Json, controller_of
from affinity_tester.lab.kube.selectors import matches
from affinity_tester.lab.kube.store import Store
from affinity_tester.units import NS_PER_S

ADDED_BY = "affinity-tester.lab/autoscaler"
"""The label of the nodes that the autoscaler has added."""

HOST = "kubernetes.io/hostname"


class Scheduler:
    """Binds pods to nodes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def step(self, now_ns: int) -> int | None:
        """Bind the pods that fit somewhere; nothing here waits for a time."""
        pods = self._store.list(PODS)
        waiting = [pod for pod in pods if not pod["spec"].get("nodeName") and not is_terminating(pod)]
        for pod in sorted(waiting, key=lambda each: int(each["metadata"]["resourceVersion"])):
            node = self._choose(pod)
            if node is not None:
                self._store.modify(PODS, pod, lambda new, name=node: _bind(new, name, now_ns))  # type: ignore[misc]
            else:
                count = len(self._store.list(NODES))
                said = f"0/{count} nodes are available"
                self._store.modify(PODS, pod, lambda new, text=said: _refuse(new, text, now_ns))  # type: ignore[misc]
        return None

    def _choose(self, pod: Json) -> str | None:
        present = [each for each in self._store.list(PODS) if each["spec"].get("nodeName")]
        fitting = [node for node in self._store.list(NODES) if _fits(pod, node, _on(node, present))]
        return min((_score(pod, node, _on(node, present)) for node in fitting), default=(0, 0, None))[2]


def _on(node: Json, pods: list[Json]) -> list[Json]:
    return [pod for pod in pods if pod["spec"]["nodeName"] == node["metadata"]["name"]]


def _fits(pod: Json, node: Json, present: list[Json]) -> bool:
    if node["spec"].get("unschedulable") or condition(node, "Ready").get("status") != "True":
        return False
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(node["metadata"].get("labels", {}).get(key) != value for key, value in wanted.items()):
        return False
    free = milli_cpu(node["status"]["allocatable"]["cpu"]) - sum(map(cpu_request, present))
    if cpu_request(pod) > free:
        return False
    return not any(_repels(pod, each) or _repels(each, pod) for each in present)


def _repels(pod: Json, other: Json) -> bool:
    """True if a pod refuses to share a node with another: by requiredDuringScheduling terms of podAntiAffinity."""
    anti = ((pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    same_namespace = pod["metadata"]["namespace"] == other["metadata"]["namespace"]
    labels = other["metadata"].get("labels") or {}
    terms = (term for term in anti or () if term["topologyKey"] == HOST)
    return same_namespace and any(matches(term.get("labelSelector"), labels) for term in terms)


def _score(pod: Json, node: Json, present: list[Json]) -> tuple[int, int, str]:
    """Return what is least for the best node: pods of the spread constraints, or of the same controller; then all pods."""
    constraints = pod["spec"].get("topologySpreadConstraints") or ()
    living = [each for each in present if not is_terminating(each)]
    if constraints:
        alike = sum(
            matches(term.get("labelSelector"), each["metadata"].get("labels") or {})
            for term in constraints
            for each in living
        )
    else:
        alike = sum(controller_of(each) == controller_of(pod) for each in living)
    return alike, len(living), node["metadata"]["name"]


def _bind(new: Json, node: str, now_ns: int) -> None:
    new["spec"]["nodeName"] = node
    set_condition(new, "PodScheduled", "True", now_ns)


def _refuse(new: Json, message: str, now_ns: int) -> None:
    set_condition(new, "PodScheduled", "False", now_ns, reason="Unschedulable", message=message)


class Autoscaler:
    """Adds a node for pods that fit nowhere, and removes the nodes that it added and that nobody needs any more.

    As cluster-autoscaler does, but in seconds: it looks `after_ns` after the pod was refused (there 10 s), and takes a node
    that ran nothing but DaemonSet pods for `unneeded_ns` (there 10 min).
    """

    def __init__(
        self,
        store: Store,
        add_node: Callable[[dict[str, str]], str],
        *,
        after_ns: int = NS_PER_S // 2,
        unneeded_ns: int = 2 * NS_PER_S,
    ) -> None:
        """`add_node` makes a new node with these labels, which becomes Ready by itself, and returns its name."""
        self._store = store
        self._add_node = add_node
        self._after_ns = after_ns
        self._unneeded_ns = unneeded_ns
        self._pending: dict[str, int] = {}
        """By uid of a pod: when it was first seen to fit nowhere."""
        self._helped: set[str] = set()
        """The uids of pods for which a node was added."""
        self._idle: dict[str, int] = {}
        """By node: since when nobody needs it."""

    def step(self, now_ns: int) -> int | None:
        """Add and remove nodes; return when to look again."""
        return min(filter(None, (self._grow(now_ns), self._shrink(now_ns))), default=None)

    def _grow(self, now_ns: int) -> int | None:
        refused = {
            pod["metadata"]["uid"]: pod
            for pod in self._store.list(PODS)
            if condition(pod, "PodScheduled").get("reason") == "Unschedulable" and not is_terminating(pod)
        }
        self._pending = {uid: self._pending.get(uid, now_ns) for uid in refused}
        self._helped &= refused.keys()
        due = [uid for uid, since_ns in self._pending.items() if uid not in self._helped]
        for uid in due:
            if now_ns - self._pending[uid] >= self._after_ns:
                self._add_node({ADDED_BY: "true"})
                self._helped.add(uid)
        waiting = [self._pending[uid] + self._after_ns for uid in due if uid not in self._helped]
        return min(waiting, default=None)

    def _shrink(self, now_ns: int) -> int | None:
        pods = self._store.list(PODS)
        added = [node for node in self._store.list(NODES) if ADDED_BY in node["metadata"].get("labels", {})]
        names = {node["metadata"]["name"] for node in added}
        needed = {pod["spec"].get("nodeName") for pod in pods if not _is_of_daemon_set(pod)}
        coming = bool(self._pending)  # a pod waits for it
        self._idle = {} if coming else {name: self._idle.get(name, now_ns) for name in names - needed}
        for name, since_ns in list(self._idle.items()):
            if now_ns - since_ns >= self._unneeded_ns:
                self._store.delete(NODES, "", name)
                del self._idle[name]
        return min((since_ns + self._unneeded_ns for since_ns in self._idle.values()), default=None)


def _is_of_daemon_set(pod: Json) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner["kind"] in {"DaemonSet", "Node"} for owner in owners)
