"""The cluster files are valid by Kubernetes' own schemas, restricted by Pod Security's rules, and fit each other."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from affinity_tester import __version__
from affinity_tester.settings import DEFAULT_PORT, ServerSettings
from affinity_tester.units import NS_PER_S

FILES = sorted((Path(__file__).resolve().parents[2] / "k8s").glob("*.yaml"))
COMMENTED = re.compile(r"^ +# +((?:[a-z0-9-]+\.)+[a-z]+/[A-Za-z0-9_-]+: \S+)", re.MULTILINE)
"""An annotation in a comment: prefix/name, a colon, a value; what follows is for the reader."""


def load(name: str) -> dict:
    return yaml.safe_load((FILES[0].parent / name).read_text())


@pytest.mark.parametrize("version", ["1.25", "1.30", "1.34", "1.37"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
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
    }  # so neither host namespaces, volumes nor host paths


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
    assert container["image"] == f"affinity-tester-server:{__version__}"


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


def test_the_clouds_annotations_are_strings_once_the_comment_sign_is_gone():
    """Kubernetes refuses an annotation that YAML reads as a number or a boolean."""
    text = (FILES[0].parent / "service.yaml").read_text()
    found = [yaml.safe_load(line) for line in COMMENTED.findall(text)]
    assert len(found) == 17
    for ((name, value),) in (entry.items() for entry in found):
        assert isinstance(value, str), name
    service = load("service.yaml")
    service["metadata"]["annotations"] = {name: value for entry in found for name, value in entry.items()}
    kubernetes_validate.validate(service, "1.34", strict=True)
