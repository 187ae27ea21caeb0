"""Writes to a real HTTP server: what is sent, what is never sent twice, and what an error says of whether it was done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from affinity_tester.cluster import client
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster
from fakeapi import connected, write_kubeconfig

Json = dict[str, Any]
PODS = "/api/v1/namespaces/media/pods"
POD = f"{PODS}/a"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, message: str = "no", *, cause: str = "", **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        details = {"details": {"causes": [{"reason": cause}]}} if cause else {}
        body = {"kind": "Status", "code": code, "message": message, **details}
        return web.json_response(
            body, status=code, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    return answer


async def fine(_: web.Request) -> web.Response:
    return web.json_response({"kind": "Pod"})


async def cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def silent(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def page(_: web.Request) -> web.Response:
    return web.Response(text="<html>", content_type="text/html")


@dataclass
class Server:
    """Answers writes by `answers`, one after the other, and then well."""

    answers: list[Handler] = field(default_factory=list)
    seen: list[tuple[str, str, str, Json]] = field(default_factory=list)
    port: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"kind": "APIResourceList"})
        kind = request.headers["Content-Type"]
        self.seen.append((request.method, request.path, kind, json.loads(await request.text())))
        return await (self.answers.pop(0) if self.answers else fine)(request)


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    write_kubeconfig(tmp_path / "kubeconfig", made.port)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield made
    await runner.cleanup()


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[Cluster]:
    async with connected() as found:
        yield found


async def test_what_is_sent(server: Server, cluster: Cluster) -> None:
    assert await cluster.api.create(PODS, {"a": 1}) == {"kind": "Pod"}
    assert await cluster.api.patch(POD, {"b": None}) == {"kind": "Pod"}
    assert await cluster.api.delete(POD, {"gracePeriodSeconds": 0}) == {"kind": "Pod"}
    assert server.seen == [
        ("POST", PODS, "application/json", {"a": 1}),
        ("PATCH", POD, "application/merge-patch+json", {"b": None}),
        ("DELETE", POD, "application/json", {"gracePeriodSeconds": 0}),
    ]


async def test_a_busy_server_is_asked_again(server: Server, cluster: Cluster) -> None:
    server.answers = [status(429, Retry_After="0"), status(401)]
    await cluster.api.patch(POD, {})
    assert len(server.seen) == 3


async def test_a_budget_is_no_busy_server(server: Server, cluster: Cluster) -> None:
    said = "Cannot evict pod as it would violate the pod's disruption budget."
    server.answers = [status(429, said, cause="DisruptionBudget", Retry_After="0")]
    with pytest.raises(ApiError, match="disruption budget") as caught:
        await cluster.api.create(f"{POD}/eviction", {})
    assert (caught.value.status, caught.value.causes, len(server.seen)) == (429, ("DisruptionBudget",), 1)
    assert not caught.value.may_be_done


@pytest.mark.parametrize("code", [400, 403, 404, 409, 422, 503])
async def test_what_was_surely_not_done(code: int, server: Server, cluster: Cluster) -> None:
    server.answers = [status(code, "no", Retry_After="0")]
    with pytest.raises(ApiError) as caught:
        await cluster.api.patch(POD, {})
    assert (caught.value.status, caught.value.may_be_done, len(server.seen)) == (code, False, 1)
    assert "may have been done" not in str(caught.value)


@pytest.mark.parametrize("answer", [status(500), status(504, Retry_After="0"), cut, silent, page])
async def test_what_may_have_been_done(
    answer: Handler, server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_WHOLE", client.aiohttp.ClientTimeout(total=0.3))
    server.answers = [answer]
    with pytest.raises(ApiError, match="; it may have been done all the same") as caught:
        await cluster.api.patch(POD, {})
    assert (caught.value.may_be_done, len(server.seen)) == (True, 1)


async def test_what_was_never_sent(server: Server, cluster: Cluster) -> None:
    cluster.api._configuration.host = "http://127.0.0.1:1"  # type: ignore[attr-defined]
    with pytest.raises(ApiError) as caught:
        await cluster.api.patch(POD, {})
    assert not caught.value.may_be_done
    assert server.seen == []


async def test_a_redirect_that_would_read_instead(server: Server, cluster: Cluster) -> None:
    server.answers = [status(302, Location="/elsewhere")]
    with pytest.raises(ApiError, match="leads to"):
        await cluster.api.patch(POD, {})
    server.answers = [status(307, Location="/api/v1/elsewhere")]
    await cluster.api.patch(POD, {"a": 1})
    assert server.seen[-1] == ("PATCH", "/api/v1/elsewhere", "application/merge-patch+json", {"a": 1})
