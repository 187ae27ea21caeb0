"""`affinity-tester manifests`: what it prints, and the one line that bad input gets."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from affinity_tester.app.server_archive import default_wheels, find_wheels
from affinity_tester.cli import main


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["manifests", *args], input=stdin)


@pytest.fixture(scope="session")
def wheels() -> Path:
    """The wheels of the servers' archive; they are downloaded once into the environment that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(sys.prefix) / "cache"))
        find_wheels(None, print)
        return default_wheels()


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
        (["service", "--set", "=Local"], "--set =Local is not NAME=VALUE"),
        (["server", "--kind", "Foo"], "server has no object of the kind 'Foo': its kinds are ConfigMap, Deployment"),
        (
            ["server", "--set", "IMAGE=echo:1", "--kind", "ConfigMap"],
            "server with an IMAGE has no object of the kind 'ConfigMap': its kinds are Deployment",
        ),
        (["service", "--kind", "service"], "service has no object of the kind 'service': its kinds are Service"),
        (
            ["rbac", "--kind", ""],
            "rbac has no object of the kind '': its kinds are ServiceAccount, Role, RoleBinding, ClusterRole,"
            " ClusterRoleBinding",
        ),
        (["node-scaleup", "--set", f"NODES={'9' * 10}"], f"NODES='{'9' * 10}' is more than 2147483647"),
        (["server", "--set", "RUN_AS_USER=2147483648"], "RUN_AS_USER='2147483648' is more than 2147483647"),
        (
            ["archive", "--set", "IMAGE=x"],
            "archive is a file, no object: it has neither settings (--set) nor kinds (--kind)",
        ),
        (
            ["service", "--live", "-", "--set", "CLOUD=aws"],
            "--live prints no object: it goes without --set, --kind and --over",
        ),
        (["service", "--over", "/proc/self/mem"], "the Service that is there cannot be read, Input/output error"),
        (["rbac", "--live", "-"], "--live and --over are about the Service that is there: rbac has none"),
        (["service", "--set", "POLICY=Local\nx: y"], "POLICY='Local x: y' is neither Cluster nor Local"),
    ],
)
def test_bad_input_is_one_line(args: list[str], line: str) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


def test_a_manifest_that_is_none_is_named() -> None:
    done = run("servers")
    assert done.exit_code == 2
    names = ("server", "service", "node-scaleup", "rbac", "experiment-rbac", "monitoring", "archive")
    assert f"'servers' is not one of {', '.join(map(repr, names))}" in done.stderr


def test_wheels_that_are_not_there_are_named(tmp_path: Path) -> None:
    done = run("server", "--wheels", str(tmp_path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} does not hold the wheel of click ")


def external(**changes: object) -> str:
    """A Service that was applied with CLOUD=aws, as kubectl prints it."""
    service = {
        "kind": "Service",
        "metadata": {"annotations": {"service.beta.kubernetes.io/aws-load-balancer-type": "external"}},
    }
    return json.dumps(service | changes)


def test_a_live_service_that_nobody_has_taken_is_said(tmp_path: Path) -> None:
    done = run("service", "--live", "-", stdin=external())
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("No controller has taken the Service yet ")
    (tmp_path / "service.json").write_text(external())
    assert run("service", "--live", str(tmp_path / "service.json")).stdout == done.stdout


def test_of_a_service_that_kubectl_has_not_found_nothing_is_said() -> None:
    done = run("service", "--live", "-", stdin="\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_settings_that_must_not_change_on_a_service_are_refused() -> None:
    there = external(status={"loadBalancer": {"ingress": [{"hostname": "x"}]}})
    done = run("service", "--over", "-", stdin=there)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the Service that is there was made with CLOUD=aws, and on AWS ")
    assert kinds(run("service", "--set", "CLOUD=aws", "--over", "-", stdin=there).stdout) == ["Service"]
    assert run("service", "--over", "-", stdin="").stdout == run("service").stdout


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"kind": "List"}', external(kind="Pod"), "[" * 100_000])
def test_what_is_no_service_is_one_line(text: str) -> None:
    done = run("service", "--live", "-", stdin=text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == ("error: what is read is no Service, as 'kubectl get service NAME --output=json' prints it\n")


@pytest.mark.parametrize("args", [["archive"], ["server"], ["service"]])
def test_a_full_disk_is_one_line(args: list[str], wheels: Path, affinity_tester: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [affinity_tester, "manifests", *args, f"--wheels={wheels}"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the output cannot be written, no space is left there: free some, or send it elsewhere\n"
    )


def test_a_reader_that_has_gone_ends_it_quietly(wheels: Path, affinity_tester: Path) -> None:
    with subprocess.Popen(
        [affinity_tester, "manifests", "archive", f"--wheels={wheels}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_an_archive_is_not_thrown_at_a_terminal(wheels: Path, affinity_tester: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [affinity_tester, "manifests", "archive", f"--wheels={wheels}"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr) == (
        2,
        "error: the archive is a file for Python, not for a terminal: send it into one (> server.pyz)\n",
    )
