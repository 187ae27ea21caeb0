"""What requests get: create, change, delete, dry runs, subresources, rights, lists."""

from __future__ import annotations

from typing import Any

import pytest
from kube_world import LABELS, NAMESPACE, WORKLOADS, World

from affinity_tester.lab.kube.failures import StatusError
from affinity_tester.lab.kube.resources import BUDGETS, DEPLOYMENTS, NODES, PODS, REPLICA_SETS, SERVICES, read_path

DEPLOYMENT = f"{WORKLOADS}/deployments/echo"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def refused(world: World, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str]:
    """Make a request that fails: code, reason, message."""
    with pytest.raises(StatusError) as error:
        world.ask(method, path, body, **more)
    return error.value.code, error.value.reason, str(error.value)


@pytest.fixture
async def world() -> World:
    world = World()
    world.add_deployment()
    world.add_service()
    await world.advance(1)
    return world


async def test_a_lease_is_taken_by_one_alone(world: World) -> None:
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 30}}
    status, made = world.ask("POST", LEASES, lease)
    assert (status, made["kind"], made["spec"]["holderIdentity"]) == (201, "Lease", "a")
    assert refused(world, "POST", LEASES, lease)[:2] == (409, "AlreadyExists")
    taken = {**made, "spec": {"holderIdentity": "b"}}
    world.ask("PUT", f"{LEASES}/l", taken)
    assert refused(world, "PUT", f"{LEASES}/l", taken)[:2] == (409, "Conflict")
    assert refused(world, "PUT", f"{LEASES}/l", lease)[:2] == (422, "Invalid")
    old = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {}}
    assert refused(world, "PATCH", f"{LEASES}/l", old)[:2] == (409, "Conflict")
    assert world.ask("GET", f"{LEASES}/l").body["spec"] == {"holderIdentity": "b"}


async def test_a_dry_run_answers_and_keeps_nothing(world: World) -> None:
    revision = world.store.revision
    status, made = world.ask("POST", f"{NAMESPACE}/services", service("dry"), dryRun="All")
    assert (status, 30_000 <= made["spec"]["ports"][0]["nodePort"] < 32_768) == (201, True)
    patched = world.ask("PATCH", DEPLOYMENT, {"spec": {"replicas": 7}}, dryRun="All").body
    assert patched["spec"]["replicas"] == 7
    name = world.pods()[0]["metadata"]["name"]
    world.ask("DELETE", f"{NAMESPACE}/pods/{name}", {"dryRun": ["All"]})
    world.ask("POST", f"{NAMESPACE}/pods/{name}/eviction", {"deleteOptions": {"dryRun": ["All"]}})
    assert refused(world, "POST", f"{NAMESPACE}/services", service("echo"), dryRun="All")[0] == 409
    assert refused(world, "DELETE", f"{NAMESPACE}/pods/{name}", dryRun="Some")[0] == 400
    assert world.store.revision == revision


def service(name: str, **spec: Any) -> dict[str, Any]:
    port = {"name": "stun", "protocol": "UDP", "port": 3478, "targetPort": "stun"}
    return {"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": LABELS, "ports": [port], **spec}}


async def test_a_service_gets_addresses_and_ports_and_keeps_them(world: World) -> None:
    made = world.ask("POST", f"{NAMESPACE}/services", service("s")).body
    spec = made["spec"]
    port = spec["ports"][0]["nodePort"]
    assert (spec["clusterIP"], spec["externalTrafficPolicy"], spec["sessionAffinity"]) == (
        "127.16.254.2",
        "Cluster",
        "None",
    )
    path = f"{NAMESPACE}/services/s"
    local = world.ask("PATCH", path, {"spec": {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}}).body
    assert local["spec"]["ports"][0]["nodePort"] == port
    assert local["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert "healthCheckNodePort" not in local["spec"]
    balanced = world.ask("PATCH", path, {"spec": {"type": "LoadBalancer"}}).body["spec"]
    assert balanced["healthCheckNodePort"] != balanced["ports"][0]["nodePort"] == port
    again = world.ask("PUT", path, service("s")).body["spec"]
    assert (again["clusterIP"], again["ports"][0]["nodePort"]) == (spec["clusterIP"], port)
    inner = world.ask("PATCH", path, {"spec": {"type": "ClusterIP"}}).body["spec"]
    assert not {"externalTrafficPolicy", "healthCheckNodePort"} & inner.keys()
    assert "nodePort" not in inner["ports"][0]
    assert world.ask("POST", f"{NAMESPACE}/services", service("h", clusterIP="None", type="ClusterIP")).body["spec"][
        "clusterIP"
    ] == "None"  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "Other"}, 'spec.type: Unsupported value: "Other": supported values: "ClusterIP", "NodePort"'),
        ({"externalTrafficPolicy": "X"}, "spec.externalTrafficPolicy: Unsupported"),
        ({"ports": []}, "spec.ports: Required value"),
        ({"ports": [{"protocol": "UDP"}]}, "Required value"),
        ({"ports": [{"port": 1, "nodePort": 80}]}, "Invalid value: 80"),
    ],
)
async def test_a_service_that_cannot_be_is_refused(world: World, spec: Any, said: str) -> None:
    code, reason, message = refused(world, "POST", f"{NAMESPACE}/services", service("s", **spec))
    assert (code, reason, said in message) == (422, "Invalid", True)


async def test_a_node_port_is_given_once(world: World) -> None:
    port = world.store.get(SERVICES, "default", "echo")["spec"]["ports"][0]["nodePort"]
    taken = service("s", ports=[{"port": 1, "nodePort": port}])
    assert refused(world, "POST", f"{NAMESPACE}/services", taken)[0] == 422


def workload(**spec: Any) -> dict[str, Any]:
    containers = spec.pop("containers", [{"name": "a", "image": "b"}])
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": containers}}
    return {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": LABELS}, "template": template, **spec}}


BUDGETS_PATH = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (f"{NAMESPACE}/services", service(""), 422),
        (f"{NAMESPACE}/services", service("Upper"), 422),
        (f"{NAMESPACE}/services", {"metadata": {"name": "s"}}, 422),
        (f"{NAMESPACE}/services", {**service("s"), "kind": "Pod"}, 400),
        (f"{NAMESPACE}/services", {"metadata": {"name": "s", "namespace": "other"}, "spec": {}}, 400),
        (f"{NAMESPACE}/services", {"metadata": {"name": "s", "resourceVersion": "1"}, "spec": {}}, 400),
        (f"{NAMESPACE}/services", [], 400),
        ("/api/v1/services", service("s"), 400),
        ("/api/v1/namespaces/none/services", service("s"), 404),
        (f"{NAMESPACE}/services/echo", service("echo"), 405),
        (f"{WORKLOADS}/deployments", {"metadata": {"name": "d"}, "spec": {"replicas": -1}}, 422),
        (f"{WORKLOADS}/deployments", {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": LABELS}}}, 422),
        (f"{WORKLOADS}/deployments", workload(), 201),
        (f"{WORKLOADS}/deployments", workload(strategy={"rollingUpdate": {"maxSurge": "many"}}), 422),
        (f"{WORKLOADS}/deployments", workload(strategy={"rollingUpdate": {"maxUnavailable": True}}), 422),
        (f"{WORKLOADS}/deployments", workload(selector={"matchExpressions": [{"key": "app"}]}), 422),
        (f"{WORKLOADS}/deployments", workload(containers=[]), 422),
        (f"{WORKLOADS}/deployments", workload(containers=[{"name": "a"}]), 422),
        (f"{NAMESPACE}/pods", {"metadata": {"name": "p"}, "spec": {}}, 422),
        ("/api/v1/nodes", {"metadata": {"name": "n"}}, 422),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", {"metadata": {"name": "s"}}, 422),
        (BUDGETS_PATH, {"metadata": {"name": "b"}, "spec": {"minAvailable": "x%"}}, 422),
        (BUDGETS_PATH, {"metadata": {"name": "b"}, "spec": {"selector": {"matchExpressions": [{}]}}}, 422),
    ],
)
async def test_what_can_and_cannot_be_created(world: World, path: str, body: Any, code: int) -> None:
    if code == 201:
        assert world.ask("POST", path, body).status == code
    else:
        assert refused(world, "POST", path, body)[0] == code


async def test_a_generated_name(world: World) -> None:
    made = world.ask("POST", f"{NAMESPACE}/configmaps", {"metadata": {"generateName": "c-"}}).body
    assert made["metadata"]["name"].startswith("c-")
    assert "generateName" not in made["metadata"]


async def test_a_deployment_is_changed_but_for_its_status_and_selector(world: World) -> None:
    before = world.store.get(DEPLOYMENTS, "default", "echo")
    after = world.ask("PATCH", DEPLOYMENT, {"spec": {"replicas": 4}, "status": {"replicas": 9}}).body
    assert (after["spec"]["replicas"], after["status"], after["metadata"]["generation"]) == (4, before["status"], 2)
    by_status = world.ask("PATCH", f"{DEPLOYMENT}/status", {"spec": {"replicas": 9}, "status": {"replicas": 9}}).body
    assert (by_status["spec"]["replicas"], by_status["status"]["replicas"]) == (4, 9)
    for patch in (
        {"spec": {"selector": {"matchLabels": {"app": "x"}}}},
        {"spec": {"replicas": "x"}},
        {"spec": {"strategy": {"type": "Recreate"}}},
    ):
        assert refused(world, "PATCH", DEPLOYMENT, patch)[0] == 422
    assert refused(world, "PATCH", DEPLOYMENT, {"metadata": {"name": "other"}})[0] == 400
    assert refused(world, "PATCH", f"{WORKLOADS}/deployments/none", {})[0] == 404


async def test_an_annotation_is_set_and_taken_back(world: World) -> None:
    name = "affinity-tester/experiment-original"
    world.ask("PATCH", DEPLOYMENT, {"metadata": {"annotations": {name: "{}"}}})
    after = world.ask("PATCH", DEPLOYMENT, {"metadata": {"annotations": {name: None}}}).body
    assert name not in after["metadata"]["annotations"]
    assert after["metadata"]["generation"] == 3  # as for any change but of the status


async def test_scale(world: World) -> None:
    scale = world.ask("GET", f"{DEPLOYMENT}/scale").body
    assert (scale["kind"], scale["apiVersion"], scale["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 3})
    assert scale["status"] == {"replicas": 3, "selector": "app=echo,part-of=affinity-tester"}
    assert world.ask("PATCH", f"{DEPLOYMENT}/scale", {"spec": {"replicas": 5}}).body["spec"] == {"replicas": 5}
    assert refused(world, "PUT", f"{DEPLOYMENT}/scale", scale)[:2] == (409, "Conflict")
    scale["metadata"].pop("resourceVersion")
    assert world.ask("PUT", f"{DEPLOYMENT}/scale", {**scale, "spec": {"replicas": 2}}).body["spec"] == {"replicas": 2}
    assert refused(world, "PATCH", f"{DEPLOYMENT}/scale", {"spec": {"replicas": -1}})[0] == 422


async def test_deletion_with_preconditions(world: World) -> None:
    pod = world.pods()[0]
    path = f"{NAMESPACE}/pods/{pod['metadata']['name']}"
    code, reason, said = refused(world, "DELETE", path, {"preconditions": {"uid": "other"}})
    assert (code, reason) == (409, "Conflict")
    assert f"UID in precondition: other, UID in object meta: {pod['metadata']['uid']}" in said
    ends = world.ask("DELETE", path, {"preconditions": {"uid": pod["metadata"]["uid"]}, "gracePeriodSeconds": 7}).body
    assert ends["metadata"]["deletionGracePeriodSeconds"] == 7
    world.ask("DELETE", path, gracePeriodSeconds="0")
    assert refused(world, "GET", path)[0] == 404
    done = world.ask("DELETE", f"{NAMESPACE}/services/echo").body
    assert (done["kind"], done["status"], done["details"]["name"]) == ("Status", "Success", "echo")


async def test_what_was_controlled_lives_on_as_an_orphan(world: World) -> None:
    world.ask("DELETE", DEPLOYMENT, {"propagationPolicy": "Orphan"})
    await world.advance(2)
    assert len(world.store.list(REPLICA_SETS)) == 1
    assert len(world.living()) == 3


async def test_a_collection_is_deleted_by_label(world: World) -> None:
    world.ask("POST", f"{NAMESPACE}/services", {**service("x"), "metadata": {"name": "x", "labels": {"a": "b"}}})
    world.ask("DELETE", f"{NAMESPACE}/services", labelSelector="a=b")
    assert [each["metadata"]["name"] for each in world.store.list(SERVICES)] == ["echo"]


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [({"minAvailable": 3}, 0), ({"minAvailable": "50%"}, 1), ({"maxUnavailable": 1}, 1), ({"maxUnavailable": 0}, 0)],
)
async def test_a_budget_lets_so_many_pods_be_evicted(world: World, spec: Any, allowed: int) -> None:
    budget = {"metadata": {"name": "b", "namespace": "default"}, "spec": {"selector": {"matchLabels": LABELS}, **spec}}
    world.add(BUDGETS, budget)
    await world.settle()
    assert world.store.get(BUDGETS, "default", "b")["status"]["disruptionsAllowed"] == allowed
    paths = [f"{NAMESPACE}/pods/{pod['metadata']['name']}/eviction" for pod in world.pods()]
    for path in paths[:allowed]:
        assert world.ask("POST", path, {"apiVersion": "policy/v1", "kind": "Eviction"}).status == 201
    for path in paths[allowed:]:
        code, reason, said = refused(world, "POST", path, {"apiVersion": "policy/v1", "kind": "Eviction"})
        assert (code, reason, "disruption budget" in said) == (429, "TooManyRequests", True)
    await world.advance(2)
    assert world.store.get(BUDGETS, "default", "b")["status"]["disruptionsAllowed"] == allowed


async def test_a_cordon_is_a_taint_too(world: World) -> None:
    node = world.ask("PATCH", "/api/v1/nodes/node-1", {"spec": {"unschedulable": True}}).body
    assert node["spec"]["taints"] == [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]
    node = world.ask("PATCH", "/api/v1/nodes/node-1", {"spec": {"unschedulable": None}}).body
    assert not {"taints", "unschedulable"} & node["spec"].keys()
    assert world.store.get(NODES, "", "node-1") == node


async def test_rights_that_are_missing() -> None:
    world = World(denied=("delete:pods", "patch:deployments/scale", "*:nodes", "list:*"))
    path = "/apis/apps/v1/namespaces/default/deployments/d/scale"
    assert refused(world, "PATCH", path, {})[2] == (
        'deployments.apps "d" is forbidden: User "lab" cannot patch resource "deployments/scale" in API group "apps"'
        ' in the namespace "default"'
    )
    assert refused(world, "GET", "/api/v1/nodes/node-1")[0] == 403
    assert refused(world, "GET", f"{NAMESPACE}/pods")[0] == 403
    for verb, resource, sub, allowed in (
        ("delete", "pods", "", False),
        ("get", "pods", "", True),
        ("patch", "deployments", "scale", False),
        ("patch", "deployments", "", True),
        ("patch", "nodes", "", False),
        ("list", "services", "", False),
    ):
        asked = {"verb": verb, "resource": resource, "subresource": sub, "namespace": "default"}
        status, review = world.ask("POST", REVIEWS, {"spec": {"resourceAttributes": asked}})
        assert (status, review["status"]["allowed"]) == (201, allowed)
    assert refused(world, "GET", REVIEWS)[0] == 405


async def test_pages_of_a_list_are_of_one_moment(world: World) -> None:
    first = world.ask("GET", f"{NAMESPACE}/pods", limit="2").body
    assert (first["kind"], len(first["items"])) == ("PodList", 2)
    assert first["metadata"]["remainingItemCount"] == 1
    world.store.delete(PODS, "default", world.pods()[2]["metadata"]["name"], 0)
    rest = world.ask("GET", f"{NAMESPACE}/pods", limit="2", **{"continue": first["metadata"]["continue"]}).body
    assert len(rest["items"]) == 1
    assert rest["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert refused(world, "GET", f"{NAMESPACE}/pods", **{"continue": "other-1"})[:2] == (410, "Expired")
    assert len(world.ask("GET", "/api/v1/pods", labelSelector="app=none").body["items"]) == 0
    assert len(world.ask("GET", "/api/v1/pods", fieldSelector="spec.nodeName=node-1").body["items"]) == 1


def test_paths() -> None:
    found = {path: read_path(path) for path in ("/api/v1/pods", "/api/v1/namespaces/d/pods/p/eviction")}
    assert [(t.namespace, t.name, t.subresource) for t in found.values() if t] == [("", "", ""), ("d", "p", "eviction")]
    for path in (
        "/",
        "/api",
        "/api/v1",
        "/api/v1/other",
        "/api/v1/pods/p",
        "/api/v1/namespaces/d/nodes",
        "/api/v1/namespaces/d/pods/p/other",
        "/api/v1/namespaces/d/pods/p/status/more",
        "/apis/apps/v1",
        "/apis/none/v1/pods",
    ):
        assert read_path(path) is None, path
    nodes, namespace = read_path("/api/v1/nodes/n"), read_path("/api/v1/namespaces/d")
    assert nodes is not None
    assert namespace is not None
    assert (nodes.name, namespace.resource.kind, namespace.name) == ("n", "Namespace", "d")


async def test_methods_that_are_not_there(world: World) -> None:
    assert refused(world, "OPTIONS", f"{NAMESPACE}/pods")[0] == 405
    assert refused(world, "PUT", f"{NAMESPACE}/pods", {})[0] == 405
    assert refused(world, "GET", f"{NAMESPACE}/pods/p/eviction")[0] == 405
    assert refused(world, "DELETE", f"{DEPLOYMENT}/scale")[0] == 405
    assert refused(world, "PATCH", DEPLOYMENT, {}, content_type="text/plain")[0] == 415
