"""k8s/rbac.yaml and k8s/experiment-rbac.yaml grant what experiments of `all` and of a matrix use, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from memory_api import NAMESPACE, service

from affinity_tester.cluster.actions import mend
from affinity_tester.cluster.actions.base import ActionContext, ActionOptions
from affinity_tester.cluster.actions.calls import Right
from affinity_tester.cluster.actions.lease import LEASE, ExperimentLease
from affinity_tester.cluster.actions.matrix_services import MatrixServices
from affinity_tester.cluster.actions.select import action_of
from affinity_tester.core.experiment.catalogue import ALL

NAMED = ("affinity-tester", "affinity-tester-node-scaleup", LEASE)


def granted(path: Path, kind: str) -> Iterator[Right]:
    for role in yaml.safe_load_all(path.read_text()):
        for rule in role["rules"] if role["kind"] == kind else ():
            for name in rule.get("resourceNames", [""]):
                for verb in rule["verbs"]:
                    (group,), (resource,) = rule["apiGroups"], rule["resources"]
                    yield Right(verb, group, resource, "", NAMESPACE, name)


def as_granted(right: Right) -> Right:
    """Roles name the objects that have fixed names; those of pods and Services are not fixed."""
    fixed = right.name in NAMED and right.resource in ("deployments", "leases")
    return Right(
        right.verb, right.group, right.resource, right.subresource, right.namespace, right.name if fixed else ""
    )


async def test_the_roles_are_what_is_used(context: ActionContext, repo: Path) -> None:
    used: set[Right] = set()
    for name in ALL:
        action = action_of(name, context, ActionOptions())
        await action.prepare()
        used |= set(action.rights())
    matrix = MatrixServices(context, lambda policy, affinity: service(externalTrafficPolicy=policy))
    await matrix.prepare()
    used |= {*matrix.rights(), *ExperimentLease(context, print).rights(), *mend.rights(context)}

    read_only = set(granted(repo / "k8s/rbac.yaml", "Role"))
    writing = set(granted(repo / "k8s/experiment-rbac.yaml", "Role"))
    assert writing == set(map(as_granted, used)) - read_only


def test_the_binding_binds_the_one_account(repo: Path) -> None:
    role, binding = yaml.safe_load_all((repo / "k8s/experiment-rbac.yaml").read_text())
    account, *_ = yaml.safe_load_all((repo / "k8s/rbac.yaml").read_text())
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account["metadata"]["name"]]
