"""A cluster in memory: `WritableApi` with what controllers do, and any request that fails, for the undo's edge cases.

It knows merge patches, resourceVersions, preconditions, and watches. Deployments have their pods, DaemonSets one on each
node, Services their node ports and EndpointSlices. What a controller does comes after the request, in steps of their own, so
that watches see what is between.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

from affinity_tester.cluster.actions.calls import Location, Right
from affinity_tester.cluster.api import ApiError, Params
from fakeapi import TERM

Json = dict[str, Any]

NAMESPACE = "media"
WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OWN = {"app.kubernetes.io/part-of": "affinity-tester"}
SERVER = {"app.kubernetes.io/name": "affinity-tester", "app.kubernetes.io/component": "server"}


class Killed(BaseException):
    """The process is killed at this request."""


def deletion_cost(pod: Json) -> int:
    """KEP-2255."""
    return int((pod["metadata"].get("annotations") or {}).get("controller.kubernetes.io/pod-deletion-cost", 0))


def matches(labels: dict[str, str], selector: str) -> bool:
    for key, operator, several, single in TERM.findall(selector):
        if (labels.get(key) in (several or single).split(",")) != (operator in ("in", "=")):
            return False
    return True


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


class MemoryApi:
    """Objects by path."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.version = 100
        self.uids = 0
        self.history: list[tuple[int, str, Json]] = []
        """(version, collection, event)"""
        self._watches: set[asyncio.Event] = set()
        self.requests: list[tuple[str, str, Json | None]] = []
        self.sabotage: dict[int, Callable[[Callable[[], Json]], Json]] = {}
        """By number of the request: called with what would be done."""
        self.forbidden: Callable[[Right], bool] = lambda _: False
        self.budgets: set[str] = set()
        """Names of pods that may not be evicted."""
        self.stuck = False
        """Controllers do nothing."""
        self._ports = iter(range(30000, 32767))

    # --- the protocol ---------------------------------------------------------------------------------------------------

    async def get(self, path: str, params: Params = (), *, metadata_only: bool = False) -> Json:
        return await self._request("get", path, None, lambda: self._read(path, dict(params)))

    async def create(self, path: str, body: Json) -> Json:
        return await self._request("create", path, body, lambda: self._create(path, body))

    async def patch(self, path: str, body: Json) -> Json:
        return await self._request("patch", path, body, lambda: self._patch(path, body))

    async def delete(self, path: str, body: Json) -> Json:
        return await self._request("delete", path, body, lambda: self._delete(path, body))

    async def lines(
        self, path: str, params: Params, silence_s: float, *, metadata_only: bool = False
    ) -> AsyncGenerator[bytes, None]:
        query = dict(params)
        since, told = int(query["resourceVersion"]), 0
        news = asyncio.Event()
        self._watches.add(news)
        while True:
            if told < len(self.history):
                version, collection, event = self.history[told]
                told += 1
                if version > since and self._in(collection, path) and self._fits(event["object"], query):
                    yield json.dumps(event).encode()
            else:
                news.clear()
                await news.wait()

    async def close(self) -> None:
        """Nothing is open."""

    async def _request(self, verb: str, path: str, body: Json | None, do: Callable[[], Json]) -> Json:
        number = len(self.requests)
        self.requests.append((verb, path, body))
        await asyncio.sleep(0)
        right = self.right_of(verb, path)
        if self.forbidden(right):
            raise ApiError(f"{right} is forbidden", 403)
        answer = self.sabotage[number](do) if number in self.sabotage else do()
        await asyncio.sleep(0)
        return copy.deepcopy(answer)

    @staticmethod
    def right_of(verb: str, path: str) -> Right:
        at = Location.of(path)
        verb = "list" if verb == "get" and not at.name else verb
        return Right(verb, at.group, at.resource, at.subresource, at.namespace, at.name)

    # --- what is done -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _in(collection: str, path: str) -> bool:
        if collection == path:
            return True
        at = Location.of(path)
        mine = Location.of(collection)
        return not at.namespace and at.resource == mine.resource and at.group == mine.group

    @staticmethod
    def _fits(obj: Json, query: dict[str, str]) -> bool:
        for term in filter(None, query.get("fieldSelector", "").split(",")):
            path, _, wanted = term.partition("=")
            value: Any = obj
            for name in path.split("."):
                value = (value or {}).get(name)
            if value != wanted:
                return False
        return matches(obj["metadata"].get("labels") or {}, query.get("labelSelector", ""))

    def _read(self, path: str, query: dict[str, str]) -> Json:
        if path == "/version":
            return {"gitVersion": "v1.36.0"}
        if Location.of(path).name:
            return self._known(path)
        found = [
            obj for at, obj in self.objects.items() if self._in(at.rpartition("/")[0], path) and self._fits(obj, query)
        ]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": found}

    def _known(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(f"{path} not found", 404)
        return self.objects[path]

    def _create(self, path: str, body: Json) -> Json:
        if path.endswith("/selfsubjectaccessreviews"):
            attributes = body["spec"]["resourceAttributes"]
            names = ("verb", "group", "resource", "subresource", "namespace", "name")
            return {
                **body,
                "status": {"allowed": not self.forbidden(Right(*(attributes.get(name, "") for name in names)))},
            }
        if path.endswith("/eviction"):
            pod = path.removesuffix("/eviction")
            name = self._known(pod)["metadata"]["name"]
            if name in self.budgets:
                raise ApiError("Cannot evict pod", 429, causes=("DisruptionBudget",))
            return self._delete(pod, body["deleteOptions"])
        at = f"{path}/{body['metadata']['name']}"
        if at in self.objects:
            raise ApiError(f"{at} already exists", 409)
        return self.put(at, body)

    def _patch(self, path: str, body: Json) -> Json:
        known = self._known(path)
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != known["metadata"]["resourceVersion"]:
            raise ApiError("the object has been modified", 409)
        return self.put(path, merge(known, body))

    def _delete(self, path: str, body: Json) -> Json:
        metadata = self._known(path)["metadata"]
        for name, value in (body.get("preconditions") or {}).items():
            if metadata[name] != value:
                raise ApiError(f"the {name} is another", 409)
        if "/pods/" in path and body.get("gracePeriodSeconds") != 0:
            obj = merge(self.objects[path], {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
            self.put(path, obj)
        else:
            self.remove(path)
        return {"kind": "Status", "status": "Success"}

    def put(self, path: str, obj: Json) -> Json:
        """Store an object, as an API server does."""
        self.version += 1
        known = self.objects.get(path)
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        if known is None:
            self.uids += 1
            metadata.setdefault("uid", f"uid-{self.uids}")
            metadata.setdefault("generation", 1)
        else:
            # pkg/registry/apps/deployment/strategy.go: annotations count there, too.
            annotated = "/deployments/" in path and known["metadata"].get("annotations") != metadata.get("annotations")
            is_other = annotated or known.get("spec") != obj.get("spec")
            metadata["uid"], metadata["generation"] = (
                known["metadata"]["uid"],
                known["metadata"]["generation"] + is_other,
            )
        metadata["resourceVersion"] = str(self.version)
        if "/services/" in path:
            self._default_service(obj)
        if known == {**obj, "metadata": {**metadata, "resourceVersion": (known or obj)["metadata"]["resourceVersion"]}}:
            self.version -= 1
            return known
        self.objects[path] = obj
        kind = "ADDED" if known is None else "MODIFIED"
        self._publish(path, kind, obj)
        return obj

    def remove(self, path: str) -> None:
        self.version += 1
        obj = self.objects.pop(path)
        gone = merge(obj, {"metadata": {"resourceVersion": str(self.version)}})
        self._publish(path, "DELETED", gone)

    def _publish(self, path: str, kind: str, obj: Json) -> None:
        self.history.append((self.version, path.rpartition("/")[0], {"type": kind, "object": copy.deepcopy(obj)}))
        for news in self._watches:
            news.set()
        asyncio.get_running_loop().call_soon(self.reconcile)

    def _default_service(self, service: Json) -> None:
        spec = service["spec"]
        for port in spec["ports"]:
            port.setdefault("nodePort", next(self._ports))
        spec.setdefault("externalTrafficPolicy", "Cluster")
        if spec["type"] == "LoadBalancer" and spec["externalTrafficPolicy"] == "Local":
            spec.setdefault("healthCheckNodePort", next(self._ports))
        else:
            spec.pop("healthCheckNodePort", None)
        if spec["type"] == "LoadBalancer":
            service.setdefault("status", {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}})

    # --- controllers --------------------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Do one thing that a controller would do next."""
        if self.stuck:
            return
        for step in (self._end_pods, self._deployments, self._daemonsets, self._slices, self._statuses):
            if step():
                return

    def _of(self, resource: str) -> list[tuple[str, Json]]:
        return [(path, obj) for path, obj in self.objects.items() if Location.of(path).resource == resource]

    def pods_of(self, owner: Json) -> list[Json]:
        uid = owner["metadata"]["uid"]
        return [pod for _, pod in self._of("pods") if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _end_pods(self) -> bool:
        for path, pod in self._of("pods"):
            if "deletionTimestamp" in pod["metadata"]:
                self.remove(path)
                return True
        return False

    def _deployments(self) -> bool:
        for _, deployment in self._of("deployments"):
            template = json.dumps(deployment["spec"]["template"], sort_keys=True)
            pods = [pod for pod in self.pods_of(deployment) if "deletionTimestamp" not in pod["metadata"]]
            old = [pod for pod in pods if pod["template"] != template]
            wanted = deployment["spec"]["replicas"]
            if len(pods) < wanted + bool(old) and len(pods) - len(old) < wanted:
                self.add_pod(deployment, "Deployment", template, deployment["spec"]["template"]["metadata"]["labels"])
                return True
            if len(pods) > wanted:
                victim = min(reversed(old or pods), key=deletion_cost)["metadata"]  # of equal costs the youngest
                self._delete(f"/api/v1/namespaces/{victim['namespace']}/pods/{victim['name']}", {})
                return True
        return False

    def add_pod(self, owner: Json, kind: str, template: str, labels: dict[str, str], node: str = "") -> None:
        self.uids += 1
        namespace = owner["metadata"]["namespace"]
        name = f"{owner['metadata']['name']}-{self.uids}"
        usable = [obj["metadata"]["name"] for _, obj in self._of("nodes") if not obj["spec"].get("unschedulable")]
        node = node or usable[self.uids % len(usable)]
        pod = {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "ownerReferences": [{"kind": kind, "uid": owner["metadata"]["uid"], "controller": True}],
            },
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 15},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            "template": template,
        }
        self.put(f"/api/v1/namespaces/{namespace}/pods/{name}", pod)

    def _daemonsets(self) -> bool:
        for _, daemonset in self._of("daemonsets"):
            there = {pod["spec"]["nodeName"] for pod in self.pods_of(daemonset)}
            for _, node in self._of("nodes"):
                if node["metadata"]["name"] not in there:
                    labels = daemonset["spec"]["template"]["metadata"]["labels"]
                    self.add_pod(daemonset, "DaemonSet", "", labels, node["metadata"]["name"])
                    return True
        return False

    def _slices(self) -> bool:
        wanted = {}
        for _, service in self._of("services"):
            labels = service["spec"]["selector"].items()
            pods = [pod for _, pod in self._of("pods") if labels <= pod["metadata"]["labels"].items()]
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            wanted[f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}-1"] = {
                "metadata": {
                    "name": f"{name}-1",
                    "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "stun", "protocol": "UDP", "port": 3478}],
                "endpoints": [endpoint_of(pod) for pod in pods],
            }
        for path, obj in wanted.items():
            known = self.objects.get(path)
            if known is None or known["endpoints"] != obj["endpoints"]:
                self.put(path, merge(known or {}, obj))
                return True
        for path, _ in self._of("endpointslices"):
            if path not in wanted:
                self.remove(path)
                return True
        return False

    def _statuses(self) -> bool:
        for path, deployment in self._of("deployments"):
            pods = [pod for pod in self.pods_of(deployment) if "deletionTimestamp" not in pod["metadata"]]
            names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            status = {**dict.fromkeys(names, len(pods)), "observedGeneration": deployment["metadata"]["generation"]}
            if deployment.get("status") != status:
                self.put(path, {**deployment, "status": status})
                return True
        return False


def endpoint_of(pod: Json) -> Json:
    metadata = pod["metadata"]
    ending = "deletionTimestamp" in metadata
    return {
        "addresses": [
            f"10.1.{int(metadata['uid'].rpartition('-')[2]) // 250}.{int(metadata['uid'].rpartition('-')[2]) % 250}"
        ],
        "conditions": {"ready": not ending, "serving": True, "terminating": ending},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
    }


# --- objects --------------------------------------------------------------------------------------------------------------


def deployment(name: str = "affinity-tester", labels: dict[str, str] = SERVER, replicas: int = 3) -> Json:
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {**OWN, **labels}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": {**OWN, **labels}}},
        },
    }


def service(name: str = "affinity-tester", **spec: Any) -> Json:
    base = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": SERVER,
        "ports": [{"name": "stun", "protocol": "UDP", "port": 3478, "targetPort": "stun"}],
    }
    return {"metadata": {"name": name, "namespace": NAMESPACE, "labels": {**OWN, **SERVER}}, "spec": {**base, **spec}}


def node(name: str, **labels: str) -> Json:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": f"10.0.0.{name[-1]}"}],
        },
    }


def proxy_daemonset() -> Json:
    labels = {"k8s-app": "kube-proxy"}
    return {
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "spec": {"template": {"metadata": {"labels": labels}}},
    }


def put_deployment(api: MemoryApi, obj: Json) -> None:
    api.put(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{obj['metadata']['name']}", obj)


def put_service(api: MemoryApi, obj: Json) -> None:
    api.put(f"/api/v1/namespaces/{NAMESPACE}/services/{obj['metadata']['name']}", obj)


def put_node(api: MemoryApi, obj: Json) -> None:
    api.put(f"/api/v1/nodes/{obj['metadata']['name']}", obj)


async def settled(api: MemoryApi) -> None:
    """Let the controllers do all that they have to do."""
    seen = -1
    while seen != api.version:
        seen = api.version
        for _ in range(5):
            await asyncio.sleep(0)


def populate(api: MemoryApi) -> None:
    """Three nodes with a proxy each, three echo servers, and a Service."""
    for number in (1, 2, 3):
        put_node(api, node(f"n{number}"))
    api.put("/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy", proxy_daemonset())
    put_deployment(api, deployment())
    put_service(api, service())
