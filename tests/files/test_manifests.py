"""The cluster files are valid by Kubernetes' own schemas, restricted by Pod Security's rules, and fit each other."""

import functools
import itertools
import subprocess
import sys
import zipfile
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from affinity_tester.app.clouds import CLOUDS
from affinity_tester.app.manifests import (
    MANIFESTS,
    MARK,
    SETTINGS,
    chosen_cloud,
    read_settings,
    read_source,
    render,
    setting_notes,
)
from affinity_tester.cluster.providers import cloud_of
from affinity_tester.errors import UserError
from affinity_tester.settings import DEFAULT_PORT, ServerSettings
from affinity_tester.units import NS_PER_S

pytestmark = pytest.mark.xdist_group("manifests")  # its module's fixture is made once

FILES = sorted((Path(__file__).resolve().parents[2] / "k8s").glob("*.yaml"))
OWN = [path for path in FILES if path.name != "monitoring.yaml"]
"""Those of Kubernetes' own kinds: the others have the Prometheus Operator's, whose schemas are elsewhere."""

VERSIONS = [f"1.{minor}" for minor in range(25, 38)]


def load(name: str) -> dict:
    return yaml.safe_load((FILES[0].parent / name).read_text())


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once():
    """Keep each schema file that is read: a version's definitions have a megabyte, and hundreds of checks ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_the_schema_accepts_it(path, version):
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_refuses_a_misspelt_field():
    deployment = load("deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(deployment, "1.34", strict=True)


@pytest.mark.parametrize("name", ["deployment.yaml", "node-scaleup.yaml"])
def test_pods_are_restricted(name):
    """Pod Security Standards, profile "restricted", and beyond it a read-only root and no service account token."""
    pod = load(name)["spec"]["template"]["spec"]
    user = pod["securityContext"]["runAsUser"]
    assert user > 0
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert set(pod) <= {
        "affinity",
        "automountServiceAccountToken",
        "containers",
        "enableServiceLinks",
        "securityContext",
        "terminationGracePeriodSeconds",
        "topologySpreadConstraints",
        "volumes",
    }  # so neither host namespaces
    assert [set(volume) for volume in pod.get("volumes", [])] in ([], [{"name", "configMap"}])  # nor host paths


def test_the_server_learns_who_it_is_and_has_time_to_drain():
    deployment = load("deployment.yaml")
    assert deployment["spec"]["replicas"] == 3
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in container["env"]} == {
        "POD_NAME": "metadata.name",
        "NODE_NAME": "spec.nodeName",
        "POD_IPS": "status.podIPs",
    }
    settings = ServerSettings(pod_name="x")
    ports = {(port["name"], port["containerPort"], port["protocol"]) for port in container["ports"]}
    assert ports == {("stun", settings.port, "UDP"), ("health", settings.health_port, "TCP")}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    assert set(container["resources"]) == {"requests", "limits"}
    assert pod["terminationGracePeriodSeconds"] * NS_PER_S >= settings.drain_ns + 5 * NS_PER_S
    assert container["image"] == SETTINGS["RUNTIME_IMAGE"].default
    assert container["command"][1] == "-P"
    (mount,) = container["volumeMounts"]
    assert mount["readOnly"] is True
    assert container["command"][-1] == f"{mount['mountPath']}/server.pyz"


def test_pods_spread_over_nodes_without_waiting_for_one():
    deployment = load("deployment.yaml")
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread == {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": deployment["spec"]["selector"],
    }


def test_the_service_reaches_the_servers_and_no_other_pods():
    spec = load("service.yaml")["spec"]
    (port,) = spec["ports"]
    assert port == {"name": "stun", "protocol": "UDP", "port": DEFAULT_PORT, "targetPort": "stun"}
    assert (spec["type"], spec["externalTrafficPolicy"], spec["sessionAffinity"]) == ("LoadBalancer", "Cluster", "None")
    labels = {
        name: load(name)["spec"]["template"]["metadata"]["labels"] for name in ("deployment.yaml", "node-scaleup.yaml")
    }
    assert spec["selector"] == load("deployment.yaml")["spec"]["selector"]["matchLabels"]
    assert spec["selector"].items() <= labels["deployment.yaml"].items()
    assert not spec["selector"].items() <= labels["node-scaleup.yaml"].items()


def test_scaleup_pods_keep_away_from_servers_and_from_each_other():
    pod = load("node-scaleup.yaml")["spec"]["template"]
    (term,) = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    wanted = term["labelSelector"]["matchLabels"].items()
    assert wanted <= pod["metadata"]["labels"].items()
    assert wanted <= load("deployment.yaml")["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_objects_carry_the_recommended_labels_and_no_namespace(path):
    for document in yaml.safe_load_all(path.read_text()):
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "affinity-tester"
        assert "app.kubernetes.io/component" in labels
        assert "namespace" not in document["metadata"]


def rendered(name: str, **given: str) -> list[dict]:
    texts = render(name, read_settings(name, given), lambda: b"archive")
    return list(yaml.safe_load_all("---\n".join(texts)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_schema_accepts_the_service_of_each_cloud(cloud, version):
    for policy, family in itertools.product(["Cluster", "Local"], ["", "IPv4", "IPv6", "dual"]):
        (service,) = rendered(
            "service", CLOUD=cloud, POLICY=policy, IP_FAMILY=family, SOURCE_RANGES="192.0.2.0/24,::/0"
        )
        kubernetes_validate.validate(service, version, strict=True)
        found = service["metadata"].get("annotations", {})
        assert bool(found) == (cloud != "none")
        # Kubernetes refuses an annotation that YAML reads as a number or a boolean.
        assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["node-scaleup", "rbac"])
def test_the_schema_accepts_what_else_is_rendered(name, version):
    given = {"NODES": "0", "CPU": "0.5", "RUN_AS_USER": ""} if name == "node-scaleup" else {"NAMESPACE": "010"}
    for each in rendered(name, **given):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_are_of_different_versions():
    """Else every version would be the same check: the newest field of each file would pass in all of them."""
    (service,) = rendered("service")
    service["spec"]["trafficDistribution"] = "PreferClose"  # Kubernetes 1.30
    kubernetes_validate.validate(service, "1.30", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="trafficDistribution"):
        kubernetes_validate.validate(service, "1.29", strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("given", [{}, {"RUN_AS_USER": ""}, {"RUN_AS_USER": "1000"}, {"IMAGE": "echo:1"}])
def test_the_schema_accepts_the_servers(given, version):
    objects = rendered("server", **given)
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)
    assert [each["kind"] for each in objects] == (["Deployment"] if "IMAGE" in given else ["ConfigMap", "Deployment"])
    user = given.get("RUN_AS_USER", "65532")
    context = objects[-1]["spec"]["template"]["spec"]["securityContext"]
    assert context.get("runAsUser") == context.get("runAsGroup") == (int(user) if user else None)


@pytest.mark.parametrize("name", ["server", "node-scaleup"])
@pytest.mark.parametrize("user", ["", "1000650000", "2147483647"])
def test_pods_stay_restricted_whoever_gives_the_user(name, user):
    """OpenShift's SCC restricted-v2 gives user and group from the namespace's range, and refuses any other.

    It fills in fsGroup as well, which a volume of a ConfigMap has no need of: its files are readable to all.
    """
    pod = rendered(name, RUN_AS_USER=user)[-1]["spec"]["template"]["spec"]
    named = {"runAsUser": int(user), "runAsGroup": int(user)} if user else {}
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} | named
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert [set(volume["configMap"]) for volume in pod.get("volumes", [])] in (
        [],
        [{"name"}],
    )  # no mode that hides them


@pytest.mark.parametrize("name", MANIFESTS)
def test_whatever_is_rendered_is_found_again_by_its_labels(name):
    """`make clean` deletes the servers' ConfigMaps by the first two, and a person all of them by the third."""
    for each in rendered(name):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "affinity-tester"
        component = {"server": "server", "service": "server", "node-scaleup": "node-scaleup", "monitoring": name}.get(
            name, "client"
        )
        assert labels["app.kubernetes.io/component"] == component


def test_the_code_comes_before_the_servers_that_mount_it():
    """Who may not make a ConfigMap is refused before anything runs."""
    code, deployment = rendered("server")
    assert (code["kind"], deployment["kind"]) == ("ConfigMap", "Deployment")
    (volume,) = deployment["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == code["metadata"]["name"]


def test_the_health_check_of_aws_goes_by_the_policy():
    """Under policy Local the controller takes healthCheckNodePort by itself."""
    checks = [
        sorted(
            name.rpartition("-healthcheck-")[2] for name in service["metadata"]["annotations"] if "healthcheck" in name
        )
        for policy in ("Cluster", "Local")
        for service in rendered("service", CLOUD="aws", POLICY=policy)
    ]
    assert checks == [["path", "port", "protocol"], []]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CLOUD": "aws"}, ["AWS: the AWS Load Balancer Controller or EKS Auto Mode must run there"]),
        ({"CLOUD": "aws", "IP_FAMILY": "dual"}, ["AWS: the AWS", "AWS over IPv6: every node needs a primary IPv6"]),
        ({"CLOUD": "azure"}, ["Azure: under POLICY=Cluster a UDP port is health-checked only where"]),
        ({"CLOUD": "azure", "POLICY": "Local"}, []),
        ({"CLOUD": "gke", "IP_FAMILY": "dual"}, []),
        ({"CLOUD": "oci"}, ["OCI: security lists are yours to open"]),
        ({"CLOUD": "digitalocean"}, []),
        (
            {"IP_FAMILY": "IPv4", "SOURCE_RANGES": "::/0"},
            ["SOURCE_RANGES has no IPv4 network, and IP_FAMILY=IPv4: nobody"],
        ),
        ({"IP_FAMILY": "IPv6", "SOURCE_RANGES": "10.0.0.0/8"}, ["SOURCE_RANGES has no IPv6 network"]),
        ({"IP_FAMILY": "IPv6", "SOURCE_RANGES": "10.0.0.0/8,::/0"}, []),
        ({"IP_FAMILY": "dual", "SOURCE_RANGES": "::/0"}, []),
        ({"SOURCE_RANGES": "::/0"}, []),
        ({"CLOUD": "none", "IP_FAMILY": "dual"}, []),
    ],
)
def test_what_else_a_cloud_needs_is_said(given, said):
    notes = setting_notes("service", read_settings("service", given))
    assert [note[: len(start)] for note, start in zip(notes, said, strict=True)] == said


def test_the_notes_go_by_the_settings():
    def notes(**given):
        return "\n".join(setting_notes("service", read_settings("service", given)))

    ranges = "SOURCE_RANGES may not hold for them"
    assert ranges in notes(CLOUD="aws", IP_FAMILY="IPv6", SOURCE_RANGES="::/0")
    assert ranges not in notes(CLOUD="aws", IP_FAMILY="IPv6")
    assert ranges not in notes(CLOUD="aws", SOURCE_RANGES="192.0.2.0/24")
    assert "and TCP 10256" in notes(CLOUD="oci")
    assert "and its healthCheckNodePort (TCP)" in notes(CLOUD="oci", POLICY="Local")
    assert notes(CLOUD="none", PROVIDER_ID="aws:///x") == ""
    assert setting_notes("rbac", read_settings("rbac", {})) == []


@pytest.mark.parametrize(
    ("provider_id", "cloud"),
    [
        ("aws:///eu-west-1a/i-0123456789abcdef0", "aws"),
        ("azure:///subscriptions/0/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/n", "azure"),
        ("gce://project/europe-west1-b/gke-node", "gke"),
        ("ocid1.instance.oc1.eu-frankfurt-1.x", "oci"),
        ("oci://ocid1.instance.oc1.eu-frankfurt-1.x", "oci"),
        ("digitalocean://123", "digitalocean"),
        ("k3s://node", "none"),
        ("", "none"),
    ],
)
def test_a_nodes_provider_id_names_its_cloud(provider_id, cloud):
    assert cloud_of(provider_id) == cloud
    settings = read_settings("service", {"PROVIDER_ID": provider_id})
    assert chosen_cloud(settings) == cloud
    assert chosen_cloud(settings | {"CLOUD": "gke"}) == "gke"


def test_every_setting_has_its_place_in_the_files():
    marks = {
        file: [
            mark["name"]
            for line in read_source(file).splitlines()
            if (mark := MARK.fullmatch(line)) and not mark["without"]
        ]
        for manifest in MANIFESTS.values()
        for file in manifest.files
    }
    user = ["RUN_AS_USER", "RUN_AS_USER"]
    assert marks == {
        "server-code.yaml": ["CODE_NAME", "CODE"],
        "deployment.yaml": [*user, "IMAGE", "CODE_NAME"],
        "service.yaml": ["CLOUD", "POLICY", "AFFINITY", "IP_FAMILY", "SOURCE_RANGES"],
        "node-scaleup.yaml": ["NODES", *user, "CPU"],
        "rbac.yaml": ["BINDING_NAME", "NAMESPACE"],
        "experiment-rbac.yaml": [],
        "monitoring.yaml": [],
    }


def test_the_files_are_part_of_the_package(repo, tmp_path):
    """A wheel that is installed without a checkout has them, and prints what the checkout prints."""
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", f"--wheel-dir={tmp_path}", str(repo)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        for path in FILES:
            assert packed.read(f"affinity_tester/k8s/{path.name}") == path.read_bytes()
        packed.extractall(tmp_path / "installed")
    shown = subprocess.run(
        [sys.executable, "-m", "affinity_tester", "manifests", "service"],
        env={"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (text,) = render("service", read_settings("service", {}), bytes)
    assert shown.stdout == text


@pytest.mark.parametrize("value", ["null", "true", "010", "12:30", "a:"])
def test_a_value_that_yaml_would_read_as_something_else_stays_text(value: str) -> None:
    (deployment,) = render("server", read_settings("server", {"IMAGE": value}), lambda: b"")
    assert yaml.safe_load(deployment)["spec"]["template"]["spec"]["containers"][0]["image"] == value


@pytest.mark.parametrize("value", ["203.0.113.7", "10.0.0.0/255.0.0.0", '::1%"#/128', "::1%\\n/128", "10.0.0.1/8"])
def test_source_ranges_are_networks_as_kubernetes_writes_them(value: str) -> None:
    with pytest.raises(UserError, match="is not a list of networks"):
        read_settings("service", {"SOURCE_RANGES": value})


@pytest.mark.parametrize(
    ("name", "setting", "value"), [("node-scaleup", "NODES", "٣"), ("node-scaleup", "NODES", "08")]
)
def test_numbers_have_plain_digits(name: str, setting: str, value: str) -> None:
    with pytest.raises(UserError, match="is not a whole number"):
        read_settings(name, {setting: value})


@pytest.mark.parametrize("chosen", [{"CLOUD": "oci"}, {"PROVIDER_ID": "ocid1.instance.oc1.eu-frankfurt-1.x"}])
def test_oci_has_no_affinity_by_client_and_manages_no_security_list_for_udp(chosen: dict[str, str]) -> None:
    with pytest.raises(UserError, match="AFFINITY='ClientIP' is refused by OCI's balancer"):
        read_settings("service", {**chosen, "AFFINITY": "ClientIP"})
    (service,) = render("service", read_settings("service", chosen), lambda: b"")
    names = yaml.safe_load(service)["metadata"]["annotations"]
    assert not any("security-list" in name for name in names)
