"""The targets that act on a cluster, with a kubectl that acts on none."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
import yaml

from affinity_tester import __version__

IPS = "range .status.loadBalancer.ingress[*]"
IP = "status.loadBalancer.ingress[0].ip"
HOSTNAME = "status.loadBalancer.ingress[0].hostname"
CONTEXT = "Context kind-test, namespace media\n"


APPLY_CODE = "apply --server-side --force-conflicts --field-manager=affinity-tester --filename=-"
LIVE = "get deployment affinity-tester --ignore-not-found --output=jsonpath={.spec.replicas}"
REHEARSE = "apply --dry-run=server --filename=-"
ROLLOUT = "rollout status deployment/affinity-tester --timeout=2s"
SERVERS = "app.kubernetes.io/name=affinity-tester,app.kubernetes.io/component=server"
CLIENTS = "app.kubernetes.io/name=affinity-tester,app.kubernetes.io/component=client"
TIMED_OUT = (
    1,
    "Waiting for deployment to finish: 0 of 3 are available...\n",
    "error: timed out waiting for the condition\n",
)
MIRRORS = (
    "RUNTIME_IMAGE=mirror.gcr.io/library/python:3.13-slim or "
    "RUNTIME_IMAGE=public.ecr.aws/docker/library/python:3.13-slim"
)


@pytest.fixture
def tree(tree, wheels, affinity_tester):
    """The tree with the tool installed, and no network needed."""
    tree.install(affinity_tester)
    tree.settings["WHEELS"] = str(wheels)
    return tree


def source(tree, name):
    return yaml.safe_load((tree.root / "k8s" / name).read_text())


def test_apply_deployment_runs_the_tool_in_a_stock_image(tree):
    tree.answer({"rollout": (0, 'deployment "affinity-tester" successfully rolled out\n', "")})
    done = tree.make("apply-deployment", "WAIT=7")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line] == [
        CONTEXT.rstrip(),
        "Waiting until 3 pods of docker.io/library/python:3.13-slim are ready (up to 7 s)",
        'deployment "affinity-tester" successfully rolled out',
        "Next: make apply-service",
    ]

    rehearsed, code, deployment = tree.applied
    assert rehearsed == deployment
    ((file, text),) = code.pop("binaryData").items()
    archive = base64.b64decode(text)
    name = f"affinity-tester-server-{hashlib.sha256(archive).hexdigest()[:12]}"
    assert zipfile.ZipFile(io.BytesIO(archive)).read("__main__.py").startswith(b"from affinity_tester.__main__")
    expected = source(tree, "server-code.yaml")
    del expected["binaryData"]
    expected["metadata"]["name"] = name
    assert code == expected
    assert code["immutable"] is True

    expected = source(tree, "deployment.yaml")
    expected["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] = name
    assert deployment == expected
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    assert container["command"][-1] == f"{mount['mountPath']}/{file}"
    assert tree.asked == [
        LIVE,
        REHEARSE,
        f"get configmap {name} --ignore-not-found --output=name",
        APPLY_CODE,
        "apply --filename=-",
        ROLLOUT,
        f"delete configmaps --ignore-not-found --selector={SERVERS} --field-selector=metadata.name!={name}",
    ]
    selected = dict(term.split("=") for term in SERVERS.split(","))
    assert selected.items() <= code["metadata"]["labels"].items()


def test_apply_deployment_runs_an_image_of_ones_own(tree):
    done = tree.make("apply-deployment", "IMAGE=registry.example:5000/echo@sha256:abc")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree.asked[:4] == [LIVE, REHEARSE, "apply --filename=-", ROLLOUT]
    _, deployment = tree.applied
    expected = source(tree, "deployment.yaml")
    pod = expected["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "registry.example:5000/echo@sha256:abc"
    del pod["volumes"], pod["containers"][0]["volumeMounts"], pod["containers"][0]["command"]
    assert deployment == expected


def test_where_the_cluster_gives_the_user_none_is_named(tree):
    assert tree.make("apply-deployment", "RUN_AS_USER=").returncode == 0
    assert tree.make("node-scaleup", "RUN_AS_USER=").returncode == 0
    rehearsed, _, *deployments = tree.applied
    for deployment in (rehearsed, *deployments):
        assert deployment["spec"]["template"]["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_the_files_hold_the_defaults_of_make(tree):
    assert tree.make("apply-deployment", "IMAGE=docker.io/library/python:3.13-slim").returncode == 0
    assert tree.make("node-scaleup").returncode == 0
    tree.answer({IP: (0, "203.0.113.7", "")})
    assert tree.make("apply-service").returncode == 0
    deployment = source(tree, "deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    del pod["volumes"], pod["containers"][0]["volumeMounts"], pod["containers"][0]["command"]
    assert tree.applied[1:] == [deployment, source(tree, "node-scaleup.yaml"), source(tree, "service.yaml")]


def test_pods_that_do_not_get_ready_are_shown_with_what_to_do(tree):
    tree.answer({"rollout": TIMED_OUT, "wide": (0, "x 0/1 Pending\n", "")})
    done = tree.make("apply-deployment", "WAIT=3")
    assert done.returncode == 2
    shown, said = done.stderr.splitlines()[:2]
    assert shown == "x 0/1 Pending"
    assert said == (
        "The pods were not ready within 3 s (error: timed out waiting for the condition). By the STATUS above:"
    )
    assert tree.asked.count(ROLLOUT) == 2
    assert tree.asked[-1] == f"get pods --selector={SERVERS} --output=wide"
    # What ran before is left as it is, and so is its code.
    assert not any(line.startswith("delete") for line in tree.asked)


REPLICA_SETS = "1 old \n10 new \n9 other \n"


@pytest.mark.parametrize(
    ("args", "image", "todo"),
    [
        ((), "docker.io/library/python:3.13-slim", f"name another source of it, {MIRRORS}"),
        (("RUNTIME_IMAGE=reg.example/py:3",), "reg.example/py:3", f"name another source of it, {MIRRORS}"),
        (("IMAGE=echo:1",), "echo:1", "push it to a registry they read and name it so"),
    ],
)
def test_a_pull_that_fails_ends_the_wait_at_once(tree, args, image, todo):
    pods = "a PodInitializing \nb ErrImagePull not\nfound\n"
    tree.answer(
        {
            "rollout": TIMED_OUT,
            "get replicasets": (0, REPLICA_SETS, ""),
            "pod-template-hash=new --output": (0, pods, ""),
        }
    )
    done = tree.make("apply-deployment", *args)
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith(f"The nodes can't pull {image}: {todo}")
    assert make_says.startswith("make: ***")
    assert tree.asked.count(ROLLOUT) == 1


@pytest.mark.parametrize(
    "answers",
    [
        {"get replicasets": (1, "", "Error from server (Forbidden): replicasets.apps is forbidden\n")},
        {"get replicasets": (0, "", "")},
        {
            "get replicasets": (0, REPLICA_SETS, ""),
            "rollout": (1, "Waiting for deployment spec update to be observed...\n", "error: timed out\n"),
        },
    ],
)
def test_where_the_newest_pods_are_not_known_the_wait_goes_on(tree, answers):
    tree.answer({"rollout": TIMED_OUT, "pod-template-hash": (0, "b ErrImagePull \n", ""), **answers})
    done = tree.make("apply-deployment", "IMAGE=echo:2", "WAIT=3")
    assert "The pods were not ready within 3 s" in done.stderr


def test_a_rollout_that_can_not_be_seen_ends_the_wait(tree):
    tree.answer(
        {"rollout": (1, "", 'Error from server (Forbidden): deployments.apps "affinity-tester" is forbidden\n')}
    )
    done = tree.make("apply-deployment", "IMAGE=echo:1")
    assert done.returncode == 2
    assert "(Error from server (Forbidden): deployments.apps" in done.stderr
    assert tree.asked.count(ROLLOUT) == 1


def test_earlier_code_that_can_not_be_deleted_fails_nothing(tree):
    tree.answer({"delete configmaps": (1, "", "Error from server (Forbidden): configmaps is forbidden\n")})
    done = tree.make("apply-deployment")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The code of earlier servers could not be deleted; 'make clean' tries again.\n" in done.stdout


FORBIDDEN = (
    'Error from server (Forbidden): {kind} is forbidden: User "eve" cannot create resource "{kind}" in API group "" '
    'in the namespace "media"'
)
NO_NAMESPACE = 'Error from server (NotFound): namespaces "media" not found'
RIGHT = "ask for that right, or choose another context (CONTEXT=NAME) or namespace (NAMESPACE=...)"
MAKE_IT = "make it ('kubectl create namespace NAME'), or name another (NAMESPACE=...)"


@pytest.mark.parametrize(
    ("target", "what", "refused", "todo"),
    [
        ("apply-deployment", "The Deployment", NO_NAMESPACE, MAKE_IT),
        ("apply-deployment IMAGE=echo:1", "The Deployment", FORBIDDEN.format(kind="deployments"), RIGHT),
        ("apply-service", "The Service", NO_NAMESPACE, MAKE_IT),
        ("node-scaleup", "The Deployment that takes room", FORBIDDEN.format(kind="deployments"), RIGHT),
        ("apply-service", "The Service", "error: quota", "see what the API server says"),
    ],
)
def test_what_the_api_server_refuses_is_one_line(tree, target, what, refused, todo):
    tree.answer({"apply": (1, "", f"{refused}\n")})
    done = tree.make(*target.split())
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first == f"{what} cannot be applied ({refused}): {todo}"
    assert make_says.startswith("make: ***")
    assert len([line for line in tree.asked if "apply" in line and "--dry-run" not in line]) == (
        0 if target.startswith("apply-deployment") else 1
    )


def test_code_that_is_refused_leaves_the_deployment_as_it_was(tree):
    refused = FORBIDDEN.format(kind="configmaps")
    tree.answer({"--server-side": (1, "", f"{refused}\n")})
    done = tree.make("apply-deployment")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"The servers' code cannot be applied ({refused}): ask for that right, or run an image of your own "
        "(make image apply-deployment IMAGE=registry/name:tag)"
    )
    assert [line for line in tree.asked if not line.startswith("get ")] == [REHEARSE, APPLY_CODE]


def test_without_a_package_index_one_line_says_so(tree):
    done = tree.make(
        "apply-deployment",
        WHEELS="",
        XDG_CACHE_HOME=str(tree.root / "cache"),
        PIP_NO_INDEX="1",
        PIP_CONFIG_FILE=os.devnull,
    )
    assert done.returncode == 2
    say, first, make_says = done.stderr.splitlines()
    assert say.startswith("Downloading the wheels of click ")
    assert first.startswith("error: the wheels of click ")
    assert "(make: WHEELS=dir; else --wheels dir), or run an image of your own (IMAGE)" in first
    assert make_says.startswith("make: ***")
    assert tree.asked == []


def test_archive_writes_a_file_that_any_python_runs(tree):
    done = tree.make("archive")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(
        [sys.executable, "-P", "-S", tree.root / "dist/server.pyz", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"affinity-tester {__version__}\n"


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


def test_the_first_line_may_have_the_mark_that_editors_on_windows_add(tree):
    """`make client` puts up with it, and takes the first address: a stale one would be probed."""
    (tree.root / "env.list").write_bytes("\ufeffTARGET_ADDR=198.51.100.1\r\nAFFINITY_SESSIONS=3\r\n".encode())
    tree.answer({IP: (0, "203.0.113.7", ""), IPS: (0, "203.0.113.7  ", "")})
    assert tree.make("apply-service").returncode == 0
    assert (tree.root / "env.list").read_bytes() == b"TARGET_ADDR=203.0.113.7\nAFFINITY_SESSIONS=3\r\n"
    (tree.root / "env.list").write_bytes("\ufeffTARGET_ADDR=203.0.113.7\r\n".encode())
    assert "TARGET_ADDR in env.list is empty now" in tree.make("clean").stdout
    assert (tree.root / "env.list").read_bytes() == b"TARGET_ADDR=\n"


@pytest.mark.parametrize("name", ["other.list", "a=b", "-v"])
def test_the_next_step_names_the_file_of_settings(tree, name):
    """Which programs would take for an assignment, or an option, by itself."""
    tree.answer({IP: (0, "203.0.113.7", ""), IPS: (0, "203.0.113.7  ", "")})
    done = tree.make("apply-service", f"ENV_FILE={name}")
    assert done.stdout.endswith(f"now TARGET_ADDR in {name}. Next: make client ENV_FILE={name}\n")
    assert (tree.root / name).read_text() == "TARGET_ADDR=203.0.113.7\n"
    assert f"TARGET_ADDR in {name} is empty now" in tree.make("clean", f"ENV_FILE={name}").stdout
    assert (tree.root / name).read_text() == "TARGET_ADDR=\n"


def test_an_address_that_can_not_be_written_down_is_said(tree):
    tree.answer({IP: (0, "203.0.113.7", "")})
    done = tree.make("apply-service", "ENV_FILE=no/such")
    assert done.returncode == 2
    said, make_says = done.stderr.splitlines()
    line = "write the line TARGET_ADDR=203.0.113.7 into your file of settings yourself"
    assert said == f"ENV_FILE='no/such' cannot be written: {line}"
    assert make_says.startswith("make: ***")


def test_policy_and_affinity_change_what_is_applied(tree):
    tree.answer({IP: (0, "203.0.113.7", "")})
    assert tree.make("apply-service", "POLICY=Local", "AFFINITY=ClientIP").returncode == 0
    expected = source(tree, "service.yaml")
    expected["spec"].update(externalTrafficPolicy="Local", sessionAffinity="ClientIP")
    assert tree.applied == [expected]


PROVIDER = "spec.providerID"


@pytest.mark.parametrize(
    ("ids", "cloud", "says"),
    [
        (
            "aws:///eu-west-1a/i-0 aws:///eu-west-1b/i-1",
            "aws",
            "CLOUD=aws, by a node's providerID aws:///eu-west-1a/i-0\n"
            "AWS: the AWS Load Balancer Controller or EKS Auto Mode must run there, else the Service gets no address",
        ),
        ("kind://docker/kind/kind-worker", "none", "CLOUD=none, by a node's providerID kind://docker/kind/kind-worker"),
        ("", "none", ""),
    ],
)
def test_the_cloud_is_the_nodes(tree, ids, cloud, says):
    tree.answer({IP: (0, "203.0.113.7", ""), PROVIDER: (0, ids, "")})
    done = tree.make("apply-service")
    assert (done.returncode, done.stderr) == (0, f"{says}\n" if says else "")
    assert ("The nodes don't say which cloud this is: " in done.stdout) == (not ids)
    (service,) = tree.applied
    assert ("service.beta.kubernetes.io/aws-load-balancer-type" in service["metadata"].get("annotations", {})) == (
        cloud == "aws"
    )


def test_on_aws_a_controller_that_is_missing_is_said_in_time_and_at_the_end(tree):
    """After 20 of the seconds that it waits, and again when it gives up."""
    tree.script("bin/sleep", "#!/bin/sh\n")
    live = {
        "kind": "Service",
        "metadata": {"annotations": {"service.beta.kubernetes.io/aws-load-balancer-type": "external"}},
    }
    tree.answer({})
    assert "No controller has taken" not in tree.make("apply-service", "CLOUD=aws", "WAIT=30").stderr
    tree.answer({"--output=jsonpath": (0, "", ""), "--output=json": (0, json.dumps(live), "")})
    done = tree.make("apply-service", "CLOUD=aws", "WAIT=30")
    assert done.returncode == 2
    said = [line.partition(" (")[0] for line in done.stderr.splitlines()]
    assert said.count("No controller has taken the Service yet") == 2
    assert said.index("No controller has taken the Service yet") < said.index(
        "No external address after 30 s. Where it can come from:"
    )
    assert "AWS: the AWS Load Balancer Controller or EKS Auto Mode must run there" in done.stderr


def test_on_aws_a_balancer_of_another_controller_is_left_alone(tree):
    """Else what that one has made would be lost to Kubernetes, and to `make clean`."""
    live = {"kind": "Service", "metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}}
    tree.answer({"--ignore-not-found --output=json": (0, json.dumps(live), "")})
    done = tree.make("apply-service", "CLOUD=aws")
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first.startswith("error: the Service that is there was made without CLOUD=aws, ")
    assert make_says.startswith("make: ***")
    assert tree.applied == []


def test_on_aws_an_address_of_another_controller_is_said(tree):
    live = {
        "kind": "Service",
        "metadata": {"annotations": {"service.beta.kubernetes.io/aws-load-balancer-type": "external"}},
        "status": {"loadBalancer": {"ingress": [{"hostname": "x.elb.example"}]}},
    }
    tree.answer(
        {
            HOSTNAME: (0, "x.elb.example", ""),
            "--output=jsonpath": (0, "", ""),
            "--output=json": (0, json.dumps(live), ""),
        }
    )
    done = tree.make("apply-service", "CLOUD=aws")
    assert done.returncode == 0
    assert "The Service's address is not from the AWS Load Balancer Controller or EKS Auto Mode" in done.stderr
    assert "External address x.elb.example, now TARGET_ADDR" in done.stdout


def test_a_cloud_that_is_named_is_taken_and_no_node_is_asked(tree):
    tree.answer({IP: (0, "203.0.113.7", ""), PROVIDER: (0, "aws:///x", "")})
    done = tree.make("apply-service", "CLOUD=gke", "IP_FAMILY=dual", "SOURCE_RANGES=192.0.2.0/24,2001:db8::/32")
    assert (done.returncode, done.stderr) == (0, "")
    assert not any("nodes" in line for line in tree.asked)
    expected = source(tree, "service.yaml")
    expected["metadata"]["annotations"] = {"cloud.google.com/l4-rbs": "enabled"}
    expected["spec"] |= {
        "ipFamilyPolicy": "RequireDualStack",
        "ipFamilies": ["IPv4", "IPv6"],
        "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"],
    }
    assert tree.applied == [expected]


def test_nodes_that_may_not_be_read_name_no_cloud(tree):
    tree.answer({IP: (0, "203.0.113.7", ""), PROVIDER: (1, "", "Error from server (Forbidden): nodes is forbidden\n")})
    done = tree.make("apply-service")
    assert (done.returncode, done.stderr) == (0, "")
    assert "name it (CLOUD=aws, azure, gke, oci or digitalocean)" in done.stdout


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
        (["apply-service", "CLOUD=no", "POLICY=local"], "error: POLICY='local' is neither Cluster nor Local"),
        (["apply-service", "CLOUD=none", "AFFINITY=$(id)"], "error: AFFINITY='$(id)' is neither None nor ClientIP"),
        (
            ["apply-service", "CLOUD=ibm"],
            "error: CLOUD='ibm' is none of aws, azure, gke, oci, digitalocean and none",
        ),
        (["apply-service", "CLOUD=none", "IP_FAMILY=6"], "error: IP_FAMILY='6' is none of IPv4, IPv6 and dual"),
        (
            ["apply-service", "CLOUD=none", "SOURCE_RANGES=10.0.0.1/8"],
            "error: SOURCE_RANGES='10.0.0.1/8' is not a list of networks (203.0.113.0/24,2001:db8::/32)",
        ),
        (["apply-service", "WAIT=5m"], "WAIT='5m' is not a number of seconds"),
        (["apply-deployment", "WAIT="], "WAIT='' is not a number of seconds"),
        (["apply-deployment", "REPLICAS=many"], "REPLICAS='many' is not a whole number"),
        (["apply-deployment", "IMAGE=a|b"], "error: IMAGE='a|b' is not the name of an image"),
        (["apply-deployment", "RUNTIME_IMAGE="], "error: RUNTIME_IMAGE='' is not the name of an image"),
        (
            ["apply-deployment", "RUN_AS_USER=root"],
            "error: RUN_AS_USER='root' is not the number of a user other than root, nor empty (the cluster then gives one)",
        ),
        (["node-scaleup", "NODES=-1"], "error: NODES='-1' is not a whole number"),
        *(
            (
                [target, f"NAMESPACE={name}"],
                f"'{name}' is not the name of a namespace (NAMESPACE=...): that has small letters, digits and '-' within",
            )
            for target, name in [("apply-rbac", "a|b"), ("apply-service", "Foo"), ("clean", "--all"), ("clean", "a/b")]
        ),
        (["apply-deployment", "WAIT=1" + "0" * 20], f"WAIT='1{'0' * 20}' is not a number of seconds"),
        (["apply-deployment", "REPLICAS=3000000000"], "REPLICAS='3000000000' is not a whole number"),
        (["node-scaleup", "CPU=lots"], "error: CPU='lots' is not a number of CPUs (2, 0.5, 500m)"),
    ],
)
def test_a_bad_value_gets_one_line_and_nothing_is_applied(tree, args, line):
    done = tree.make(*args)
    assert done.returncode == 2
    first, make_says = done.stderr.splitlines()
    assert first == line
    assert make_says.startswith("make: ***")
    # apply-service has looked at the Service that is there.
    assert [line for line in tree.asked if not line.startswith("get service ")] == []


def test_node_scaleup_takes_size_and_namespace(tree):
    done = tree.make("node-scaleup", "NODES=4", "CPU=500m", "NAMESPACE=probe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Context kind-test, namespace probe\n")
    assert tree.asked == ["--namespace=probe apply --filename=-"]
    (deployment,) = tree.applied
    spec = deployment["spec"]
    assert spec["replicas"] == 4
    assert spec["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "500m"


def test_experiment_rbac_applies_its_role(tree):
    done = tree.make("experiment-rbac", "NAMESPACE=probe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Context kind-test, namespace probe\n")
    assert tree.asked == ["--namespace=probe apply --filename=-"]
    assert tree.applied == list(yaml.safe_load_all((tree.root / "k8s/experiment-rbac.yaml").read_text()))


DELETES = [
    "delete --ignore-not-found --filename=k8s/deployment.yaml --filename=k8s/node-scaleup.yaml "
    "--filename=k8s/service.yaml",
    f"delete --ignore-not-found configmaps --selector={SERVERS}",
    f"delete --ignore-not-found services,leases --selector={SERVERS.replace('=server', '=experiment')}",
    f"delete --ignore-not-found serviceaccounts,roles,rolebindings --selector={CLIENTS}",
    f"delete --ignore-not-found clusterroles --selector={CLIENTS}",
]
LEFT = "Nothing of it is left in namespace media of context kind-test; nor in any other namespace"


def deletes(tree):
    return [line for line in tree.asked if line.startswith("delete ")]


def test_clean_knows_every_object(tree):
    """By its file, or by its kind and label, or (the binding) by whom it binds."""
    by_file = {word.removeprefix("--filename=") for word in DELETES[0].split() if "--filename=" in word}
    by_label = [(line.split()[2].split(","), line.partition("--selector=")[2]) for line in DELETES[1:]]
    by_hand = {"monitoring.yaml", "grafana-dashboard.json"}  # no target applies them
    for path in (tree.root / "k8s").iterdir():
        if f"k8s/{path.name}" in by_file or path.name in by_hand:
            continue
        for each in yaml.safe_load_all(path.read_text()):
            labels = [f"{name}={value}" for name, value in each["metadata"]["labels"].items()]
            found = [kinds for kinds, selector in by_label if set(selector.split(",")) <= set(labels)]
            assert each["kind"] == "ClusterRoleBinding" or any(f"{each['kind'].lower()}s" in kinds for kinds in found)


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        ("configmaps", "ConfigMaps, which are there if 'make apply-deployment' ran without IMAGE"),
        ("services,leases", "Services and Leases of experiments, which are there if one was killed"),
        ("serviceaccounts,roles", "accounts and roles, which are there if somebody ran 'make apply-rbac'"),
        ("clusterroles", "ClusterRoles, which are there if somebody ran 'make apply-rbac'"),
    ],
)
def test_clean_goes_on_where_something_may_not_be_deleted(tree, refused, says):
    (tree.root / "env.list").write_text("TARGET_ADDR=203.0.113.7\n")
    part = f"delete --ignore-not-found {refused}"
    tree.answer(
        {IPS: (0, "203.0.113.7  ", ""), part: (1, "", f"Error from server (Forbidden): {refused} is forbidden\n")}
    )
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{CONTEXT}You may not delete {says}; nothing else is left in namespace media of context kind-test; "
        "nor in any other namespace; TARGET_ADDR in env.list is empty now.\n"
    )
    assert (tree.root / "env.list").read_text() == "TARGET_ADDR=\n"
    tree.answer({part: (1, "", "error: connection refused\n")})
    done = tree.make("clean")
    assert done.returncode == 2
    assert done.stderr.startswith("error: connection refused\n")


def test_clean_deletes_what_it_may_and_fails_where_the_servers_stay(tree):
    (tree.root / "env.list").write_text("TARGET_ADDR=203.0.113.7\n")
    refusal = 'Error from server (Forbidden): deployments.apps "affinity-tester" is forbidden\n'
    tree.answer(
        {
            IPS: (0, "203.0.113.7  ", ""),
            "deployment.yaml": (1, "", refusal),
            "delete --ignore-not-found configmaps": (0, 'configmap "x" deleted\n', ""),
        }
    )
    done = tree.make("clean")
    assert done.returncode == 2
    assert done.stderr.startswith(refusal)
    assert done.stdout == f'{CONTEXT}configmap "x" deleted\n'
    assert deletes(tree) == DELETES
    assert (tree.root / "env.list").read_text() == "TARGET_ADDR=203.0.113.7\n"


@pytest.mark.parametrize(
    ("args", "configured", "namespace"),
    [(["NAMESPACE=probe"], "media", "probe"), ([], "media", "media"), ([], "", "default")],
)
def test_apply_rbac_binds_the_account_of_its_namespace(tree, args, configured, namespace):
    answers = {"config current-context": (0, "kind-test\n", ""), "config view": (0, configured, "")}
    tree.answer_alone(answers)
    done = tree.make("apply-rbac", *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree.asked == [f"--namespace={namespace} apply --filename=-"] * 2
    expected = list(yaml.safe_load_all((tree.root / "k8s/rbac.yaml").read_text()))
    expected[-1]["subjects"][0]["namespace"] = namespace
    expected[-1]["metadata"]["name"] = f"affinity-tester-client-{namespace}"
    assert tree.applied == expected


def test_rights_that_may_not_be_given_away_are_said_so(tree):
    granting = (
        'Error from server (Forbidden): roles "x" is forbidden: user "eve" is attempting to grant RBAC permissions not'
    )
    tree.answer({"apply": (1, "", f"{granting}\n")})
    done = tree.make("apply-rbac")
    assert done.returncode == 2
    first, _ = done.stderr.splitlines()
    assert first == (
        f"The client's account and its role in namespace media cannot be applied ({granting}): nobody may give away rights "
        "that are not theirs; ask somebody who holds them (an administrator) to run this"
    )


def test_clean_takes_all_away_twice(tree):
    """With --ignore-not-found kubectl itself passes over what is gone (NotFound) and still fails on all else."""
    (tree.root / "env.list").write_text("TARGET_ADDR=203.0.113.7\nAFFINITY_SESSIONS=3\n")
    tree.answer({IPS: (0, "203.0.113.7  ", "")})
    for said in ("; TARGET_ADDR in env.list is empty now", ""):
        done = tree.make("clean")
        assert (done.returncode, done.stderr) == (0, "")
        assert (tree.root / "env.list").read_text() == "TARGET_ADDR=\nAFFINITY_SESSIONS=3\n"
        assert done.stdout == f"{CONTEXT}{LEFT}{said}.\n"
    assert deletes(tree) == DELETES * 2
    (tree.root / "env.list").unlink()
    assert tree.make("clean").returncode == 0
    assert not (tree.root / "env.list").exists()


def test_clean_does_not_hide_a_cluster_that_can_not_be_reached(tree):
    tree.answer({"delete": (1, "", "error: connection refused\n")})
    done = tree.make("clean")
    assert done.returncode == 2
    assert done.stderr.startswith("error: connection refused\n")
    assert "is left" not in done.stdout


TARGETS = ["apply-deployment", "apply-service", "apply-rbac", "experiment-rbac", "node-scaleup", "clean"]


@pytest.mark.parametrize("target", TARGETS)
def test_without_kubectl_or_context_one_line_says_what_to_do(tree, target):
    done = tree.make(target, "KUBECTL=no-such-kubectl")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("kubectl is not on the PATH: install it")
    tree.answer_alone({"config current-context": (1, "", "error: current-context is not set\n")})
    done = tree.make(target)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("kubectl has no current context: choose one with")
    assert tree.asked == []


@pytest.mark.parametrize("target", TARGETS)
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
        "another context (CONTEXT=NAME)",
    ]
    assert make_says.startswith("make: ***")
    assert tree.asked == []
    assert (tree.root / "env.list").read_text() == "TARGET_ADDR=203.0.113.7\n"


def test_an_api_server_that_forbids_the_question_has_answered(tree):
    tree.answer({"get --raw=/version": (1, "", 'Error from server (Forbidden): user "a" cannot get path "/version"\n')})
    done = tree.make("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert deletes(tree) == DELETES


def test_the_api_server_is_given_seconds_to_answer(tree):
    assert tree.make("clean").returncode == 0
    assert "get --raw=/version --request-timeout=5s" in (tree.bin / "asked").read_text().splitlines()


def test_a_context_without_a_namespace_acts_in_default(tree):
    tree.answer_alone({"config current-context": (0, "gke\n", "")})
    assert tree.make("node-scaleup").stdout.startswith("Context gke, namespace default\n")
