"""The controller of EndpointSlices, as the real one makes them (`staging/src/k8s.io/endpointslice`, KEP-1672).

A pod that terminates keeps `serving` while its Ready condition is true, is not `ready` any more, and leaves when it is gone.
"""

from __future__ import annotations

from affinity_tester.lab.kube.pods import NewSuffix, container_port, is_ready, is_terminating
from affinity_tester.lab.kube.resources import PODS, SERVICES, SLICES, Json, controller_of, owned_by
from affinity_tester.lab.kube.selectors import matches
from affinity_tester.lab.kube.store import Store

SERVICE_NAME = "kubernetes.io/service-name"
"""The label of an EndpointSlice that names its Service."""


class EndpointSliceController:
    """Keeps one EndpointSlice for each Service with a selector: a lab has far less than a hundred endpoints."""

    def __init__(self, store: Store, new_suffix: NewSuffix) -> None:
        self._store = store
        self._new_suffix = new_suffix

    def step(self, now_ns: int) -> int | None:
        """Write the slices that differ from their pods."""
        for service in self._store.list(SERVICES):
            selector = service["spec"].get("selector")
            if selector:
                self._reconcile(service, selector)
        return None

    def _reconcile(self, service: Json, selector: dict[str, str]) -> None:
        metadata = service["metadata"]
        pods = [
            pod
            for pod in self._store.list(PODS, metadata["namespace"])
            if matches({"matchLabels": selector}, pod["metadata"].get("labels") or {})
            and pod["status"].get("podIP")
            and pod["status"].get("phase") not in {"Succeeded", "Failed"}
        ]
        content = {"ports": _ports(service, pods), "endpoints": [_endpoint(pod) for pod in pods]}
        known = [
            each for each in self._store.list(SLICES, metadata["namespace"]) if controller_of(each) == metadata["uid"]
        ]
        if known:
            self._store.modify(SLICES, known[0], lambda new: new.update(content))
            return
        self._store.create(
            SLICES,
            {
                "metadata": {
                    "name": f"{metadata['name']}-{self._new_suffix(5)}",
                    "namespace": metadata["namespace"],
                    "labels": {
                        **(metadata.get("labels") or {}),
                        SERVICE_NAME: metadata["name"],
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                    "ownerReferences": [owned_by(service)],
                },
                "addressType": "IPv4",
                **content,
            },
        )


def _ports(service: Json, pods: list[Json]) -> list[Json]:
    found = []
    for port in service["spec"]["ports"]:
        numbers = (container_port(pod, port["targetPort"], port["protocol"]) for pod in pods)
        number = next((each for each in numbers if each is not None), None)
        if number is not None:
            found.append({"name": port.get("name", ""), "protocol": port["protocol"], "port": number})
    return found


def _endpoint(pod: Json) -> Json:
    ready, terminating = is_ready(pod), is_terminating(pod)
    metadata = pod["metadata"]
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not terminating, "serving": ready, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
