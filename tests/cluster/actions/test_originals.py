"""What stands on objects: what is brought back of it, and what is left because somebody else changed it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from memory_api import NAMESPACE, Json, MemoryApi, merge, put_service, service, settled

from affinity_tester.cluster.actions.base import ActionContext, ActionOptions, Step, StepState
from affinity_tester.cluster.actions.mend import mend, rights
from affinity_tester.cluster.actions.originals import ANNOTATION, MADE, Original
from affinity_tester.cluster.actions.rights import check_rights
from affinity_tester.cluster.actions.select import action_of
from affinity_tester.cluster.api import ApiError
from affinity_tester.errors import UserError

DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/affinity-tester"
SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services/affinity-tester"


async def killed(name: str, context: ActionContext) -> None:
    """Run an experiment that is killed after its action."""
    action = action_of(name, context, ActionOptions())
    await action.prepare()
    await action.act()


def replicas(api: MemoryApi) -> int:
    return int(api.objects[DEPLOYMENT]["spec"]["replicas"])


async def test_what_stands_there(context: ActionContext, memory: MemoryApi) -> None:
    await killed("scale-up", context)
    original = Original.on(memory.objects[DEPLOYMENT])
    assert original == Original(
        experiment="scale-up",
        field="spec.replicas",
        value=3,
        changed_to=4,
        also={},
        holder="me@here (pid 1)",
        at="2026-01-02T03:04:05+00:00",
        generation=1,
    )


async def test_what_the_note_has_a_controller_write_is_no_failure(
    context: ActionContext, memory: MemoryApi, steps: list[Step]
) -> None:
    """As seen with kube-apiserver and kube-controller-manager 1.20.2: the change after the note was a conflict each time."""
    action = action_of("scale-up", context, ActionOptions())
    await action.prepare()

    def after_the_note(do: Any) -> Json:
        noted = do()
        memory.put(DEPLOYMENT, merge(memory.objects[DEPLOYMENT], {"status": {"observedGeneration": 2}}))
        return noted  # type: ignore[no-any-return]

    memory.sabotage = {len(memory.requests) + 1: after_the_note}
    await action.act()
    assert replicas(memory) == 4
    assert [step.state for step in steps] == [
        *(StepState.WILL, StepState.DID),
        *(StepState.WILL, StepState.AGAIN),
        *(StepState.WILL, StepState.DID),
    ]
    assert "has been modified" in steps[3].reason


async def test_the_next_run_mends(context: ActionContext, memory: MemoryApi, steps: list[Step]) -> None:
    await check_rights(memory, rights(context))
    await killed("scale-up", context)
    await settled(memory)
    await killed("policy-flip", context)
    told = await mend(context)
    assert replicas(memory) == 3
    assert memory.objects[SERVICE]["spec"]["externalTrafficPolicy"] == "Cluster"
    assert {step.text for step in told if step.state is StepState.DID} == {
        "set spec.replicas of Deployment media/affinity-tester back to 3",
        'set spec.externalTrafficPolicy of Service media/affinity-tester back to "Cluster"',
    }
    assert steps[-4:] == list(told)


async def test_what_was_not_set_before_is_removed_again(context: ActionContext, memory: MemoryApi) -> None:
    await killed("node-drain", context)
    texts = [step.text for step in await mend(context)]
    assert "remove spec.unschedulable of node n1 again" in texts


async def test_what_somebody_changed_since_is_left(context: ActionContext, memory: MemoryApi) -> None:
    await killed("scale-up", context)
    memory.put(DEPLOYMENT, merge(memory.objects[DEPLOYMENT], {"spec": {"replicas": 7}}))
    told = await mend(context)
    assert replicas(memory) == 7
    assert "leave Deployment media/affinity-tester as it is: somebody changed it" in told[0].text
    assert await mend(context) == ()


async def test_a_note_that_a_rollback_copied_back_says_nothing(context: ActionContext, memory: MemoryApi) -> None:
    """The Deployment's controller had copied it to a ReplicaSet; the experiment ended well; `kubectl rollout undo` came."""
    action = action_of("scale-up", context, ActionOptions())
    await action.prepare()
    await action.act()
    note = memory.objects[DEPLOYMENT]["metadata"]["annotations"][ANNOTATION]
    await action.undo()
    rollback = {
        "metadata": {"annotations": {ANNOTATION: note}},
        "spec": {"replicas": 4, "template": {"spec": {"x": 1}}},
    }
    memory.put(DEPLOYMENT, merge(memory.objects[DEPLOYMENT], rollback))
    await mend(context)
    assert replicas(memory) == 4
    assert ANNOTATION not in memory.objects[DEPLOYMENT]["metadata"]["annotations"]


async def test_a_port_that_somebody_else_got(context: ActionContext, memory: MemoryApi) -> None:
    memory.put(SERVICE, merge(memory.objects[SERVICE], {"spec": {"externalTrafficPolicy": "Local"}}))
    await killed("policy-flip", context)

    def taken(do: Any) -> Json:
        if "healthCheckNodePort" in (memory.requests[-1][2] or {})["spec"]:
            raise ApiError("provided port is already allocated", 422)
        return do()  # type: ignore[no-any-return]

    memory.sabotage = dict.fromkeys(range(len(memory.requests), len(memory.requests) + 50), lambda do: do())
    for number in list(memory.sabotage):
        memory.sabotage[number] = lambda do: taken(do) if memory.requests[-1][0] == "patch" else do()
    await mend(context)
    assert memory.objects[SERVICE]["spec"]["externalTrafficPolicy"] == "Local"
    assert ANNOTATION not in memory.objects[SERVICE]["metadata"]["annotations"]


async def test_a_note_of_another_experiment_stops_an_action(context: ActionContext, memory: MemoryApi) -> None:
    action = action_of("scale-up", context, ActionOptions(pods=2))
    await action.prepare()
    await killed("scale-up", context)
    with pytest.raises(UserError, match=r"still has the note of an experiment that me@here \(pid 1\) began"):
        await action.act()
    assert replicas(memory) == 4


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"experiment": "x", "field": "spec.replicas", "value": 3}'])
async def test_a_note_that_cannot_be_read(note: str, context: ActionContext, memory: MemoryApi) -> None:
    memory.put(DEPLOYMENT, merge(memory.objects[DEPLOYMENT], {"metadata": {"annotations": {ANNOTATION: note}}}))
    context = replace(context, timing=replace(context.timing, backoff_s=1000))  # it is not tried again
    with pytest.raises(ApiError, match="cannot be read: bring the object back by hand"):
        await mend(context)


async def test_a_service_that_only_has_the_name_is_left(context: ActionContext, memory: MemoryApi) -> None:
    put_service(memory, service("affinity-tester-cluster-none"))
    assert await mend(context) == ()


async def test_what_a_matrix_left_is_deleted_though_it_was_flipped(context: ActionContext, memory: MemoryApi) -> None:
    made = service("affinity-tester-cluster-none")
    made["metadata"]["annotations"] = {MADE: "{}", ANNOTATION: "not read"}
    put_service(memory, made)
    await mend(context)
    assert SERVICE + "-cluster-none" not in memory.objects


async def test_nodes_that_may_not_be_listed(context: ActionContext, memory: MemoryApi) -> None:
    await killed("scale-up", context)
    memory.forbidden = lambda right: right.resource == "nodes"
    await mend(context)
    assert replicas(memory) == 3


async def test_a_failure_does_not_keep_the_others_from_it(context: ActionContext, memory: MemoryApi) -> None:
    await killed("scale-up", context)
    await settled(memory)
    await killed("policy-flip", context)
    memory.forbidden = lambda right: (right.verb, right.resource) == ("patch", "deployments")
    with pytest.raises(ApiError, match=r"patch deployments.apps in media is forbidden"):
        await mend(context)
    assert memory.objects[SERVICE]["spec"]["externalTrafficPolicy"] == "Cluster"
