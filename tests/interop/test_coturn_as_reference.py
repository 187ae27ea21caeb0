"""`affinity-tester client --reference` as its users run it, with coturn as the reference."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from peers import ask

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Counts, Event, ReferenceResult, RunStarted, RunSummary, SessionStarted
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.server import EchoServer
from affinity_tester.report.record import read_record
from commands import environment


async def command(affinity_tester: Path, *arguments: object, **extra: str) -> str:
    """What a command that ends well writes."""
    process = await asyncio.create_subprocess_exec(
        affinity_tester, *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**extra)
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), err
    return out.decode()


@pytest.mark.debian
async def test_coturn_tells_each_socket_what_it_sees(
    coturn: TransportAddress, affinity_tester: Path, tmp_path: Path
) -> None:
    record = tmp_path / "run.jsonl"
    server = await EchoServer.start([coturn.ip], 0, pod_name="pod-a", node_name="node-1")
    try:
        (target,) = server.addresses
        pace = ("--watch", "off", "--sessions", "12", "--duration", "4s", "--settle", "0", "--record", record)
        out = await command(affinity_tester, "client", target, *pace, AFFINITY_REFERENCE=str(coturn))
    finally:
        await server.close()

    events: list[Event] = list(read_record(record, on_truncated=pytest.fail))
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert (started.reference, started.reference_name) == (coturn, str(coturn))
    locals_ = {event.session: event.local for event in events if isinstance(event, SessionStarted)}
    results = [event for event in events if isinstance(event, ReferenceResult)]
    assert all(result.mapped == locals_[result.session] for result in results)
    asked = Counter(result.session for result in results)
    assert list(asked) == list(locals_)[:8]
    assert max(asked.values()) - min(asked.values()) <= 1
    assert 32 <= len(results) <= 41

    (run,) = [event for event in events if isinstance(event, RunSummary)]
    assert run.total == Counts(
        sent=run.total.sent, answered=run.total.sent, pairs=run.total.sent - 12, timer_misses=run.total.timer_misses
    )

    told = f"reference {coturn}: {len(results)} of {len(results)} requests answered, no mapped address changed"
    assert f"[info]  reference {coturn}: asked from the sockets of 8 sessions, every 800 ms each\n" in out
    assert told in out.splitlines()
    assert told in (await command(affinity_tester, "report", record)).splitlines()


@pytest.mark.debian
def test_coturn_answers_the_bare_header_that_a_reference_is_asked_with(coturn: TransportAddress) -> None:
    with bind_udp(coturn.ip, 0) as sock:
        answer = ask(sock, coturn, stun.new_request(bytes(12), stun.HEADER_SIZE), 5)
        assert answer is not None
        assert stun.decode_mapped_address(answer) == TransportAddress(*sock.getsockname()[:2])
