"""What the emulated API server says of itself: its version, and the groups and resources that it has."""

from __future__ import annotations

import sys
from typing import Any

from affinity_tester.lab.kube.resources import RESOURCES, Json, Resource

GIT_VERSION = "v1.36.0"
"""The version whose proxies were measured (docs/failure-modes.md)."""

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def document(path: str) -> Any:
    """Return what stands at a path of discovery; None where nothing does."""
    match path.strip("/").split("/"):
        case ["version"]:
            return {
                "major": "1",
                "minor": "36",
                "gitVersion": GIT_VERSION,
                "gitTreeState": "clean",
                "goVersion": "none",
                "compiler": "affinity-tester lab",
                "platform": sys.platform,
            }
        case ["healthz" | "livez" | "readyz"]:
            return "ok"
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["api", "v1"]:
            return _resources("", "v1")
        case ["apis"]:
            groups = dict.fromkeys(each.group for each in RESOURCES if each.group)
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in groups]}
        case ["apis", group] if any(each.group == group for each in RESOURCES):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        case ["apis", group, version]:
            return _resources(group, version)
    return None


def _group(name: str) -> Json:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str, version: str) -> Json | None:
    found = [each for each in RESOURCES if (each.group, each.version) == (group, version)]
    if not found:
        return None
    of = f"{group}/{version}" if group else version
    listed = [entry for each in found for entry in _entries(each)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": of, "resources": listed}


def _entries(resource: Resource) -> list[Json]:
    verbs = ["create"] if resource.group == "authorization.k8s.io" else _VERBS
    entries = [
        {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs,
        }
    ]
    for name in resource.subresources:
        kind = {"scale": "Scale", "eviction": "Eviction"}.get(name, resource.kind)
        verbs = ["create"] if name == "eviction" else ["get", "patch", "update"]
        entries.append(
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "verbs": verbs,
            }
        )
    return entries
