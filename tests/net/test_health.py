"""The health port on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from affinity_tester.net import health
from affinity_tester.net.health import HealthServer


class Readiness:
    value = True


@asynccontextmanager
async def serving(*hosts: str, timeout_s: float = 5.0) -> AsyncIterator[HealthServer]:
    server = await HealthServer.start(hosts or ("127.0.0.1",), 0, lambda: Readiness.value, timeout_s=timeout_s)
    try:
        yield server
    finally:
        await server.close()


async def connected(server: HealthServer) -> None:
    """Wait until the server knows of a connection."""
    async with asyncio.timeout(10):
        while not server._connections:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0)


async def exchange(server: HealthServer, request: bytes, *, eof: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    writer.write(request)
    if eof:
        writer.write_eof()
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""  # closed with bytes of ours unread
    finally:
        writer.close()


def answer(status: str, body: str, *extra: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *extra,
    ]
    return "\r\n".join([*lines, "", body]).encode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/readyz?verbose"])
async def test_a_get_is_answered(host: str, path: str) -> None:
    async with serving(host) as server:
        request = f"GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n".encode()
        assert await exchange(server, request) == answer("200 OK", "ok\n")


async def test_a_head_has_no_body() -> None:
    async with serving() as server:
        whole = answer("200 OK", "ok\n")
        assert await exchange(server, b"HEAD /livez HTTP/1.0\r\n\r\n") == whole.removesuffix(b"ok\n")


async def test_not_ready_is_503_and_still_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Readiness, "value", False)
    async with serving() as server:
        unready = answer("503 Service Unavailable", "service unavailable\n")
        assert await exchange(server, b"GET /readyz HTTP/1.1\r\n\r\n") == unready
        assert await exchange(server, b"GET /livez HTTP/1.1\r\n\r\n") == answer("200 OK", "ok\n")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", answer("404 Not Found", "not found\n")),
        (b"POST /livez HTTP/1.1\r\n\r\n", answer("405 Method Not Allowed", "method not allowed\n", "Allow: GET, HEAD")),
        (b"GET /livez\r\n\r\n", answer("400 Bad Request", "bad request\n")),
        (b"GET /livez SIP/2.0\r\n\r\n", answer("400 Bad Request", "bad request\n")),
        (b"\xff\x00\r\n\r\n", answer("400 Bad Request", "bad request\n")),
    ],
)
async def test_other_requests_are_told_so(request_: bytes, expected: bytes) -> None:
    async with serving() as server:
        assert await exchange(server, request_) == expected


async def test_a_request_is_bounded_in_size() -> None:
    async with serving() as server:
        reply = await exchange(server, b"GET /livez HTTP/1.1\r\nA: " + bytes(health.MAX_REQUEST_BYTES))
        assert reply in (b"", answer("431 Request Header Fields Too Large", "request header fields too large\n"))


async def test_a_request_is_bounded_in_time() -> None:
    async with serving(timeout_s=0.05) as server:
        assert await exchange(server, b"GET /livez") == b""


async def test_half_a_request_is_a_bad_one_and_none_is_no_request() -> None:
    async with serving() as server:
        assert await exchange(server, b"GET /li", eof=True) == answer("400 Bad Request", "bad request\n")
        assert await exchange(server, b"", eof=True) == b""


async def test_connections_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 1)
    async with serving() as server:
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        writer.write(b"GET ")
        await writer.drain()
        await connected(server)
        assert await exchange(server, b"GET /livez HTTP/1.1\r\n\r\n") == b""
        writer.write(b"/livez HTTP/1.1\r\n\r\n")
        assert await reader.read() == answer("200 OK", "ok\n")
        writer.close()


async def test_close_cuts_what_is_open() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        await connected(server)
        await server.close()
        assert await reader.read() == b""
        writer.close()
