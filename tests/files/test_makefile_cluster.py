"""The targets that act on a cluster, with a kubectl that acts on none."""

import json
from pathlib import Path

import pytest
import yaml

IP = "status.loadBalancer.ingress[0].ip"
HOSTNAME = "status.loadBalancer.ingress[0].hostname"
CONTEXT = "Context kind-test, namespace media\n"


def test_apply_deployment_runs_the_image_and_waits(tree):
    done = tree.make("apply-deployment", "IMAGE=registry.example:5000/echo@sha256:abc", "WAIT=7")
    assert (done.returncode, done.stdout, done.stderr) == (0, CONTEXT, "")
    assert tree.asked == ["apply --filename=-", "rollout status deployment/affinity-tester --timeout=7s"]
    expected = yaml.safe_load((tree.root / "k8s/deployment.yaml").read_text())
    expected["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example:5000/echo@sha256:abc"
    assert yaml.safe_load(tree.applied) == expected


def test_the_files_hold_the_defaults_of_make(tree):
    for target in ("apply-deployment", "node-scaleup"):
        assert tree.make(target).returncode == 0
    tree.answer({IP: (0, "203.0.113.7", "")})
    assert tree.make("apply-service").returncode == 0
    files = ("deployment.yaml", "node-scaleup.yaml", "service.yaml")
    assert tree.applied == "".join((tree.root / "k8s" / name).read_text() for name in files)


def test_pods_that_do_not_get_ready_are_shown_with_what_to_do(tree):
    tree.answer({"rollout": (1, "", "error: timed out\n"), "get pods": (0, "x 0/1 ImagePullBackOff\n", "")})
    done = tree.make("apply-deployment", "IMAGE=echo:1", "WAIT=1")
    assert done.returncode == 2
    assert "x 0/1 ImagePullBackOff\nThe pods were not ready within 1 s." in done.stderr
    assert "kind load docker-image echo:1" in done.stderr
    assert tree.asked[-1] == "get pods --selector=app.kubernetes.io/name=affinity-tester --output=wide"


@pytest.mark.parametrize(
    ("address", "field"), [("203.0.113.7", IP), ("2001:db8::7", IP), ("lb-1.example.com", HOSTNAME)]
)
def test_apply_service_writes_the_address_into_env_list(tree, address, field):
    before = (tree.root / "env.list").read_text()
    tree.answer({field: (0, address, "")})
    done = tree.make("apply-service")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(CONTEXT)
    assert f"External address {address}, now TARGET_ADDR in env.list. Next: make client\n" in done.stdout
    assert ("takes a minute or two to resolve" in done.stdout) == (field == HOSTNAME)
    written = (tree.root / "env.list").read_text()
    assert written == before.replace("TARGET_ADDR=\n", f"TARGET_ADDR={address}\n")
    assert written != before


def test_a_second_address_replaces_the_first_and_a_lost_line_comes_back(tree):
    (tree.root / "env.list").write_text("# mine\nTARGET_ADDR=198.51.100.1\nAFFINITY_SESSIONS=3\n")
    tree.answer({IP: (0, "203.0.113.7", "")})
    assert tree.make("apply-service").returncode == 0
    assert (tree.root / "env.list").read_text() == "# mine\nTARGET_ADDR=203.0.113.7\nAFFINITY_SESSIONS=3\n"
    (tree.root / "env.list").write_text("AFFINITY_SESSIONS=3\n")
    assert tree.make("apply-service").returncode == 0
    assert (tree.root / "env.list").read_text() == "AFFINITY_SESSIONS=3\nTARGET_ADDR=203.0.113.7\n"


@pytest.mark.parametrize(("target", "address"), [("apply-service", "203.0.113.7"), ("clean", "")])
def test_an_address_that_can_not_be_written_down_is_said(tree, target, address):
    tree.answer({IP: (0, "203.0.113.7", "")})
    done = tree.make(target, "ENV_FILE=no/such")
    assert done.returncode == 2
    said, make_says = done.stderr.splitlines()
    line = f"write the line TARGET_ADDR={address} into your file of settings yourself"
    assert said == f"ENV_FILE='no/such' cannot be written: {line}"
    assert make_says.startswith("make: ***")


def test_policy_and_affinity_change_what_is_applied(tree):
    tree.answer({IP: (0, "203.0.113.7", "")})
    assert tree.make("apply-service", "POLICY=Local", "AFFINITY=ClientIP").returncode == 0
    expected = yaml.safe_load((tree.root / "k8s/service.yaml").read_text())
    expected["spec"].update(externalTrafficPolicy="Local", sessionAffinity="ClientIP")
    assert yaml.safe_load(tree.applied) == expected


def test_a_pending_address_ends_with_what_to_do(tree):
    tree.answer({"nodePort": (0, "30478", "")})
    before = (tree.root / "env.list").read_text()
    done = tree.make("apply-service", "WAIT=0")
    assert done.returncode == 2
    assert "No external address after 0 s. Where it can come from:" in done.stderr
    for hint in ("cloud-provider-kind", "minikube tunnel", "MetalLB", "TARGET_ADDR=NODE_ADDRESS:30478 in env.list"):
        assert hint in done.stderr
    assert (tree.root / "env.list").read_text() == before


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["apply-service", "POLICY=local"], "POLICY='local' is neither Cluster nor Local"),
        (["apply-service", "AFFINITY=$$(id)"], "AFFINITY='$(id)' is neither None nor ClientIP"),
        (["apply-service", "WAIT=5m"], "WAIT='5m' is not a number of seconds"),
        (["apply-deployment", "IMAGE=a|b"], "IMAGE='a|b' is not the name of an image"),
        (["apply-deployment", "IMAGE="], "IMAGE='' is not the name of an image"),
        (["node-scaleup", "NODES=-1"], "NODES='-1' is not a whole number"),
        (["apply-rbac", "NAMESPACE=a|b"], "NAMESPACE='a|b' is not the name of a namespace"),
        (["node-scaleup", "CPU=lots"], "CPU='lots' is not a number of CPUs (2, 0.5, 500m)"),
    ],
)
def test_a_bad_value_gets_one_line_and_nothing_is_applied(tree, args, line):
    done = tree.make(*args)
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first == line
    assert make_says.startswith("make: ***")
    assert tree.asked == []


def test_node_scaleup_takes_size_and_namespace(tree):
    done = tree.make("node-scaleup", "NODES=4", "CPU=500m", "NAMESPACE=probe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Context kind-test, namespace probe\n")
    assert tree.asked == ["--namespace=probe apply --filename=-"]
    spec = yaml.safe_load(tree.applied)["spec"]
    assert spec["replicas"] == 4
    assert spec["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "500m"


DELETES = [
    "delete --ignore-not-found --filename=k8s/deployment.yaml --filename=k8s/node-scaleup.yaml "
    "--filename=k8s/service.yaml",
    "delete --ignore-not-found --filename=k8s/rbac.yaml",
]


def test_clean_knows_every_file(repo: Path):
    files = {f"k8s/{path.name}" for path in (repo / "k8s").iterdir()}
    assert {word.removeprefix("--filename=") for line in DELETES for word in line.split()[2:]} == files


def test_clean_goes_on_where_roles_of_the_cluster_may_not_be_deleted(tree):
    (tree.root / "env.list").write_text("TARGET_ADDR=203.0.113.7\n")
    refusal = (
        'Error from server (Forbidden): clusterroles.rbac.authorization.k8s.io "affinity-tester-client" is forbidden\n'
    )
    tree.answer({"rbac.yaml": (1, "", refusal)})
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{CONTEXT}You may not delete all roles of k8s/rbac.yaml, which are there if somebody ran 'make apply-rbac'; "
        "nothing else is left on the cluster; TARGET_ADDR in env.list is empty.\n"
    )
    assert (tree.root / "env.list").read_text() == "TARGET_ADDR=\n"
    tree.answer({"rbac.yaml": (1, "", "error: connection refused\n")})
    done = tree.make("clean")
    assert done.returncode == 2
    assert done.stderr.startswith("error: connection refused\n")


def test_clean_shows_what_it_deleted(tree):
    tree.answer({"rbac.yaml": (0, 'role "affinity-tester-client" deleted\n', "")})
    assert 'role "affinity-tester-client" deleted\nNothing of it is left' in tree.make("clean").stdout


@pytest.mark.parametrize(
    ("args", "configured", "namespace"),
    [(["NAMESPACE=probe"], "media", "probe"), ([], "media", "media"), ([], "", "default")],
)
def test_apply_rbac_binds_the_account_of_its_namespace(tree, args, configured, namespace):
    answers = {"config current-context": (0, "kind-test\n", ""), "config view": (0, configured, "")}
    (tree.bin / "answers").write_text(json.dumps(answers))
    done = tree.make("apply-rbac", *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree.asked == [f"--namespace={namespace} apply --filename=-"]
    expected = list(yaml.safe_load_all((tree.root / "k8s/rbac.yaml").read_text()))
    expected[-1]["subjects"][0]["namespace"] = namespace
    assert list(yaml.safe_load_all(tree.applied)) == expected


def test_apply_rbac_says_what_to_do_without_rights_on_the_whole_cluster(tree):
    tree.answer(
        {"apply": (1, 'role "affinity-tester-client" created\n', "Error from server (Forbidden): clusterroles\n")}
    )
    done = tree.make("apply-rbac")
    assert done.returncode == 2
    assert done.stderr.splitlines()[:2] == [
        "Error from server (Forbidden): clusterroles",
        "Where you may not make roles for the whole cluster, leave ClusterRole and ClusterRoleBinding out of k8s/rbac.yaml:",
    ]
    assert "may watch now" not in done.stdout


def test_clean_takes_all_away_twice(tree):
    (tree.root / "env.list").write_text("TARGET_ADDR=203.0.113.7\nAFFINITY_SESSIONS=3\n")
    for _ in range(2):
        done = tree.make("clean")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(CONTEXT)
        assert (tree.root / "env.list").read_text() == "TARGET_ADDR=\nAFFINITY_SESSIONS=3\n"
        assert done.stdout.endswith("\nNothing of it is left on the cluster; TARGET_ADDR in env.list is empty.\n")
    # With --ignore-not-found kubectl itself passes over what is gone (NotFound) and still fails on all else.
    assert tree.asked == DELETES * 2
    (tree.root / "env.list").unlink()
    assert tree.make("clean").returncode == 0


def test_clean_does_not_hide_a_cluster_that_can_not_be_reached(tree):
    tree.answer({"delete": (1, "", "error: connection refused\n")})
    done = tree.make("clean")
    assert done.returncode == 2
    assert done.stderr.startswith("error: connection refused\n")
    assert "Nothing of it is left" not in done.stdout


@pytest.mark.parametrize("target", ["apply-deployment", "apply-service", "apply-rbac", "node-scaleup", "clean"])
def test_without_kubectl_or_context_one_line_says_what_to_do(tree, target):
    done = tree.make(target, "KUBECTL=no-such-kubectl")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("kubectl is not on the PATH: install it")
    answers = tree.bin / "answers"
    answers.write_text('{"config current-context": [1, "", "error: current-context is not set\\n"]}')
    done = tree.make(target)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("kubectl has no current context: choose one with")
    assert tree.asked == []


@pytest.mark.parametrize("target", ["apply-deployment", "apply-service", "apply-rbac", "node-scaleup", "clean"])
@pytest.mark.parametrize(
    ("reason", "more"),
    [
        ("Unable to connect to the server: dial tcp 203.0.113.9:6443: i/o timeout", ""),
        ("The connection to the server localhost:8080 was refused - did you specify the right host or port?", ""),
        ("error: You must be logged in to the server (Unauthorized)", ""),
        ("Unable to connect to the server: getting credentials: exec: exit 1", "To sign in, open a web browser\n"),
    ],
)
def test_an_api_server_that_does_not_answer_gets_one_line(tree, target, reason, more):
    (tree.root / "env.list").write_text("TARGET_ADDR=203.0.113.7\n")
    tree.answer({"get --raw=/version": (1, "", f"{more}{reason}\n")})
    done = tree.make(target)
    assert (done.returncode, done.stdout) == (2, CONTEXT)
    *said, make_says = done.stderr.splitlines()
    assert said == [
        *more.splitlines(),  # what a credential plugin asks of a person
        f"The API server of context kind-test cannot be used ({reason}): start the cluster or your VPN, log in, or choose "
        "another context with 'kubectl config use-context NAME'",
    ]
    assert make_says.startswith("make: ***")
    assert tree.asked == []
    assert (tree.root / "env.list").read_text() == "TARGET_ADDR=203.0.113.7\n"


def test_an_api_server_that_forbids_the_question_has_answered(tree):
    tree.answer({"get --raw=/version": (1, "", 'Error from server (Forbidden): user "a" cannot get path "/version"\n')})
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree.asked == DELETES


def test_the_api_server_is_given_seconds_to_answer(tree):
    assert tree.make("clean").returncode == 0
    assert "get --raw=/version --request-timeout=5s" in (tree.bin / "asked").read_text().splitlines()


def test_a_context_without_a_namespace_acts_in_default(tree):
    (tree.bin / "answers").write_text('{"config current-context": [0, "gke\\n", ""]}')
    assert tree.make("node-scaleup").stdout.startswith("Context gke, namespace default\n")


def test_every_value_that_make_puts_in_has_exactly_one_place(repo: Path):
    marks = [
        line.split("# make: ")[1]
        for path in sorted((repo / "k8s").glob("*.yaml"))
        for line in path.read_text().splitlines()
        if "# make: " in line
    ]
    assert marks == ["IMAGE", "NODES", "CPU", "NAMESPACE", "POLICY", "AFFINITY"]
