"""The emulated API server's HTTP: requests and watches. `aiohttp` is imported where the server starts.

Watches are as client-go's reflectors use them: from a resourceVersion on without a gap, 410 for one that is too old, else
with what there is first (`resourceVersion` empty or 0), a bookmark from time to time and one at the end of the watch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.discovery import document
from affinity_tester.lab.kube.request import Request
from affinity_tester.lab.kube.requests import Requests
from affinity_tester.lab.kube.resources import Json, Resource, read_path
from affinity_tester.lab.kube.store import Change, Store

if TYPE_CHECKING:
    from aiohttp import web

BOOKMARK_S = 10.0
"""The time between two bookmarks; a real server sends one a minute."""

WATCH_S = 1800
"""The length of a watch that names none (`--min-request-timeout`)."""

Shape = Callable[[Json], Json]
"""Makes of an object what the client accepts: the whole of it, or its metadata alone."""


class ApiServer:
    """A running server on loopback; `start` makes one, `close` ends it."""

    def __init__(self, store: Store, requests: Requests, runner: web.AppRunner) -> None:
        self._store = store
        self._requests = requests
        self._runner = runner

    @classmethod
    async def start(cls, store: Store, requests: Requests, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen there (port 0: any)."""
        from aiohttp import web  # noqa: PLC0415 - a quarter of a second that no other command needs

        app = web.Application(client_max_size=1 << 22)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        self = cls(store, requests, runner)
        app.router.add_route("*", "/{path:.*}", self._answer)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return self

    @property
    def port(self) -> int:
        """Return the port at which it listens."""
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """End all connections, watches too."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web  # noqa: PLC0415 - loaded already

        try:
            target = read_path(request.path)
            if target is None:
                return self._discovery(request)
            asked = Request(
                request.method,
                target,
                request.query,
                request.headers.get("Content-Type", ""),
                await request.read(),
            )
            shape = _shape(request.headers.get("Accept", ""))
            if asked.verb == "watch":
                return await self._watch(request, asked, shape)
            status, body = self._requests.answer(asked)
            return web.json_response(_shaped(body, shape), status=status)
        except failures.StatusError as failure:
            return web.json_response(failure.status(), status=failure.code)

    def _discovery(self, request: web.Request) -> web.Response:
        from aiohttp import web  # noqa: PLC0415 - loaded already

        found = document(request.path)
        if found is None:
            raise failures.no_such_path()
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)

    async def _watch(self, request: web.Request, asked: Request, shape: Shape) -> web.StreamResponse:
        from aiohttp import web  # noqa: PLC0415 - loaded already

        self._requests.check_right(asked)
        fits, resource = self._requests.fits(asked), asked.target.resource
        queue: asyncio.Queue[Json] = asyncio.Queue()

        def told(change: Change) -> None:
            if change.resource is resource and (event := change.event(fits)) is not None:
                queue.put_nowait(event)

        for event in self._first_events(asked):
            queue.put_nowait(event)
        self._store.listen(told)
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b"")  # sends the headers
            await self._stream(response, asked, queue, shape)
        except ConnectionError:
            pass  # the client has gone
        finally:
            self._store.unlisten(told)
        return response

    def _first_events(self, asked: Request) -> list[Json]:
        """Return the events with which a watch begins. Raises `StatusError` for a version that is too old, or none."""
        fits, resource = self._requests.fits(asked), asked.target.resource
        version = asked.query.get("resourceVersion", "")
        if version in {"", "0"}:
            present = self._store.list(resource, asked.target.namespace)
            return [{"type": "ADDED", "object": obj} for obj in present if fits(obj)]
        if not version.isdecimal():
            raise failures.bad_request(f'Invalid value: "{version}": resourceVersion is no number')
        changes = [each for each in self._store.since(int(version)) if each.resource is resource]
        return [event for each in changes if (event := each.event(fits)) is not None]

    async def _stream(
        self, response: web.StreamResponse, asked: Request, queue: asyncio.Queue[Json], shape: Shape
    ) -> None:
        loop, resource = asyncio.get_running_loop(), asked.target.resource
        ends_s = loop.time() + float(asked.query.get("timeoutSeconds", WATCH_S))
        bookmarks = asked.query.get("allowWatchBookmarks") in {"true", "1"}
        bookmark_s = loop.time() + BOOKMARK_S if bookmarks else ends_s
        while (now_s := loop.time()) < ends_s:
            try:
                async with asyncio.timeout(min(bookmark_s, ends_s) - now_s):
                    event = await queue.get()
            except TimeoutError:
                # A change that came at this very moment is in the queue: a bookmark must not be ahead of it.
                if bookmarks and queue.empty():
                    await response.write(_line(self._bookmark(resource)))
                    bookmark_s = loop.time() + BOOKMARK_S
            else:
                await response.write(_line({**event, "object": shape(event["object"])}))

    def _bookmark(self, resource: Resource) -> Json:
        metadata = {"resourceVersion": str(self._store.revision), "creationTimestamp": None}
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return {"type": "BOOKMARK", "object": obj}


def _line(event: Json) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _whole(obj: Json) -> Json:
    return obj


def _metadata(obj: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _shape(accept: str) -> Shape:
    """Return what the client accepts first: media types stand in the order of its wishes."""
    return _metadata if "as=PartialObjectMetadata" in accept.partition(",")[0] else _whole


def _shaped(body: Json, shape: Shape) -> Any:
    """Return an answer in the shape that the client accepts; a Status is as it is."""
    if shape is _whole or body.get("kind") == "Status":
        return body
    if "items" in body:
        items = [shape(obj) for obj in body["items"]]
        return {**body, "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": items}
    return shape(body)
