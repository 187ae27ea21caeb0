"""Each way in which a cluster cannot be asked, through the installed command: one line that says what to do, exit code 2.

The API server is a socket that says what the test wants, over TLS with a CA of its own where TLS matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import ssl
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.certificates import Authority, needs_openssl, server_context
from commands import PATIENCE_S, Ended, Run, environment
from fakeapi import FakeApi, endpoint, endpoint_slice, service, until, write_kubeconfig

TARGET = "127.0.0.1:9"
WITHOUT = "; without a cluster, say --watch off"
RESOURCES = b'{"kind": "APIResourceList"}'
LOGIN = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


def answer(status: str, body: bytes = b"{}", kind: str = "application/json", **headers: str) -> bytes:
    """An HTTP response."""
    lines = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


@dataclass
class Scripted:
    """A server that answers each connection with the same bytes, or the next of several."""

    answers: list[bytes]
    requests: list[bytes] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            begin = await reader.readexactly(1)
            # A server that speaks no TLS answers a ClientHello as soon as it sees what is no method.
            rest = await (reader.read(4096) if begin == b"\x16" else reader.readuntil(b"\r\n\r\n"))
            self.requests.append(begin + rest)
            writer.write(self.answers[min(len(self.requests), len(self.answers)) - 1])
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    script = Scripted(list(answers))
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
    script.port = server.sockets[0].getsockname()[1]
    async with server:
        yield script


@asynccontextmanager
async def serving_alerts(tls: ssl.SSLContext, said: bytes) -> AsyncIterator[int]:
    """A server that sends TLS alerts, as most do and asyncio's does not. Yields its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as connection:
                with contextlib.suppress(OSError):
                    connection.do_handshake()
                    connection.recv(4096)
                    connection.sendall(said)
                with contextlib.suppress(OSError):  # a reset could overtake the alert
                    socket.socket.shutdown(connection, socket.SHUT_WR)
                    while os.read(connection.fileno(), 4096):
                        pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        await asyncio.to_thread(thread.join)


def config(server: str, user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    return {
        "current-context": "mine",
        "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
    }


def written(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def why(end: Ended, context: str = "context mine: ") -> str:
    """Why a run that needs the cluster ended at once, in one line."""
    assert (end.code, end.out) == (2, "")
    begin, line = f"error: --watch on: {context}", end.err.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith(begin), line
    assert line.endswith(WITHOUT), line
    return line.removeprefix(begin).removesuffix(WITHOUT)


async def all_at_once(runs: list[Awaitable[Ended]]) -> list[Ended]:
    gate = asyncio.Semaphore(3)

    async def one(each: Awaitable[Ended]) -> Ended:
        async with gate:
            return await each

    return await asyncio.gather(*map(one, runs))


Ask = Callable[..., Awaitable[Ended]]


@pytest.fixture
def ask(run: Run, tmp_path: Path) -> Ask:
    """Runs the client with a kubeconfig of its own that it needs."""
    count = 0

    def asking(content: object, *more: object, **extra: str) -> Awaitable[Ended]:
        nonlocal count
        count += 1
        path = written(tmp_path / f"kubeconfig-{count}", content)
        return run(TARGET, "--watch", "on", *more, KUBECONFIG=path, **extra)

    return asking


# --- what answers ------------------------------------------------------------------------------------------------------


async def test_answers_that_are_none_of_an_api_server_that_works(ask: Ask) -> None:
    busy, html = b"Too many requests, please try again later.", "text/html; charset=utf-8"
    page = "a web page answers in place of the API server"
    there = "log in there, or check `server` in the kubeconfig"
    later = "try again in a moment"
    cases: list[tuple[bytes, str]] = [
        (
            answer("429 Too Many Requests", busy, "text/plain"),
            f"the API server is busy (429: {busy.decode()}): {later}",
        ),
        (
            answer("429 Too Many Requests", LOGIN, html, Retry_After="99999"),
            f"what stands before the API server is busy (429 Too Many Requests): {later}",
        ),
        (
            answer("500 Internal Server Error", b'{"kind": "Status", "message": "etcd\\nis gone"}'),
            f"the API server is out of order (500: etcd is gone): {later}",
        ),
        (
            answer("502 Bad Gateway", LOGIN, html),
            f"what stands before the API server says that it is out of order (502 Bad Gateway): {later}",
        ),
        (
            answer("503 Service Unavailable", b"no healthy upstream", "text/plain"),
            f"the API server is out of order (503: no healthy upstream): {later}",
        ),
        (
            answer("504 Gateway Timeout", b"", "text/plain"),
            f"the API server is out of order (504 Gateway Timeout): {later}",
        ),
        (
            answer("401 Unauthorized", b'{"kind": "Status", "message": "Unauthorized"}'),
            "the API server refuses the credentials (Unauthorized): log in again",
        ),
        (
            answer("403 Forbidden", b'{"message": "forbidden: User \\"system:anonymous\\" cannot get path"}'),
            'the API server refuses the credentials (forbidden: User "system:anonymous" cannot get path): log in again',
        ),
        (answer("401 Unauthorized", LOGIN, html), f"{page} (401 Unauthorized): {there}"),
        (answer("403 Forbidden", LOGIN, html), f"{page} (403 Forbidden): {there}"),
        (answer("404 Not Found", LOGIN, html), f"{page} (404 Not Found): {there}"),
        (answer("200 OK", LOGIN, html), f"{page}, such as a login page: {there}"),
        (answer("200 OK", b"  " + LOGIN, "text/plain"), f"{page}, such as a login page: {there}"),
        (
            answer("302 Found", LOGIN, html, Location="https://me:pw@login.example.com/sso?token=secret"),
            "the API server's address leads to https://login.example.com/sso, which is a login page or a portal: "
            + there,
        ),
        (
            answer("404 Not Found", b"404 page not found", "text/plain"),
            "it serves no discovery.k8s.io/v1: EndpointSlices need Kubernetes 1.21 or newer; "
            "is `server` in the kubeconfig an API server's?",
        ),
        (
            answer("400 Bad Request", b"Client sent an HTTP request to an HTTPS server.\n", "text/plain"),
            "the API server wants TLS: write https:// in `server` of the kubeconfig",
        ),
        (
            answer("400 Bad Request", b"<html>400 The plain HTTP request was sent to HTTPS port</html>", html),
            "the API server wants TLS: write https:// in `server` of the kubeconfig",
        ),
        (
            answer("400 Bad Request", b"<html>400 No required SSL certificate was sent</html>", html),
            "what stands before the API server refuses the client certificate (400 Bad Request): "
            "get the kubeconfig anew, or log in",
        ),
        (
            answer("200 OK", b"hello", "text/plain"),
            "the API server's answer cannot be read: is `server` in the kubeconfig an API server's?",
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            "the API server's answer cannot be read: write https:// in `server` of the kubeconfig",
        ),
        (
            b"",
            "the API server closed the connection without an answer: write https:// in `server` of the kubeconfig",
        ),
    ]

    async def one(said: bytes) -> Ended:
        async with serving(said) as server:
            return await ask(config(f"http://127.0.0.1:{server.port}"))

    ends = await all_at_once([one(said) for said, _ in cases])
    assert [why(end) for end in ends] == [line for _, line in cases]


async def test_a_busy_server_is_asked_again_when_it_says(ask: Ask) -> None:
    busy = answer("429 Too Many Requests", b"later", "text/plain", Retry_After="1")
    forbidden = answer("403 Forbidden", b'{"message": "services is forbidden"}')
    async with serving(busy, answer("200 OK", RESOURCES), forbidden) as server:
        end = await ask(config(f"http://127.0.0.1:{server.port}"))
        count = len(server.requests)
    assert end.err == "error: --watch on: Services could not be listed (services is forbidden)\n"
    assert count == 4  # busy, an answer, and the Services of all namespaces and of one


# --- TLS ---------------------------------------------------------------------------------------------------------------


@needs_openssl
async def test_tls_that_fails_says_what_of_it(ask: Ask, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    good = ours.sign("good")
    ca = {"certificate-authority": str(ours.certificate)}
    client = dict(zip(("client-certificate", "client-key"), map(str, others.sign("client")), strict=True))
    anew = "get the kubeconfig anew; a proxy that opens TLS needs its CA in certificate-authority"
    ok = answer("200 OK", RESOURCES)
    cases: list[tuple[ssl.SSLContext | None, str, dict[str, str], dict[str, str], str]] = [
        (
            server_context(ours.sign("other-name", "DNS:elsewhere.example.com")),
            "https",
            ca,
            {},
            "the API server's certificate is for another name than 127.0.0.1: "
            "check `server` in the kubeconfig, or set its tls-server-name",
        ),
        (
            server_context(ours.sign("expired", days=-1)),
            "https",
            ca,
            {},
            "the API server's certificate has expired: renew it, or check this machine's clock",
        ),
        (
            server_context(others.sign("foreign")),
            "https",
            ca,
            {},
            f"the API server's certificate is signed by a CA that is not trusted here: {anew}",
        ),
        (
            None,
            "https",
            ca,
            {},
            "the API server's port speaks no TLS: check the port, or write http:// in `server` of the kubeconfig",
        ),
        (
            server_context(good),
            "http",
            {},
            {},
            "the API server closed the connection without an answer: write https:// in `server` of the kubeconfig",
        ),
        (
            server_context(good, clients_of=ours.certificate),
            "https",
            ca,
            client,
            "the API server refuses the client certificate (alert unknown ca): get the kubeconfig anew, or log in",
        ),
        (
            server_context(good, clients_of=ours.certificate),
            "https",
            ca,
            {},
            "the API server refuses a client without a certificate (alert certificate required): "
            "get the kubeconfig anew, or log in",
        ),
    ]

    async def one(tls: ssl.SSLContext | None, scheme: str, cluster: dict[str, str], user: dict[str, str]) -> Ended:
        if tls is not None and scheme == "https":
            async with serving_alerts(tls, ok) as port:
                return await ask(config(f"https://127.0.0.1:{port}", user, **cluster))
        said = ok if tls is not None else answer("400 Bad Request", b"no", "text/plain")
        async with serving(said, tls=tls) as server:
            return await ask(config(f"{scheme}://127.0.0.1:{server.port}", user, **cluster))

    ends = await all_at_once([one(*case) for *case, _ in cases])
    assert [why(end) for end in ends] == [line for *_, line in cases]


@needs_openssl
async def test_tls_that_works_with_a_name_and_a_certificate_of_the_kubeconfig(ask: Ask, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    tls = server_context(ours.sign("elsewhere", "DNS:api.example.com"), clients_of=ours.certificate)
    user = dict(zip(("client-certificate", "client-key"), map(str, ours.sign("me")), strict=True))
    async with serving(answer("200 OK", RESOURCES), answer("403 Forbidden"), tls=tls) as server:
        more = {"certificate-authority": str(ours.certificate), "tls-server-name": "api.example.com"}
        end = await ask(config(f"https://127.0.0.1:{server.port}", user, **more))
    assert end.err == "error: --watch on: Services could not be listed (Forbidden)\n"


# --- proxies ------------------------------------------------------------------------------------------------------------


async def test_proxies_are_chosen_as_by_kubectl_and_told_by_name(ask: Ask) -> None:
    wants = answer("407 Proxy Authentication Required", b"", Proxy_Authenticate="Basic")
    async with serving(answer("200 OK", RESOURCES), answer("403 Forbidden")) as good, serving(wants) as closed:
        plain, tunnel = config("http://10.9.8.7:6443"), config("https://10.9.8.7:6443")
        by_good, by_closed = f"http://me:secret@127.0.0.1:{good.port}", f"http://127.0.0.1:{closed.port}"
        ends = await all_at_once(
            [
                ask(plain, HTTP_PROXY=by_good),
                ask(tunnel, HTTPS_PROXY=by_closed),
                ask(tunnel, HTTPS_PROXY="socks5://127.0.0.1:1080"),
                ask(tunnel, https_proxy="http://me:secret@127.0.0.1:1"),
                ask(config(f"http://127.0.0.1:{closed.port}", **{"proxy-url": "http://127.0.0.1:1"})),
            ]
        )
        asked = good.requests[0]
    assert ends[0].err == "error: --watch on: Services could not be listed (Forbidden)\n"
    assert b"GET http://10.9.8.7:6443/apis/discovery.k8s.io/v1 " in asked
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in asked
    assert [why(end) for end in ends[1:]] == [
        f"the proxy http://127.0.0.1:{closed.port} wants a user and a password (407 Proxy Authentication Required): "
        "give them as in HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        "the proxy socks5://127.0.0.1:1080 is of a kind that is not supported: "
        "set HTTPS_PROXY to an http:// proxy, or NO_PROXY",
        "the proxy http://127.0.0.1:1 cannot be reached (Connection refused)",
        "the proxy http://127.0.0.1:1 cannot be reached (Connection refused)",
    ]


# --- the package -------------------------------------------------------------------------------------------------------


async def test_a_package_that_is_not_installed_is_named_by_what_installs_it(ask: Ask, tmp_path: Path) -> None:
    """Whichever of its parts is missing: pip does not know them by the names that Python does."""
    for name in ("kubernetes", "aiohttp"):
        package = tmp_path / name / name
        package.mkdir(parents=True)
        missing = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
        (package / "__init__.py").write_text(missing)
    line = "the package for clusters is missing: pip install 'affinity-tester[cluster]'"
    for name in ("kubernetes", "aiohttp"):
        end = await ask(config("http://127.0.0.1:1"), PYTHONPATH=str(tmp_path / name))
        assert why(end, context="") == line


# --- kubeconfigs, and which of them -------------------------------------------------------------------------------------


async def test_kubeconfigs_that_say_nothing_of_use_are_one_line_each(run: Run, ask: Ask, tmp_path: Path) -> None:
    good = config("http://127.0.0.1:1")
    refused = "the API server at 127.0.0.1:1 cannot be reached (Connection refused)"
    empty = written(tmp_path / "empty", "")
    ends = await all_at_once(
        [
            ask(""),
            ask("[]"),
            ask("{"),
            ask({**good, "current-context": ""}),
            ask({**good, "current-context": "gone"}),
            ask(good, "--context", "other"),
            run(TARGET, "--watch", "on", KUBECONFIG=str(tmp_path)),
            run(TARGET, "--watch", "on", "--kubeconfig", tmp_path / "none"),
        ]
    )
    told = [re.sub(r"/\S+/(kubeconfig-\d|none|test_\w+)", "FILE", end.err) for end in ends]
    assert [end.code for end in ends] == [2] * len(ends)
    anew = "get it anew"
    assert told == [
        f"error: --watch on: {line}{WITHOUT}\n"
        for line in (
            "the kubeconfig FILE is empty: get one from your cluster's provider",
            "the kubeconfig FILE is no kubeconfig, but a list: name another with --kubeconfig",
            f"the kubeconfig FILE is no YAML (line 1): {anew}",
            "the kubeconfig FILE has no current-context: "
            "choose one with --context or kubectl config use-context (it has: mine)",
            'the current-context "gone" is not in the kubeconfig FILE: choose one with --context (it has: mine)',
            'context other: the context "other" is not in the kubeconfig FILE: choose one with --context (it has: mine)',
            "the kubeconfig FILE cannot be read (Is a directory)",
            "there is no kubeconfig FILE: name another with --kubeconfig",
        )
    ]

    second = written(tmp_path / "second", config("http://127.0.0.1:1"))
    several = f"{tmp_path / 'none'}:{empty}:{second}"
    assert why(await run(TARGET, "--watch", "on", KUBECONFIG=several)) == refused


@asynccontextmanager
async def cluster_of(folder: Path) -> AsyncIterator[tuple[FakeApi, Path]]:
    api = FakeApi()
    api.put("services", service("turn", namespace="media"))
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    await api.start()
    path = folder / "kubeconfig-good"
    write_kubeconfig(path, api.port)
    try:
        yield api, path
    finally:
        await api.kill()


async def test_context_namespace_and_kubeconfig_as_options_and_in_the_environment(run: Run, tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (_, path):
        ends = await all_at_once(
            [
                run("--service", "no", "--kubeconfig", path),
                run("--service", "no", "--kubeconfig", path, "--context", "other"),
                run("--service", "no", "--kubeconfig", path, "--context", "other", "--namespace", "live"),
                run("--service", "a/no", "--namespace", "live", KUBECONFIG=str(path)),
                run(
                    *("--service", "no"),
                    AFFINITY_KUBECONFIG=str(path),
                    AFFINITY_CONTEXT="other",
                    AFFINITY_NAMESPACE="test",
                ),
                run("--service", "no", "--namespace", "Not_One", KUBECONFIG=str(path)),
            ]
        )
    said = [end.err.partition(": make one")[0].removesuffix("\n") for end in ends]
    assert said == [
        'error: there is no Service "media/no" (context kind-test)',
        'error: there is no Service "default/no" (context other)',
        'error: there is no Service "live/no" (context other)',
        'error: there is no Service "a/no" (context kind-test)',
        'error: there is no Service "test/no" (context other)',
        "error: --namespace: 'Not_One' can be no namespace's name: Kubernetes allows lower-case letters, digits and '-' "
        "between them, at most 63",
    ]


# --- Services that lead nowhere -----------------------------------------------------------------------------------------


async def test_services_that_have_no_address_of_their_own(run: Run, tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as (api, path):
        api.put(
            "services",
            service("named", type="ExternalName", externalName="turn.example.com", clusterIPs=None, clusterIP=None),
        )
        api.put("services", service("headless", type="ClusterIP", ingress=(), clusterIPs=["None"], clusterIP="None"))
        api.put("endpointslices", endpoint_slice(endpoint("a"), name="headless-1", of="headless"))
        api.put("services", service("bare", selector=None))
        odd = service("mixed")
        udp = {"port": 3478, "protocol": "UDP", "error": "MixedProtocolNotSupported"}
        odd["status"]["loadBalancer"]["ingress"][0]["ports"] = [udp, {"port": 80, "protocol": "TCP", "error": "x"}]
        api.put("services", odd)
        api.put("endpointslices", endpoint_slice(endpoint("a"), name="mixed-1", of="mixed"))
        environ = {"KUBECONFIG": str(path)}
        names = ("named", "headless", "bare", "mixed")
        ends = await all_at_once(
            [
                *(run("--service", name, **environ) for name in names),
                run("turn.media.svc.cluster.local:3478", **environ),
                run("turn.media.svc", "--service", "turn", **environ),
            ]
        )
    inside = (
        "is a name of the cluster's own DNS, and this is not inside: say --service media/turn instead, which finds its"
    )
    assert [(end.code, end.err) for end in ends] == [
        (2, f"error: {line}\n")
        for line in (
            'Service "media/named" is of type ExternalName: it is only a DNS name for turn.example.com, without endpoints: '
            "give turn.example.com as TARGET, or name the Service behind it with --service",
            'Service "media/headless" has no cluster IP: it is headless; give a pod\'s address as TARGET',
            'Service "media/bare" has no endpoints, and no selector that would give it any: '
            "give it a selector, or make its EndpointSlices",
            'the load balancer of Service "media/mixed" does not serve UDP port 3478 (MixedProtocolNotSupported): '
            "see kubectl describe service mixed --namespace media",
            f"the target 'turn.media.svc.cluster.local' {inside} address",
            f"the target 'turn.media.svc' {inside} address",
        )
    ]


# --- credential plugins -------------------------------------------------------------------------------------------------


def plugin(path: Path, script: str, **more: Any) -> dict[str, Any]:
    """A user whose credentials a shell script prints."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), **more}}


CREDENTIAL = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": "secret", "expirationTimestamp": "2020-01-01T00:00:00Z"},
}


async def test_credential_plugins_that_give_none(ask: Ask, tmp_path: Path) -> None:
    version = {**CREDENTIAL, "apiVersion": "client.authentication.k8s.io/v1beta1"}
    scripts: list[tuple[str, dict[str, Any], str]] = [
        (
            "echo 'Please run: cloud login' >&2; exit 3",
            {},
            "failed with exit code 3 (Please run: cloud login): log in again",
        ),
        ("exit 1", {}, "failed with exit code 1: log in again"),
        ("kill -9 $$", {}, "ended by signal 9: log in again"),
        ("echo hello", {}, 'prints "hello" and no JSON: run it by hand, and log in if it asks for that'),
        ("true", {}, "prints nothing: run it by hand, and log in if it asks for that"),
        ("echo '[]'", {}, "prints no ExecCredential with a status: log in again, or update it"),
        (
            f"echo '{json.dumps({**CREDENTIAL, 'status': {}})}'",
            {},
            "prints neither a token nor a certificate: log in again",
        ),
        (
            f"echo '{json.dumps(version)}'",
            {},
            'answers with apiVersion "client.authentication.k8s.io/v1beta1", not client.authentication.k8s.io/v1: '
            "update it, and get the kubeconfig anew",
        ),
        (
            "true",
            {"interactiveMode": "Always"},
            "wants a terminal to ask at, and standard input is none: run this in a terminal",
        ),
        (
            "true",
            {"apiVersion": "client.authentication.k8s.io/v1alpha1"},
            "is configured for apiVersion client.authentication.k8s.io/v1alpha1, not client.authentication.k8s.io/v1: "
            "update it, and get the kubeconfig anew",
        ),
        ("true", {"command": "no-such-plugin", "installHint": "Get it:\n  brew install it"}, "is not installed: "),
        ("true", {"command": "no-such-plugin"}, "is not installed: install it, or set PATH"),
    ]
    users = [plugin(tmp_path / f"plugin-{n}", script, **more) for n, (script, more, _) in enumerate(scripts)]
    ends = await all_at_once([ask(config("http://127.0.0.1:1", user)) for user in users])
    told = [re.sub(r'^the credential plugin "[^"]+" ', "", why(end)) for end in ends]
    lines = [line for *_, line in scripts]
    lines[-2] += "Get it: brew install it"
    assert told == lines


async def test_an_expired_token_of_a_plugin_is_refused_and_asked_for_once_more(ask: Ask, tmp_path: Path) -> None:
    user = plugin(tmp_path / "plugin", f"echo x >> {tmp_path / 'runs'}; echo '{json.dumps(CREDENTIAL)}'")
    async with serving(answer("401 Unauthorized", b'{"message": "token expired"}')) as server:
        end = await ask(config(f"http://127.0.0.1:{server.port}", user))
    assert why(end) == "the API server refuses the credentials (token expired): log in again"
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    assert b"Bearer secret" in server.requests[0]


async def test_a_plugin_that_waits_for_a_login_shows_its_prompt_and_reads_the_terminal(
    affinity_tester: Path, tmp_path: Path
) -> None:
    """As device-code logins do: text on standard error, Enter at the terminal, then credentials."""
    script = f"printf 'Open https://login.example.com and press Enter: ' >&2; read it; echo '{json.dumps(CREDENTIAL)}'"
    user = plugin(tmp_path / "plugin", script)
    async with serving(answer("200 OK", RESOURCES), answer("403 Forbidden")) as server:
        path = written(tmp_path / "kubeconfig", config(f"http://127.0.0.1:{server.port}", user))
        ours, theirs = pty.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                *(affinity_tester, "client", TARGET, "--watch", "on"),
                stdin=theirs,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(KUBECONFIG=path),
            )
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE_S):
                prompt = await process.stderr.readuntil(b"Enter: ")
                os.write(ours, b"\n")
                _, rest = await process.communicate()
        finally:
            os.close(ours)
            os.close(theirs)
    assert prompt == b"Open https://login.example.com and press Enter: "
    assert rest == b"error: --watch on: Services could not be listed (Forbidden)\n"
    assert process.returncode == 2


async def test_ctrl_c_ends_the_wait_for_a_login_and_the_plugin(affinity_tester: Path, tmp_path: Path) -> None:
    user = plugin(tmp_path / "plugin", f"echo $$ > {tmp_path / 'id'}; echo 'Code:' >&2; read it; sleep 600")
    path = written(tmp_path / "kubeconfig", config("http://127.0.0.1:1", user))
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(affinity_tester, "client", TARGET, "--watch", "on"),
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(KUBECONFIG=path),
        )
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await process.stderr.readline() == b"Code:\n"
            process.send_signal(signal.SIGINT)
            assert await process.communicate() == (b"", b"")
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 130
    number = int((tmp_path / "id").read_text())
    await until(lambda: not Path(f"/proc/{number}").exists())


async def test_a_prompt_on_standard_output_is_shown_too(ask: Ask, tmp_path: Path) -> None:
    user = plugin(tmp_path / "plugin", "echo 'code: ABCD'; sleep 2; exit 1")
    began_s = time.monotonic()
    end = await ask(config("http://127.0.0.1:1", user))
    assert time.monotonic() - began_s > 2
    first, line = end.err.splitlines()
    assert first == "code: ABCD"
    assert "failed with exit code 1: log in again" in line
