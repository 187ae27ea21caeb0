"""What a run shows while it goes on: the line at the bottom of a terminal, the answer to a signal, and the metrics port."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import termios
from pathlib import Path

import pytest

from commands import PATIENCE_S, Start, environment
from scripted import Probe, ScriptedServer, scripted

QUICK = ("--interval", "20ms", "--settle", "1s", "--watch", "off")
STATUS = re.compile(r"\x1b\[7m(.*?)\x1b\[0m")


def steady(server: ScriptedServer, probe: Probe) -> None:
    server.reply(probe, "pod-a")


async def on_a_terminal(
    affinity_tester: Path,
    *arguments: object,
    columns: int = 100,
    rows: int = 30,
    signals: tuple[int, ...] = (),
    **extra: str,
) -> str:
    """Run the client on a terminal of its own; return all that was written to it. Signals go out after 2 s each."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = await asyncio.create_subprocess_exec(
        affinity_tester,
        "client",
        *map(str, arguments),
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", **extra),
    )
    os.close(theirs)

    said = b""

    def read() -> None:
        nonlocal said
        try:
            said += os.read(ours, 65_536)
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(ours)

    asyncio.get_running_loop().add_reader(ours, read)
    try:
        for number in signals:
            await asyncio.sleep(2)
            process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()
        await asyncio.sleep(0.1)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
    return said.decode()


@pytest.mark.busy
async def test_a_terminal_shows_how_the_run_stands_and_nothing_of_it_is_left(affinity_tester: Path) -> None:
    async with scripted(steady) as server:
        said = await on_a_terminal(affinity_tester, server.address, *QUICK, "--sessions", 3, "--duration", "6s")
    drawn = STATUS.findall(said)
    assert any(
        re.search(r"\d s of 6 s \| 3 of 3 sessions answered \| 0 % lost in 5 s(, p99)?", line) for line in drawn
    ), drawn
    assert "PASS" not in "".join(drawn)
    lines = re.sub(r"\r\x1b\[J", "", STATUS.sub("", said)).replace("\r\n", "\n")
    assert "3 sessions answered by 1 pod on 1 node within" in lines
    assert re.search(r"^PASS|^INCONCLUSIVE", re.sub(r"\x1b\[[0-9;]*m", "", lines), re.MULTILINE)
    assert "\x1b[7m" not in said[said.rindex("sending stopped") :].split("\r\x1b[J")[-1]
    assert "\x1b[?25l" not in said


@pytest.mark.busy
async def test_it_follows_a_narrow_terminal(affinity_tester: Path) -> None:
    async with scripted(steady) as server:
        said = await on_a_terminal(affinity_tester, server.address, *QUICK, "--duration", "3s", columns=40)
    drawn = STATUS.findall(said)
    assert drawn
    assert all(len(line) <= 40 for line in drawn)
    assert any("0 violations" in line for line in drawn)


@pytest.mark.busy
@pytest.mark.parametrize("how", ["option", "environment", "dumb", "json"])
async def test_it_is_absent_where_nobody_wants_it(affinity_tester: Path, how: str) -> None:
    arguments = {"option": ["--no-live"], "json": ["--log-format", "json"]}.get(how, [])
    extra = {"environment": {"AFFINITY_LIVE": "0"}}.get(how, {})
    async with scripted(steady) as server:
        if how == "dumb":
            ours = environment(TERM="dumb")
            process = await asyncio.create_subprocess_exec(
                affinity_tester, "client", str(server.address), *QUICK, "--duration", "2s",
                stdout=asyncio.subprocess.PIPE, env=ours,
            )  # fmt: skip
            out, _ = await process.communicate()
            said = out.decode()
        else:
            said = await on_a_terminal(affinity_tester, server.address, *QUICK, "--duration", "2s", *arguments, **extra)
    assert "\x1b[7m" not in said
    assert "\x1b[J" not in said


@pytest.mark.busy
async def test_a_signal_asks_how_the_run_stands_and_it_goes_on(start: Start) -> None:
    async with scripted(steady) as server, start(server.address, *QUICK, "--duration", "6s") as client:
        await client.until("10 sessions answered by 1 pod")
        await asyncio.sleep(2)
        client.signal(signal.SIGUSR1)
        told = await client.until("so far:")
        assert re.search(r"so far: \d s of 6 s \| 10 of 10 sessions answered", told)
        await client.until(r"\d+ probes sent, \d+ answered, 0 lost")
        ended = await client.end()
    assert ended.code in (0, 3)
    assert ended.err == ""


@pytest.mark.busy
async def test_a_signal_is_answered_in_json_too(start: Start) -> None:
    json = ("--log-format", "json")
    async with scripted(steady) as server, start(server.address, *QUICK, *json, "--duration", "5s") as client:
        await client.until("session.first_answer")
        client.signal(signal.SIGUSR1)
        assert '"lines":["so far: ' in await client.until("run.progress")
        assert (await client.end()).err == ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def scrape(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    said = await reader.read()
    writer.close()
    return said.decode()


@pytest.mark.busy
async def test_a_run_is_scraped(start: Start) -> None:
    port = free_port()
    metrics = ("--metrics", port, "--stats-interval", "1s")
    async with scripted(steady) as server, start(server.address, *QUICK, *metrics, "--duration", "5s") as client:
        await client.until("10 sessions answered by 1 pod")
        await asyncio.sleep(2.5)
        page = await scrape(port)
        ended = await client.end()
    assert page.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
    assert "\naffinity_tester_sessions 10.0\n" in page
    assert "\naffinity_tester_violations_total 0.0\n" in page
    assert '\naffinity_tester_pod_sessions{pod="pod-a"} 10.0\n' in page
    (sent,) = re.findall(r"\naffinity_tester_probes_sent_total (\S+)\n", page)
    assert float(sent) > 100
    assert ended.err == ""


@pytest.mark.parametrize("where", ["here:9464", "127.0.0.1:0", "127.0.0.1:x", "99999"])
async def test_a_place_that_cannot_be_scraped_is_one_line(start: Start, where: str) -> None:
    async with start("127.0.0.1:9", "--metrics", where) as client:
        ended = await client.end()
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert "--metrics" in ended.err


async def test_a_port_that_is_taken_is_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with start("127.0.0.1:9", "--metrics", taken.getsockname()[1]) as client:
            ended = await client.end()
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert "TCP port in use; end what uses it, or choose another --metrics" in ended.err


@pytest.mark.busy
async def test_a_terminal_that_is_too_low_shows_the_verdict_last_too(affinity_tester: Path) -> None:
    async with scripted(steady) as server:
        low = await on_a_terminal(affinity_tester, server.address, *QUICK, "--duration", "2s", rows=8)
        high = await on_a_terminal(affinity_tester, server.address, *QUICK, "--duration", "2s", rows=60)
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", low).splitlines() if line and line[0] != " "]
    verdict = re.compile("(PASS|INCONCLUSIVE): ")
    assert verdict.match(lines[-1]), lines
    assert len([line for line in lines if verdict.match(line)]) == 2
    assert len(verdict.findall(high)) == 1
