"""What the load balancers of clouds need to know of a UDP Service, as annotations.

A balancer cannot health-check UDP: it asks a TCP or HTTP port of the node. Under policy Local that is Kubernetes'
healthCheckNodePort, which every controller here takes by itself; under policy Cluster it is kube-proxy's own port. How long
a balancer remembers an idle UDP flow cannot be set on any of them by annotation (AWS: 120 s, fixed), so none is written.
"""

from __future__ import annotations

from typing import NamedTuple

KUBE_PROXY_HEALTH_PORT = 10256
"""Where kube-proxy answers /healthz (kubernetes.io/docs/reference/networking/virtual-ips)."""


class Annotation(NamedTuple):
    """One annotation of the Service, and why it is there."""

    name: str
    value: str
    reason: str


PROVIDER_PREFIXES = {
    "aws:": "aws",
    "azure:": "azure",
    "gce:": "gke",
    "oci:": "oci",
    "ocid1.": "oci",
    "digitalocean:": "digitalocean",
}
"""How a node's `spec.providerID` begins, by its cloud."""

CLOUDS = ("aws", "azure", "gke", "oci", "digitalocean", "none")


def cloud_of(provider_id: str) -> str:
    """Return the cloud of a node's providerID; "none" if it is of none that is known here."""
    return next((cloud for prefix, cloud in PROVIDER_PREFIXES.items() if provider_id.startswith(prefix)), "none")


def service_annotations(cloud: str, policy: str, ip_family: str) -> list[Annotation]:
    """Return a cloud's annotations for a Service with this externalTrafficPolicy and IP family."""
    ipv6 = ip_family in {"IPv6", "dual"}
    match cloud:
        case "aws":
            return _aws(policy, ipv6=ipv6)
        case "azure":
            return _azure()
        case "gke":
            return _gke()
        case "oci":
            return _oci()
        case "digitalocean":
            return _digitalocean(ipv6=ipv6)
        case _:
            return []


def _aws(policy: str, *, ipv6: bool) -> list[Annotation]:
    """Return those of the AWS Load Balancer Controller.

    Source: kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations
    (lb-type, lb-scheme, nlb-target-type, healthcheck-protocol, healthcheck-port, healthcheck-path, ip-address-type,
    enable-prefix-for-ipv6-source-nat: EnablePrefixForIpv6SourceNat of AWS' own API, for UDP listeners).
    """
    prefix = "service.beta.kubernetes.io/aws-load-balancer-"
    found = [
        Annotation(f"{prefix}type", "external", "a Network Load Balancer, by the AWS Load Balancer Controller"),
        Annotation(f"{prefix}scheme", "internet-facing", "without it the balancer is internal"),
        Annotation(f"{prefix}nlb-target-type", "instance", "by node ports: policy and affinity play their part"),
    ]
    if policy == "Cluster":
        reason = "by default it asks TCP on the UDP port's node port, which never answers"
        found += [
            Annotation(f"{prefix}healthcheck-protocol", "http", reason),
            Annotation(f"{prefix}healthcheck-port", str(KUBE_PROXY_HEALTH_PORT), "kube-proxy's own"),
            Annotation(f"{prefix}healthcheck-path", "/healthz", "kube-proxy's own"),
        ]
    if ipv6:
        found += [
            Annotation(f"{prefix}ip-address-type", "dualstack", "without it the balancer is IPv4 alone"),
            Annotation(f"{prefix}enable-prefix-for-ipv6-source-nat", "on", "a dual-stack balancer needs it for UDP"),
        ]
    return found


def _azure() -> list[Annotation]:
    """Return those of cloud-provider-azure, whose annotations for health probes are for TCP ports.

    Source: kubernetes-sigs.github.io/cloud-provider-azure/topics/loadbalancer (LoadBalancer annotations); that a UDP port
    is probed under policy Local alone: kubernetes/kubernetes#84800.
    """
    reason = "public; a UDP port is health-checked with POLICY=Local alone (kubernetes/kubernetes#84800)"
    return [Annotation("service.beta.kubernetes.io/azure-load-balancer-internal", "false", reason)]


def _gke() -> list[Annotation]:
    """Return those of GKE, which checks kube-proxy's port or healthCheckNodePort by itself.

    Source: cloud.google.com/kubernetes-engine/docs/concepts/service-load-balancer-parameters.
    """
    reason = "external, on a backend service instead of a target pool"
    return [Annotation("cloud.google.com/l4-rbs", "enabled", reason)]


def _oci() -> list[Annotation]:
    """Return those of oci-cloud-controller-manager, whose network load balancer checks kube-proxy's port by itself.

    Security lists are left alone: for UDP their management mode can only be None, so whoever runs the cluster opens the node
    ports (UDP) and kube-proxy's port 10256 (TCP) to the balancer.
    Source: github.com/oracle/oci-cloud-controller-manager, its pages load-balancer-annotations and
    using-network-load-balancer.
    """
    prefix = "oci-network-load-balancer.oraclecloud.com/"
    return [
        Annotation("oci.oraclecloud.com/load-balancer-type", "nlb", "the other kind balances no UDP"),
        Annotation(f"{prefix}internal", "false", "public"),
    ]


def _digitalocean(*, ipv6: bool) -> list[Annotation]:
    """Return those of digitalocean-cloud-controller-manager, which chooses the health check by itself.

    Source: github.com/digitalocean/digitalocean-cloud-controller-manager, its page controllers/services/annotations.
    """
    prefix = "service.beta.kubernetes.io/do-loadbalancer-"
    found = [
        Annotation(f"{prefix}type", "REGIONAL_NETWORK", "passes packets on; the other kind ends connections itself"),
        Annotation(f"{prefix}network", "EXTERNAL", "public"),
    ]
    if ipv6:
        found.append(Annotation(f"{prefix}network-stack", "DUALSTACK", "every node needs an IPv6 address then"))
    return found
