"""To the cluster by kubeconfig or service account; what the client makes of every way in which an API server fails."""

# ruff: noqa: ASYNC240 - small files of the tests' own

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import yaml
from aiohttp import web

from affinity_tester.cluster.api import ApiError, WatchSilentError, list_all, watch_events
from affinity_tester.cluster.connect import Cluster, NoClusterError, connect, is_inside
from affinity_tester.errors import UserError
from fakeapi import FakeApi, connected, service, write_kubeconfig

NOWHERE = Path("/nonexistent")


async def test_a_kubeconfig_is_used_with_its_context_and_namespace(kubeconfig: Path) -> None:
    async with connected() as cluster:
        assert (cluster.context, cluster.namespace, cluster.inside) == ("kind-test", "media", False)
    async with connected(context="other") as cluster:
        assert (cluster.context, cluster.namespace) == ("other", "default")


async def test_several_kubeconfigs_and_the_one_at_home(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{kubeconfig}")
    async with connected() as cluster:
        assert cluster.context == "kind-test"
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    kubeconfig.rename(tmp_path / ".kube/config")
    async with connected() as cluster:
        assert cluster.context == "kind-test"


async def no_cluster(**more: Any) -> str:
    with pytest.raises(NoClusterError) as error:
        await connect(**{"account": NOWHERE, "timeout_s": 20, **more})
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    return str(error.value)


async def test_neither_kubeconfig_nor_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert await no_cluster() == (
        f"no cluster: there is neither a kubeconfig ({tmp_path / 'none'}) nor a pod's service account"
    )
    assert not is_inside(tmp_path)


async def test_a_kubeconfig_out_of_reach_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME of another user; `exists` is patched since root may read everything."""
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(Path, "exists", mock.Mock(side_effect=denied))
    monkeypatch.setattr("affinity_tester.cluster.connect.is_inside", lambda _account: False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    looked_for = f"{tmp_path}/.kube/config: Permission denied"
    assert await no_cluster() == f"no cluster: there is neither a kubeconfig ({looked_for}) nor a pod's service account"


async def test_without_a_home_there_is_no_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", mock.Mock(side_effect=KeyError))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    looked_for = "~/.kube/config: no home directory is known"
    assert await no_cluster() == f"no cluster: there is neither a kubeconfig ({looked_for}) nor a pod's service account"


async def test_an_unknown_user_s_home_does_not_hide_another_kubeconfig(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"~nosuchuser/config:{kubeconfig}")
    async with connected() as cluster:
        assert cluster.context == "kind-test"
    monkeypatch.setenv("KUBECONFIG", "~nosuchuser/config")
    looked_for = "~nosuchuser/config: no home directory is known"
    assert await no_cluster() == f"no cluster: there is neither a kubeconfig ({looked_for}) nor a pod's service account"


async def test_a_missing_package_is_named(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "affinity_tester.cluster.client", raising=False)
    monkeypatch.setitem(sys.modules, "kubernetes.aio.client", None)
    assert await no_cluster() == "the package for clusters is missing: pip install 'affinity-tester[cluster]'"


async def test_a_broken_package_is_told(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "affinity_tester.cluster.client", raising=False)
    monkeypatch.setitem(sys.modules, "affinity_tester.cluster.go_proxy", ModuleType("empty"))
    assert (await no_cluster()).startswith("the package for clusters cannot be used (cannot import name 'proxy_of'")


async def test_certificates_that_are_none(kubeconfig: Path) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": "https://127.0.0.1:1", "certificate-authority-data": "bm9uZQ=="}
    kubeconfig.write_text(yaml.safe_dump(config))
    assert (await no_cluster()).startswith("context kind-test: the credentials cannot be used (")


async def test_a_helper_for_credentials_that_fails(api: FakeApi, kubeconfig: Path) -> None:
    helper = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}}
    write_kubeconfig(kubeconfig, api.port, helper)
    line = 'context kind-test: the credential plugin "false" failed with exit code 1: log in again'
    assert await no_cluster() == line


async def test_a_helper_for_credentials_is_asked_again_when_they_expire(
    api: FakeApi, kubeconfig: Path, tmp_path: Path
) -> None:
    kind = "client.authentication.k8s.io/v1"
    answer = '{"apiVersion": "%s", "kind": "ExecCredential", "status": {"token": "%s"}}'
    (tmp_path / "answer").write_text(answer % (kind, "first"))
    helper = {"apiVersion": kind, "command": "cat", "args": [str(tmp_path / "answer")]}
    write_kubeconfig(kubeconfig, api.port, {"exec": helper})
    api.token = "first"
    async with connected() as cluster:
        api.token = "second"
        with pytest.raises(ApiError, match="status 401"):
            await list_all(cluster.api, "/api/v1/nodes")
        (tmp_path / "answer").write_text(answer % (kind, "second"))
        assert len(await list_all(cluster.api, "/api/v1/nodes")) == 2


async def test_credentials_that_are_refused(api: FakeApi, kubeconfig: Path) -> None:
    api.token = "another"
    refused = "context kind-test: the API server refuses the credentials (status 401): log in again"
    assert await no_cluster() == refused


async def test_what_the_first_question_may_get(api: FakeApi, kubeconfig: Path) -> None:
    api.statuses = [403]  # a strict cluster forbids even that
    async with connected() as cluster:
        assert cluster.context == "kind-test"
    api.statuses = [404]
    assert await no_cluster() == (
        "context kind-test: it serves no discovery.k8s.io/v1: EndpointSlices need Kubernetes 1.21 or newer; "
        "is `server` in the kubeconfig an API server's?"
    )
    api.statuses = [503]
    assert await no_cluster() == (
        "context kind-test: the API server is out of order (503: status 503): try again in a moment"
    )


async def test_a_cluster_that_is_gone_or_hangs(api: FakeApi, kubeconfig: Path) -> None:
    await api.kill()
    where = f"the API server at 127.0.0.1:{api.port}"
    assert await no_cluster() == f"context kind-test: {where} cannot be reached (Connection refused)"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_kubeconfig(kubeconfig, silent.getsockname()[1])
        assert await no_cluster(timeout_s=0.1) == "the cluster of context kind-test did not answer within 0.1 s"
    await api.start()


async def certify(folder: Path) -> None:
    """Make `ca.crt`, of itself and for 127.0.0.1, and its key."""
    name = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    name += ["-addext", "keyUsage=digitalSignature,keyCertSign"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "ca.crt")]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *key, *files, *name]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


@pytest.mark.debian
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
async def test_the_service_account_of_a_pod(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await certify(tmp_path)
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (tmp_path / "token").write_text("abc")
    (tmp_path / "namespace").write_text("media\n")
    assert await no_cluster(account=tmp_path) == (
        "context the pod's service account: the pod's service account cannot be used (Service host/port is not set.)"
    )
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(runner.addresses[0][1]))
    cluster = await connect(account=tmp_path, timeout_s=20)
    assert (cluster.context, cluster.namespace, cluster.inside) == ("the pod's service account", "media", True)
    await cluster.close()
    assert seen == ["bearer abc"]
    await certify(tmp_path)  # another one than the server has
    untrusted = "the API server's certificate is signed by a CA that is not trusted here"
    assert (await no_cluster(account=tmp_path)).startswith(f"context the pod's service account: {untrusted}")
    await runner.cleanup()


# --- the client, against kmock --------------------------------------------------------------------------------------


@pytest.fixture
async def mocked(kmock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster whose answers are scripted."""
    write_kubeconfig(tmp_path / "kubeconfig", kmock.servers[0].port)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    kmock["/apis/discovery.k8s.io/v1"] << {"kind": "APIResourceList"}
    async with connected() as cluster:
        yield cluster


async def test_who_asks(kmock: Any, mocked: Cluster) -> None:
    headers = kmock["/apis/discovery.k8s.io/v1"][0].headers
    assert headers["Authorization"] == "Bearer secret"
    assert headers["User-Agent"].startswith("affinity-tester/")
    assert headers["Accept"] == "application/json"


async def test_an_emulated_cluster_is_listed_and_watched(kmock: Any, mocked: Cluster) -> None:
    kmock.objects["v1/services", "media", "turn"] = service()
    assert [obj["metadata"]["name"] for obj in await list_all(mocked.api, "/api/v1/services")] == ["turn"]
    events = watch_events(mocked.api, "/api/v1/services", (), "1", silence_s=20, rotate_s=300)
    async with aclosing(events):
        kind, obj = await anext(events)
    assert (kind, obj["metadata"]["name"]) == ("ADDED", "turn")


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"kind": "Status", "message": "pods is forbidden", "code": 403}, "pods is forbidden"),
        ([1], "Forbidden"),
        ({}, "Forbidden"),
    ],
)
async def test_an_error_says_what_the_server_said(kmock: Any, mocked: Cluster, answer: Any, line: str) -> None:
    kmock["/api/v1/pods"] << 403 << answer
    with pytest.raises(ApiError) as error:
        await mocked.api.get("/api/v1/pods")
    assert (str(error.value), error.value.status) == (line, 403)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (b"<html>", "a web page answers in place of the API server, such as a login page"),
        (b"\xff\xfe", "the API server's answer cannot be read"),
        (b"[1]", "the API server's answer is no object"),
    ],
)
async def test_an_answer_that_is_none(kmock: Any, mocked: Cluster, answer: bytes, line: str) -> None:
    kmock["/api/v1/pods"] << answer
    with pytest.raises(ApiError, match=f"^{line}$"):
        await mocked.api.get("/api/v1/pods")


async def test_a_slow_answer(kmock: Any, mocked: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("affinity_tester.cluster.client.REQUEST_S", 0.05)
    kmock["/api/v1/pods"] << (lambda: asyncio.sleep(30))
    for ask in (mocked.api.get("/api/v1/pods"), anext(mocked.api.lines("/api/v1/pods", (), 20))):
        with pytest.raises(ApiError, match=r"^the API server did not answer in time$"):
            await ask


async def test_a_stream_of_lines_until_it_ends_is_silent_or_breaks(kmock: Any, mocked: Cluster) -> None:
    kmock["/a"] << (b"1\n2", b"\n", b"3")
    assert [line async for line in mocked.api.lines("/a", (), 20)] == [b"1\n", b"2\n", b"3"]
    kmock["/b"] << (b"1\n", lambda: asyncio.sleep(30))
    lines = mocked.api.lines("/b", (), 0.1)
    assert await anext(lines) == b"1\n"
    with pytest.raises(WatchSilentError, match=r"^the watch was silent for 0\.1 s$"):
        await anext(lines)
    kmock["/c"] << (b"x" * 2**23,)
    with pytest.raises(ApiError, match=r"^the API server's answer cannot be read$"):
        await anext(mocked.api.lines("/c", (), 20))


async def test_an_error_event_without_a_message(kmock: Any, mocked: Cluster) -> None:
    kmock["/api/v1/pods"] << ({"type": "ERROR", "object": {}},)
    with pytest.raises(ApiError, match=r"^the API server ended the watch \(no reason\)$"):
        await anext(watch_events(mocked.api, "/api/v1/pods", (), "1", silence_s=20, rotate_s=1))


# --- imports ----------------------------------------------------------------------------------------------------------


def test_nothing_imports_kubernetes_before_a_cluster_is_asked_for(repo: Path) -> None:
    modules = sorted(
        f"affinity_tester.cluster.{path.stem}"
        for path in (repo / "src/affinity_tester/cluster").glob("[a-z]*.py")
        if path.stem not in {"client", "credentials"}
    )
    assert len(modules) > 8
    code = f"import sys, {', '.join(modules)}; print([m for m in ('kubernetes', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
