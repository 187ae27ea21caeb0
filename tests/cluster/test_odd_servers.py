"""Whatever answers in place of an API server, however it breaks off: a cluster, or one line without the wrong advice."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import ClusterOptions, NoClusterError, connect
from affinity_tester.cluster.response_errors import LOG_IN, MAX_SAID, one_line, response_error, without_secrets

STATUSES = st.sampled_from(
    [200, 204, 301, 302, 400, 401, 403, 404, 405, 407, 410, 418, 429, 500, 502, 503, 504, 599, 999]
)
KINDS = st.sampled_from(["application/json", "text/html", "text/plain; charset=utf-8", "", "application/json;;", "é"])
PAGES = [b"<html>", b" <!DOCTYPE html>\n<title>Sign in</title>", b"<Error>denied</Error>"]
STATUS = st.builds(lambda said: json.dumps({"kind": "Status", "message": said}).encode(), st.text())
BODIES = st.binary(max_size=60) | st.sampled_from([*PAGES, b"", b"{}", b"[]", b"null", b"[" * 5000]) | STATUS
LOCATIONS = st.sampled_from(["", "/login", "https://login.example.com/?token=secret", "//other", "http://[", "\\", "/"])
LATER = st.sampled_from(["", "0", "1", "99999999999999", "-1", "x", "Wed, 21 Oct 2026 07:28:00 GMT"])


def response(status: int, kind: str, location: str, later: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Some Reason\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    named = {"Content-Type": kind, "Location": location, "Retry-After": later}
    head += "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return head.encode() + b"\r\n" + body


RESPONSES = st.builds(response, STATUSES, KINDS, LOCATIONS, LATER, BODIES)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A response, with bytes that are lost, changed or put in."""
    said = draw(RESPONSES)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(said)))
        kind = draw(st.sampled_from(["cut", "change", "insert"]))
        more = draw(st.binary(min_size=1, max_size=3))
        said = said[:at] if kind == "cut" else said[:at] + more + said[at + (len(more) if kind == "change" else 0) :]
    return said


RECORDS = st.builds(
    lambda kind, version, size, body: kind + version + size.to_bytes(2, "big") + body,
    st.sampled_from([b"\x15", b"\x16", b"\x17", b"H"]),
    st.sampled_from([b"\x03\x01", b"\x03\x03", b"TT"]),
    st.integers(0, 70),
    st.binary(max_size=70),
)
"""TLS records of all kinds, whole and cut short: alerts, handshakes, and what is none."""


async def said_of(answer: bytes, scheme: str, folder: Path) -> str:
    """What connecting to a server that says this ends with; empty where it is taken for an API server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(4096)
            writer.write(answer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        path = folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": {"cluster": "c"}}],
                    "clusters": [{"name": "c", "cluster": {"server": f"{scheme}://127.0.0.1:{port}"}}],
                }
            )
        )
        try:
            cluster = await connect(ClusterOptions(kubeconfig=str(path)), timeout_s=5, account=folder / "none")
        except NoClusterError as error:
            return str(error)
        await cluster.close()
        return ""


def is_one_line(text: str) -> bool:
    return text.isprintable() and 0 < len(text) < 3 * MAX_SAID


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(broken())
def test_any_answer_is_an_api_server_s_or_one_line(answer: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        said = asyncio.run(said_of(answer, "http", Path(folder)))
    assert said == "" or is_one_line(said), said
    assert "secret" not in said


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(RECORDS)
def test_any_answer_to_tls_is_one_line(answer: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        said = asyncio.run(said_of(answer, "https", Path(folder)))
    assert is_one_line(said), said
    assert LOG_IN not in said


@given(STATUSES, st.text(max_size=5), KINDS, LATER, BODIES)
def test_who_is_asked_to_log_in(status: int, reason: str, kind: str, later: str, body: bytes) -> None:
    """Nobody but who an API server itself refused; and a web page's status says nothing about the cluster."""
    error = response_error(status, reason, {"Content-Type": kind, "Retry-After": later}, body)
    assert type(error) is ApiError
    assert is_one_line(str(error))
    asks = error.advice == LOG_IN
    assert not asks or status in (401, 403)
    media = kind.partition(";")[0].strip().lower()  # RFC 9110: parameters follow, well formed or not
    page = media == "text/html" or (body in PAGES and media != "application/json")
    assert not (page and asks)
    assert not (page and error.status in (401, 403, 404, 410))
    plain = (
        b"HTTP request was sent to HTTPS port" in body or b"HTTP request to an HTTPS server" in body
    )  # nginx's and Go's word
    if status == 401 and not page and not plain and body[:1] not in (b"<", b" ", b"\t", b"\n", b"\r", b"\x0b", b"\x0c"):
        assert asks
    if status == 429 or status >= 500:
        assert ("busy" in str(error)) == (status == 429) or status == 999
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= 60


@given(st.text())
def test_texts_from_outside_become_one_line_without_secrets(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= MAX_SAID
    assert "@" not in without_secrets(f"https://{text.replace('/', '')}@host/path?x@y")
