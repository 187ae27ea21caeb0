"""Objects as JSON, and what is kept of them: by example, with all that an API server leaves out or sets to null."""

from __future__ import annotations

from typing import Any

import pytest

from affinity_tester.cluster.objects import (
    Node,
    Pod,
    Service,
    ServicePort,
    ServiceRef,
    Slice,
    parse_node,
    parse_pod,
    parse_service,
    parse_slice,
    pool_of,
)
from affinity_tester.core.pool import Endpoint
from fakeapi import endpoint, endpoint_slice, node, pod, service

A = Endpoint("uid-a", "a", "10.1.0.97", "n1")
B = Endpoint("uid-b", "b", "10.1.0.98", "n2")


def test_a_service_in_full() -> None:
    found = parse_service(
        service(
            ingress=("203.0.113.7", "lb.example.com"),
            externalTrafficPolicy="Local",
            internalTrafficPolicy="Cluster",
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
            trafficDistribution="PreferClose",
            externalIPs=["198.51.100.1"],
            loadBalancerSourceRanges=["192.0.2.0/24"],
            ports=[
                {"name": "stun", "protocol": "UDP", "port": 3478, "targetPort": 3478, "nodePort": 30478},
                {"name": "turn", "port": 443, "targetPort": "tls"},
            ],
        )
    )
    assert found.ref == ServiceRef("media", "turn")
    assert str(found.ref) == "media/turn"
    assert found.pool_spec == (
        ("type", "LoadBalancer"),
        ("externalTrafficPolicy", "Local"),
        ("internalTrafficPolicy", "Cluster"),
        ("sessionAffinity", "ClientIP"),
        ("sessionAffinityTimeout", "600 s"),
        ("trafficDistribution", "PreferClose"),
        ("ports", "stun 3478/UDP->3478:30478, turn 443/TCP->tls"),
    )
    assert found.udp_ports == (ServicePort("stun", "UDP", 3478, "3478", 30478),)
    assert found.udp_port(443) is None
    assert found.steer("type") == found.type == "LoadBalancer"
    assert found.ingress == ("203.0.113.7", "lb.example.com")
    assert (found.external_ips, found.source_ranges) == (("198.51.100.1",), ("192.0.2.0/24",))
    assert (found.cluster_ips, found.families, found.selector) == (("10.96.0.7",), ("IPv4",), (("app", "turn"),))
    assert dict(found.fields)["externalTrafficPolicy"] == '"Local"'


@pytest.mark.parametrize(
    "nothing", [{}, {"spec": None, "status": None}, {"spec": {"clusterIP": "None", "ports": None}}]
)
def test_a_service_with_next_to_nothing(nothing: dict[str, Any]) -> None:
    found = parse_service({"metadata": {"name": "x"}, **nothing})
    fields = tuple(
        sorted((name, "null" if value is None else f'"{value}"') for name, value in (nothing.get("spec") or {}).items())
    )
    assert found == Service(ServiceRef("", "x"), "", (), (), (), (), (), (), (), (), fields)
    assert found.type == "ClusterIP"


def test_a_single_port_has_no_name_and_annotations_are_fields_but_kubectl_s_own() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "cloud/type": "nlb"}
    obj = {"metadata": {"name": "x", "annotations": annotations}, "spec": {"ports": [{"port": 9, "protocol": "UDP"}]}}
    found = parse_service(obj)
    assert str(found.ports[0]) == "- 9/UDP->9"
    assert [name for name, _ in found.fields] == ["annotation cloud/type", "ports"]


def test_a_slice() -> None:
    assert parse_slice(endpoint_slice(endpoint("a"), endpoint("b", "n2"))) == Slice("IPv4", frozenset({"stun"}), (A, B))
    assert parse_slice({"metadata": {}, "ports": None, "endpoints": None}) == Slice("", frozenset(), ())
    ports = [{"name": None, "protocol": "UDP"}, {"name": "health", "protocol": "TCP"}, {"name": "default"}]
    assert parse_slice({"metadata": {}, "ports": ports}).udp_ports == {""}


@pytest.mark.parametrize(
    ("conditions", "states"),
    [
        (None, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
    ],
)
def test_absent_conditions(conditions: dict[str, Any] | None, states: tuple[bool, bool, bool]) -> None:
    (found,) = parse_slice({"endpoints": [{"addresses": ["10.1.0.1", "10.1.0.2"], "conditions": conditions}]}).endpoints
    assert found == Endpoint("10.1.0.1", "", "10.1.0.1", "", *states)


def test_an_endpoint_that_is_no_pod_is_its_address() -> None:
    obj = {"addresses": ["10.0.0.9"], "targetRef": {"kind": "Node", "name": "n9", "uid": "u"}, "nodeName": None}
    assert parse_slice({"endpoints": [obj]}).endpoints == (Endpoint("10.0.0.9", "", "10.0.0.9"),)


def test_the_pool_is_of_one_port_and_family_and_counts_each_once() -> None:
    v4 = parse_slice(endpoint_slice(endpoint("a")))
    v6 = parse_slice(endpoint_slice(endpoint("b", "n2"), addressType="IPv6"))
    tcp = parse_slice(endpoint_slice(endpoint("c"), ports=[{"name": "stun", "protocol": "TCP", "port": 3478}]))
    other = parse_slice(endpoint_slice(endpoint("b", "n2"), ports=[{"name": "sip", "protocol": "UDP", "port": 5060}]))
    assert pool_of([v4, v6, tcp, other], "stun", "IPv4") == {A}
    assert pool_of([v4, v6, tcp], "stun", "IPv6") == {B}
    assert pool_of([v4, v6, tcp], "stun", None) == {A, B}
    assert pool_of([v4, other, tcp], None, "IPv4") == {A, B}
    leaving = parse_slice(endpoint_slice(endpoint("a", ready=False, serving=True, terminating=True)))
    assert pool_of([leaving, v4], "stun", "IPv4") == pool_of([v4, leaving], "stun", "IPv4") == {A}


def test_a_node() -> None:
    found = parse_node(node("n1", cordoned=True, internal="10.0.0.1", external="198.51.100.1"))
    assert found == Node("uid-n1", True, True, ("10.0.0.1",), ("198.51.100.1",))
    assert parse_node(node("n1", ready="Unknown")) == Node("uid-n1", False, False, (), ())
    assert parse_node({"metadata": {}, "status": None, "spec": None}) == Node("", False, False, (), ())


def test_a_pod() -> None:
    assert parse_pod(pod("a", restarts=2, end="OOMKilled")) == Pod(
        "a", "uid-a", "n1", ("echo:1",), 2, "OOMKilled", "turn"
    )
    bare = {
        "metadata": {"name": "a", "labels": None},
        "spec": {"containers": None},
        "status": {"containerStatuses": None},
    }
    assert parse_pod(bare) == Pod("a", "", "", (), 0, "", "")
    ends = [("Error", "2026-01-01T00:00:00Z"), ("OOMKilled", "2026-01-02T00:00:00Z")]
    statuses = [{"restartCount": 1, "lastState": {"terminated": {"reason": why, "finishedAt": at}}} for why, at in ends]
    two = parse_pod({"metadata": {"name": "a"}, "status": {"containerStatuses": [*statuses, {"lastState": None}]}})
    assert (two.restarts, two.last_end) == (2, "OOMKilled")


@pytest.mark.parametrize(
    ("labels", "proxy"),
    [
        ({"k8s-app": "cilium", "app": "x"}, "cilium"),
        ({"component": "kube-proxy"}, "kube-proxy"),
        ({"app": "ovnkube-node"}, "ovnkube-node"),
    ],
)
def test_a_proxy_is_known_by_its_label(labels: dict[str, str], proxy: str) -> None:
    assert parse_pod(pod("p", labels=labels)).proxy == proxy
