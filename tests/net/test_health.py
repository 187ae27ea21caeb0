"""The health port on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from affinity_tester.net import health
from affinity_tester.net.health import HealthServer


@asynccontextmanager
async def serving(*hosts: str, unhealthy_reason: str = "", **times: float) -> AsyncIterator[HealthServer]:
    server = await HealthServer.start(hosts or ("127.0.0.1",), 0, lambda: unhealthy_reason, pytest.fail, **times)
    try:
        yield server
    finally:
        await server.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server tells nobody."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)


LIVEZ = b"GET /livez HTTP/1.1\r\n\r\n"
READYZ = b"GET /readyz HTTP/1.1\r\n\r\n"


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


async def test_trouble_is_said_and_takes_no_pod_out() -> None:
    async with serving(unhealthy_reason="worker 2 of 2 (process 7) has not answered for 2 s") as server:
        body = "worker 2 of 2 (process 7) has not answered for 2 s\n"
        assert await exchange(server, LIVEZ) == answer("503 Service Unavailable", body)
        assert await exchange(server, READYZ) == answer("200 OK", "ok\n")


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


async def test_a_connection_without_a_request_is_cut_soon() -> None:
    async with serving(first_byte_s=0.05, request_s=60) as server:
        assert await exchange(server, b"") == b""


async def test_a_request_is_bounded_in_time() -> None:
    async with serving(first_byte_s=60, request_s=0.05) as server:
        assert await exchange(server, b"GET /livez") == b""


async def test_half_a_request_is_a_bad_one_and_none_is_no_request() -> None:
    async with serving() as server:
        assert await exchange(server, b"GET /li", eof=True) == answer("400 Bad Request", "bad request\n")
        assert await exchange(server, b"", eof=True) == b""


async def test_a_request_may_come_in_pieces() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        for at in range(len(LIVEZ)):
            writer.write(LIVEZ[at : at + 1])
            await asyncio.sleep(0.001)
        assert await reader.read() == answer("200 OK", "ok\n")
        writer.close()


async def test_one_that_has_gone_is_forgotten() -> None:
    async with serving() as server:
        sock = socket.create_connection(server.addresses[0])
        await until(lambda: server.connections == 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # a reset
        await until(lambda: server.connections == 0)


async def test_at_the_bound_the_one_that_has_waited_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 2)
    async with serving() as server:
        opened = []
        for number in range(3):
            opened.append(await asyncio.open_connection(*server.addresses[0]))
            await until(lambda number=number: server.connections + server.displaced == number + 1)  # type: ignore[misc]
        (first, _), *others = opened
        assert await first.read() == b""
        for reader, writer in others:
            writer.write(LIVEZ)
            assert await reader.read() == answer("200 OK", "ok\n")
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
        assert server.displaced == 1


async def test_a_crowd_that_waits_keeps_no_probe_out() -> None:
    """Idle ones, and ones that dribble and come again when they are cut: the kubelet waits for a second."""
    async with serving() as server:
        loop = asyncio.get_running_loop()
        address = server.addresses[0]
        most = 0

        async def idle() -> None:
            while True:
                with contextlib.suppress(OSError), socket.socket() as sock:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, address)
                    await loop.sock_recv(sock, 1)

        async def dribble() -> None:
            while True:
                with contextlib.suppress(OSError), socket.socket() as sock:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, address)
                    for byte in READYZ[:-2]:
                        await loop.sock_sendall(sock, bytes((byte,)))
                        await asyncio.sleep(0.05)

        crowd = [asyncio.create_task(each()) for each in (idle, dribble) for _ in range(150)]
        try:
            await until(lambda: server.displaced >= 300)
            for request in (LIVEZ, READYZ) * 10:
                async with asyncio.timeout(1):
                    assert await exchange(server, request) == answer("200 OK", "ok\n")
                most = max(most, server.connections)
        finally:
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
    assert most <= health.MAX_CONNECTIONS


class Refusing:
    """A listener whose `accept` fails so many times."""

    def __init__(self, listener: socket.socket, code: int, times: int) -> None:
        self._listener = listener
        self._code = code
        self.left = times

    def accept(self) -> tuple[socket.socket, Any]:
        if self.left:
            self.left -= 1
            raise OSError(self._code, os.strerror(self._code))
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


async def refusing(code: int, times: int, said: list[str]) -> HealthServer:
    server = await HealthServer.start(("127.0.0.1",), 0, lambda: "", said.append)
    loop = asyncio.get_running_loop()
    (listener,) = server._listeners
    failing = Refusing(listener, code, times)
    loop.add_reader(listener, server._accept, failing)
    return server


async def test_a_machine_without_descriptors_is_told_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PAUSE_S", 0.05)
    said: list[str] = []
    server = await refusing(errno.EMFILE, 5, said)
    assert await exchange(server, LIVEZ) == answer("200 OK", "ok\n")
    assert server.refused == 5
    assert said == ["the health port cannot accept connections: Too many open files (ulimit -n)"]
    monkeypatch.setattr(health, "WARN_EVERY_S", 0)
    server._count_refusal(OSError(errno.EMFILE, "Too many open files"))
    assert said[1:] == ["the health port cannot accept connections: Too many open files, 6 times so far (ulimit -n)"]
    await server.close()


async def test_without_descriptors_the_longest_waiting_one_gives_its_own() -> None:
    said: list[str] = []
    server = await refusing(errno.EMFILE, 0, said)
    idle = socket.create_connection(server.addresses[0])
    await until(lambda: server.connections == 1)
    (listener,) = server._listeners
    failing = Refusing(listener, errno.EMFILE, 1)
    asyncio.get_running_loop().add_reader(listener, server._accept, failing)
    assert await exchange(server, LIVEZ) == answer("200 OK", "ok\n")
    assert idle.recv(1) == b""
    idle.close()
    assert (server.displaced, server.refused, len(said)) == (1, 1, 1)
    await server.close()


async def test_one_that_has_gone_before_it_is_accepted_is_passed_over() -> None:
    said: list[str] = []
    server = await refusing(errno.ECONNABORTED, 3, said)
    assert await exchange(server, LIVEZ) == answer("200 OK", "ok\n")
    assert (said, server.refused) == ([], 0)
    await server.close()


async def test_close_cuts_what_is_open_and_what_pauses() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        await until(lambda: server.connections == 1)
        server._pause(server._listeners[0])
        await server.close()
        assert await reader.read() == b""
        writer.close()


async def test_metrics_are_answered_whole_however_long_they_are_and_made_once_a_second():
    made = []

    async def page() -> tuple[str, bytes]:
        made.append(1)
        return "text/plain; version=0.0.4", b"x" * 3_000_000

    server = await HealthServer.start(("127.0.0.1",), 0, warn=pytest.fail, metrics=page)
    try:
        for method in ("GET", "GET", "HEAD"):
            said = await exchange(server, f"{method} /metrics HTTP/1.1\r\n\r\n".encode())
            head, _, body = said.partition(b"\r\n\r\n")
            assert head.startswith(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: 3000000"
            )
            assert len(body) == (3_000_000 if method == "GET" else 0)
        assert len(made) == 1
        assert server.connections == 0
    finally:
        await server.close()


async def test_a_scraper_that_goes_away_or_reads_nothing_is_let_go():
    waiting = asyncio.Event()

    async def page() -> tuple[str, bytes]:
        await waiting.wait()
        return "text/plain", b"x" * 30_000_000

    server = await HealthServer.start(("127.0.0.1",), 0, warn=pytest.fail, metrics=page, request_s=0.3)
    try:
        _, writer = await asyncio.open_connection(*server.addresses[0])
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await until(lambda: server.connections == 1)
        waiting.set()
        await until(lambda: server.connections == 0)  # by its deadline
        writer.close()
    finally:
        await server.close()


async def test_without_metrics_there_is_no_such_page():
    async with serving() as server:
        assert (await exchange(server, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
