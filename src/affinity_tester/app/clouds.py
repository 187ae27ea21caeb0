"""What the load balancers of clouds need to know of a UDP Service, as annotations.

A balancer cannot health-check UDP: it asks a TCP or HTTP port of the node. Under policy Local that is Kubernetes'
healthCheckNodePort, which every controller here takes by itself; under policy Cluster it is kube-proxy's own port.

How long a balancer remembers an idle UDP flow cannot be set on any of them by annotation, so none is written:

    aws            120 s; a listener's one time that can be set is TCP's (tcp.idle_timeout.seconds)
                   docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout
                   aws.amazon.com/blogs/networking-and-content-delivery/introducing-nlb-tcp-configurable-idle-timeout
    azure          4 minutes; what azure-load-balancer-tcp-idle-timeout sets "is only used when the protocol is set to TCP"
                   learn.microsoft.com/python/api/azure-mgmt-network (LoadBalancingRulePropertiesFormat)
    gke            60 s; cloud.google.com/load-balancing/docs/network/ext-netlb-traffic-distribution
    oci            120 s; another time goes by Oracle's own command or API alone (udp-idle-timeout of the listener)
                   docs.oracle.com/en-us/iaas/Content/NetworkLoadBalancer/NetworkLoadBalancers/configure-idle-timeout
    digitalocean   not documented; do-loadbalancer-http-idle-timeout-seconds is HTTP's
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

KUBE_PROXY_HEALTH_PORT = 10256
"""Where kube-proxy answers /healthz (kubernetes.io/docs/reference/networking/virtual-ips)."""


class Annotation(NamedTuple):
    """One annotation of the Service, and why it is there."""

    name: str
    value: str
    reason: str


UDP_IDLE_S = {"aws": 120, "azure": 240, "gke": 60, "oci": 120}
"""How long a cloud's balancer remembers an idle UDP flow, as its documents (above) say."""

_MARKS = {
    "aws": ("service.beta.kubernetes.io/aws-load-balancer-", ".amazonaws.com"),
    "azure": ("service.beta.kubernetes.io/azure-", ".cloudapp.azure.com"),
    "gke": ("cloud.google.com/", "networking.gke.io/"),
    "oci": ("oci.oraclecloud.com/", "oci-network-load-balancer.oraclecloud.com/"),
    "digitalocean": ("service.beta.kubernetes.io/do-loadbalancer-", "kubernetes.digitalocean.com/"),
}
"""What a balancer's annotations begin with, and its host name ends with, by its cloud."""

CLOUDS = ("aws", "azure", "gke", "oci", "digitalocean", "none")


def cloud_of_balancer(annotations: Iterable[str], hosts: Iterable[str]) -> str:
    """Return the cloud of a Service's balancer, by its annotations' names and its host names; "none" where nothing tells."""
    names, ends = tuple(annotations), tuple(hosts)
    for cloud, marks in _MARKS.items():
        if any(name.startswith(marks) for name in names) or any(host.endswith(marks) for host in ends):
            return cloud
    return "none"


def service_annotations(cloud: str, policy: str, ip_family: str) -> list[Annotation]:
    """Return a cloud's annotations for a Service with this externalTrafficPolicy and IP family."""
    ipv6 = _has_ipv6(ip_family)
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


def cloud_notes(cloud: str, settings: Mapping[str, str]) -> list[str]:
    """Return what else must be so in a cloud, beside the annotations, for a Service with these settings; a line each."""
    ipv6 = _has_ipv6(settings["IP_FAMILY"])
    match cloud:
        case "aws":
            past = "; SOURCE_RANGES may not hold for them" if settings["SOURCE_RANGES"] else ""
            over_ipv6 = (
                "AWS over IPv6: every node needs a primary IPv6 address, and the servers see clients that come over IPv4 with"
                f" the balancer's address{past}"
            )
            return [
                "AWS: the AWS Load Balancer Controller or EKS Auto Mode must run there, else the Service gets no address",
                *([over_ipv6] if ipv6 else []),
            ]
        case "azure" if settings["POLICY"] == "Cluster":
            return [
                "Azure: under POLICY=Cluster a UDP port is health-checked only where the cluster's probe mode is Shared;"
                " under POLICY=Local it always is"
            ]
        case "oci":
            port = (
                f"TCP {KUBE_PROXY_HEALTH_PORT}" if settings["POLICY"] == "Cluster" else "its healthCheckNodePort (TCP)"
            )
            return [
                f"OCI: security lists are yours to open, for the balancer to the Service's node port (UDP) and {port}"
            ]
        case _:
            return []


def _has_ipv6(ip_family: str) -> bool:
    return ip_family in {"IPv6", "dual"}


def _aws(policy: str, *, ipv6: bool) -> list[Annotation]:
    """Return those of the AWS Load Balancer Controller; EKS Auto Mode has the same.

    Type `external` has the provider that is built into Kubernetes leave the Service alone, and a target type beside it has
    the controller take it; the type of a Service that exists must not change. Both controllers set `loadBalancerClass` when
    a Service is made, so none is written here. A check is TCP, HTTP or HTTPS, by default TCP on the UDP port's node port, or
    under policy Local HTTP on the healthCheckNodePort.

    IPv6 takes a dual-stack balancer, which for UDP has a target group of IPv6 alone: instances join it by their primary IPv6
    address, and what comes over IPv4 goes on with the balancer's own address, which may lead past the source ranges. The
    controller chooses the family by the Service's ipFamilies, and makes nothing of a Service with IPv6 (a cluster's default)
    whose balancer is not dual-stack.

    Sources: kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations and .../service/nlb
    (lb-type, lb-scheme, nlb-target-type, healthcheck-protocol, healthcheck-port, healthcheck-path, ip-address-type,
    enable-prefix-for-ipv6-source-nat, lb-source-ranges, Legacy Cloud Provider);
    docs.aws.amazon.com/eks/latest/userguide/auto-configure-nlb;
    docs.aws.amazon.com/elasticloadbalancing/latest/network, its pages target-group-health-checks, create-target-group,
    target-group-register-targets and edit-target-group-attributes (client IP preservation).
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

    A UDP port has no probe of its own. Under policy Local it is checked on the healthCheckNodePort; under policy Cluster only
    in a cluster whose clusterServiceLoadBalancerHealthProbeMode is Shared, where one probe of kube-proxy's port serves all.
    That mode is a setting of the cluster, and no annotation of a Service.

    Sources: kubernetes-sigs.github.io/cloud-provider-azure/topics/loadbalancer (LoadBalancer annotations);
    github.com/kubernetes-sigs/cloud-provider-azure, pkg/provider/azure_loadbalancer_healthprobe.go
    (buildHealthProbeRulesForPort); learn.microsoft.com/javascript/api/@azure/arm-containerservice
    (ClusterServiceLoadBalancerHealthProbeMode); kubernetes/kubernetes#84800.
    """
    return [Annotation("service.beta.kubernetes.io/azure-load-balancer-internal", "false", "public, as by default")]


def _gke() -> list[Annotation]:
    """Return those of GKE 1.25.5 and later, which checks kube-proxy's port or healthCheckNodePort by itself.

    From GKE 1.37 on it makes such a balancer without being asked.
    Sources: cloud.google.com/kubernetes-engine/docs/concepts/service-load-balancer-parameters and .../service-load-balancer.
    """
    reason = "external, on a backend service instead of a target pool"
    return [Annotation("cloud.google.com/l4-rbs", "enabled", reason)]


def _oci() -> list[Annotation]:
    """Return those of oci-cloud-controller-manager, whose network load balancer checks kube-proxy's port by itself.

    Under policy Local it takes the healthCheckNodePort. Security lists are left alone: for UDP their management mode can only
    be None, so whoever runs the cluster opens the node ports (UDP) and the port that is checked (TCP) to the balancer.
    Sources: github.com/oracle/oci-cloud-controller-manager, its pages load-balancer-annotations and
    using-network-load-balancer, and pkg/cloudprovider/providers/oci/load_balancer_spec.go (getHealthChecker).
    """
    prefix = "oci-network-load-balancer.oraclecloud.com/"
    return [
        Annotation("oci.oraclecloud.com/load-balancer-type", "nlb", "the other kind balances no UDP"),
        Annotation(f"{prefix}internal", "false", "public, as by default"),
    ]


def _digitalocean(*, ipv6: bool) -> list[Annotation]:
    """Return those of digitalocean-cloud-controller-manager, which chooses the health check by itself.

    That is kube-proxy's port, or the healthCheckNodePort under policy Local.
    Sources: github.com/digitalocean/digitalocean-cloud-controller-manager, its page controllers/services/annotations, and
    cloud-controller-manager/do/loadbalancers.go (healthCheckPathAndPort).
    """
    prefix = "service.beta.kubernetes.io/do-loadbalancer-"
    found = [
        Annotation(f"{prefix}type", "REGIONAL_NETWORK", "passes packets on; the other kind ends connections itself"),
        Annotation(f"{prefix}network", "EXTERNAL", "public, as by default"),
    ]
    if ipv6:
        found.append(Annotation(f"{prefix}network-stack", "DUALSTACK", "every node needs an IPv6 address then"))
    return found
