"""What controllers ask of pods, and how pods are made from a template. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

from affinity_tester.lab.kube.resources import Json, copied, owned_by
from affinity_tester.lab.kube.store import timestamp

SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""The letters of Kubernetes' random suffixes (k8s.io/apimachinery, util/rand)."""

NewSuffix = Callable[[int], str]
"""Returns a new random suffix of so many letters."""


def suffixes(seed: int) -> NewSuffix:
    """Return a maker of suffixes that the seed decides."""
    rng = random.Random(f"{seed}/names")  # noqa: S311 - repeatable, not secret
    return lambda length: "".join(rng.choice(SUFFIX) for _ in range(length))


def is_terminating(pod: Json) -> bool:
    """True if the pod was told to end."""
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Json) -> bool:
    """True if its Ready condition is true, which says nothing of whether it terminates."""
    return condition(pod, "Ready").get("status") == "True"


def is_available(pod: Json) -> bool:
    """True if it counts as available: ready, and not terminating."""
    return is_ready(pod) and not is_terminating(pod)


def condition(obj: Json, kind: str) -> Json:
    """Return a condition of an object's status; empty if it has none of the kind."""
    found = (each for each in obj.get("status", {}).get("conditions") or () if each["type"] == kind)
    return next(found, {})


def set_condition(obj: Json, kind: str, status: str, at_ns: int, **more: str) -> None:
    """Set a condition in an object that is being changed; its time changes with its status alone."""
    conditions = obj.setdefault("status", {}).setdefault("conditions", [])
    before = condition(obj, kind)
    since = before["lastTransitionTime"] if before.get("status") == status else timestamp(at_ns)
    new = {"type": kind, "status": status, "lastTransitionTime": since, **more}
    obj["status"]["conditions"] = [new if each is before else each for each in conditions]
    if not before:
        obj["status"]["conditions"].append(new)


def pod_of(template: Json, owner: Json, name: str) -> Json:
    """Return a new pod of this name from a template, controlled by `owner`."""
    metadata = template.get("metadata") or {}
    return {
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": dict(metadata.get("labels") or {}),
            "annotations": dict(metadata.get("annotations") or {}),
            "ownerReferences": [owned_by(owner)],
        },
        "spec": copied(template["spec"]),
        "status": {"phase": "Pending", "conditions": []},
    }


def container_port(pod: Json, wanted: int | str, protocol: str = "UDP") -> int | None:
    """Return the number of a container's port by number or name; None if no container has a port of that name."""
    if isinstance(wanted, int):
        return wanted
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == wanted and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def udp_port(pod: Json) -> int | None:
    """Return the first UDP port of its containers, at which the lab runs an echo server; None if it has none."""
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("protocol") == "UDP":
                return int(port["containerPort"])
    return None


def cpu_request(pod: Json) -> int:
    """Return the CPU that a pod asks for, in thousandths."""
    requests = (each.get("resources", {}).get("requests", {}) for each in pod["spec"].get("containers") or ())
    return sum(milli_cpu(each.get("cpu", "0")) for each in requests)


def milli_cpu(quantity: str | float) -> int:
    """Return a quantity of CPU (`2`, `0.5`, `500m`) in thousandths."""
    text = str(quantity)
    return int(text[:-1]) if text.endswith("m") else round(float(text) * 1000)
