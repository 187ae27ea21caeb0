"""k8s/rbac.yaml grants what the client asks for, and nothing that it does not ask for."""

from __future__ import annotations

from pathlib import Path

import yaml

from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.discover import discover, find_service
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.cluster.unreachable import explain_no_reply
from affinity_tester.core.address import TransportAddress
from fakeapi import FakeApi, Told, service, until


def granted(repo: Path) -> dict[str, set[tuple[str, str, str]]]:
    """By kind of role: (verb, API group, resource)."""
    documents = list(yaml.safe_load_all((repo / "k8s/rbac.yaml").read_text()))
    return {
        role["kind"]: {
            (verb, group, resource)
            for rule in role["rules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for role in documents
        if "rules" in role
    }


async def test_the_roles_are_what_is_used(api: FakeApi, cluster: Cluster, repo: Path) -> None:
    told = Told()
    api.put("services", service("dns", "other"))
    await discover(cluster, "turn", "node-port")
    await find_service(cluster, TransportAddress("10.0.0.2", 30478))
    await explain_no_reply(cluster, ServiceRef("media", "turn"), 3478, TransportAddress("10.0.0.2", 30478))
    watch = PoolWatch(cluster, ServiceRef("media", "turn"), 3478, told.tell)
    assert await watch.start() is None
    watch.watch_neighbours()
    watch.look_up("10.9.0.9")
    await until(lambda: len(api.streams) == 8)
    assert await watch.confirm()
    await watch.stop()
    used: dict[str, set[tuple[str, str, str]]] = {"Role": set(), "ClusterRole": set()}
    for verb, path, _ in api.asked:
        parts = path.strip("/").split("/")
        if parts[-1] == "v1":
            continue  # the API's own description, which every account may read
        group = parts[1] if parts[0] == "apis" else ""
        if "namespaces" in parts:
            used["Role"].add((verb, group, parts[parts.index("namespaces") + 2]))
        else:
            used["ClusterRole"].add((verb, group, parts[-1]))
    assert granted(repo) == used


def test_the_bindings_bind_the_one_account(repo: Path) -> None:
    account, _, _, _, _ = documents = list(yaml.safe_load_all((repo / "k8s/rbac.yaml").read_text()))
    assert [document["kind"] for document in documents] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ClusterRole",
        "ClusterRoleBinding",
    ]
    for binding in documents[2::2]:
        role = documents[documents.index(binding) - 1]
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": role["kind"],
            "name": role["metadata"]["name"],
        }
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", account["metadata"]["name"])
