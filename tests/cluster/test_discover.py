"""From a Service to its address and back, each error word for word; why nothing answers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.discover import OWN_SERVICE, Via, discover, find_service, look_up
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.objects import ServiceRef, parse_service
from affinity_tester.cluster.queries import family_of
from affinity_tester.cluster.unreachable import explain_no_reply
from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from fakeapi import FakeApi, endpoint, endpoint_slice, node, service

UDP = {"name": "stun", "protocol": "UDP", "port": 3478}
SIP = {"name": "sip", "protocol": "UDP", "port": 5060, "nodePort": 30506}
TCP = {"name": "web", "protocol": "TCP", "port": 80}


def inside(cluster: Cluster) -> Cluster:
    return Cluster(cluster.api, cluster.context, cluster.namespace, inside=True)


@pytest.mark.parametrize(
    ("made", "via", "target", "how"),
    [
        (service(), "auto", "203.0.113.7:3478", "load-balancer"),
        (service(ingress=("lb.example.com",)), "load-balancer", "lb.example.com:3478", "load-balancer"),
        (service(ingress=(), externalIPs=["2001:db8::7"]), "auto", "[2001:db8::7]:3478", "external-ip"),
        (
            service(type="ClusterIP", ingress=(), externalIPs=["198.51.100.1"]),
            "auto",
            "198.51.100.1:3478",
            "external-ip",
        ),
        (service(), "cluster-ip", "10.96.0.7:3478", "cluster-ip"),
        (service(type="NodePort", ingress=()), "auto", "10.0.0.1:30478", "node-port"),
        (service(externalTrafficPolicy="Local"), "node-port", "10.0.0.1:30478", "node-port"),
        (service(ports=[SIP]), "auto", "203.0.113.7:5060", "load-balancer"),
        (service(ports=[SIP, UDP, TCP]), "auto", "203.0.113.7:3478", "load-balancer"),
    ],
)
async def test_the_way_in(api: FakeApi, cluster: Cluster, *, made: Any, via: Via, target: str, how: str) -> None:
    api.put("services", made)
    if made["spec"]["ports"] == [SIP]:
        api.put("endpointslices", endpoint_slice(endpoint("a"), ports=[SIP]))
    found = await discover(cluster, "turn", via)
    assert (found.target, found.via, found.service.ref) == (target, how, ServiceRef("media", "turn"))


async def test_inside_the_cluster_ip_is_taken_and_a_port_can_be_chosen(api: FakeApi, cluster: Cluster) -> None:
    api.put("services", service(ports=[UDP, SIP]))
    api.put("endpointslices", endpoint_slice(endpoint("a"), ports=[UDP, SIP]))
    found = await discover(inside(cluster), "media/turn", port=5060)
    assert (found.target, found.via, found.port.name) == ("10.96.0.7:5060", "cluster-ip", "sip")


async def test_node_port_takes_a_ready_node_external_addresses_first_and_under_local_one_with_a_pod(
    api: FakeApi, cluster: Cluster
) -> None:
    api.put("nodes", node("n0", ready="Unknown", external="198.51.100.9"))
    api.put("nodes", node("n2", internal="10.0.0.2", external="198.51.100.2"))
    assert (await discover(cluster, "turn", "node-port")).host == "198.51.100.2"
    api.put("services", service(externalTrafficPolicy="Local"))
    api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2", ready=False)))
    assert (await discover(cluster, "turn", "node-port")).host == "10.0.0.1"


DUAL = {"ipFamilies": ["IPv6", "IPv4"], "ports": [UDP]}
SIX = ("2001:db8::7", "203.0.113.7", "2001:db8::8", "203.0.113.8")


def both(v4: bool, v6: bool) -> list[Any]:
    """A slice of each family, with a ready pod in it or an unready one."""
    return [
        endpoint_slice(endpoint("a", ready=v4), name="v4"),
        endpoint_slice({**endpoint("a", ready=v6), "addresses": ["fd00::1"]}, name="v6", addressType="IPv6"),
    ]


@pytest.mark.parametrize(
    ("made", "slices", "routes", "targets"),
    [
        (service(ingress=SIX, **DUAL), both(v4=True, v6=True), "46", ["[2001:db8::7]:3478", "[2001:db8::8]:3478"]),
        (service(ingress=SIX, **DUAL), both(v4=True, v6=False), "46", ["203.0.113.7:3478", "203.0.113.8:3478"]),
        (service(ingress=SIX, **DUAL), both(v4=True, v6=True), "4", ["203.0.113.7:3478", "203.0.113.8:3478"]),
        (service(ingress=SIX, **DUAL), both(v4=False, v6=True), "4", ["[2001:db8::7]:3478", "[2001:db8::8]:3478"]),
        (service(ingress=SIX, **{**DUAL, "ipFamilies": ["IPv4"]}), both(v4=True, v6=False), "46", [SIX[0], SIX[2]]),
        (
            service(ingress=("lb.example.com", "203.0.113.7"), **DUAL),
            both(v4=True, v6=True),
            "4",
            ["lb.example.com:3478"],
        ),
        (
            service(ingress=(), externalIPs=list(SIX[:2]), type="ClusterIP", **DUAL),
            both(v4=True, v6=True),
            "4",
            ["203.0.113.7:3478"],
        ),
        (service(ingress=("203.0.113.7", "203.0.113.7")), both(v4=True, v6=True), "", ["203.0.113.7:3478"]),
    ],
)
async def test_the_family_that_has_endpoints_and_a_route_is_taken(
    api: FakeApi, cluster: Cluster, *, made: Any, slices: list[Any], routes: str, targets: list[str]
) -> None:
    for entry in made["status"].get("loadBalancer", {}).get("ingress", ()):
        if ":" in entry.get("hostname", ""):
            entry["ip"] = entry.pop("hostname")
    api.put("services", made)
    api.delete("endpointslices", "turn-1")
    for each in slices:
        api.put("endpointslices", each)
    via: Via = "load-balancer"
    found = await discover(cluster, "turn", via, has_route=lambda to: ("6" if to.is_ipv6 else "4") in routes)
    wanted = [f"[{target}]:3478" if target in SIX and ":" in target else target for target in targets]
    assert [found.target, *found.more_targets] == wanted


async def test_a_node_port_has_one_way_in_of_a_family_with_a_route(api: FakeApi, cluster: Cluster) -> None:
    api.put("services", service(**{**DUAL, "ports": [{**UDP, "nodePort": 30478}]}))
    for each in both(v4=True, v6=True):
        api.put("endpointslices", each)
    api.put("nodes", node("n0", internal="2001:db8::1"))
    found = await discover(cluster, "turn", "node-port", has_route=lambda to: not to.is_ipv6)
    assert (found.target, found.more) == ("10.0.0.1:30478", ())


async def test_slices_that_cannot_be_read_leave_the_endpoints_unknown(api: FakeApi, cluster: Cluster) -> None:
    api.put("services", service(ingress=SIX[1:2]))
    api.put("endpointslices", endpoint_slice({"addresses": None}))
    assert (await discover(cluster, "turn")).target == "203.0.113.7:3478"
    api.put("nodes", node("n1", ready="yes", internal="10.0.0.1"))
    assert (await discover(cluster, "turn", "node-port")).target == "10.0.0.2:30478"
    ref = ServiceRef("media", "turn")
    assert await explain_no_reply(cluster, ref, 3478, TransportAddress("203.0.113.7", 3478)) is None
    api.put("services", service(selector="app"))
    assert await explain_no_reply(cluster, ref, 3478, TransportAddress("203.0.113.7", 3478)) is None


async def test_without_a_name_the_tool_s_own_service_is_looked_for(api: FakeApi, cluster: Cluster, repo: Any) -> None:
    assert yaml.safe_load((repo / "k8s/service.yaml").read_text())["metadata"]["name"] == OWN_SERVICE
    api.put("services", service(OWN_SERVICE))
    api.put("endpointslices", endpoint_slice(endpoint("a"), name="own", of=OWN_SERVICE))
    assert (await discover(cluster)).service.ref == ServiceRef("media", OWN_SERVICE)


NONE_READY = endpoint_slice(endpoint("a", ready=False), endpoint("b", ready=False))


@pytest.mark.parametrize(
    ("made", "via", "line"),
    [
        (
            [("services", service(ports=[TCP]))],
            "auto",
            'Service "media/turn" has no UDP port (its ports: 80/TCP): name another with --service',
        ),
        (
            [("services", service(ports=None))],
            "auto",
            'Service "media/turn" has no UDP port (its ports: none at all): name another with --service',
        ),
        (
            [("services", service(ports=[SIP, {**UDP, "port": 19302}]))],
            "auto",
            'Service "media/turn" has several UDP ports: choose one of 5060, 19302 with --target-port',
        ),
        (
            [("endpointslices", endpoint_slice())],
            "auto",
            'Service "media/turn" has no ready endpoints (it has none at all): '
            "see kubectl get pods --namespace media --selector app=turn",
        ),
        (
            [("endpointslices", NONE_READY), ("services", service(selector=None))],
            "auto",
            'Service "media/turn" has no ready endpoints (none of its 2 is ready): see kubectl get pods --namespace media',
        ),
        (
            [("services", service(ingress=()))],
            "auto",
            'the load balancer of Service "media/turn" has no address yet: wait for it '
            "(kubectl describe service turn --namespace media says why), or use --via node-port",
        ),
        (
            [("services", service(ingress=(), ports=[UDP]))],
            "load-balancer",
            'the load balancer of Service "media/turn" has no address yet: wait for it '
            "(kubectl describe service turn --namespace media says why)",
        ),
        (
            [("services", service(type="NodePort", ingress=()))],
            "load-balancer",
            'Service "media/turn" is of type NodePort and has no load balancer: choose another --via',
        ),
        (
            [("services", service(type=None, ports=[UDP], ingress=()))],
            "node-port",
            'Service "media/turn" has no node port (type ClusterIP): choose another --via',
        ),
        (
            [("services", service(type="ClusterIP", ports=[UDP], ingress=()))],
            "auto",
            'Service "media/turn" is of type ClusterIP, reached only from inside the cluster: '
            "run the client in a pod, or change its type to LoadBalancer or NodePort",
        ),
        (
            [("services", service(clusterIP="None", clusterIPs=["None"]))],
            "cluster-ip",
            'Service "media/turn" has no cluster IP: it is headless; give a pod\'s address as TARGET',
        ),
        (
            [("nodes", node("n1", ready="False")), ("nodes", node("n2", ready="False"))],
            "node-port",
            "no node that is Ready has an address: give TARGET NODE_ADDRESS:30478",
        ),
        (
            [
                ("services", service(externalTrafficPolicy="Local")),
                ("endpointslices", endpoint_slice(endpoint("a", "n9"))),
            ],
            "node-port",
            "no node that has a ready pod (externalTrafficPolicy is Local) has an address: give TARGET NODE_ADDRESS:30478",
        ),
    ],
)
async def test_what_is_missing_is_said_in_one_line(
    api: FakeApi, cluster: Cluster, made: list[tuple[str, Any]], via: Via, line: str
) -> None:
    for resource, obj in made:
        api.put(resource, obj)
    with pytest.raises(UserError) as error:
        await discover(cluster, "turn", via)
    assert str(error.value) == line


async def test_a_wrong_name_and_a_wrong_port(cluster: Cluster) -> None:
    lines = {
        "no/such": 'there is no Service "no/such" (context kind-test): '
        "make one with 'make apply-deployment apply-service', or name one with --service NAMESPACE/NAME",
        "a/b/c": "--service wants [NAMESPACE/]NAME, not 'a/b/c'",
        "media/": "--service wants [NAMESPACE/]NAME, not 'media/'",
        "/turn": "--service wants [NAMESPACE/]NAME, not '/turn'",
        "media/-a": "--service: '-a' can be no Service's name: "
        "Kubernetes allows lower-case letters, digits and '-' between them, at most 63",
    }
    for wanted, line in lines.items():
        with pytest.raises(UserError) as error:
            await discover(cluster, wanted)
        assert str(error.value) == line
    with pytest.raises(
        UserError, match=r'^Service "media/turn" has no UDP port 5: choose one of 3478 with --target-port$'
    ):
        await discover(cluster, "turn", port=5)


async def test_rights_that_are_missing(api: FakeApi, cluster: Cluster) -> None:
    api.forbidden = {"list /apis/discovery.k8s.io/v1/namespaces/media/endpointslices", "list /api/v1/nodes"}
    assert (await discover(cluster, "turn")).host == "203.0.113.7"
    with pytest.raises(UserError) as error:
        await discover(cluster, "turn", "node-port")
    cannot = "cannot list nodes to find an address for --via node-port: give TARGET NODE_ADDRESS:30478"
    assert str(error.value) == cannot
    api.forbidden = {"get /api/v1/namespaces/media/services/turn"}
    with pytest.raises(UserError) as error:
        await discover(cluster, "turn")
    cannot = (
        'the Service "media/turn" cannot be looked up (status 403): give TARGET itself, or more rights (k8s/rbac.yaml)'
    )
    assert str(error.value) == cannot
    api.forbidden = set()
    api.statuses = [500]
    with pytest.raises(UserError, match=r"cannot be looked up \(.*status 500\)\): try again.*; or give TARGET itself$"):
        await discover(cluster, "turn")


# --- behind a target that was given -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "host", "ports", "target", "udp", "how"),
    [
        (service(), "203.0.113.7", (), "203.0.113.7:3478", 3478, "load-balancer"),
        (service(ingress=("lb.example.com",)), "LB.example.com", (), "LB.example.com:3478", 3478, "load-balancer"),
        (service(ingress=()), "10.0.0.2", (30478,), "10.0.0.2:30478", 3478, "node-port"),
        (service(type="ClusterIP", ingress=()), "192.0.2.1", (9999,), "192.0.2.1:9999", 3478, ""),
        (service(ports=[SIP, UDP]), "203.0.113.7", (5060,), "203.0.113.7:5060", 5060, "load-balancer"),
        (service(ports=[SIP, UDP]), "192.0.2.1", (9999, 5060), "192.0.2.1:9999", 5060, ""),
    ],
)
async def test_a_service_behind_a_target_needs_no_way_in_and_no_endpoints(
    api: FakeApi, cluster: Cluster, *, made: Any, host: str, ports: tuple[int, ...], target: str, udp: int, how: str
) -> None:
    api.put("services", made)
    api.put("endpointslices", endpoint_slice())
    found = await look_up(cluster, "turn", host, ports)
    assert (found.target, found.port.port, found.via) == (target, udp, how)


async def test_a_service_behind_a_target_must_be_there(api: FakeApi, cluster: Cluster) -> None:
    with pytest.raises(UserError, match=r'^there is no Service "media/no" \(context kind-test\): make one with'):
        await look_up(cluster, "no", "192.0.2.1", ())
    api.forbidden = {"get /api/v1/namespaces/media/services/turn"}
    with pytest.raises(UserError) as error:
        await look_up(cluster, "turn", "192.0.2.1", ())
    why = "(status 403): leave --service out, or more rights (k8s/rbac.yaml)"
    assert str(error.value) == f'the Service "media/turn" cannot be looked up {why}'


# --- from an address ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "port", "name", "via"),
    [
        ("203.0.113.7", 3478, "", "load-balancer"),
        ("192.0.2.99", 3478, "LB.example.com:3478", "load-balancer"),
        ("198.51.100.1", 3478, "", "external-ip"),
        ("10.96.0.7", 3478, "", "cluster-ip"),
        ("10.0.0.2", 30478, "", "node-port"),
        ("10.0.0.9", 30478, "", None),
        ("203.0.113.7", 3479, "", None),
        ("192.0.2.99", 3478, "other.example.com", None),
    ],
)
async def test_a_service_is_found_by_an_address(
    api: FakeApi, cluster: Cluster, *, ip: str, port: int, name: str, via: str | None
) -> None:
    api.put("services", service(ingress=("203.0.113.7", "lb.example.com"), externalIPs=["198.51.100.1"]))
    for number in range(60):  # more than a page
        api.put("services", service(f"other-{number}", "apps", ingress=(), clusterIPs=[], ports=[TCP]))
    found = await find_service(cluster, TransportAddress(ip, port), name)
    assert (found and (found.via, found.service.ref.name, found.target)) == (via and (via, "turn", f"{ip}:{port}"))


async def test_services_that_cannot_be_read_are_left_out(api: FakeApi, cluster: Cluster) -> None:
    api.put("services", service("a-first", "apps", ports=[{"protocol": "UDP"}]))
    api.put("services", service("z-last", "web", clusterIPs=[None]))
    unread: list[ObjectError] = []
    found = await find_service(cluster, TransportAddress("203.0.113.7", 3478), unread=unread)
    assert found is not None
    assert found.service.ref.name == "turn"
    assert await find_service(cluster, TransportAddress("192.0.2.1", 3478), unread=unread) is None
    assert [str(error) for error in unread[1:]] == [
        'Service "apps/a-first" cannot be read: spec.ports[0].port is missing',
        'Service "web/z-last" cannot be read: spec.clusterIPs[0] is null, not a text',
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {"items": {}},
        {"items": "x"},
        {"metadata": []},
        {"metadata": {"resourceVersion": 7}},
        {"metadata": {"continue": []}},
    ],
)
async def test_an_answer_that_is_no_list_is_one_line(cluster: Cluster, answer: dict[str, Any]) -> None:
    async def get(_path: str, _params: Any) -> dict[str, Any]:
        return answer

    cluster.api.get = get  # type: ignore[method-assign]
    with pytest.raises(ApiError, match=r"^the API server's answer is no list$"):
        await find_service(cluster, TransportAddress("203.0.113.7", 3478))


async def test_where_all_namespaces_are_forbidden_the_current_one_is_searched(api: FakeApi, cluster: Cluster) -> None:
    target = TransportAddress("203.0.113.7", 3478)
    api.forbidden = {"list /api/v1/services"}
    assert await find_service(cluster, target) is not None
    api.forbidden |= {"list /api/v1/namespaces/media/services"}
    for statuses, status in ([], 403), ([500], 500), ([403, 500], 500):
        api.statuses = statuses
        with pytest.raises(ApiError, match=f"status {status}"):
            await find_service(cluster, target)


async def test_without_nodes_a_node_port_is_not_found(api: FakeApi, cluster: Cluster) -> None:
    api.forbidden = {"list /api/v1/nodes"}
    assert await find_service(cluster, TransportAddress("10.0.0.2", 30478)) is None


def test_the_family_of_the_packets() -> None:
    single, dual = parse_service(service()), parse_service(service(ipFamilies=["IPv4", "IPv6"]))
    assert family_of(single, TransportAddress("2001:db8::1", 1)) == "IPv4"
    assert family_of(dual, TransportAddress("2001:db8::1", 1)) == "IPv6"
    assert family_of(dual, TransportAddress("192.0.2.1", 1)) == "IPv4"
    assert family_of(dual, None) is None


# --- silence --------------------------------------------------------------------------------------------------------

LB = TransportAddress("203.0.113.7", 3478)
LOCAL = service(externalTrafficPolicy="Local")


def faulty(port: int, *healthy: str) -> dict[str, Any]:
    """A Service whose balancer has an error for a UDP port at its first address, and none at the others."""
    made = service(ingress=("203.0.113.7", *healthy))
    ports = [
        {"port": port, "protocol": "UDP", "error": "Mixed"},
        {"port": port, "protocol": "TCP"},
        {"port": 80, "protocol": "TCP", "error": "x"},
    ]
    made["status"]["loadBalancer"]["ingress"][0]["ports"] = ports
    return made


ON_N1 = endpoint_slice(endpoint("a"))


@pytest.mark.parametrize(
    ("made", "target", "line"),
    [
        ([], LB, None),
        (
            [("endpointslices", endpoint_slice())],
            LB,
            'Service "media/turn" has no endpoints: no pod has the labels app=turn',
        ),
        (
            [("endpointslices", endpoint_slice()), ("services", service(selector=None))],
            LB,
            'Service "media/turn" has no endpoints: it has no selector, and nobody gave it any',
        ),
        ([("endpointslices", NONE_READY)], LB, 'none of the 2 endpoints of Service "media/turn" is ready'),
        (
            [("services", LOCAL), ("endpointslices", ON_N1)],
            TransportAddress("10.0.0.2", 30478),
            'externalTrafficPolicy is Local, and node "n2" has no ready pod of Service "media/turn"',
        ),
        (
            [],
            TransportAddress("10.0.0.2", 30478),
            'probes go to node port 30478 of node "n2": do firewalls let UDP in there?',
        ),
        ([], TransportAddress("10.96.0.7", 3478), "10.96.0.7 is a cluster IP, reached only from inside the cluster"),
        ([("services", service(ingress=()))], LB, 'the load balancer of Service "media/turn" has no address yet'),
        ([("services", service(ingress=(), externalIPs=["203.0.113.7"]))], LB, None),
        (
            [("services", service(ingress=("203.0.113.9",)))],
            LB,
            'the load balancer of Service "media/turn" is at 203.0.113.9 now, and probes go to 203.0.113.7',
        ),
        ([("services", service(ingress=("203.0.113.9", "lb.example.com")))], LB, None),
        (
            [("services", service(loadBalancerSourceRanges=["192.0.2.0/24"]))],
            LB,
            "loadBalancerSourceRanges lets in 192.0.2.0/24 only: is this client's address among them?",
        ),
        (
            [("services", LOCAL), ("endpointslices", ON_N1)],
            LB,
            "externalTrafficPolicy is Local and 1 of 2 nodes have a ready pod: "
            "does the balancer's health check leave out the rest?",
        ),
        (
            [("services", faulty(3478))],
            LB,
            'the load balancer of Service "media/turn" does not serve UDP port 3478 (Mixed)',
        ),
        ([("services", faulty(5060))], LB, None),
        ([("services", faulty(3478, "203.0.113.8"))], LB, None),
        (
            [("services", service(type="ExternalName", externalName="turn.example.com"))],
            LB,
            'Service "media/turn" is only a DNS name for turn.example.com: it has no endpoints',
        ),
        ([("services", service(ports=[TCP]))], LB, 'Service "media/turn" has no UDP port 3478 any more'),
    ],
)
async def test_the_likeliest_reason_of_silence(
    api: FakeApi, cluster: Cluster, made: list[tuple[str, Any]], target: TransportAddress, line: str | None
) -> None:
    for resource, obj in made:
        api.put(resource, obj)
    assert await explain_no_reply(cluster, ServiceRef("media", "turn"), 3478, target) == line


async def test_silence_with_fewer_rights_or_none(api: FakeApi, cluster: Cluster) -> None:
    api.put("services", LOCAL)
    ref = ServiceRef("media", "turn")
    api.forbidden = {"list /apis/discovery.k8s.io/v1/namespaces/media/endpointslices", "list /api/v1/nodes"}
    assert await explain_no_reply(cluster, ref, 3478, LB) is None
    assert await explain_no_reply(inside(cluster), ref, 3478, TransportAddress("10.96.0.7", 3478)) is None
    for statuses in ([500], [None, 500], [None, None, 500]):
        api.statuses = list(statuses)
        assert await explain_no_reply(cluster, ref, 3478, LB) is None
        assert api.statuses == []
    api.delete("services", "turn")
    assert await explain_no_reply(cluster, ref, 3478, LB) == 'there is no Service "media/turn" any more'


async def test_every_nodes_port_is_found_where_all_are_wanted(api: FakeApi, cluster: Cluster) -> None:
    api.put("services", service(type="NodePort", ingress=()))
    api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2")))
    api.put("nodes", node("n1", internal="10.0.0.1"))
    api.put("nodes", node("n2", internal="10.0.0.2"))
    api.put("nodes", node("n3", ready="False", internal="10.0.0.3"))
    found = await discover(cluster, "turn", "node-port", every_node=True)
    assert [found.target, *found.more_targets] == ["10.0.0.1:30478", "10.0.0.2:30478"]
    assert (await discover(cluster, "turn", "node-port")).more == ()
