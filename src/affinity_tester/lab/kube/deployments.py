"""The controllers of Deployments and ReplicaSets, after those of kube-controller-manager (`pkg/controller`).

RollingUpdate as there: the new ReplicaSet grows as far as maxSurge lets it, then the old ones shrink as far as as many pods
stay available as maxUnavailable asks for. Which pods a ReplicaSet deletes is decided as by ActivePodsWithRanks
(`pkg/controller/controller_utils.go`). Not copied: proportional scaling in the middle of a rollout, and the limits that
slow a controller down after failures.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from datetime import datetime

from affinity_tester.lab.kube.pods import (
    SUFFIX,
    NewSuffix,
    condition,
    is_ready,
    is_terminating,
    pod_of,
    set_condition,
)
from affinity_tester.lab.kube.resources import DEPLOYMENTS, PODS, REPLICA_SETS, Json, controller_of, copied, owned_by
from affinity_tester.lab.kube.store import Store
from affinity_tester.units import NS_PER_S

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
PHASES = ("Pending", "Unknown", "Running")
"""In the order in which pods are deleted first."""


class DeploymentController:
    """Keeps the ReplicaSets of each Deployment."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def step(self, now_ns: int) -> int | None:
        """Do what is to be done now; nothing here waits for a time."""
        for deployment in self._store.list(DEPLOYMENTS):
            self._reconcile(deployment, now_ns)
        return None

    def _reconcile(self, deployment: Json, now_ns: int) -> None:
        sets = _owned(self._store, REPLICA_SETS, deployment)
        newest = next((each for each in sets if _is_of(each, deployment["spec"]["template"])), None)
        if newest is None and not deployment["spec"].get("paused"):
            newest = self._create_set(deployment, sets)
            sets.append(newest)
        old = [each for each in sets if newest is None or each["metadata"]["uid"] != newest["metadata"]["uid"]]

        if newest is not None and not deployment["spec"].get("paused"):
            self._roll(deployment, newest, old)
        sets = _owned(self._store, REPLICA_SETS, deployment)
        self._store.modify(DEPLOYMENTS, deployment, lambda new: _set_status(new, sets, now_ns))

    def _create_set(self, deployment: Json, sets: list[Json]) -> Json:
        template = copied(deployment["spec"]["template"])
        digest = _template_hash(template)
        template.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = digest
        selector = copied(deployment["spec"]["selector"])
        selector.setdefault("matchLabels", {})[HASH_LABEL] = digest
        revision = max((_revision(each) for each in sets), default=0) + 1
        created = {
            "metadata": {
                "name": f"{deployment['metadata']['name']}-{digest}",
                "namespace": deployment["metadata"]["namespace"],
                "labels": template["metadata"]["labels"],
                "annotations": {REVISION: str(revision)},
                "ownerReferences": [owned_by(deployment)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
            "status": {"replicas": 0},
        }
        return self._store.create(REPLICA_SETS, created)

    def _roll(self, deployment: Json, newest: Json, old: list[Json]) -> None:
        desired = deployment["spec"]["replicas"]
        surge, unavailable = _limits(deployment)
        # A rollout back to an older template makes its ReplicaSet the newest again.
        last = max((_revision(each) for each in old), default=0)
        if _revision(newest) <= last:
            newest = self._set_revision(newest, last + 1)
        revision = str(_revision(newest))
        if deployment["metadata"].get("annotations", {}).get(REVISION) != revision:
            self._store.modify(
                DEPLOYMENTS,
                deployment,
                lambda new: new["metadata"].setdefault("annotations", {}).update({REVISION: revision}),
            )

        replicas, others = newest["spec"]["replicas"], sum(each["spec"]["replicas"] for each in old)
        wanted = desired
        if replicas < desired:
            room = desired + surge - replicas - others if others else desired - replicas
            wanted = replicas + max(0, min(room, desired - replicas))
        if wanted != replicas:
            self._scale(newest, wanted)
        elif others:
            self._scale_old_down(newest, old, desired - unavailable)

    def _scale_old_down(self, newest: Json, old: list[Json], min_available: int) -> None:
        old = sorted(old, key=_revision)
        replicas = newest["spec"]["replicas"] + sum(each["spec"]["replicas"] for each in old)
        limit = replicas - min_available - (newest["spec"]["replicas"] - _available(newest))
        if limit <= 0:
            return

        # Those that are not available first: they serve nobody.
        left = {each["metadata"]["uid"]: each["spec"]["replicas"] for each in old}
        for each in old:
            uid = each["metadata"]["uid"]
            fewer = min(limit, left[uid] - min(left[uid], _available(each)))
            left[uid], limit = left[uid] - fewer, limit - fewer
        spare = min(limit, _available(newest) + sum(_available(each) for each in old) - min_available)
        for each in old:
            uid = each["metadata"]["uid"]
            fewer = max(0, min(spare, left[uid]))
            left[uid], spare = left[uid] - fewer, spare - fewer
            if left[uid] != each["spec"]["replicas"]:
                self._scale(each, left[uid])

    def _scale(self, replica_set: Json, replicas: int) -> None:
        self._store.modify(REPLICA_SETS, replica_set, lambda new: new["spec"].update(replicas=replicas))

    def _set_revision(self, replica_set: Json, revision: int) -> Json:
        def change(new: Json) -> None:
            new["metadata"].setdefault("annotations", {})[REVISION] = str(revision)

        return self._store.modify(REPLICA_SETS, replica_set, change)


class ReplicaSetController:
    """Keeps as many pods as each ReplicaSet asks for."""

    def __init__(self, store: Store, new_suffix: NewSuffix) -> None:
        self._store = store
        self._new_suffix = new_suffix

    def step(self, now_ns: int) -> int | None:
        """Do what is to be done now; nothing here waits for a time."""
        for replica_set in self._store.list(REPLICA_SETS):
            self._reconcile(replica_set, now_ns)
        return None

    def _reconcile(self, replica_set: Json, now_ns: int) -> None:
        active = [pod for pod in _owned(self._store, PODS, replica_set) if not is_terminating(pod)]
        missing = replica_set["spec"]["replicas"] - len(active)
        for _ in range(missing):
            name = f"{replica_set['metadata']['name']}-{self._new_suffix(5)}"
            self._store.create(PODS, pod_of(replica_set["spec"]["template"], replica_set, name))
        if missing < 0:
            siblings = self._of_same_deployment(replica_set)
            for pod in pods_to_delete(active, siblings, -missing, now_ns):
                self._store.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])

        pods = [pod for pod in _owned(self._store, PODS, replica_set) if not is_terminating(pod)]
        ready = sum(is_ready(pod) for pod in pods)
        status = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        self._store.modify(REPLICA_SETS, replica_set, lambda new: new.update(status=status))

    def _of_same_deployment(self, replica_set: Json) -> list[Json]:
        """Return the pods of this ReplicaSet and of its siblings that do not terminate."""
        owner = controller_of(replica_set)
        sets = [each for each in self._store.list(REPLICA_SETS) if owner and controller_of(each) == owner]
        uids = {each["metadata"]["uid"] for each in sets or [replica_set]}
        pods = self._store.list(PODS, replica_set["metadata"]["namespace"])
        return [pod for pod in pods if controller_of(pod) in uids and not is_terminating(pod)]


def pods_to_delete(pods: list[Json], siblings: list[Json], count: int, now_ns: int) -> list[Json]:
    """Return the `count` pods that a ReplicaSet deletes first.

    In this order (ActivePodsWithRanks, Less): without a node, Pending, not ready, of a lower deletion cost, on a node with
    more pods of the same Deployment, ready for less long (in powers of two), restarted more often, younger (the same); then
    by uid.
    """
    on_node = Counter(pod["spec"].get("nodeName", "") for pod in siblings)

    def rank(pod: Json) -> tuple[object, ...]:
        node, metadata = pod["spec"].get("nodeName", ""), pod["metadata"]
        restarts = sum(each.get("restartCount", 0) for each in pod["status"].get("containerStatuses") or ())
        return (
            bool(node),
            PHASES.index(pod["status"].get("phase", "Pending")) if pod["status"].get("phase") in PHASES else -1,
            is_ready(pod),
            _deletion_cost(pod),
            -on_node[node],
            _age_rank(condition(pod, "Ready").get("lastTransitionTime") if is_ready(pod) else None, now_ns),
            -restarts,
            _age_rank(metadata["creationTimestamp"], now_ns),
            metadata["uid"],
        )

    return sorted(pods, key=rank)[:count]


def _deletion_cost(pod: Json) -> int:
    """Return the cost that an annotation gives a pod; 0 where it is no number (GetDeletionCostFromPodAnnotations)."""
    text = (pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0")
    return int(text) if re.fullmatch("-?[0-9]{1,10}", text) else 0


def _age_rank(since: str | None, now_ns: int) -> int:
    """Return the logarithm of an age: pods whose ages differ little count as of one age (LogarithmicScaleDown, KEP-2185)."""
    if since is None:
        return -1
    age_ns = now_ns - round(datetime.fromisoformat(since).timestamp()) * NS_PER_S
    return int(math.log2(age_ns)) if age_ns > 0 else 0


def _owned(store: Store, resource: object, owner: Json) -> list[Json]:
    objects = store.list(resource, owner["metadata"]["namespace"])  # type: ignore[arg-type]
    return [each for each in objects if controller_of(each) == owner["metadata"]["uid"]]


def _is_of(replica_set: Json, template: Json) -> bool:
    """True if a ReplicaSet is for this template: the label of its own hash does not count."""
    own = copied(replica_set["spec"]["template"])
    own["metadata"]["labels"].pop(HASH_LABEL, None)
    return bool(own == template)


def _template_hash(template: Json) -> str:
    digest = int.from_bytes(hashlib.blake2b(json.dumps(template, sort_keys=True).encode(), digest_size=8).digest())
    letters = []
    for _ in range(10):
        digest, letter = divmod(digest, len(SUFFIX))
        letters.append(SUFFIX[letter])
    return "".join(letters)


def _revision(replica_set: Json) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION, "0"))


def _available(replica_set: Json) -> int:
    return int(replica_set.get("status", {}).get("availableReplicas", 0))


def _limits(deployment: Json) -> tuple[int, int]:
    """Return maxSurge and maxUnavailable as numbers; both 0 would stand still (ResolveFenceposts)."""
    rolling, desired = deployment["spec"]["strategy"]["rollingUpdate"], deployment["spec"]["replicas"]
    surge = _resolve(rolling["maxSurge"], desired, round_up=True)
    unavailable = _resolve(rolling["maxUnavailable"], desired, round_up=False)
    return surge, unavailable if surge or unavailable else 1


def _resolve(value: int | str, of: int, *, round_up: bool) -> int:
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * of / 100
    return math.ceil(share) if round_up else math.floor(share)


def _set_status(new: Json, sets: list[Json], now_ns: int) -> None:
    """Write a Deployment's status (calculateStatus)."""
    desired = new["spec"]["replicas"]
    _, unavailable = _limits(new)
    newest = [each for each in sets if _is_of(each, new["spec"]["template"])]
    total = sum(each["status"]["replicas"] for each in sets)
    available = sum(_available(each) for each in sets)
    updated = sum(each["status"]["replicas"] for each in newest)
    status = new.setdefault("status", {})
    status.update(
        observedGeneration=new["metadata"]["generation"],
        replicas=total,
        updatedReplicas=updated,
        readyReplicas=sum(each["status"].get("readyReplicas", 0) for each in sets),
        availableReplicas=available,
        unavailableReplicas=max(0, total - available),
    )
    # A field of the value 0 is left out, as by every server in Go (omitempty).
    new["status"] = {name: value for name, value in status.items() if value not in (0, None)}
    enough = available >= desired - unavailable
    reason = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
    set_condition(new, "Available", "True" if enough else "False", now_ns, reason=reason)
    done = updated == total == available == desired
    set_condition(new, "Progressing", "True", now_ns, reason="NewReplicaSetAvailable" if done else "ReplicaSetUpdated")
