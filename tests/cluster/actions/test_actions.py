"""Each action on a cluster in memory: what it sends, what it waits for, what it names, and where it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from memory_api import (
    NAMESPACE,
    OWN,
    SERVER,
    WALL,
    Json,
    MemoryApi,
    deployment,
    node,
    put_deployment,
    put_node,
    put_service,
    service,
    settled,
)

from affinity_tester.cluster.actions.base import Action, ActionContext, ActionOptions, NotSettledError, Step, StepState
from affinity_tester.cluster.actions.matrix_services import MatrixServices
from affinity_tester.cluster.actions.own_pool import name_of, uid_of
from affinity_tester.cluster.actions.rights import check_rights, missing_rights
from affinity_tester.cluster.actions.select import ACTIONS, action_of
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.core.experiment.catalogue import EXPERIMENTS, ActionKind
from affinity_tester.errors import UserError

DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/affinity-tester"
SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services/affinity-tester"


async def prepared(name: str, context: ActionContext, **options: Any) -> Any:
    action = action_of(name, context, ActionOptions(**options))
    await action.prepare()
    return action


async def whole(action: Action) -> None:
    """As the command does."""
    await action.act()
    await action.wait_settled(10)
    await action.undo()
    await action.wait_undone(10)


def pods(api: MemoryApi) -> list[Json]:
    return [obj for path, obj in api.objects.items() if "/pods/" in path and obj["metadata"]["namespace"] == NAMESPACE]


def writes(api: MemoryApi) -> list[tuple[str, str]]:
    return [(verb, path) for verb, path, _ in api.requests if verb != "get"]


def test_each_experiment_has_its_action(context: ActionContext) -> None:
    assert ACTIONS.keys() == EXPERIMENTS.keys()
    with pytest.raises(UserError, match="there is no experiment pod-eat"):
        action_of("pod-eat", context, ActionOptions())


@pytest.mark.parametrize("name", ["baseline", "idle"])
async def test_nothing_is_done(name: str, context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared(name, context)
    await whole(action)
    assert (action.calls(), action.undo_calls(), action.rights(), memory.requests) == ((), (), (), [])
    assert (action.kind, action.removed_pods, action.removed_nodes) == (ActionKind.NOTHING, frozenset(), frozenset())


@pytest.mark.parametrize(
    ("name", "grace"), [("pod-delete", {}), ("pod-kill", {"gracePeriodSeconds": 0}), ("not-ready", {})]
)
async def test_a_pod_goes(name: str, grace: Json, context: ActionContext, memory: MemoryApi, steps: list[Step]) -> None:
    victim, *others = sorted(pods(memory), key=name_of)
    action = await prepared(name, context)
    assert name_of(victim) in action.text
    (call,) = action.calls()
    assert call.body == {"preconditions": {"uid": uid_of(victim)}, **grace}
    assert str(call).startswith(f"delete pods/{name_of(victim)} in media: {{")
    assert action.removed_pods == frozenset()
    await whole(action)
    assert action.removed_pods == {uid_of(victim)}
    assert len(pods(memory)) == 3
    assert {uid_of(pod) for pod in others} < {uid_of(pod) for pod in pods(memory)}
    assert [(step.state, step.undo) for step in steps] == [(StepState.WILL, False), (StepState.DID, False)]


async def test_a_named_pod_goes(context: ActionContext, memory: MemoryApi) -> None:
    name = max(map(name_of, pods(memory)))
    action = await prepared("pod-delete", context, pod=name)
    assert name in action.text
    with pytest.raises(UserError, match="no ready pod x of media/affinity-tester"):
        await prepared("pod-delete", context, pod="x")


async def test_a_pod_that_went_by_itself(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("pod-delete", context)
    ((_, path),) = [(call.verb, call.path) for call in action.calls()]
    memory.remove(path)
    await settled(memory)
    with pytest.raises(UserError, match="went by itself"):
        await action.act()
    assert action.removed_pods == frozenset()
    await action.undo()
    await action.wait_undone(10)


async def test_a_pod_without_time_to_drain(context: ActionContext, memory: MemoryApi) -> None:
    for pod in pods(memory):
        pod["spec"]["terminationGracePeriodSeconds"] = 1
    with pytest.raises(UserError, match="have 1 s to end"):
        await prepared("not-ready", context)


@pytest.mark.parametrize(("name", "count"), [("scale-up", 5), ("scale-down", 1)])
async def test_scale(name: str, count: int, context: ActionContext, memory: MemoryApi, steps: list[Step]) -> None:
    before = frozenset(map(uid_of, pods(memory)))
    action = await prepared(name, context, pods=2)
    *_, note, change = action.calls()
    assert str(note).startswith("patch deployments.apps/affinity-tester in media: ")
    assert str(change) == f'patch deployments.apps/affinity-tester in media: {{"spec":{{"replicas":{count}}}}}'
    (undo,) = action.undo_calls()
    assert undo.body == {
        "metadata": {"annotations": {"affinity-tester/experiment-original": None}},
        "spec": {"replicas": 3},
    }
    await action.act()
    await action.wait_settled(10)
    assert len(pods(memory)) == count
    assert action.removed_pods == before - frozenset(map(uid_of, pods(memory)))
    assert len(action.removed_pods) == max(3 - count, 0)
    await action.undo()
    await action.wait_undone(10)
    assert len(pods(memory)) == 3
    said = [step.text for step in steps if step.state is StepState.DID and " pod " not in step.text]
    assert said == [
        "note the original value on Deployment media/affinity-tester",
        f"scale Deployment media/affinity-tester from 3 to {count} pods",
        "set spec.replicas of Deployment media/affinity-tester back to 3",
    ]


@pytest.mark.parametrize("number", range(3))
async def test_the_pod_that_a_scale_down_takes_first(
    number: int, context: ActionContext, memory: MemoryApi, steps: list[Step]
) -> None:
    chosen = pods(memory)[number]
    name = chosen["metadata"]["name"]
    action = await prepared("scale-down", context, pod=name)
    _, mark, *_ = action.calls()
    assert str(mark) == (
        f"patch pods/{name} in media: "
        '{"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":"-2147483648"}}}'
    )
    await action.act()
    await action.wait_settled(10)
    assert action.removed_pods == {uid_of(chosen)}
    assert [step.text for step in steps if step.state is StepState.DID][:2] == [
        f"note the original value on pod media/{name}",
        f"have pod media/{name} be the first to go",
    ]


async def test_a_deletion_cost_that_somebody_else_had_set(context: ActionContext, memory: MemoryApi) -> None:
    """Karpenter writes them, for example; a scale-down that came to nothing leaves them as they were."""
    pod = pods(memory)[0]
    pod["metadata"]["annotations"] = {"controller.kubernetes.io/pod-deletion-cost": "7"}
    memory.stuck = True
    action = await prepared("scale-down", context, pod=pod["metadata"]["name"])
    await action.act()
    assert pods(memory)[0]["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] == "-2147483648"
    await action.undo()
    assert pods(memory)[0]["metadata"]["annotations"] == {"controller.kubernetes.io/pod-deletion-cost": "7"}


async def test_too_few_pods_to_scale_down(context: ActionContext) -> None:
    with pytest.raises(UserError, match="has 3 pods, and would have 0"):
        await prepared("scale-down", context, pods=3)


async def test_rollout(context: ActionContext, memory: MemoryApi) -> None:
    before = frozenset(map(uid_of, pods(memory)))
    action = await prepared("rollout", context)
    (call,) = action.calls()
    at = WALL.isoformat(timespec="seconds")
    assert call.body == {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": at}}}}}
    await whole(action)
    assert action.removed_pods == before
    assert not before & frozenset(map(uid_of, pods(memory)))


async def test_a_paused_deployment(context: ActionContext, memory: MemoryApi) -> None:
    memory.objects[DEPLOYMENT]["spec"]["paused"] = True
    with pytest.raises(UserError, match="is paused"):
        await prepared("rollout", context)


async def test_policy_flip_there_and_back(make_context: Any, memory: MemoryApi) -> None:
    put_service(memory, service("local", externalTrafficPolicy="Local"))
    await settled(memory)
    local = SERVICE.replace("affinity-tester", "local")
    port = memory.objects[local]["spec"]["healthCheckNodePort"]
    context = make_context(services=(ServiceRef(NAMESPACE, "affinity-tester"), ServiceRef(NAMESPACE, "local")))
    action = await prepared("policy-flip", context)
    await action.act()
    await action.wait_settled(10)
    assert memory.objects[SERVICE]["spec"]["externalTrafficPolicy"] == "Local"
    assert memory.objects[local]["spec"]["externalTrafficPolicy"] == "Cluster"
    assert "healthCheckNodePort" not in memory.objects[local]["spec"]
    await action.undo()
    await action.wait_undone(10)
    assert memory.objects[SERVICE]["spec"]["externalTrafficPolicy"] == "Cluster"
    assert memory.objects[local]["spec"]["healthCheckNodePort"] == port


async def test_policy_flip_names_the_nodes_without_pods(context: ActionContext, memory: MemoryApi) -> None:
    put_node(memory, node("n4"))
    with_pods = {pod["spec"]["nodeName"] for pod in pods(memory)}
    action = await prepared("policy-flip", context)
    assert action.removed_nodes == {"n1", "n2", "n3", "n4"} - with_pods
    memory.forbidden = lambda right: right.resource == "nodes"
    assert (await prepared("policy-flip", context)).removed_nodes == frozenset()


@pytest.mark.parametrize(
    ("labels", "kind", "says"), [({}, "NodePort", "is not this tool's"), (OWN, "ClusterIP", "has the type ClusterIP")]
)
async def test_policy_flip_refuses(
    labels: Json, kind: str, says: str, context: ActionContext, memory: MemoryApi
) -> None:
    memory.objects[SERVICE]["metadata"]["labels"] = labels
    memory.objects[SERVICE]["spec"]["type"] = kind
    with pytest.raises(UserError, match=says):
        await prepared("policy-flip", context)


async def test_proxy_restart_on_one_node_then_on_all(
    context: ActionContext, memory: MemoryApi, steps: list[Step]
) -> None:
    action = await prepared("proxy-restart", context, node="n2")
    assert action.text == "restart kube-proxy on node n2, then on 2 more"
    await whole(action)
    nodes = [step.text.rpartition("node ")[2] for step in steps if step.state is StepState.DID]
    assert nodes == ["n2)", "n1)", "n3)"]
    daemonset = memory.objects["/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"]
    assert len(memory.pods_of(daemonset)) == 3


async def test_proxy_restart_stops_where_the_first_does_not_come_back(make_context: Any, memory: MemoryApi) -> None:
    action = await prepared("proxy-restart", make_context(act_limit_s=0.05))
    memory.stuck = True
    with pytest.raises(NotSettledError, match=r"not settled within 0.05 s: kube-proxy-\d+ still there"):
        await action.act()
    assert len([verb for verb, _ in writes(memory) if verb == "delete"]) == 1


async def test_static_proxies_are_told_apart(context: ActionContext, memory: MemoryApi) -> None:
    for path, pod in memory.objects.items():
        if "/namespaces/kube-system/pods/" in path:
            pod["metadata"]["ownerReferences"][0]["kind"] = "Node"
    with pytest.raises(UserError, match=r"the 3 pods of kube-proxy are static: .* restarts nothing"):
        await prepared("proxy-restart", context)


async def test_a_drain(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("node-drain", context)
    assert "do not come back to it" in "".join(action.notes)
    evicted = {uid_of(pod) for pod in pods(memory) if pod["spec"]["nodeName"] == action.node}
    await action.act()
    assert memory.objects[f"/api/v1/nodes/{action.node}"]["spec"] == {"unschedulable": True}
    await action.wait_settled(10)
    assert action.removed_pods == evicted
    assert action.removed_nodes == {action.node}
    assert all(pod["spec"]["nodeName"] != action.node for pod in pods(memory))
    await action.undo()
    await action.wait_undone(10)
    assert memory.objects[f"/api/v1/nodes/{action.node}"]["spec"] == {}
    created = [path for verb, path in writes(memory) if verb == "create"]
    assert all(path.endswith("/eviction") and "kube-system" not in path for path in created)


async def test_a_budget_stops_the_drain(context: ActionContext, memory: MemoryApi) -> None:
    memory.budgets = set(map(name_of, pods(memory)))
    action = await prepared("node-drain", context)
    with pytest.raises(UserError, match="the disruption budget of pod media/affinity-tester-"):
        await action.act()
    await action.undo()
    await action.wait_undone(10)
    assert memory.objects[f"/api/v1/nodes/{action.node}"]["spec"] == {}


async def test_what_a_drain_refuses(make_context: Any, memory: MemoryApi) -> None:
    context = make_context(client_nodes=("n1",), client_addresses=("127.0.0.1", "10.0.0.2", "fe80::1%eth0"))
    bare = {
        "metadata": {"name": "bare", "namespace": "other", "labels": {}, "ownerReferences": []},
        "spec": {"nodeName": "n3"},
        "status": {"phase": "Running"},
    }
    memory.put("/api/v1/namespaces/other/pods/bare", bare)
    for number in (1, 2, 3):
        with pytest.raises(UserError, match=r"the client runs on it|pods without a controller, .*: other/bare"):
            await prepared("node-drain", context, node=f"n{number}")
    with pytest.raises(UserError, match="no node can be drained"):
        await prepared("node-drain", context)
    with pytest.raises(UserError, match="there is no node n9"):
        await prepared("node-drain", context, node="n9")
    assert not writes(memory)


async def test_a_drain_keeps_emptydir_data(context: ActionContext, memory: MemoryApi) -> None:
    for pod in pods(memory):
        pod["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    with pytest.raises(UserError, match="emptyDir volumes, whose data would be lost"):
        await prepared("node-drain", context)
    await prepared("node-drain", context, delete_emptydir_data=True)


async def test_a_node_that_joins(context: ActionContext, memory: MemoryApi) -> None:
    labels = {"app.kubernetes.io/part-of": "affinity-tester", "app.kubernetes.io/component": "node-scaleup"}
    dummy = deployment("affinity-tester-node-scaleup", labels, 0)
    action = await prepared("node-scaleup", context, node_scaleup=dummy)
    await action.act()
    await settled(memory)
    with pytest.raises(UserError, match="found room on nodes that were there"):
        await action.wait_settled(10)
    asking = [pod for pod in pods(memory) if "node-scaleup" in pod["metadata"]["name"]]
    for pod in asking:
        del pod["spec"]["nodeName"]
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}
    with pytest.raises(NotSettledError, match=r"0 of 1 nodes joined and ready \(affinity-.*-\d+: 0/3 nodes\)"):
        await action.wait_settled(0.05)
    put_node(memory, node("n4"))
    await action.wait_settled(10)
    await action.undo()
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/affinity-tester-node-scaleup"
    assert path not in memory.objects
    for at in [at for at, obj in memory.objects.items() if "node-scaleup" in at and "/pods/" in at]:
        memory.remove(at)
    await action.wait_undone(10)


async def test_no_dummy_deployment(context: ActionContext) -> None:
    with pytest.raises(UserError, match="make node-scaleup NODES=0"):
        await prepared("node-scaleup", context)


async def test_a_matrix(context: ActionContext, memory: MemoryApi) -> None:
    made = MatrixServices(
        context, lambda policy, _: service(externalTrafficPolicy=policy, loadBalancerSourceRanges=["::/0"])
    )
    await made.prepare()
    await made.act()
    await made.wait_settled(10)
    names = [cell.ref.name for cell in made.cells]
    assert names == [
        f"affinity-tester-{each}" for each in ("cluster-none", "cluster-clientip", "local-none", "local-clientip")
    ]
    for cell in made.cells:
        found = memory.objects[SERVICE.replace("/affinity-tester", f"/{cell.ref.name}")]
        assert found["metadata"]["labels"]["app.kubernetes.io/component"] == "experiment"
        spec = found["spec"]
        assert (spec["type"], spec["externalTrafficPolicy"], spec["sessionAffinity"]) == (
            "NodePort",
            cell.policy,
            cell.affinity,
        )
        assert "loadBalancerSourceRanges" not in spec
    with pytest.raises(UserError, match="there is a Service media/affinity-tester-cluster-none already"):
        await made.prepare()
    await made.undo()
    await made.wait_undone(10)
    assert not [path for path in memory.objects if any(path.endswith(f"/services/{name}") for name in names)]


async def test_a_matrix_of_load_balancers(context: ActionContext, memory: MemoryApi) -> None:
    base = service(loadBalancerSourceRanges=["::/0"], clusterIP="10.0.0.1", healthCheckNodePort=31000)
    base["metadata"]["annotations"] = {"service.beta.kubernetes.io/aws-load-balancer-type": "external"}
    base["spec"]["ports"][0]["nodePort"] = 30478
    made = MatrixServices(context, lambda _policy, _affinity: base, load_balancer=True, affinities=["None"])
    assert made.kind is ActionKind.UNDONE
    assert made.text == "create the Services affinity-tester-cluster-none, affinity-tester-local-none"
    assert made.notes == ("2 load balancers are made: they cost money, quota, and minutes until they have addresses",)
    first, _ = made.calls()
    assert first.body["spec"]["loadBalancerSourceRanges"] == ["::/0"]
    assert not {"clusterIP", "healthCheckNodePort"} & first.body["spec"].keys()
    assert "nodePort" not in first.body["spec"]["ports"][0]
    assert "service.beta.kubernetes.io/aws-load-balancer-type" in first.body["metadata"]["annotations"]
    await made.prepare()
    await made.act()
    await made.wait_settled(10)
    path = SERVICE + "-local-none"
    memory.objects[path]["status"] = {}
    with pytest.raises(NotSettledError, match="Service affinity-tester-local-none has no address yet"):
        await made.wait_settled(0.05)
    await made.undo()
    await made.wait_undone(10)
    with pytest.raises(NotSettledError, match="Service media/affinity-tester-cluster-none is not there"):
        await made.wait_settled(0.05)


async def test_proxies_that_cannot_be_restarted(context: ActionContext, memory: MemoryApi) -> None:
    proxies = [(path, pod) for path, pod in memory.objects.items() if "/namespaces/kube-system/pods/" in path]
    with pytest.raises(UserError, match="kube-proxy has no pod on node n9"):
        await prepared("proxy-restart", context, node="n9")
    proxies[0][1]["status"]["conditions"] = []
    with pytest.raises(UserError, match=r"kube-proxy-\d+ not ready: wait"):
        await prepared("proxy-restart", context)
    for _, pod in proxies:
        pod["metadata"]["ownerReferences"] = []
    with pytest.raises(UserError, match="belong to no DaemonSet"):
        await prepared("proxy-restart", context)
    memory.stuck = True
    for path, _ in proxies:
        memory.remove(path)
    with pytest.raises(UserError, match="no proxy's pods were found"):
        await prepared("proxy-restart", context)


@pytest.mark.parametrize("name", ["proxy-restart", "node-scaleup", "node-drain"])
async def test_what_others_may_feel_is_said(name: str, context: ActionContext) -> None:
    dummy = deployment("affinity-tester-node-scaleup", SERVER, 0)
    (note,) = (await prepared(name, context, node_scaleup=dummy)).notes
    assert len(note) > 40


async def test_nodes_that_are_not_drained(context: ActionContext, memory: MemoryApi) -> None:
    nodes = [memory.objects[f"/api/v1/nodes/n{number}"] for number in (1, 2, 3)]
    nodes[0]["metadata"]["labels"] = {"node-role.kubernetes.io/control-plane": ""}
    nodes[1]["spec"]["unschedulable"] = True
    nodes[2]["status"]["conditions"][0]["status"] = "Unknown"
    with pytest.raises(UserError, match=r"it has the control plane.*it is cordoned or not ready"):
        await prepared("node-drain", context)
    with pytest.raises(UserError, match="no other node could take its pods"):
        await prepared("node-drain", context, node="n1")


async def test_pods_that_went_before_their_eviction(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("node-drain", context)
    for pod in action.evicted:
        memory.remove(f"/api/v1/namespaces/{NAMESPACE}/pods/{name_of(pod)}")
    await settled(memory)
    await whole(action)
    assert action.removed_pods == frozenset()


@pytest.mark.parametrize("name", ["policy-flip", "pod-delete", "scale-up", "rollout", "node-drain"])
async def test_what_a_matrix_will_need_is_known_before(name: str, make_context: Any, memory: MemoryApi) -> None:
    made = MatrixServices(make_context(), lambda policy, _: service(externalTrafficPolicy=policy))
    cells = tuple(cell.ref for cell in made.cells)
    action = await prepared(name, make_context(services=cells, planned_services=made.planned))
    before = action.rights()
    assert not writes(memory)
    await made.act()
    await made.wait_settled(10)
    later = await prepared(name, make_context(services=cells, planned_services=made.planned))
    assert later.rights() == before
    if name == "policy-flip":
        assert [change.to for change, _ in action.changes] == ["Local", "Local", "Cluster", "Cluster"]
        assert len(action.calls()) == 8


async def test_what_is_not_ours_is_not_touched(context: ActionContext, memory: MemoryApi) -> None:
    memory.objects[DEPLOYMENT]["metadata"]["labels"] = SERVER
    for name in ("pod-delete", "pod-kill", "scale-up", "scale-down", "rollout", "not-ready", "policy-flip"):
        with pytest.raises(UserError, match="is not this tool's"):
            await prepared(name, context)
    del memory.objects[DEPLOYMENT]
    with pytest.raises(UserError, match="there is no Deployment affinity-tester in namespace media"):
        await prepared("scale-up", context)
    assert not writes(memory)


async def test_a_service_of_other_pods(context: ActionContext, memory: MemoryApi) -> None:
    memory.objects[SERVICE]["spec"]["selector"] = {"app": "turn"}
    with pytest.raises(UserError, match="is not for the pods of Deployment"):
        await prepared("pod-delete", context)
    del memory.objects[SERVICE]
    with pytest.raises(UserError, match="there is no Service affinity-tester"):
        await prepared("pod-delete", context)


async def test_a_pool_that_is_not_whole(context: ActionContext, memory: MemoryApi) -> None:
    memory.stuck = True
    memory.remove(next(path for path in memory.objects if f"{NAMESPACE}/pods/" in path))
    with pytest.raises(UserError, match="only 2 of 3 pods"):
        await prepared("pod-delete", context)


async def test_a_pool_that_is_not_at_rest(context: ActionContext, memory: MemoryApi) -> None:
    memory.objects[DEPLOYMENT]["status"]["updatedReplicas"] = 1
    with pytest.raises(UserError, match=r"is not at rest \(the Deployment's status: .*updatedReplicas 1 of 3"):
        await prepared("scale-up", context)


async def test_pods_of_another_owner(context: ActionContext, memory: MemoryApi) -> None:
    memory.stuck = True
    other = {"metadata": {"name": "other", "namespace": NAMESPACE, "uid": "uid-99"}}
    memory.add_pod(other, "ReplicaSet", "", SERVER)
    with pytest.raises(UserError, match="4 pods are ready where it asks for 3"):
        await prepared("policy-flip", context)


async def test_a_pool_that_is_too_small(context: ActionContext, memory: MemoryApi) -> None:
    put_deployment(memory, deployment(replicas=1))
    await settled(memory)
    with pytest.raises(UserError, match=r"has 1 ready pod, and this experiment needs 2: kubectl .* --replicas=2"):
        await prepared("pod-delete", context)


def managed_by(manager: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """As an API server writes them since Kubernetes 1.18."""
    ours = {"manager": "affinity-tester", "operation": "Update", "fieldsType": "FieldsV1"}
    theirs = {"manager": manager, "operation": "Update", "subresource": "scale", "fieldsType": "FieldsV1"}
    return [{**ours, "fieldsV1": {"f:metadata": {"f:annotations": {}}}}, {**theirs, "fieldsV1": fields}]


async def test_who_set_the_number_of_pods_back_is_said(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("scale-up", context)
    await action.act()
    autoscaled = memory.objects[DEPLOYMENT]
    autoscaled["spec"]["replicas"] = 3
    autoscaled["metadata"]["managedFields"] = managed_by("kube-controller-manager", {"f:spec": {"f:replicas": {}}})
    with pytest.raises(NotSettledError, match=r"asks for 3 pods \(set by kube-controller-manager\), not 4"):
        await action.wait_settled(0.05)


async def test_who_set_the_policy_back_is_said(context: ActionContext, memory: MemoryApi, steps: list[Step]) -> None:
    action = await prepared("policy-flip", context)
    await action.act()
    synced = memory.objects[SERVICE]
    synced["spec"]["externalTrafficPolicy"] = "Other"
    synced["metadata"]["managedFields"] = managed_by("argocd-controller", {"f:spec": {"f:externalTrafficPolicy": {}}})
    with pytest.raises(
        NotSettledError, match=r"has the policy Other \(set by argocd-controller\), not (Local|Cluster)$"
    ):
        await action.wait_settled(0.05)
    await action.undo()
    assert 'externalTrafficPolicy is "Other" (set by argocd-controller)' in steps[-1].text


async def test_a_service_that_is_gone_has_no_policy(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("policy-flip", context)
    await action.act()
    del memory.objects[SERVICE]
    with pytest.raises(NotSettledError, match=f"Service {SERVICE.rpartition('/')[2]} is gone"):
        await action.wait_settled(0.05)


async def test_what_is_missing_is_said(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("scale-up", context)
    memory.stuck = True
    await action.act()
    with pytest.raises(NotSettledError, match=r"not settled within 0.05 s: 3 of 4 pods ready"):
        await action.wait_settled(0.05)
    memory.stuck = False
    await action.undo()
    await action.wait_undone(10)


async def test_a_list_that_is_refused(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("scale-up", context)
    memory.forbidden = lambda right: right.verb == "list" and right.resource == "endpointslices"
    with pytest.raises(ApiError, match="list endpointslices"):
        await action.wait_settled(5)


@pytest.mark.parametrize(
    "name", [name for name in ACTIONS if name not in ("baseline", "idle", "command", "node-scaleup")]
)
async def test_all_that_is_asked_was_checked(name: str, context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared(name, context)
    rights = action.rights()
    await check_rights(memory, rights)
    memory.requests.clear()
    await whole(action)
    for verb, path, _ in memory.requests:
        asked = memory.right_of(verb, path)
        assert any(
            (right.verb, right.group, right.resource, right.subresource, right.namespace)
            == (asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace)
            for right in rights
        ), asked
    memory.forbidden = lambda right: right.verb == "patch" or right.subresource == "eviction" or right.verb == "delete"
    with pytest.raises(UserError, match="the cluster does not allow what the experiment needs"):
        await check_rights(memory, rights)


async def test_reviews_that_are_refused(context: ActionContext, memory: MemoryApi) -> None:
    action = await prepared("scale-up", context)
    memory.forbidden = lambda right: right.resource == "selfsubjectaccessreviews"
    assert await missing_rights(memory, action.rights()) == []
