"""`affinity-tester manifests`: what it prints, and the one line that bad input gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from affinity_tester.cli import main


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["manifests", *args])


def kinds(text: str) -> list[str]:
    return [document["kind"] for document in yaml.safe_load_all(text)]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["service"], ["Service"]),
        (["node-scaleup"], ["Deployment"]),
        (["rbac"], ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]),
        (["rbac", "--kind", "Role"], ["Role"]),
        (["server", "--set", "IMAGE=echo:1"], ["Deployment"]),
        (["server", "--set", "IMAGE=echo:1", "--kind", "ConfigMap"], []),
    ],
)
def test_it_prints_the_objects(args: list[str], expected: list[str]) -> None:
    done = run(*args)
    assert (done.exit_code, done.stderr) == (0, "")
    assert kinds(done.stdout) == expected


def test_a_value_may_hold_what_separates_it_from_its_name() -> None:
    done = run(
        "service", "--set", "SOURCE_RANGES=192.0.2.0/24", "--set", "PROVIDER_ID=gce://a=b/c", "--set", "POLICY=Local"
    )
    assert done.stderr == "CLOUD=gke, by a node's providerID gce://a=b/c\n"
    spec = yaml.safe_load(done.stdout)["spec"]
    assert (spec["loadBalancerSourceRanges"], spec["externalTrafficPolicy"]) == (["192.0.2.0/24"], "Local")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["service", "--set", "POLICY"], "--set POLICY is not NAME=VALUE"),
        (
            ["service", "--set", "NODES=2"],
            "NODES is no setting of service: POLICY, AFFINITY, CLOUD, PROVIDER_ID, IP_FAMILY, SOURCE_RANGES are",
        ),
        (["rbac", "--set", "NAMESPACE=My"], "NAMESPACE='My' is not the name of a namespace"),
        (["server", "--set", "IMAGE=a b"], "IMAGE='a b' is not the name of an image"),
        (["service", "--set", "POLICY=Local\nx: y"], "POLICY='Local x: y' is neither Cluster nor Local"),
    ],
)
def test_bad_input_is_one_line(args: list[str], line: str) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


def test_a_manifest_that_is_none_is_named() -> None:
    done = run("servers")
    assert done.exit_code == 2
    assert "'servers' is not one of 'server', 'service', 'node-scaleup', 'rbac', 'archive'" in done.stderr


def test_wheels_that_are_not_there_are_named(tmp_path: Path) -> None:
    done = run("server", "--wheels", str(tmp_path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} does not hold the wheel of click ")
