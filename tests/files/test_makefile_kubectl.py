"""The targets that act on a cluster, with the real kubectl where there is one, and an emulated API server."""

import base64
import io
import os
import shutil
import subprocess
import zipfile

import kube_api
import pytest
import yaml

KUBECTL = shutil.which("kubectl")


@pytest.fixture
def api():
    with kube_api.running() as api:
        yield api


@pytest.fixture
def tree(tree, wheels, affinity_tester, api):
    """The tree with the tool installed, and a context for the emulated API server."""
    if KUBECTL is None:
        pytest.skip("kubectl is not on the PATH")
    (tree.bin / "kubectl").unlink()
    tree.install(affinity_tester)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "emulated", "cluster": {"server": api.url}}],
        "users": [{"name": "user", "user": {}}],
        "contexts": [{"name": "emulated", "context": {"cluster": "emulated", "user": "user"}}],
        "current-context": "emulated",
    }
    (tree.root / "config").write_text(yaml.safe_dump(config))
    tree.settings |= {"WHEELS": str(wheels), "KUBECONFIG": str(tree.root / "config"), "HOME": str(tree.root)}
    return tree


def deployment(api):
    return api.objects["deployments", "default", "affinity-tester"]


def test_the_steps_of_the_readme(tree, api):
    node = {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": "n", "uid": "n"},
        "spec": {"providerID": "gce://p/z/n"},
    }
    api.objects["nodes", "", "n"] = node

    done = tree.make("apply-deployment")
    assert (done.returncode, done.stderr) == (0, "")
    (name,) = api.names("configmaps")
    assert done.stdout.splitlines() == [
        "Context emulated, namespace default",
        f"configmap/{name} serverside-applied",
        "deployment.apps/affinity-tester created",
        "Waiting until three pods of docker.io/library/python:3.13-slim are ready (up to 300 s)",
        'deployment "affinity-tester" successfully rolled out',
        "Next: make apply-service",
    ]
    # It came through kubectl whole.
    code = base64.b64decode(api.objects["configmaps", "default", name]["binaryData"]["server.pyz"])
    assert zipfile.ZipFile(io.BytesIO(code)).testzip() is None
    assert deployment(api)["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == name

    done = tree.make("apply-service", "POLICY=Local")
    assert (done.returncode, done.stderr) == (0, "CLOUD=gke, by a node's providerID gce://p/z/n\n")
    service = api.objects["services", "default", "affinity-tester"]
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["metadata"]["annotations"]["cloud.google.com/l4-rbs"] == "enabled"
    assert "\nTARGET_ADDR=203.0.113.7\n" in (tree.root / "env.list").read_text()

    for target in ("node-scaleup", "apply-rbac"):
        done = tree.make(target)
        assert (done.returncode, done.stderr) == (0, "")
    for _ in range(2):
        done = tree.make("clean")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("Nothing of it is left on the cluster; TARGET_ADDR in env.list is empty.\n")
        assert list(api.objects) == [("nodes", "", "n")]


def test_earlier_code_is_deleted_after_the_rollout_and_nobody_elses(tree, api):
    assert tree.make("apply-deployment").returncode == 0
    earlier = api.objects.pop(("configmaps", "default", api.names("configmaps")[0]))
    earlier["metadata"]["name"] = "affinity-tester-server-0123456789ab"
    api.objects["configmaps", "default", "affinity-tester-server-0123456789ab"] = earlier
    others = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "others", "uid": "o"}}
    api.objects["configmaps", "default", "others"] = others
    deployment(api)["spec"]["replicas"] = 5  # kubectl scale

    done = tree.make("apply-deployment")
    assert (done.returncode, done.stderr) == (0, "")
    name, other = api.names("configmaps")
    assert other == "others"
    assert deployment(api)["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == name
    assert deployment(api)["spec"]["replicas"] == 3

    assert tree.make("apply-deployment", "IMAGE=echo:1").returncode == 0
    assert api.names("configmaps") == ["others"]


def test_a_pull_that_fails_ends_the_wait_and_clean_takes_all_away(tree, api):
    api.waiting_reason = "ErrImagePull"
    done = tree.make("apply-deployment")
    assert done.returncode == 2
    first, _ = done.stderr.splitlines()
    assert first.startswith(
        "The nodes can't pull docker.io/library/python:3.13-slim: name another source of it, RUNTIME_IMAGE="
    )
    assert tree.make("clean").returncode == 0
    assert api.objects == {}


REFUSED = (
    'The Deployment cannot be applied (from server for: "STDIN": deployments "affinity-tester" is forbidden: '
    'User "eve" cannot '
)


@pytest.mark.parametrize(
    ("forbidden", "namespace", "line"),
    [
        ({"configmaps"}, "default", "The servers' code cannot be applied (Error from server (Forbidden): configmaps "),
        (
            {"deployments"},
            "default",
            REFUSED,
        ),
        (
            set(),
            "none",
            'The servers\' code cannot be applied (Error from server (NotFound): namespaces "none" not found): make it',
        ),
    ],
)
def test_what_the_api_server_refuses_is_one_line_and_nothing_is_left(tree, api, forbidden, namespace, line):
    api.forbidden = forbidden
    done = tree.make("apply-deployment", f"NAMESPACE={namespace}")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith(line)
    assert make_says.startswith("make: ***")
    tree.make("clean", f"NAMESPACE={namespace}")
    assert api.objects == {}


def test_without_make_the_command_and_kubectl_do_the_same(tree, api, affinity_tester):
    settings = {**os.environ, **tree.settings, "AFFINITY_WHEELS": tree.settings["WHEELS"]}

    def pipe(name, *kubectl):
        shown = subprocess.run([affinity_tester, "manifests", name], env=settings, capture_output=True, check=True)
        subprocess.run(
            [KUBECTL, *kubectl, "-f", "-"], env=settings, input=shown.stdout, capture_output=True, check=True
        )

    pipe("server", "apply", "--server-side")
    pipe("service", "apply", "--server-side")
    by_command = {key: each.get("spec", each.get("binaryData")) for key, each in api.objects.items()}
    assert [key[0] for key in sorted(by_command)] == ["configmaps", "deployments", "pods", "pods", "pods", "services"]
    pipe("service", "delete")
    pipe("server", "delete")
    assert api.objects == {}

    assert tree.make("apply-deployment").returncode == 0
    assert tree.make("apply-service").returncode == 0
    assert {key: each.get("spec", each.get("binaryData")) for key, each in api.objects.items()} == by_command
