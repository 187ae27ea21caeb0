"""Whichever request fails, and however, what an experiment changed is brought back: by its undo, or by the next one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from memory_api import NAMESPACE, Json, Killed, MemoryApi, deployment, populate, put_service, service, settled

from affinity_tester.cluster.actions.base import Action, ActionContext, ActionOptions
from affinity_tester.cluster.actions.matrix_services import MatrixServices
from affinity_tester.cluster.actions.mend import mend
from affinity_tester.cluster.actions.select import action_of
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.errors import AffinityTesterError

NAMES = (
    "scale-up",
    "scale-down",
    "policy-flip",
    "node-drain",
    "node-scaleup",
    "made-node-scaleup",
    "matrix",
)
KINDS = ("deployments", "services", "nodes")
DUMMY = {"app.kubernetes.io/name": "affinity-tester", "app.kubernetes.io/component": "node-scaleup"}


def not_done(_do: Any) -> Json:
    raise ApiError("etcd is away", 503)


def unanswered(do: Any) -> Json:
    """It is done, and nobody hears of it."""
    do()
    error = ApiError("the API server did not answer in time; it may have been done all the same")
    error.may_be_done = True
    raise error


def late(do: Any) -> Json:
    """Nobody hears of it, and it is done when the undo may have looked already."""

    def at_last() -> None:
        with suppress(ApiError):  # what was changed meanwhile, it must not change
            do()

    asyncio.get_running_loop().call_later(0.01, at_last)
    raise ApiError("the API server did not answer in time; it may have been done all the same")


def conflict(_do: Any) -> Json:
    raise ApiError("the object has been modified", 409)


def refused(_do: Any) -> Json:
    raise ApiError("no", 403)


def cancelled_before(_do: Any) -> Json:
    raise asyncio.CancelledError


def cancelled_after(do: Any) -> Json:
    do()
    raise asyncio.CancelledError


def killed_before(_do: Any) -> Json:
    raise Killed


def killed_after(do: Any) -> Json:
    do()
    raise Killed


WAYS = (not_done, unanswered, late, conflict, refused, cancelled_before, cancelled_after, killed_before, killed_after)


def state(api: MemoryApi) -> dict[str, Any]:
    """What a user set of the objects that experiments change."""
    found = {}
    for path, obj in api.objects.items():
        if path.split("/")[-2] in KINDS:
            metadata = obj["metadata"]
            kept = {name: metadata.get(name) or {} for name in ("labels", "annotations")}
            found[path] = {**kept, "spec": obj["spec"]}
    # Pods come and go; what stays of any is that nothing stands on it.
    found["pods"] = [
        annotations
        for path, obj in api.objects.items()
        if path.split("/")[-2] == "pods" and (annotations := obj["metadata"].get("annotations"))
    ]
    return found


def make(name: str, context: ActionContext) -> Action:
    if name == "matrix":
        return MatrixServices(
            context, lambda policy, affinity: service(externalTrafficPolicy=policy, sessionAffinity=affinity)
        )
    dummy = deployment("affinity-tester-node-scaleup", DUMMY, 1)
    return action_of(name.removeprefix("made-"), context, ActionOptions(node_scaleup=dummy))


async def experiment(action: Action) -> None:
    """As the command does: whatever happens, undo."""
    try:
        await action.act()
    except Killed:
        raise
    except (AffinityTesterError, asyncio.CancelledError):
        pass
    await action.undo()


async def world(name: str) -> MemoryApi:
    api = MemoryApi()
    populate(api)
    if name == "node-scaleup":
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/affinity-tester-node-scaleup"
        api.put(path, deployment("affinity-tester-node-scaleup", DUMMY, 0))
    if name == "policy-flip":
        put_service(api, service("local", externalTrafficPolicy="Local"))
    await settled(api)
    return api


async def prepared(name: str, make_context: Any) -> tuple[MemoryApi, Action, dict[str, Json]]:
    api = await world(name)
    services = [ServiceRef(NAMESPACE, each) for each in ("affinity-tester", "local")[: 1 + (name == "policy-flip")]]
    context = make_context(cluster=Cluster(api, "c", NAMESPACE, inside=False), services=tuple(services))
    before = state(api)
    action = make(name, context)
    await action.prepare()
    return api, action, before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
async def test_every_request(name: str, way: Any, make_context: Any) -> None:
    api, action, before = await prepared(name, make_context)
    first = len(api.requests)
    await experiment(action)
    count = len(api.requests) - first
    assert count >= 3
    assert state(api) == before

    for number in range(count):
        api, action, before = await prepared(name, make_context)
        api.sabotage[len(api.requests) + number] = way
        with suppress(Killed, AffinityTesterError, asyncio.CancelledError):
            await experiment(action)
        if way in (not_done, unanswered, conflict):
            assert state(api) == before, (number, "by its own undo")
        if way is late:
            await asyncio.sleep(0.02)
        await mend(action.context)
        assert state(api) == before, number
        assert await mend(action.context) == ()


@pytest.mark.parametrize("lasts", [4, 1000])
@pytest.mark.parametrize("name", NAMES)
async def test_an_api_server_that_is_away(name: str, lasts: int, make_context: Any) -> None:
    """For a moment, which the undo outlasts; or for good: then the next experiment mends."""
    api, action, before = await prepared(name, make_context)
    first = len(api.requests)
    await experiment(action)
    for number in range(len(api.requests) - first):
        api, action, before = await prepared(name, make_context)
        first = len(api.requests) + number
        api.sabotage = dict.fromkeys(range(first, first + lasts), not_done)
        if lasts > 4:
            with suppress(AffinityTesterError):
                await experiment(action)
            api.sabotage.clear()
            await mend(action.context)
        else:
            await experiment(action)
        assert state(api) == before, number
