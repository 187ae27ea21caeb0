"""The targets that act on a cluster, with the real kubectl where there is one, and an emulated API server."""

import base64
import io
import os
import shutil
import signal
import subprocess
import zipfile

import kube_api
import pytest
import yaml

KUBECTL = shutil.which("kubectl")
OWN = "IMAGE=echo:1"
"""Where the code does not matter: no archive has to be made."""


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
        "Waiting until 3 pods of docker.io/library/python:3.13-slim are ready (up to 300 s)",
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
    for target_said in ("; TARGET_ADDR in env.list is empty now", ""):
        done = tree.make("clean")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(
            "\nNothing of it is left in namespace default of context emulated; nor in any other namespace"
            f"{target_said}.\n"
        )
        assert list(api.objects) == [("nodes", "", "n")]


def test_earlier_code_is_deleted_after_the_rollout_and_nobody_elses(tree, api):
    assert tree.make("apply-deployment").returncode == 0
    earlier = api.objects.pop(("configmaps", "default", api.names("configmaps")[0]))
    earlier["metadata"]["name"] = "affinity-tester-server-0123456789ab"
    api.objects["configmaps", "default", "affinity-tester-server-0123456789ab"] = earlier
    others = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "others", "uid": "o"}}
    api.objects["configmaps", "default", "others"] = others

    done = tree.make("apply-deployment")
    assert (done.returncode, done.stderr) == (0, "")
    name, other = api.names("configmaps")
    assert other == "others"
    assert deployment(api)["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == name

    assert tree.make("apply-deployment", "IMAGE=echo:1").returncode == 0
    assert api.names("configmaps") == ["others"]


@pytest.mark.parametrize(("scaled", "args", "number"), [(5, [], 5), (0, [], 0), (5, ["REPLICAS=1"], 1)])
def test_a_number_of_pods_that_somebody_set_stays_until_another_is_named(tree, api, scaled, args, number):
    assert tree.make("apply-deployment", OWN).returncode == 0
    deployment(api)["spec"]["replicas"] = scaled  # kubectl scale
    done = tree.make("apply-deployment", OWN, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert deployment(api)["spec"]["replicas"] == number
    assert (
        f"The number of pods stays {scaled}, as it was set ('kubectl scale'); REPLICAS=3 sets another\n" in done.stdout
    ) == (number not in {1, 3})
    assert "Waiting until 1 pod of echo:1" in done.stdout or f"Waiting until {number} pods of" in done.stdout


FAILS = [
    ("ErrImagePull", "", "The nodes can't pull echo:1: push it to a registry they read and name it so"),
    ("ErrImageNeverPull", "", "The nodes can't pull echo:1: "),
    (
        "CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root (pod: x, container: server)",
        "Pod affinity-tester-1-0 can't run (CreateContainerConfigError container has runAsNonRoot and image will run as root "
        "(pod: x, container: server)): name the pods' user (leave RUN_AS_USER out, or RUN_AS_USER=NUMBER): ",
    ),
    (
        "CreateContainerError",
        "no space left",
        "Pod affinity-tester-1-0 can't run (CreateContainerError no space left): 'kub",
    ),
    (
        "RunContainerError",
        'exec: "python": executable file not found in $PATH',
        'Pod affinity-tester-1-0 can\'t run (RunContainerError exec: "python": executable file not found in $PATH): '
        "echo:1 has no Python on its PATH",
    ),
    ("CrashLoopBackOff", "back-off 10s", "Pod affinity-tester-1-0 can't run (CrashLoopBackOff, last line: "),
]


@pytest.mark.parametrize(("reason", "message", "line"), FAILS)
def test_what_waiting_does_not_end_ends_the_wait(tree, api, reason, message, line):
    api.waiting_reason, api.waiting_message = reason, message
    done = tree.make("apply-deployment", OWN)
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith(line)
    assert make_says.startswith("make: ***")


def test_every_reason_that_waiting_does_not_end_is_listed(tree):
    (line,) = [each for each in (tree.root / "Makefile").read_text().splitlines() if each.startswith("STUCK := ")]
    images = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
    assert set(line.removeprefix("STUCK := ").split("|")) == images | {reason for reason, _, _ in FAILS}


def test_clean_takes_away_what_an_interrupted_rollout_left(tree, api):
    """By Ctrl-C, which all processes of the terminal get."""
    api.waiting_reason = "ContainerCreating"
    command = ["make", "--no-print-directory", "apply-deployment"]
    env = {"PATH": os.environ["PATH"], **tree.settings}
    with subprocess.Popen(
        command,
        cwd=tree.root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as making:
        while not (line := making.stdout.readline()).startswith("Waiting until "):
            assert line, making.stderr.read()
        os.killpg(making.pid, signal.SIGINT)
        said, failure = making.communicate(timeout=60)
    assert said == ""
    # 2 where whoever runs the tests ignores SIGINT, or where make meets it as it waits ("wait: No child processes").
    assert making.returncode in (-signal.SIGINT, 2)
    assert failure
    assert all(each.startswith("make: ***") for each in failure.splitlines())

    assert {key[0] for key in api.objects} == {"configmaps", "deployments", "pods", "replicasets"}
    assert tree.make("clean").returncode == 0
    assert api.objects == {}


def test_clean_takes_servers_away_that_never_ran(tree, api):
    api.waiting_reason = "ErrImagePull"
    assert tree.make("apply-deployment").returncode == 2
    assert tree.make("clean").returncode == 0
    assert api.objects == {}


@pytest.mark.parametrize(
    ("message", "todo"),
    [
        (
            'pods "x" is forbidden: exceeded quota: q, requested: cpu=1, used: cpu=4, limited: cpu=4',
            "make room in the quota, or run fewer (REPLICAS=1)",
        ),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile',
            "the pods keep to the level",
        ),
        (
            'pods "x" is forbidden: unable to validate against any security context constraint: [...]',
            "let the cluster give the user (RUN_AS_USER=)",
        ),
        ('admission webhook "p.example" denied the request: no', "ask who made that rule"),
    ],
)
def test_pods_that_the_cluster_refuses_end_the_wait(tree, api, message, todo):
    api.refuses_pods = message
    done = tree.make("apply-deployment", OWN)
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith(f"The cluster refuses the pods ({message}): {todo}")
    assert make_says.startswith("make: ***")


def test_a_failure_of_the_replicaset_that_may_pass_is_waited_out(tree, api):
    api.refuses_pods = 'Internal error occurred: failed calling webhook "w": context deadline exceeded'
    done = tree.make("apply-deployment", OWN, "WAIT=3")
    assert "The pods were not ready within 3 s" in done.stderr


def test_a_container_that_is_being_made_is_waited_for(tree, api):
    api.waiting_reason = "ContainerCreating"
    done = tree.make("apply-deployment", OWN, "WAIT=3")
    assert "The pods were not ready within 3 s" in done.stderr


def test_pods_of_an_earlier_try_do_not_end_the_wait(tree, api):
    """Same image, so that only their ReplicaSet tells them from the new ones."""
    api.waiting_reason = "CreateContainerConfigError"
    assert tree.make("apply-deployment", OWN, "RUN_AS_USER=").returncode == 2
    stuck = api.objects["pods", "default", "affinity-tester-1-0"]
    api.objects["pods", "default", "affinity-tester-earlier"] = stuck
    api.waiting_reason = "ContainerCreating"
    done = tree.make("apply-deployment", OWN, "WAIT=3")
    assert "The pods were not ready within 3 s" in done.stderr


@pytest.mark.parametrize(
    ("forbidden", "namespace", "line"),
    [
        ({"configmaps"}, "default", "The servers' code cannot be applied (Error from server (Forbidden): configmaps "),
        (
            {"deployments"},
            "default",
            'The Deployment cannot be applied (from server for: "STDIN": deployments "affinity-tester" is forbidden: '
            'User "eve" cannot ',
        ),
        (
            set(),
            "none",
            'The Deployment cannot be applied (Error from server (NotFound): error when creating "STDIN": '
            'namespaces "none" not found): make it (',
        ),
    ],
)
def test_what_the_api_server_refuses_is_one_line_and_nothing_was_applied(tree, api, forbidden, namespace, line):
    api.forbidden = forbidden
    done = tree.make("apply-deployment", f"NAMESPACE={namespace}")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith(line)
    assert make_says.startswith("make: ***")
    assert api.objects == {}


@pytest.mark.parametrize("was_there", [False, True])
def test_code_goes_again_where_its_deployment_is_refused_in_earnest(tree, api, was_there):
    """But not from under servers that run it."""
    if was_there:
        assert tree.make("apply-deployment").returncode == 0
    before = set(api.objects)
    api.refused["deployments"] = kube_api.RefusedError(403, "Forbidden", 'admission webhook "w" denied the request: no')
    done = tree.make("apply-deployment", "REPLICAS=5")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith("The Deployment cannot be applied (")
    assert 'admission webhook "w" denied the request: no' in first
    assert make_says.startswith("make: ***")
    assert set(api.objects) == before


def test_a_service_that_can_not_change_is_one_line(tree, api):
    """kubectl says so without the word error, a line for each field."""
    assert tree.make("apply-service").returncode == 0
    causes = [
        {"reason": "FieldValueInvalid", "message": f"Invalid value: {value}: may not change once set", "field": field}
        for field, value in [("spec.ipFamilies[0]", '"IPv6"'), ("spec.clusterIPs[0]", "[]")]
    ]
    details = {"name": "affinity-tester", "kind": "Service", "causes": causes}
    api.refused["services"] = kube_api.RefusedError(422, "Invalid", 'Service "affinity-tester" is invalid', details)
    done = tree.make("apply-service", "IP_FAMILY=IPv6")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first == (
        'The Service cannot be applied (The Service "affinity-tester" is invalid: '
        '* spec.ipFamilies[0]: Invalid value: "IPv6": may not change once set '
        "* spec.clusterIPs[0]: Invalid value: []: may not change once set): it is there with another value, which cannot "
        "change: take it away first ('make clean')"
    )
    assert make_says.startswith("make: ***")


def test_clean_goes_on_where_the_address_can_not_be_emptied(tree, api):
    for target in ("apply-deployment", "apply-service"):
        assert tree.make(target).returncode == 0
    # Root writes everything but what is nowhere; that it was read is made up.
    tr = '#!/bin/sh\ncase $1 in -d) echo TARGET_ADDR=203.0.113.7 ;; *) exec /usr/bin/tr "$@" ;; esac\n'
    tree.script("bin/tr", tr)
    done = tree.make("clean", "ENV_FILE=no/such")
    assert done.returncode == 0
    assert done.stderr.startswith("ENV_FILE='no/such' cannot be written: write the line TARGET_ADDR= ")
    assert done.stdout.endswith("TARGET_ADDR=203.0.113.7 in no/such stays.\n")
    assert api.objects == {}


def test_a_cluster_that_can_not_rehearse_is_not_asked_to(tree, api):
    api.refuses_rehearsals = True
    done = tree.make("apply-deployment", OWN)
    assert (done.returncode, done.stderr) == (0, "")


def test_roles_are_all_there_or_none(tree, api):
    api.forbidden = {"roles"}
    done = tree.make("apply-rbac")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith("The client's account and its role in namespace default cannot be applied (")
    assert "): ask for that right, or choose another context (CONTEXT=NAME) or namespace (NAMESPACE=...)" in first
    assert make_says.startswith("make: ***")
    assert api.objects == {}


@pytest.mark.parametrize("forbidden", ["clusterroles", "clusterrolebindings"])
def test_roles_of_the_namespace_are_worth_having_alone(tree, api, forbidden):
    api.forbidden = {forbidden}
    done = tree.make("apply-rbac")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("The client's role for the whole cluster cannot be applied (")
    assert "may watch the pool now; nodes and proxies it may not.\n" in done.stdout
    assert sorted({key[0] for key in api.objects}) == ["rolebindings", "roles", "serviceaccounts"]
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert api.objects == {}


def test_an_account_that_was_there_is_not_taken_away(tree, api):
    assert tree.make("apply-rbac").returncode == 0
    before = set(api.objects)
    api.forbidden = {"rolebindings"}
    assert tree.make("apply-rbac").returncode == 2
    assert set(api.objects) == before


def test_clean_leaves_what_others_use(tree, api):
    """Another namespace has servers, an address in env.list and a client that may watch."""
    api.namespaces.add("other")
    for target in ("apply-deployment", "apply-service", "apply-rbac"):
        assert tree.make(target, "NAMESPACE=other").returncode == 0
    before = set(api.objects)
    assert tree.make("apply-deployment", OWN).returncode == 0

    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        "ClusterRole affinity-tester-client stays, since others use it: "
        "affinity-tester-client-other ServiceAccount/other/affinity-tester-client",
        "Nothing of it is left in namespace default of context emulated; it is in other namespaces too "
        "(other: make clean NAMESPACE=...); TARGET_ADDR=203.0.113.7 in env.list stays: it was no address of this "
        "namespace's Service.",
    ]
    assert set(api.objects) == before
    assert "\nTARGET_ADDR=203.0.113.7\n" in (tree.root / "env.list").read_text()

    done = tree.make("clean", "NAMESPACE=other")
    assert (done.returncode, done.stderr) == (0, "")
    assert api.objects == {}
    assert "\nTARGET_ADDR=\n" in (tree.root / "env.list").read_text()


def test_each_namespace_has_rights_of_its_own(tree, api):
    """A second one takes nothing from the first, and `make clean` of one leaves the other's."""
    api.namespaces.add("other")
    for namespace in ("default", "other"):
        assert tree.make("apply-rbac", f"NAMESPACE={namespace}").returncode == 0
    bound = {
        name: [subject["namespace"] for subject in each["subjects"]]
        for (plural, _, name), each in api.objects.items()
        if plural == "clusterrolebindings"
    }
    assert bound == {"affinity-tester-client-default": ["default"], "affinity-tester-client-other": ["other"]}

    assert tree.make("clean").returncode == 0
    assert api.names("clusterrolebindings") == ["affinity-tester-client-other"]
    assert api.names("clusterroles") == ["affinity-tester-client"]
    assert tree.make("clean", "NAMESPACE=other").returncode == 0
    assert api.objects == {}


def test_clean_takes_a_binding_of_an_earlier_version_too(tree, api):
    """Its name was the same for all namespaces."""
    assert tree.make("apply-rbac").returncode == 0
    binding = api.objects.pop(("clusterrolebindings", "", "affinity-tester-client-default"))
    binding["metadata"]["name"] = "affinity-tester-client"
    api.objects["clusterrolebindings", "", "affinity-tester-client"] = binding
    assert tree.make("clean").returncode == 0
    assert api.objects == {}


def test_clean_leaves_a_role_that_a_user_was_bound_to(tree, api):
    assert tree.make("apply-rbac").returncode == 0
    bound = {
        "kind": "ClusterRoleBinding",
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "ann-may-watch", "uid": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "affinity-tester-client"},
        "subjects": [{"kind": "User", "name": "ann"}],
    }
    api.objects["clusterrolebindings", "", "ann-may-watch"] = bound
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert "stays, since others use it: ann-may-watch User//ann\n" in done.stdout
    assert sorted(api.objects) == [
        ("clusterrolebindings", "", "ann-may-watch"),
        ("clusterroles", "", "affinity-tester-client"),
    ]


def test_clean_of_one_who_may_not_look_elsewhere_says_so(tree, api):
    api.forbidden = {"clusterrolebindings", "clusterroles"}
    api.forbidden_everywhere = True
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == (
        "You may not read ClusterRoleBindings, so what 'make apply-rbac' made for the whole cluster stays; nothing else is "
        "left in namespace default of context emulated; other namespaces could not be looked at."
    )


@pytest.mark.parametrize(
    ("target", "ours"),
    [("203.0.113.7:3478", True), ("10.0.0.5:30478", True), ("203.0.113.70", False), ("turn.example.org", False)],
)
def test_clean_empties_the_address_of_the_service_alone(tree, api, target, ours):
    assert tree.make("apply-service").returncode == 0
    (tree.root / "env.list").write_text(f"TARGET_ADDR={target}\n")
    assert tree.make("clean").returncode == 0
    assert (tree.root / "env.list").read_text() == ("TARGET_ADDR=\n" if ours else f"TARGET_ADDR={target}\n")


TARGETS = ["apply-deployment", "apply-service", "apply-rbac", "node-scaleup", "clean"]


def test_every_target_acts_in_the_context_that_is_named(tree, api):
    config = yaml.safe_load((tree.root / "config").read_text())
    config["contexts"] += [
        {"name": "my other", "context": {"cluster": "emulated", "user": "user", "namespace": "media"}}
    ]
    config["clusters"] += [{"name": "dead", "cluster": {"server": "http://127.0.0.1:9"}}]
    config["contexts"][0]["context"]["cluster"] = "dead"
    (tree.root / "config").write_text(yaml.safe_dump(config))
    api.namespaces.add("media")
    for target in TARGETS:
        done = tree.make(target, "CONTEXT=my other")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Context my other, namespace media\n")
    assert api.objects == {}


@pytest.mark.parametrize("target", TARGETS)
def test_a_context_that_does_not_exist_gets_one_line(tree, api, target):
    done = tree.make(target, "CONTEXT=nope")
    assert (done.returncode, done.stdout) == (2, "")
    first, make_says = done.stderr.splitlines()
    assert first == "CONTEXT='nope' is no context of kubectl's: 'kubectl config get-contexts' lists them"
    assert make_says.startswith("make: ***")


def test_code_that_git_does_not_know_is_said(tree, api):
    subprocess.run(["git", "init", "--quiet", tree.root], check=True)
    subprocess.run(["git", "-C", tree.root, "add", "src"], check=True)
    assert "git does not know" not in tree.make("apply-deployment").stderr
    (tree.root / "src/affinity_tester/stray.py").touch()
    done = tree.make("apply-deployment")
    assert done.stderr == "Part of the servers' code, though git does not know it: src/affinity_tester/stray.py \n"


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
    assert [key[0] for key in sorted(by_command)] == [
        *("configmaps", "deployments", "pods", "pods", "pods", "replicasets", "services")
    ]
    pipe("service", "delete")
    pipe("server", "delete")
    assert api.objects == {}

    assert tree.make("apply-deployment").returncode == 0
    assert tree.make("apply-service").returncode == 0
    assert {key: each.get("spec", each.get("binaryData")) for key, each in api.objects.items()} == by_command
