"""The controllers, the scheduler and the kubelets, with time that the test passes."""

from __future__ import annotations

from typing import Any

import pytest
from kube_world import LABELS, START_NS, World

from affinity_tester.lab.kube.cluster import proxy_template
from affinity_tester.lab.kube.controllers import MirrorPods
from affinity_tester.lab.kube.deployments import pods_to_delete
from affinity_tester.lab.kube.pods import condition, is_terminating
from affinity_tester.lab.kube.resources import DEPLOYMENTS, NODES, PODS, REPLICA_SETS, SERVICES, SLICES, Json
from affinity_tester.lab.kube.scheduler import Autoscaler
from affinity_tester.units import NS_PER_S

READY, DRAINING, STARTING = (True, True, False), (False, True, True), (False, False, False)


def scale(world: World, replicas: int) -> None:
    deployment = world.store.get(DEPLOYMENTS, "default", "echo")
    world.store.modify(DEPLOYMENTS, deployment, lambda new: new["spec"].update(replicas=replicas))


def restart(world: World, at: str = "now") -> None:
    def change(new: Json) -> None:
        new["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": at}

    world.store.modify(DEPLOYMENTS, world.store.get(DEPLOYMENTS, "default", "echo"), change)


def names(pods: list[Json]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


async def running(replicas: int = 3, **spec: Any) -> World:
    world = World(**spec)
    world.add_deployment(replicas)
    world.add_service()
    await world.advance(1)
    return world


async def test_pods_start_on_all_nodes_and_become_endpoints() -> None:
    world = World()
    world.add_deployment()
    world.add_service()
    await world.settle()
    assert {pod["status"]["phase"] for pod in world.pods()} == {"Pending"}
    assert world.conditions() == {}
    await world.advance(0.2)
    assert set(world.conditions().values()) == {STARTING}
    await world.advance(0.2)
    assert set(world.conditions().values()) == {READY}
    assert {pod["spec"]["nodeName"] for pod in world.pods()} == {"node-1", "node-2", "node-3"}
    assert {address.ip.rpartition(".")[0] for address in world.runtime.running.values()} == {
        "127.16.1",
        "127.16.2",
        "127.16.3",
    }
    status = world.store.get(DEPLOYMENTS, "default", "echo")["status"]
    counts = {name: value for name, value in status.items() if name != "conditions"}
    assert counts == {
        "observedGeneration": 1,
        "replicas": 3,
        "updatedReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
    }
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Available": "True",
        "Progressing": "True",
    }


async def test_a_deleted_pod_drains_and_is_replaced_at_once() -> None:
    world = await running()
    old = world.pods()[0]
    world.store.delete(PODS, "default", old["metadata"]["name"])
    await world.advance(0.5)
    conditions = world.conditions()
    assert conditions.pop(old["metadata"]["name"]) == DRAINING
    assert list(conditions.values()) == [READY] * 3
    assert old["metadata"]["uid"] in world.runtime.running, "it still answers"
    await world.advance(0.5)
    assert old["metadata"]["uid"] not in world.runtime.running
    assert world.conditions()[old["metadata"]["name"]] == (False, False, True)
    await world.advance(0.1)
    assert set(world.conditions().values()) == {READY}
    assert len(world.pods()) == 3


async def test_a_short_grace_period_cuts_the_draining() -> None:
    world = await running(1)
    world.kubelet._timing = type(world.kubelet._timing)(drain_ns=5 * NS_PER_S)
    pod = world.pods()[0]
    world.store.delete(PODS, "default", pod["metadata"]["name"], 2)
    await world.advance(1.9)
    assert pod["metadata"]["uid"] in world.runtime.running
    await world.advance(0.1)
    assert pod["metadata"]["uid"] not in world.runtime.running


async def test_a_killed_pod_is_gone_at_once() -> None:
    world = await running()
    old = world.pods()[0]
    world.store.delete(PODS, "default", old["metadata"]["name"], 0)
    await world.settle()
    assert old["metadata"]["uid"] not in world.runtime.running
    assert old["metadata"]["name"] not in world.conditions()
    assert len(world.pods()) == 3


async def test_a_pod_that_never_ran_goes_without_draining() -> None:
    world = World()
    world.add_deployment()
    await world.settle()
    scale(world, 0)
    await world.settle()
    assert world.pods() == []


async def test_scaling_adds_and_removes_pods_and_moves_no_other() -> None:
    world = await running()
    before = names(world.pods())
    scale(world, 5)
    await world.advance(1)
    assert names(world.pods()) > before
    assert len(world.living()) == 5
    scale(world, 2)
    await world.settle()
    assert sum(map(is_terminating, world.pods())) == 3
    await world.advance(2)
    assert len(world.living()) == len(world.pods()) == 2
    scale(world, 0)
    await world.advance(2)
    assert world.pods() == []


async def test_a_rollout_never_has_fewer_than_wanted_and_one_more_at_most() -> None:
    world = await running()
    old = names(world.pods())
    restart(world)
    seen = []
    for _ in range(40):
        await world.advance(0.1)
        working = [pod for pod in world.pods() if not is_terminating(pod)]
        seen.append((len(world.living()), len(working)))
    assert min(living for living, _ in seen) == 3
    assert max(count for _, count in seen) == 4
    assert not names(world.pods()) & old
    deployment = world.store.get(DEPLOYMENTS, "default", "echo")
    assert deployment["metadata"]["annotations"] == {"deployment.kubernetes.io/revision": "2"}
    assert condition(deployment, "Progressing")["reason"] == "NewReplicaSetAvailable"
    assert sorted(each["spec"]["replicas"] for each in world.store.list(REPLICA_SETS)) == [0, 3]


async def test_a_rollout_back_uses_the_old_replica_set_again() -> None:
    world = await running(2)
    restart(world, "one")
    await world.advance(4)
    restart(world, "two")
    await world.advance(4)
    restart(world, "one")
    await world.advance(4)
    assert len(world.store.list(REPLICA_SETS)) == 3
    deployment = world.store.get(DEPLOYMENTS, "default", "echo")
    assert deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "4"
    assert len(world.living()) == 2


async def test_a_paused_deployment_rolls_nothing() -> None:
    world = await running(2)
    before = names(world.pods())
    deployment = world.store.get(DEPLOYMENTS, "default", "echo")
    world.store.modify(DEPLOYMENTS, deployment, lambda new: new["spec"].update(paused=True))
    restart(world)
    await world.advance(4)
    assert names(world.pods()) == before


async def test_old_pods_that_are_not_available_go_first() -> None:
    world = await running(3)
    for node in world.store.list(NODES):
        world.store.modify(NODES, node, lambda new: new["spec"].update(unschedulable=True))
    victim = world.pods()[0]["metadata"]["name"]
    world.store.delete(PODS, "default", victim, 0)
    await world.advance(1)
    pending = [pod for pod in world.pods() if not pod["spec"].get("nodeName")]
    assert len(pending) == 1

    def allow_one_less(new: Json) -> None:
        new["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = "34%"

    world.store.modify(DEPLOYMENTS, world.store.get(DEPLOYMENTS, "default", "echo"), allow_one_less)
    restart(world)
    await world.settle()
    assert not names(pending) & names(world.pods()), "the old pod that fits nowhere served nobody"


async def test_everything_goes_with_its_deployment_and_service() -> None:
    world = await running()
    world.store.delete(DEPLOYMENTS, "default", "echo")
    world.store.delete(SERVICES, "default", "echo")
    await world.advance(2)
    assert (world.pods(), world.store.list(REPLICA_SETS), world.store.list(SLICES)) == ([], [], [])
    assert world.runtime.running == {}


def a_pod(uid: str, node: str = "n1", ready: str | None = "00", **more: Any) -> Json:
    """`ready`: the second of 2027-01-15T08:00 at which it became ready; None: it is not."""
    conditions = [] if ready is None else [{"type": "Ready", "status": "True", "lastTransitionTime": second(ready)}]
    annotations = {"controller.kubernetes.io/pod-deletion-cost": more["cost"]} if "cost" in more else {}
    return {
        "metadata": {"uid": uid, "creationTimestamp": second(more.get("made", "00")), "annotations": annotations},
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": more.get("phase", "Running"),
            "conditions": conditions,
            "containerStatuses": [{"restartCount": more.get("restarts", 0)}],
        },
    }


def second(text: str) -> str:
    return f"2027-01-15T08:00:{text}Z"


@pytest.mark.parametrize(
    ("first", "second_"),
    [
        (a_pod("z", node=""), a_pod("a", phase="Pending")),
        (a_pod("z", phase="Pending"), a_pod("a", ready=None)),
        (a_pod("z", ready=None), a_pod("a")),
        (a_pod("z", cost="-1"), a_pod("a", cost="much")),
        (a_pod("z", ready="58"), a_pod("a", ready="00")),
        (a_pod("z", restarts=1), a_pod("a")),
        (a_pod("z", made="58"), a_pod("a")),
        (a_pod("a"), a_pod("z")),
    ],
    ids=["unassigned", "pending", "not ready", "cost", "ready later", "restarts", "younger", "uid"],
)
def test_what_a_replica_set_deletes_first(first: Json, second_: Json) -> None:
    now_ns = START_NS + 60 * NS_PER_S
    assert pods_to_delete([second_, first], [second_, first], 1, now_ns) == [first]


def test_of_two_on_one_node_one_goes_first() -> None:
    pods = [a_pod("a", "n1"), a_pod("b", "n2"), a_pod("c", "n2")]
    assert pods_to_delete(pods, pods, 1, START_NS + 60 * NS_PER_S) == [pods[1]]


# --- nodes ------------------------------------------------------------------------------------------------------------


async def test_a_pod_that_fits_nowhere_waits_until_it_does() -> None:
    world = await running(1)
    for node in world.store.list(NODES):
        world.store.modify(NODES, node, lambda new: new["spec"].update(unschedulable=True))
    scale(world, 2)
    await world.advance(1)
    (waiting,) = [pod for pod in world.pods() if not pod["spec"].get("nodeName")]
    refused = condition(waiting, "PodScheduled")
    assert (refused["status"], refused["reason"], refused["message"]) == (
        "False",
        "Unschedulable",
        "0/3 nodes are available",
    )
    world.store.modify(NODES, world.store.get(NODES, "", "node-2"), lambda new: new["spec"].update(unschedulable=False))
    await world.advance(1)
    assert len(world.living()) == 2


async def test_cpu_is_given_once() -> None:
    world = World(nodes=1)
    world.add_deployment(50)
    await world.advance(1)
    assert len(world.living()) == 40  # of 100m each, of 4 CPUs


async def test_an_autoscaler_adds_a_node_and_takes_it_back() -> None:
    world = await running()
    world.controllers.append(Autoscaler(world.store, world.add_node))
    repels = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"part-of": "affinity-tester"}},
                }
            ]
        }
    }
    labels = {"app": "room", "part-of": "affinity-tester"}
    world.add_deployment(1, "room", labels, affinity=repels, terminationGracePeriodSeconds=0)
    world.add_proxies()
    await world.advance(0.4)
    assert len(world.store.list(NODES)) == 3
    await world.advance(0.2)
    assert condition(world.store.get(NODES, "", "node-4"), "Ready")["status"] == "False"
    await world.advance(2)
    (room,) = [pod for pod in world.pods() if pod["metadata"]["labels"]["app"] == "room"]
    assert room["spec"]["nodeName"] == "node-4"
    scale(world, 7)
    await world.advance(2)
    on_new = [pod for pod in world.pods() if pod["spec"].get("nodeName") == "node-4"]
    assert on_new == [room], "the pods that are there refuse others, too"
    assert len(world.pods("kube-system")) == 4

    world.store.delete(DEPLOYMENTS, "default", "room")
    await world.advance(1)
    assert len(world.store.list(NODES)) == 4
    await world.advance(2)
    assert len(world.store.list(NODES)) == 3
    assert len(world.pods("kube-system")) == 3


async def test_a_proxy_that_is_deleted_comes_back_as_another() -> None:
    world = World()
    world.add_proxies()
    await world.advance(1)
    before = world.pods("kube-system")
    assert [pod["status"]["podIP"] for pod in before] == [pod["status"]["hostIP"] for pod in before]
    world.store.delete(PODS, "kube-system", before[0]["metadata"]["name"])
    await world.advance(1)
    after = world.pods("kube-system")
    assert len(after) == 3
    assert len(names(after) - names(before)) == 1


async def test_a_mirror_pod_that_is_deleted_restarts_nothing() -> None:
    world = World(nodes=1)
    world.controllers.append(MirrorPods(world.store, proxy_template(static=True), "kube-proxy"))
    await world.advance(1)
    (before,) = world.pods("kube-system")
    assert before["metadata"]["ownerReferences"][0]["kind"] == "Node"
    world.store.delete(PODS, "kube-system", before["metadata"]["name"])
    await world.advance(1)
    (after,) = world.pods("kube-system")
    assert after["metadata"]["name"] == before["metadata"]["name"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    container = [pod["status"]["containerStatuses"][0]["containerID"] for pod in (before, after)]
    assert container[0] == container[1]


# --- Services ---------------------------------------------------------------------------------------------------------


async def test_a_balancer_has_its_address_a_moment_later() -> None:
    world = World()
    world.add_service()
    await world.advance(0.4)
    assert world.store.get(SERVICES, "default", "echo")["status"] == {"loadBalancer": {}}
    await world.advance(0.1)
    service = world.store.get(SERVICES, "default", "echo")
    assert service["status"] == {"loadBalancer": {"ingress": [{"ip": "127.16.255.1", "ipMode": "VIP"}]}}
    world.store.modify(SERVICES, service, lambda new: new["spec"].update(type="NodePort"))
    await world.settle()
    assert world.store.get(SERVICES, "default", "echo")["status"] == {"loadBalancer": {}}


async def test_a_slice_names_the_port_of_the_pods_and_follows_the_service() -> None:
    world = await running(1)
    world.add_service("other", type="ClusterIP", selector={"app": "none"})
    await world.settle()
    (own, other) = world.store.list(SLICES)
    assert own["ports"] == [{"name": "stun", "protocol": "UDP", "port": 3478}]
    assert own["metadata"]["labels"]["kubernetes.io/service-name"] == "echo"
    assert (own["metadata"]["generation"], other["endpoints"]) == (3, [])
    service = world.store.get(SERVICES, "default", "other")
    world.store.modify(SERVICES, service, lambda new: new["spec"].update(selector=LABELS))
    await world.settle()
    assert world.conditions("other") == world.conditions("echo")
