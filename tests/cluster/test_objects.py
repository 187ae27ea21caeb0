"""Objects as JSON, and what is kept of them: by example, with all that an API server leaves out or sets to null."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from affinity_tester.cluster.fields import ObjectError, parser
from affinity_tester.cluster.objects import (
    Node,
    Pod,
    Service,
    ServicePort,
    ServiceRef,
    Slice,
    endpoints_of,
    identity,
    parse_node,
    parse_pod,
    parse_service,
    parse_slice,
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
    assert found.traffic_field("type") == found.type == "LoadBalancer"
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
    headless = found.is_headless
    assert headless == bool(fields)
    assert found == Service(ServiceRef("", "x"), "", (), (), (), (), (), (), (), (), fields, is_headless=headless)
    assert found.addressed_ns is None
    assert found.type == "ClusterIP"


def test_a_single_port_has_no_name_and_annotations_are_fields_but_kubectl_s_own() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "cloud/type": "nlb"}
    obj = {"metadata": {"name": "x", "annotations": annotations}, "spec": {"ports": [{"port": 9, "protocol": "UDP"}]}}
    found = parse_service(obj)
    assert str(found.ports[0]) == "- 9/UDP->9"
    assert [name for name, _ in found.fields] == ["annotation cloud/type", "ports"]


def a_slice(**more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "s"}, "addressType": "IPv4", **more}


def test_a_slice() -> None:
    assert parse_slice(endpoint_slice(endpoint("a"), endpoint("b", "n2"))) == Slice("IPv4", frozenset({"stun"}), (A, B))
    assert parse_slice(a_slice(ports=None, endpoints=None)) == Slice("IPv4", frozenset(), ())
    ports = [{"name": None, "protocol": "UDP"}, {"name": "health", "protocol": "TCP"}, {"name": "default"}]
    assert parse_slice(a_slice(ports=ports)).udp_ports == {""}


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
    obj = {"addresses": ["10.1.0.1", "10.1.0.2"], "conditions": conditions}
    assert parse_slice(a_slice(endpoints=[obj])).endpoints == (Endpoint("10.1.0.1", "", "10.1.0.1", "", *states),)


def test_an_endpoint_that_is_no_pod_is_its_address() -> None:
    obj = {"addresses": ["10.0.0.9"], "targetRef": {"kind": "Node", "name": "n9", "uid": "u"}, "nodeName": None}
    assert parse_slice(a_slice(endpoints=[obj])).endpoints == (Endpoint("10.0.0.9", "", "10.0.0.9"),)


def test_the_pool_is_of_one_port_and_family_and_counts_each_once() -> None:
    v4 = parse_slice(endpoint_slice(endpoint("a")))
    v6 = parse_slice(endpoint_slice(endpoint("b", "n2"), addressType="IPv6"))
    tcp = parse_slice(endpoint_slice(endpoint("c"), ports=[{"name": "stun", "protocol": "TCP", "port": 3478}]))
    other = parse_slice(endpoint_slice(endpoint("b", "n2"), ports=[{"name": "sip", "protocol": "UDP", "port": 5060}]))
    assert endpoints_of([v4, v6, tcp, other], "stun", "IPv4") == {A}
    assert endpoints_of([v4, v6, tcp], "stun", "IPv6") == {B}
    assert endpoints_of([v4, v6, tcp], "stun", None) == {A, B}
    assert endpoints_of([v4, other, tcp], None, "IPv4") == {A, B}
    leaving = parse_slice(endpoint_slice(endpoint("a", ready=False, serving=True, terminating=True)))
    assert endpoints_of([leaving, v4], "stun", "IPv4") == endpoints_of([v4, leaving], "stun", "IPv4") == {A}


def test_a_node() -> None:
    found = parse_node(node("n1", cordoned=True, internal="10.0.0.1", external="198.51.100.1"))
    assert found == Node("uid-n1", True, True, ("10.0.0.1",), ("198.51.100.1",))
    assert parse_node(node("n1", ready="Unknown")) == Node("uid-n1", False, False, (), ())
    assert parse_node({"metadata": {"name": "n"}, "status": None, "spec": None}) == Node("", False, False, (), ())


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


# --- when a Service got its address -----------------------------------------------------------------------------------


def managed(time: object, *, subresource: str = "status", fields: object = None) -> dict[str, Any]:
    fields = {"f:status": {"f:loadBalancer": {"f:ingress": {}}}} if fields is None else fields
    return {"manager": "cloud", "operation": "Update", "time": time, "subresource": subresource, "fieldsV1": fields}


@pytest.mark.parametrize(
    ("metadata", "second"),
    [
        ({}, None),
        ({"creationTimestamp": "2026-01-01T00:00:00Z"}, 0),
        ({"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [managed("2026-01-01T00:01:00Z")]}, 60),
        ({"managedFields": [managed("2026-01-01T00:01:00Z"), managed("2026-01-01T01:00:30+01:00")]}, 60),
        (
            {
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [
                    managed("2026-01-01T00:01:00Z", subresource=""),
                    managed("2026-01-01T00:02:00Z", fields={"f:status": {"f:conditions": {}}}),
                    managed("2026-01-01T00:03:00Z", fields={"f:spec": {}}),
                ],
            },
            0,
        ),
        ({"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [managed("soon")]}, 0),
        ({"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [managed(7)]}, None),
        ({"creationTimestamp": "2026-01-01"}, None),
        ({"creationTimestamp": ["x"]}, None),
    ],
)
def test_when_a_service_was_given_its_address(metadata: dict[str, Any], second: int | None) -> None:
    found = parse_service({"metadata": {"name": "x", **metadata}})
    epoch_s = 1_767_225_600  # 2026-01-01T00:00:00Z
    assert found.addressed_ns == (None if second is None else (epoch_s + second) * 10**9)


# --- what is not as the API says --------------------------------------------------------------------------------------


def with_port(**port: Any) -> dict[str, Any]:
    return service(ports=[{"name": "stun", "protocol": "UDP", **port}])


@pytest.mark.parametrize(
    ("parse", "obj", "line"),
    [
        (parse_service, with_port(), 'Service "media/turn" cannot be read: spec.ports[0].port is missing'),
        (
            parse_service,
            service(ports="x"),
            'Service "media/turn" cannot be read: spec.ports is "x", not a list',
        ),
        (
            parse_service,
            {**service(), "status": {"loadBalancer": {"ingress": [None]}}},
            'Service "media/turn" cannot be read: status.loadBalancer.ingress[0] is null, not an object',
        ),
        (
            parse_service,
            service(selector=["app"]),
            'Service "media/turn" cannot be read: spec.selector is a list, not an object',
        ),
        (
            parse_service,
            service(selector={"app": 7}),
            'Service "media/turn" cannot be read: spec.selector.app is 7, not a text',
        ),
        (
            parse_service,
            with_port(port=True),
            'Service "media/turn" cannot be read: spec.ports[0].port is true, not a whole number from 0 to 65535',
        ),
        (
            parse_slice,
            endpoint_slice({**endpoint("a"), "conditions": {"ready": "false"}}),
            'EndpointSlice "media/turn-1" cannot be read: endpoints[0].conditions.ready is "false", not a boolean',
        ),
        (
            parse_slice,
            endpoint_slice({**endpoint("a"), "addresses": []}),
            'EndpointSlice "media/turn-1" cannot be read: endpoints[0].addresses is empty',
        ),
        (
            parse_slice,
            {"metadata": {"name": "s"}},
            'EndpointSlice "s" cannot be read: addressType is missing',
        ),
        (
            parse_slice,
            endpoint_slice({**endpoint("a"), "nodeName": "\ud800"}),
            'EndpointSlice "media/turn-1" cannot be read: endpoints[0].nodeName is no Unicode',
        ),
        (
            parse_service,
            service(**{"\udfff": 1}),
            'Service "media/turn" cannot be read: spec has a field whose name is no Unicode',
        ),
        (parse_node, [], "a nameless Node cannot be read: all of it is a list, not an object"),
        (parse_node, {"metadata": {"name": ""}}, "a nameless Node cannot be read: metadata.name is missing"),
        (
            parse_pod,
            pod("a", restarts="many"),
            'Pod "media/a" cannot be read: status.containerStatuses[0].restartCount is "many", '
            "not a whole number from 0 to 2147483647",
        ),
    ],
)
def test_an_odd_object_is_one_line_that_names_object_and_field(parse: Any, obj: Any, line: str) -> None:
    with pytest.raises(ObjectError) as error:
        parse(obj)
    assert str(error.value) == line


VALID: dict[str, tuple[Any, dict[str, Any]]] = {
    "Service": (
        parse_service,
        {
            **service(
                sessionAffinity="ClientIP",
                sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
                externalIPs=["198.51.100.1"],
                loadBalancerSourceRanges=["192.0.2.0/24"],
            ),
            "metadata": {
                "name": "turn",
                "namespace": "media",
                "uid": "u",
                "annotations": {"cloud/type": "nlb"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [managed("2026-01-01T00:01:00Z")],
            },
        },
    ),
    "EndpointSlice": (
        parse_slice,
        endpoint_slice(endpoint("a", serving=True, terminating=False), endpoint("b", "n2", ready=False)),
    ),
    "Node": (parse_node, node("n1", cordoned=True, internal="10.0.0.1", external="198.51.100.1")),
    "Pod": (parse_pod, pod("a", restarts=2, end="OOMKilled")),
}

DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]
JUNK = [None, True, False, 0, -1, 7, 3.5, 2**70, float("inf"), "", "false", "True", "\ud800", "x" * 200]
JUNK += [[], {}, [None], [[]], {"a": None}, {"": {}}, ["x"], {"x": "y"}, {"\udfff": 1}, DEEP]


def mutated(chance: random.Random, value: Any) -> Any:
    """One thing in it is missing, renamed, doubled, or something else."""
    if not value or not isinstance(value, dict | list) or chance.random() < 0.1:
        return chance.choice(JUNK)
    how = chance.random()
    if isinstance(value, list):
        at = chance.randrange(len(value))
        between = [] if how < 0.1 else [value[at]] * 2 if how < 0.2 else [mutated(chance, value[at])]
        return [*value[:at], *between, *value[at + 1 :]]
    key = chance.choice(list(value))
    changed = {name: each for name, each in value.items() if name != key}
    if how >= 0.1:
        changed[key + "x" if how < 0.15 else key] = value[key] if how < 0.15 else mutated(chance, value[key])
    return changed


@pytest.mark.parametrize("kind", VALID)
def test_whatever_an_object_is_there_is_one_error(kind: str) -> None:
    """25,000 of each kind: 100,000 in all."""
    parse, valid = VALID[kind]
    valid = {**valid, "metadata": {**valid["metadata"], "resourceVersion": "7"}}
    chance = random.Random(kind)
    read = 0
    said = set()
    for _ in range(25_000):
        obj: Any = valid
        for _ in range(chance.randint(1, 3)):
            obj = mutated(chance, obj)
        try:
            parse(obj)
            parser(kind)(identity)(obj)
        except ObjectError as error:
            said.add(str(error))
        else:
            read += 1
    assert all(line.isprintable() and len(line) < 300 for line in said)
    assert 1_000 < read < 24_000  # both were tried


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in an object."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


def facts(parsed: Any) -> Any:
    """All but what repeats the object's fields as they are, and its bookkeeping."""
    return replace(parsed, fields=(), addressed_ns=None) if isinstance(parsed, Service) else parsed


@pytest.mark.parametrize("kind", VALID)
def test_a_value_of_another_type_is_never_a_fact(kind: str) -> None:
    """Each place of an object gets each value of another type: an error, or a place that nobody reads."""
    parse, valid = VALID[kind]
    errors = 0
    for path in places(valid):
        was = valid
        for key in path:
            was = was[key]
        for junk in JUNK:
            if junk is None or type(junk) is type(was) or (path[-1:] == ("targetPort",) and junk in (0, 7)):
                continue
            try:
                assert facts(parse(put(valid, path, junk))) == facts(parse(valid)), (path, junk)
            except ObjectError:
                errors += 1
    assert errors > 100
