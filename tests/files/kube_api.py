"""An API server on loopback, enough for the real kubectl to apply, delete and list the project's objects.

It stores what it is given; it runs nothing. A Deployment has its pods at once, ready or waiting for a reason.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

Json = dict[str, Any]

GROUPS = {
    "api/v1": {
        "configmaps": "ConfigMap",
        "nodes": "Node",
        "pods": "Pod",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apis/apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet"},
    "apis/coordination.k8s.io/v1": {"leases": "Lease"},
    "apis/rbac.authorization.k8s.io/v1": {
        "clusterrolebindings": "ClusterRoleBinding",
        "clusterroles": "ClusterRole",
        "rolebindings": "RoleBinding",
        "roles": "Role",
    },
}
CLUSTER_WIDE = {"nodes", "clusterroles", "clusterrolebindings"}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
MAX_CONFIG_MAP = 1_048_576


class Path(NamedTuple):
    """What a request is about."""

    group: str
    plural: str
    namespace: str
    name: str


PATH = re.compile(r"/(?P<group>api/v1|apis/[^/]+/v1)/(namespaces/(?P<ns>[^/]+)/)?(?P<plural>[a-z]+)(/(?P<name>[^/]+))?")


class RefusedError(Exception):
    """The request gets a Status of failure."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
            **({"details": details} if details else {}),
        }


class KubeApi:
    """The objects, and what is wrong with this cluster."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Json] = {}
        """By (plural, namespace, name)."""
        self.forbidden: set[str] = set()
        """Plurals of which nothing may be done."""
        self.namespaces = {"default"}
        self.waiting_reason = ""
        """Why the servers' containers wait; empty: they are ready."""
        self.waiting_message = ""
        """What the kubelet says beside that reason."""
        self.refuses_pods = ""
        """What admission says to the ReplicaSet; empty: it makes its pods."""
        self.forbidden_everywhere = False
        """True if nothing may be listed in all namespaces at once."""
        self.refused: dict[str, RefusedError] = {}
        """What admission says of objects of a kind in earnest, by plural; a rehearsal goes well."""
        self.refuses_rehearsals = False
        """Has an admission webhook that can't do a dry run."""
        self.url = ""
        self._revision = 100
        self._lock = threading.Lock()

    def names(self, plural: str) -> list[str]:
        """The names of all objects of a kind."""
        return sorted(name for each, _, name in self.objects if each == plural)

    def answer(self, method: str, url: str, content_type: str, body: bytes) -> Json:
        """Answer one request; raises `RefusedError`."""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if (discovered := discover(parts.path)) is not None:
            return discovered
        found = PATH.fullmatch(parts.path)
        if found is None:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        path = Path(found["group"], found["plural"], found["ns"] or "", found["name"] or "")
        with self._lock:
            self._admit(method, path)
            if "dryRun" in query:
                return self._rehearse(method, path, body)
            if method in {"POST", "PATCH"} and path.plural in self.refused:
                raise self.refused[path.plural]
            match method:
                case "GET":
                    return self._get(path) if path.name else self._list(path, query)
                case "POST":
                    return self._store(path, json.loads(body))
                case "PATCH":
                    return self._patch(path, content_type, yaml.safe_load(body))
                case _:
                    return self._delete(path)

    def _admit(self, method: str, path: Path) -> None:
        everywhere = method == "GET" and not path.namespace and path.plural not in CLUSTER_WIDE
        if path.plural in self.forbidden or (everywhere and self.forbidden_everywhere):
            group = path.group.split("/")[1] if path.group.startswith("apis/") else ""
            raise RefusedError(
                403,
                "Forbidden",
                f'{path.plural} "{path.name}" is forbidden: User "eve" cannot {method.lower()} resource "{path.plural}"'
                f' in API group "{group}" in the namespace "{path.namespace}"',
            )
        if method in {"POST", "PATCH"} and path.namespace and path.namespace not in self.namespaces:
            raise RefusedError(404, "NotFound", f'namespaces "{path.namespace}" not found')

    def _rehearse(self, method: str, path: Path, body: bytes) -> Json:
        if self.refuses_rehearsals:
            raise RefusedError(400, "BadRequest", 'admission webhook "w.example" does not support dry run')
        return self._get(path) if method == "PATCH" else {**json.loads(body), "status": {}}

    def _get(self, path: Path) -> Json:
        try:
            return self.objects[path.plural, path.namespace, path.name]
        except KeyError:
            raise RefusedError(404, "NotFound", f'{path.plural} "{path.name}" not found') from None

    def _list(self, path: Path, query: dict[str, str]) -> Json:
        labels = dict(term.split("=") for term in query.get("labelSelector", "").split(",") if term)
        field, _, value = query.get("fieldSelector", "").partition(
            "!=" if "!=" in query.get("fieldSelector", "") else "="
        )
        items = [
            each
            for (plural, namespace, name), each in sorted(self.objects.items())
            if plural == path.plural
            and path.namespace in {"", namespace}
            and labels.items() <= each["metadata"].get("labels", {}).items()
            and (not field or (name == value) != ("!=" in query["fieldSelector"]))
        ]
        kind = GROUPS[path.group][path.plural]
        version = path.group.partition("/")[2]
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}

    def _store(self, path: Path, stored: Json) -> Json:
        self._revision += 1
        metadata = stored["metadata"]
        metadata |= {
            "namespace": path.namespace,
            "resourceVersion": str(self._revision),
            "uid": f"uid-{self._revision}",
        }
        metadata["generation"] = metadata.get("generation", 0) + 1
        if path.plural == "deployments":
            self._run(stored)
        if path.plural == "services":
            stored["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
            stored["spec"]["ports"][0]["nodePort"] = 30478
        self.objects[path.plural, path.namespace, metadata["name"]] = stored
        return stored

    def _run(self, deployment: Json) -> None:
        """Make a Deployment's newest ReplicaSet, and its pods; those of an earlier one are gone at once."""
        metadata, spec = deployment["metadata"], deployment["spec"]
        made = 0 if self.refuses_pods else spec["replicas"]
        ready = 0 if self.waiting_reason else made
        deployment["status"] = {
            "observedGeneration": metadata["generation"],
            "replicas": made,
            "updatedReplicas": made,
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        self._remove_owned(metadata["namespace"], metadata["name"], {"pods"})
        owner = f"{metadata['name']}-{metadata['generation']}"
        labels = {**spec["template"]["metadata"]["labels"], "pod-template-hash": f"hash{metadata['generation']}"}
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": self.refuses_pods}
        self.objects["replicasets", metadata["namespace"], owner] = {
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": owner,
                "namespace": metadata["namespace"],
                "labels": labels,
                "annotations": {"deployment.kubernetes.io/revision": str(metadata["generation"])},
            },
            "status": {"replicas": made, **({"conditions": [failure]} if self.refuses_pods else {})},
        }

        waiting = {"reason": self.waiting_reason, "message": self.waiting_message}
        state = {"waiting": waiting} if self.waiting_reason else {"running": {}}
        for index in range(made):
            name = f"{owner}-{index}"
            self.objects["pods", metadata["namespace"], name] = {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": name, "namespace": metadata["namespace"], "labels": labels},
                "spec": spec["template"]["spec"],
                "status": {"containerStatuses": [{"name": "server", "state": state}]},
            }

    def _remove_owned(self, namespace: str, name: str, plurals: set[str]) -> None:
        owned = re.compile(re.escape(name) + r"-\d+(-\d+)?")
        for key in [
            key for key in self.objects if key[0] in plurals and key[1] == namespace and owned.fullmatch(key[2])
        ]:
            del self.objects[key]

    def _patch(self, path: Path, content_type: str, patch: Json) -> Json:
        old = self.objects.get((path.plural, path.namespace, path.name))
        if "apply-patch" not in content_type:
            return self._store(path, merge(copy.deepcopy(self._get(path)), patch))
        if old is not None and old.get("immutable") and old["binaryData"] != patch["binaryData"]:
            raise RefusedError(422, "Invalid", "field is immutable when `immutable` is set")
        if sum(len(text) * 3 // 4 for text in patch.get("binaryData", {}).values()) > MAX_CONFIG_MAP:
            raise RefusedError(422, "Invalid", f"Too long: may not be more than {MAX_CONFIG_MAP} bytes")
        return self._store(path, patch)

    def _delete(self, path: Path) -> Json:
        deleted = self._get(path)
        del self.objects[path.plural, path.namespace, path.name]
        if path.plural == "deployments":
            self._remove_owned(path.namespace, path.name, {"pods", "replicasets"})
        details = {"name": path.name, "kind": path.plural, "uid": deleted["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}


def discover(path: str) -> Json | None:
    """What kubectl asks of every API server; None: the request is about objects."""
    group = path.strip("/")
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        names = [each.split("/")[1] for each in GROUPS if each.startswith("apis/")]
        versions = [{"name": name, "version": {"groupVersion": f"{name}/v1", "version": "v1"}} for name in names]
        groups = [
            {"name": each["name"], "versions": [each["version"]], "preferredVersion": each["version"]}
            for each in versions
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if group in GROUPS:
        resources = [
            {"name": plural, "singularName": "", "namespaced": plural not in CLUSTER_WIDE, "kind": kind, "verbs": VERBS}
            for plural, kind in GROUPS[group].items()
        ]
        version = group.partition("/")[2]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    if path == "/openapi/v3":
        return {"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"} for each in GROUPS}}
    if (group := group.removeprefix("openapi/v3/")) in GROUPS:
        return open_api(group)
    return None


def open_api(group: str) -> Json:
    """As much as kubectl reads: that the server validates fields itself."""
    name = group.split("/")[1] if group.startswith("apis/") else ""
    field_validation = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {
        f"/{group}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "x-kubernetes-group-version-kind": {"group": name, "version": "v1", "kind": kind},
                "parameters": [field_validation],
                "responses": {},
            }
        }
        for plural, kind in GROUPS[group].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}


def merge(old: Json, patch: Json) -> Json:
    """Apply a merge patch; lists are replaced."""
    for key, value in patch.items():
        if value is None:
            old.pop(key, None)
        elif isinstance(value, dict) and isinstance(old.get(key), dict):
            merge(old[key], value)
        else:
            old[key] = value
    return old


@contextmanager
def running() -> Iterator[KubeApi]:
    """An API server that answers until the end of the block."""
    api = KubeApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                code, said = 200, api.answer(self.command, self.path, self.headers.get("Content-Type", ""), body)
            except RefusedError as refused:
                code, said = refused.status["code"], refused.status
            text = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server's names

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
