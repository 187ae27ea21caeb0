"""The emulated API server over HTTP: watches, bookmarks, shapes, discovery."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from kube_world import NAMESPACE, World

from affinity_tester.lab.kube import api_server
from affinity_tester.lab.kube.api_server import ApiServer
from affinity_tester.lab.kube.resources import PODS, SERVICES

PODS_PATH, SERVICES_PATH = f"{NAMESPACE}/pods", f"{NAMESPACE}/services"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST = METADATA.replace("Metadata;", "MetadataList;")


class Served:
    """A world whose API server listens."""

    def __init__(self, world: World, session: aiohttp.ClientSession, port: int) -> None:
        self.world = world
        self._session = session
        self._at = f"http://127.0.0.1:{port}"
        self.watches: list[Watch] = []

    async def ask(self, path: str, method: str = "GET", accept: str = "*/*", **query: str) -> tuple[int, Any]:
        headers = {"Accept": accept}
        async with self._session.request(method, self._at + path, params=query, headers=headers) as answer:
            return answer.status, await answer.json()

    async def watch(self, path: str = SERVICES_PATH, accept: str = "*/*", **query: str) -> Watch:
        query = {"watch": "true", **query}
        response = await self._session.get(self._at + path, params=query, headers={"Accept": accept})
        assert response.status == 200, await response.text()
        self.watches.append(Watch(response))
        return self.watches[-1]

    def close(self) -> None:
        """End the watches."""
        for watch in self.watches:
            watch.close()


class Watch:
    """An open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def close(self) -> None:
        self._response.close()

    async def event(self) -> tuple[str, Any]:
        event = json.loads(await self._response.content.readline())
        return event["type"], event["object"]

    async def brief(self) -> tuple[str, str]:
        """The next event's type and its object's name."""
        kind, obj = await self.event()
        return kind, obj["metadata"]["name"]

    async def rest(self) -> list[tuple[str, Any]]:
        """All events until the server ends the watch."""
        lines = (await self._response.content.read()).splitlines()
        return [(event["type"], event["object"]) for event in map(json.loads, lines)]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    world = World()
    server = await ApiServer.start(world.store, world.requests)
    async with aiohttp.ClientSession() as session:
        served = Served(world, session, server.port)
        yield served
        served.close()
    await server.close()


async def test_a_watch_goes_on_from_a_list(served: Served) -> None:
    served.world.add_service("one")
    _, found = await served.ask(SERVICES_PATH)
    served.world.add_service("two")
    watch = await served.watch(resourceVersion=found["metadata"]["resourceVersion"])
    assert await watch.brief() == ("ADDED", "two")
    service = served.world.store.get(SERVICES, "default", "one")
    served.world.store.modify(SERVICES, service, lambda new: new["spec"].update(sessionAffinity="ClientIP"))
    assert await watch.brief() == ("MODIFIED", "one")
    served.world.store.delete(SERVICES, "default", "two")
    kind, gone = await watch.event()
    assert (kind, gone["metadata"]["name"]) == ("DELETED", "two")
    assert int(gone["metadata"]["resourceVersion"]) == served.world.store.revision


@pytest.mark.parametrize("version", ["", "0"])
async def test_a_watch_without_a_version_begins_with_what_there_is(served: Served, version: str) -> None:
    served.world.add_service("one")
    served.world.add_service("two")
    watch = await served.watch(resourceVersion=version, fieldSelector="metadata.name=two")
    assert await watch.brief() == ("ADDED", "two")


async def test_a_watch_of_metadata_alone(served: Served) -> None:
    served.world.add_service("one")
    watch = await served.watch(accept=METADATA)
    _, obj = await watch.event()
    assert obj.keys() == {"kind", "apiVersion", "metadata"}
    assert obj["kind"] == "PartialObjectMetadata"
    _, found = await served.ask(SERVICES_PATH, accept=METADATA_LIST)
    assert (found["kind"], found["items"]) == ("PartialObjectMetadataList", [obj])
    _, one = await served.ask(f"{SERVICES_PATH}/one", accept=METADATA)
    assert one == obj
    _, status = await served.ask(f"{SERVICES_PATH}/none", accept=METADATA)
    assert status["kind"] == "Status"


async def test_a_version_that_is_too_old_is_gone(served: Served) -> None:
    served.world.add_service("one")
    served.world.store.compact()
    served.world.add_service("two")
    code, status = await served.ask(SERVICES_PATH, watch="1", resourceVersion="1001")
    assert (code, status["reason"], status["code"]) == (410, "Expired", 410)
    code, status = await served.ask(SERVICES_PATH, watch="1", resourceVersion="x")
    assert (code, status["reason"]) == (400, "BadRequest")


async def test_bookmarks_and_the_end_of_a_watch(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "BOOKMARK_S", 0.05)
    version = str(served.world.store.revision)
    watch = await served.watch(resourceVersion=version, timeoutSeconds="1", allowWatchBookmarks="true")
    events = await watch.rest()
    assert len(events) > 3
    assert {kind for kind, _ in events} == {"BOOKMARK"}
    metadata = {"resourceVersion": version, "creationTimestamp": None}
    assert events[-1][1] == {"kind": "Service", "apiVersion": "v1", "metadata": metadata}
    quiet = await served.watch(resourceVersion=version, timeoutSeconds="1")
    assert await quiet.rest() == []


async def test_a_watch_that_is_left_is_forgotten(served: Served) -> None:
    watch = await served.watch(PODS_PATH)
    assert len(served.world.store._listeners) == 1
    watch.close()
    served.world.add_service("one")
    while served.world.store._listeners:
        await served.ask("/version")


async def test_what_there_is_to_discover(served: Served) -> None:
    assert (await served.ask("/version"))[1]["gitVersion"] == "v1.36.0"
    assert (await served.ask("/api"))[1]["versions"] == ["v1"]
    groups = [each["name"] for each in (await served.ask("/apis"))[1]["groups"]]
    assert groups == ["apps", "discovery.k8s.io", "coordination.k8s.io", "policy", "authorization.k8s.io"]
    assert (await served.ask("/apis/apps"))[1]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    _, slices = await served.ask("/apis/discovery.k8s.io/v1")
    assert [each["name"] for each in slices["resources"]] == ["endpointslices"]
    _, core = await served.ask("/api/v1")
    eviction = next(each for each in core["resources"] if each["name"] == "pods/eviction")
    assert (eviction["kind"], eviction["verbs"]) == ("Eviction", ["create"])
    for path in ("/apis/none", "/apis/none/v1", "/apis/apps/v2", "/", "/api/v1/others"):
        assert (await served.ask(path))[0] == 404


async def test_errors_are_status_objects(served: Served) -> None:
    code, status = await served.ask(f"{PODS_PATH}/none", "DELETE")
    assert (code, status["kind"], status["reason"], status["code"]) == (404, "Status", "NotFound", 404)
    assert (await served.ask(PODS_PATH, "PUT"))[0] == 405
    assert (await served.ask(PODS_PATH, labelSelector="=")) == (
        400,
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": "unable to parse requirement: found '=' in the label selector",
            "reason": "BadRequest",
            "details": {},
            "code": 400,
        },
    )
    assert served.world.store.list(PODS) == []
