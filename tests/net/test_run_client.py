"""A run of the client on real sockets: what it tells and when, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import MS, Told, probed

from affinity_tester import __version__
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
    ChangeSeen,
    ClientFault,
    ClientFaultKind,
    Counts,
    CrossDelivered,
    Event,
    FirstAnswer,
    ForeignServer,
    NoReplies,
    OutageEnded,
    OutageStarted,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    SessionStats,
    SessionSummary,
    StatsTick,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session import extra_probes, outages, tracker
from affinity_tester.core.stun.attributes import ERROR_CODE, ErrorCode
from affinity_tester.core.stun.message import BINDING_ERROR, pack_header
from affinity_tester.errors import UserError
from affinity_tester.net import client as client_module
from affinity_tester.net import session_group as session_group_module
from affinity_tester.net import unanswered as unanswered_module
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.client import run_client
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Target
from affinity_tester.net.server import EchoServer
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S
from scripted import Probe, ScriptedServer, answer, foreign_reply, scripted

pytestmark = pytest.mark.busy

NOBODY = TransportAddress("127.0.0.1", 9)


def descriptors() -> list[str]:
    """This process's open file descriptors (and the one that looks)."""
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_run_tells_its_start_its_sessions_its_statistics_and_its_end(host: str) -> None:
    server = await EchoServer.start([host], 0, pod_name="pod-a", node_name="node-1")
    (address,) = server.addresses
    began_ns = time.time_ns()
    try:
        told = await probed(address, seconds=0.9, sessions=3, stats_interval_ns=250 * MS)
    finally:
        await server.close()

    assert [event.identity.pod for event in told.of(FirstAnswer)] == ["pod-a"] * 3
    order = [type(event) for event in told if not isinstance(event, FirstAnswer)]
    ticks = len(told.of(StatsTick))
    assert ticks >= 2
    assert order == [
        RunStarted,
        *[SessionStarted] * 3,
        *[SessionStats, SessionStats, SessionStats, StatsTick] * ticks,
        SendingStopped,
        *[SessionSummary] * 3,
        RunSummary,
    ]

    started = told.only(RunStarted)
    assert 0 <= started.wall_ns - began_ns < 60 * NS_PER_S
    assert re.fullmatch("[0-9a-f]{16}", started.run_id)
    assert replace(started, at_ns=0, wall_ns=0, utc_offset_s=0, run_id="") == RunStarted(
        0,
        wall_ns=0,
        utc_offset_s=0,
        version=__version__,
        target=address,
        target_name=str(address),
        sessions=3,
        interval_ns=20 * MS,
        loss_threshold_ns=2 * NS_PER_S,
        request_size=288,
        connected=False,
        lost_guarantees=(),
    )
    locals_ = {session.session: session.local for session in told.of(SessionStarted)}
    assert len(set(locals_.values())) == len(locals_) == 3
    assert not told.only(SendingStopped).interrupted

    total = told.counts()
    assert replace(total, sent=0, answered=0, pairs=0, timer_misses=0) == Counts()
    assert total.sent == total.answered == total.pairs + 3 == server.counters.answered
    assert 3 < total.sent + total.timer_misses <= 3 * 46
    for summary in told.of(SessionSummary):
        assert summary.local == locals_[summary.session]
        assert summary.serving == Identity(
            summary.local, "pod-a", "node-1", server.instance_id, f"affinity-tester/{__version__}"
        )
        assert summary.rtt.count == summary.total.answered
        assert 0 < (summary.rtt.min_ns or 0) <= (summary.rtt.p50_ns or 0) <= (summary.rtt.max_ns or 0)

    for name in locals_:
        lines = [line for line in told.of(SessionStats) if line.session == name]
        so_far = Counts()
        for line in lines:
            so_far += line.delta
            assert (line.total, line.serving and line.serving.pod) == (so_far, "pod-a")
    for tick in told.of(StatsTick):
        assert tick.sessions == 3
        assert tick.total == sum((s.total for s in told.of(SessionStats) if s.at_ns == tick.at_ns), Counts())
        assert tick.delta == sum((s.delta for s in told.of(SessionStats) if s.at_ns == tick.at_ns), Counts())


@pytest.mark.parametrize("per_session_stats", [False, True])
async def test_of_many_sessions_only_the_worst_are_told_unless_all_are_asked_for(*, per_session_stats: bool) -> None:
    def flip(server: ScriptedServer, probe: Probe) -> None:
        # Sessions 0 to 3 change at every probe, every second one, every fourth, every eighth.
        period = 1 << probe.session if probe.session < 4 else 1 << 30
        server.reply(probe, f"pod-{probe.seq // period % 2}")

    async with scripted(flip) as server:
        told = await probed(
            server.address, seconds=0.9, sessions=25, stats_interval_ns=600 * MS, per_session_stats=per_session_stats
        )
    tick = told.only(StatsTick)
    lines = told.of(SessionStats)
    changed: dict[str, int] = {}
    for change in told[: told.index(lines[0])]:
        if isinstance(change, ChangeSeen):
            changed[change.session] = changed.get(change.session, 0) + 1
    if per_session_stats:
        assert [line.session for line in lines] == [started.session for started in told.of(SessionStarted)]
    else:
        worst = sorted(changed, key=lambda name: -changed[name])[:3]
        assert [(line.session, line.delta.changes) for line in lines] == [(name, changed[name]) for name in worst]
    assert (tick.sessions, tick.delta) == (25, tick.total)
    assert tick.total.changes == sum(changed.values())
    assert told.counts().lost == 0


async def test_stop_ends_sending_and_lets_the_replies_come_in() -> None:
    told, stop = Told(), asyncio.Event()

    def slow(server: ScriptedServer, probe: Probe) -> None:
        server.later(0.3, probe)
        if len(server.probes) == 20:
            stop.set()

    async with scripted(slow) as server:
        await run_client(
            ClientSettings(sessions=2, interval_ns=20 * MS), Target(server.address, "x"), told.append, stop
        )
    total = told.counts()
    assert told.only(SendingStopped).interrupted
    assert (total.answered, total.lost, total.pending) == (len(server.probes), 0, 0)
    assert told.only(RunSummary).rtt.min_ns >= 300 * MS  # type: ignore[operator]


async def test_abort_waits_for_no_reply() -> None:
    told, stop, abort = Told(), asyncio.Event(), asyncio.Event()
    settings = ClientSettings(sessions=2, interval_ns=20 * MS, loss_threshold_ns=30 * NS_PER_S)

    def silent(server: ScriptedServer, _probe: Probe) -> None:
        if len(server.probes) == 4:
            stop.set()
            asyncio.get_running_loop().call_later(0.1, abort.set)

    began = time.monotonic()
    async with scripted(silent) as server:
        await run_client(settings, Target(server.address, "x"), told.append, stop, abort)
    assert time.monotonic() - began < 20
    total = told.counts()
    assert total.sent >= 4
    assert total == Counts(sent=total.sent, pending=total.sent, timer_misses=total.timer_misses)


@pytest.mark.parametrize(
    "kind", [RunStarted, SessionStarted, ChangeSeen, SessionStats, SendingStopped, SessionSummary, RunSummary]
)
async def test_what_emit_raises_ends_the_run_with_every_socket_closed(kind: type[Event]) -> None:
    class FullError(Exception):
        pass

    def emit(event: Event) -> None:
        if isinstance(event, kind):
            raise FullError(kind.__name__)

    def flip(server: ScriptedServer, probe: Probe) -> None:
        server.reply(probe, f"pod-{probe.seq % 2}")

    settings = ClientSettings(
        sessions=3, interval_ns=20 * MS, duration_ns=None, stats_interval_ns=100 * MS, loss_threshold_ns=NS_PER_S
    )
    if kind in {SendingStopped, SessionSummary, RunSummary}:
        settings = replace(settings, duration_ns=100 * MS)
    async with scripted(flip) as server:
        before = descriptors()
        async with asyncio.timeout(20):
            with pytest.raises(FullError, match=kind.__name__):
                await run_client(settings, Target(server.address, "x"), emit, asyncio.Event())
        await asyncio.sleep(0)
        assert descriptors() == before
    gc.collect()  # a socket or a future that nobody closed or asked would warn, which is an error here


async def test_a_cancelled_run_closes_its_sockets() -> None:
    enough = asyncio.Event()
    async with scripted(lambda server, probe: server.reply(probe) if probe.seq < 5 else enough.set()) as server:
        before = descriptors()
        running = asyncio.create_task(probed(server.address, seconds=None))
        await enough.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert descriptors() == before


async def test_a_server_of_another_make_is_said_once_at_its_first_answer() -> None:
    def foreign(server: ScriptedServer, probe: Probe) -> None:
        server.send(foreign_reply(probe, "coturn" if probe.seq < 3 else "coturn 2"), probe.source)

    async with scripted(foreign) as server:
        told = await probed(server.address, seconds=0.3, sessions=3)
    assert told.only(ForeignServer).software == "coturn"
    assert type(told[told.index(told.only(ForeignServer)) - 1]) is FirstAnswer
    total = told.counts()
    assert (total.answered, total.lost, total.changes) == (total.sent, 0, 3)  # SOFTWARE is tracked, once a session
    assert told.only(RunSummary).kinds == ((Kind.SOFTWARE, 3),)


async def test_nothing_answered_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered_module, "NO_REPLIES_NS", 300 * MS)
    monkeypatch.setattr(outages, "OUTAGE_NS", 300 * MS)  # the silence of all is no outage of one
    async with scripted(lambda *_: None) as server:
        told = await probed(server.address, seconds=0.8, sessions=2, loss_threshold_ns=300 * MS)
    assert told.only(NoReplies).waited_ns >= 300 * MS
    assert not told.of(OutageStarted)
    total = told.counts()
    assert (total.answered, total.lost, total.pending) == (0, total.sent, 0)


async def test_a_silence_says_what_the_sessions_know_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered_module, "NO_REPLIES_NS", 300 * MS)
    threshold = 300 * MS
    async with scripted(lambda server, probe: server.reply(probe)) as unsigned:
        told = await probed(unsigned.address, seconds=0.8, sessions=1, loss_threshold_ns=threshold, key=b"secret")
    assert re.fullmatch(
        r"\d+ replies came that are none to these probes: is AFFINITY_KEY the same on both sides\?",
        told.only(NoReplies).reason,
    )
    async with scripted(lambda server, probe: server.send(b"hello", probe.source)) as other:
        told = await probed(other.address, seconds=0.8, sessions=1, loss_threshold_ns=threshold)
    assert re.fullmatch(
        r"\d+ replies came that are none to these probes: is this a STUN server's port\?",
        told.only(NoReplies).reason,
    )
    with bind_udp("127.0.0.1", 0) as sock:
        closed = TransportAddress(*sock.getsockname())
    told = await probed(closed, seconds=0.8, sessions=1, loss_threshold_ns=threshold)
    assert re.fullmatch(
        r"\d+ ICMP errors came back \(see above\): nothing answers at this address and port",
        told.only(NoReplies).reason,
    )


@pytest.mark.parametrize(
    ("code", "words", "key", "said"),
    [
        (401, "Unauthorized", b"secret", "the error 401 Unauthorized: is AFFINITY_KEY the server's?"),
        (
            401,
            "Unauthorized",
            None,
            "the error 401 Unauthorized: it wants credentials (with an affinity-tester server: AFFINITY_KEY, on both"
            " sides), and these have none",
        ),
        (
            420,
            "Unknown Attribute",
            b"secret",
            "the error 420 Unknown Attribute: it does not know what AFFINITY_KEY adds to them"
            " (MESSAGE-INTEGRITY-SHA256): unset it",
        ),
        (
            420,
            "",
            None,
            "the error 420: the server does not take them: probe one that answers plain Binding requests",
        ),
        (
            500,
            "x" * 200,
            None,
            f"the error 500 {'x' * 96}: the server does not take them: probe one that answers plain Binding requests",
        ),
    ],
)
async def test_an_error_response_is_shown_and_the_key_named_where_it_may_be_the_cause(
    monkeypatch: pytest.MonkeyPatch, code: int, words: str, key: bytes | None, said: str
) -> None:
    monkeypatch.setattr(unanswered_module, "NO_REPLIES_NS", 300 * MS)
    body = ERROR_CODE.encode(ErrorCode(code, words))

    def refuse(server: ScriptedServer, probe: Probe) -> None:
        server.send(pack_header(BINDING_ERROR, len(body)) + probe.transaction_id + body, probe.source)

    async with scripted(refuse) as server:
        told = await probed(server.address, seconds=0.5, sessions=1, loss_threshold_ns=100 * MS, key=key)
    assert told.only(NoReplies).reason == f"the server answers these probes with {said}"


async def test_a_start_that_is_refused_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its record would have a run in it, and the retry would be refused."""
    opened = 0
    really = session_group_module.open_probe_socket

    def refuse_the_third(*arguments: Any, **more: Any) -> socket.socket:
        nonlocal opened
        opened += 1
        if opened > 2:
            raise OSError(24, os.strerror(24))
        return really(*arguments, **more)

    monkeypatch.setattr(session_group_module, "open_probe_socket", refuse_the_third)
    told: list[Event] = []
    settings = ClientSettings(sessions=3)
    with pytest.raises(UserError, match="too few file descriptors for 3 sessions"):
        await run_client(settings, Target(NOBODY, "nobody"), told.append, asyncio.Event())
    assert told == []


async def test_a_silence_says_where_replies_come_from_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered_module, "NO_REPLIES_NS", 300 * MS)
    others = [bind_udp(f"127.0.0.{number}", 0) for number in range(2, 7)]

    def elsewhere(server: ScriptedServer, probe: Probe) -> None:
        server.send(server.message(probe), probe.source, others[probe.seq % len(others)])

    async with scripted(elsewhere) as server:
        told = await probed(server.address, seconds=0.8, sessions=1, loss_threshold_ns=300 * MS)
    named = ", ".join(f"127.0.0.{number}:{others[number - 2].getsockname()[1]}" for number in (2, 3, 4))
    for other in others:
        other.close()
    assert re.fullmatch(
        rf"\d+ replies came from {named} and 2 more, not from {server.address}: such replies answer nothing",
        told.only(NoReplies).reason,
    )
    assert not told.of(FirstAnswer)


async def test_a_silence_says_that_sessions_get_each_other_s_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered_module, "NO_REPLIES_NS", 300 * MS)
    sources: dict[int, tuple[object, ...]] = {}

    def cross(server: ScriptedServer, probe: Probe) -> None:
        sources[probe.session] = probe.source
        if len(sources) == 2:
            server.send(server.message(probe), sources[1 - probe.session])

    async with scripted(cross) as server:
        told = await probed(server.address, seconds=0.8, sessions=2, loss_threshold_ns=300 * MS)
    assert re.fullmatch(
        r"\d+ replies came, each to another session than the one that had sent the probe",
        told.only(NoReplies).reason,
    )
    assert {event.session for event in told.of(CrossDelivered)} == {event.owner for event in told.of(CrossDelivered)}


async def test_sessions_that_fall_silent_alone_are_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "OUTAGE_NS", 800 * MS)
    monkeypatch.setattr(outages, "_PATIENCE_NS", 300 * MS)

    def blackholes(server: ScriptedServer, probe: Probe) -> None:
        # Session 1 is dead from the start; session 3 from its 10th probe until its 80th.
        if not (probe.session == 1 or (probe.session == 3 and 10 <= probe.seq < 80)):
            server.reply(probe)

    async with scripted(blackholes) as server:
        told = await probed(server.address, seconds=2, sessions=5, loss_threshold_ns=300 * MS)
    ports = {p.session: p.source[1] for p in server.probes}
    names = {s.local.port: s.session for s in told.of(SessionStarted)}
    started = {event.session: event for event in told.of(OutageStarted)}
    assert set(started) == {names[ports[1]], names[ports[3]]}
    assert len(told.of(OutageStarted)) == 2
    dead, ill = started[names[ports[1]]], started[names[ports[3]]]
    assert (dead.since_seq, dead.last) == (0, None)
    assert ill.since_seq == 10
    assert ill.last is not None
    assert (ill.last.seq, ill.last.identity.pod) == (9, "pod-a")
    ended = told.only(OutageEnded)
    assert (ended.session, ended.since_seq, ended.probes, ended.first.seq) == (ill.session, 10, 70, 80)
    told.counts()


async def test_at_long_intervals_an_unanswered_session_asks_more_until_it_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unanswered_module, "LONG_INTERVAL_NS", 0)
    monkeypatch.setattr(client_module, "SWEEP_NS", 20 * MS)
    monkeypatch.setattr(extra_probes, "FIRST_AFTER_NS", 600 * MS)
    monkeypatch.setattr(extra_probes, "SPACING_NS", 100 * MS)

    def script(server: ScriptedServer, probe: Probe) -> None:
        # Session 1 is dead from its third probe on, session 2 loses two and is answered at the next, sessions 0 and 3 live.
        if not (probe.session == 1 and probe.seq >= 2) and not (probe.session == 2 and probe.seq in {2, 3}):
            server.reply(probe)

    async with scripted(script) as server:
        told = await probed(server.address, seconds=3.95, sessions=4, interval_ns=500 * MS)
    names = {session.local.port: session.session for session in told.of(SessionStarted)}
    numbers = {names[p.source[1]]: p.session for p in server.probes if p.source[1] in names}  # the others are canaries
    slots = {
        numbers[summary.session]: summary.total.sent + summary.total.timer_misses for summary in told.of(SessionSummary)
    }
    assert slots[0] == 8
    assert {number: more - slots[0] for number, more in slots.items()} == {
        0: 0,
        1: extra_probes.MAX_PER_SILENCE,
        2: 1,
        3: pytest.approx(0, abs=1),
    }
    told.counts()


async def test_a_short_silence_after_a_stall_of_the_client_has_no_canary() -> None:
    def stall(server: ScriptedServer, probe: Probe) -> None:
        if probe.seq == 10 and probe.session == 1:
            time.sleep(2.5)
        if not (probe.session == 1 and 5 <= probe.seq < 30):
            server.reply(probe)

    async with scripted(stall) as server:
        told = await probed(server.address, seconds=3.5, sessions=2)
        unanswered = [probe for probe in server.probes if probe.session == 1 and 5 <= probe.seq < 30]
    # Unanswered for 3 s by the clock, of which the client ran for half a second.
    assert told.counts().lost == len(unanswered) > 0
    assert not told.of(CanaryResult)


async def test_a_session_ends_when_its_sequence_numbers_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "MAX_PROBES", 5)
    monkeypatch.setattr(client_module, "MAX_PROBES", 5)
    async with scripted(answer) as server:
        told = await probed(server.address, seconds=0.5, sessions=2)
    ended = [event.session for event in told.of(ClientFault) if event.fault is ClientFaultKind.EXHAUSTED]
    assert ended == [started.session for started in told.of(SessionStarted)]
    assert told.counts().sent == told.counts().answered == len(server.probes) == 10


async def test_a_long_stop_of_the_process_skips_its_rounds() -> None:
    def stall(server: ScriptedServer, probe: Probe) -> None:
        server.reply(probe)
        if len(server.probes) == 10:
            time.sleep(1.2)

    async with scripted(stall) as server:
        told = await probed(server.address, seconds=1.5, sessions=2, interval_ns=10 * MS)
    total = told.counts()
    assert (total.lost, total.pending, total.answered) == (0, 0, total.sent)
    # Of 120 rounds all but the last few are missed: nothing was sent in a burst afterwards.
    assert total.timer_misses >= 2 * 110
    assert total.sent + total.timer_misses <= 2 * 152


@pytest.mark.parametrize("now", ["127.0.0.9", "no route"])
async def test_a_change_of_the_clients_own_address_is_its_own_fault(now: str) -> None:
    first = True

    def source_for(target: TransportAddress, scope_id: int) -> str:
        nonlocal first
        if first:
            first = False
            return local_source_for(target, scope_id)
        if now == "no route":
            raise UserError(now)
        return now

    async with scripted(lambda server, probe: server.reply(probe, f"pod-{probe.seq // 10}")) as server:
        told = await probed(server.address, sessions=1, source_for=source_for)
    assert told.of(ChangeSeen)
    fault = told.only(ClientFault)
    detail = f"this machine's own address changed: 127.0.0.1 -> {now}"
    assert (fault.fault, fault.detail) == ("local-address", detail)
    assert told.counts().lost == 0


async def test_keys_must_be_the_same_on_both_sides() -> None:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="pod-a", key=b"right")
    try:
        right, wrong, none = await asyncio.gather(
            *(
                probed(server.addresses[0], seconds=0.2, sessions=2, key=key, loss_threshold_ns=500 * MS)
                for key in (b"right", b"wrong", None)
            )
        )
    finally:
        await server.close()
    assert right.counts().answered == right.counts().sent > 0
    for told in (wrong, none):
        assert told.counts().lost == told.counts().sent > 0
    assert set(dict(server.counters.dropped)) == {"bad-integrity", "no-integrity"}


async def test_no_port_left_and_no_descriptor_left_are_errors_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text in (
        (
            24,
            "too few file descriptors for 10 sessions .stopped at 0.: raise the hard limit .ulimit -Hn. or take fewer",
        ),
        (98, "no free port left at 127.0.0.1 after 0 sockets: take fewer --sessions"),
        (99, "cannot open a socket at 127.0.0.1: Cannot assign requested address"),
    ):

        def refuse(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(session_group_module, "open_probe_socket", refuse)
        with pytest.raises(UserError, match=text):
            await probed(NOBODY)
