"""What a session makes of a network that misbehaves: each test's server does one thing wrong, on real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from running import MS, kernel_stamps, probed

from affinity_tester import clock
from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
    ChangeRevised,
    ChangeSeen,
    ClientFault,
    ConflictingDuplicate,
    Counts,
    CrossDelivered,
    Event,
    LateReply,
    Losses,
    NetworkError,
    OutageStarted,
    ProbesLost,
    RunSummary,
    SessionStarted,
    SessionSummary,
    WrongSource,
)
from affinity_tester.core.identity import Kind
from affinity_tester.core.session import canaries, outages
from affinity_tester.core.session.tracker import SessionTracker
from affinity_tester.net import poller as poller_module
from affinity_tester.net import probe_socket
from affinity_tester.net import session as session_module
from affinity_tester.net import session_group as session_group_module
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.probe_socket import open_probe_socket
from affinity_tester.net.session import Session
from affinity_tester.units import NS_PER_S
from scripted import Probe, ScriptedServer, answer, closed_port, scripted

pytestmark = pytest.mark.busy

# --- who answers -----------------------------------------------------------------------------------------------------


async def test_a_change_of_pod_is_seen_once_by_each_session_at_its_first_reply() -> None:
    async with scripted(lambda server, probe: server.reply(probe, "pod-a" if probe.seq < 10 else "pod-b")) as server:
        told = await probed(server.address, sessions=3)
    changes = told.of(ChangeSeen)
    assert {change.session for change in changes} == {started.session for started in told.of(SessionStarted)}
    for event in changes:
        change = event.change
        assert (change.number, change.kinds) == (1, (Kind.POD, Kind.INSTANCE))
        assert (change.before.seq, change.before.identity.pod) == (9, "pod-a")
        assert (change.after.seq, change.after.identity.pod) == (10, "pod-b")
        assert change.before.sent_ns < change.after.sent_ns < change.seen_ns == event.at_ns
        assert change.longest_pause_ns == change.after.sent_ns - change.before.sent_ns
    total = told.counts()
    assert (total.changes, total.lost, len(changes)) == (3, 0, 3)
    assert told.only(RunSummary).kinds == ((Kind.POD, 3), (Kind.INSTANCE, 3))
    assert {session.kinds for session in told.of(SessionSummary)} == {((Kind.POD, 1), (Kind.INSTANCE, 1))}
    assert told.only(RunSummary).longest_gap_ns == max(c.change.seen_ns - c.change.before.sent_ns for c in changes)


async def test_a_rewritten_source_is_a_change_of_the_reflexive_address_alone() -> None:
    seen = [("127.0.0.7", 1000), ("127.0.0.7", 1001), ("127.0.0.8", 1002)]
    async with scripted(lambda server, probe: server.reply(probe, reflexive=seen[min(probe.seq // 5, 2)])) as server:
        told = await probed(server.address, sessions=1)
    assert [event.change.kinds for event in told.of(ChangeSeen)] == [
        (Kind.REFLEXIVE_PORT,),
        (Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT),
    ]


async def test_replies_out_of_order_raise_nothing() -> None:
    held: list[Probe] = []

    def swap(server: ScriptedServer, probe: Probe) -> None:
        held.append(probe)
        if len(held) == 3:
            for late in (held[2], held[0], held[1]):
                server.reply(late)
            held.clear()

    async with scripted(swap) as server:
        told = await probed(server.address, seconds=0.2, sessions=1, loss_threshold_ns=NS_PER_S)
    total = told.counts()
    assert total.reordered == 2 * (total.answered // 3)
    assert (total.lost, total.late, total.duplicate, total.changes) == (total.sent % 3, 0, 0, 0)


async def test_an_old_reply_from_the_old_pod_is_no_change_back() -> None:
    held: list[Probe] = []

    def move(server: ScriptedServer, probe: Probe) -> None:
        if probe.seq == 9:
            held.append(probe)  # the old pod's last answer takes the long way
        else:
            server.reply(probe, "pod-a" if probe.seq < 9 else "pod-b")
        if probe.seq == 14:
            server.reply(held.pop(), "pod-a")

    async with scripted(move) as server:
        told = await probed(server.address, sessions=1)
    first, revised = told.only(ChangeSeen).change, told.only(ChangeRevised).change
    assert (first.before.seq, first.after.seq, revised.before.seq, revised.after.seq) == (8, 10, 9, 10)
    total = told.counts()
    assert (total.changes, total.reordered, total.lost) == (1, 1, 0)


async def test_duplicates_are_counted_and_one_that_differs_is_evidence_and_no_change() -> None:
    def twice(server: ScriptedServer, probe: Probe) -> None:
        server.reply(probe)
        server.reply(probe, "pod-b" if probe.seq == 3 else "pod-a")

    async with scripted(twice) as server:
        told = await probed(server.address, sessions=2)
    total = told.counts()
    assert (total.answered, total.duplicate, total.changes) == (total.sent, total.sent, 0)
    evidence = told.of(ConflictingDuplicate)
    assert [(e.seq, e.first.pod, e.second.pod) for e in evidence] == [(3, "pod-a", "pod-b")] * 2
    assert len({event.session for event in evidence}) == 2


# --- from where, and with what ---------------------------------------------------------------------------------------


async def test_a_reply_from_another_address_is_named_and_answers_nothing() -> None:
    with bind_udp("127.0.0.2", 0) as other, bind_udp("127.0.0.1", 0) as port:

        def elsewhere(server: ScriptedServer, probe: Probe) -> None:
            if probe.seq % 3:
                server.send(server.message(probe), probe.source, other if probe.seq % 3 == 1 else port)
            else:
                server.reply(probe)

        async with scripted(elsewhere) as server:
            told = await probed(server.address, seconds=0.2, sessions=2, loss_threshold_ns=NS_PER_S)
        sources = {TransportAddress(*sock.getsockname()) for sock in (other, port)}
    total = told.counts()
    assert total.answered == sum(probe.seq % 3 == 0 for probe in server.probes)
    assert total.lost == total.wrong_source == total.sent - total.answered > 0
    assert total.changes == total.undecodable == 0
    for session in told.of(SessionStarted):
        events = [event for event in told.of(WrongSource) if event.session == session.session]
        assert {event.source for event in events} == sources
        assert {event.seq for event in events} == {1, 2}  # the first from each
        assert {(event.expected, event.identity.pod, event.wildcard) for event in events} == {
            (server.address, "pod-a", False)
        }
        assert all(event.sent_ns < event.at_ns < event.sent_ns + NS_PER_S for event in events)
    assert told.only(RunSummary).losses.up == 0  # a server had them all


async def test_pods_that_answer_from_their_own_addresses_change_the_pod_and_answer_nothing() -> None:
    # One-packet scheduling: each probe meets the next of three pods, and only one of them answers by way of the service.
    with bind_udp("127.0.0.2", 0) as b, bind_udp("127.0.0.3", 0) as c:

        def spray(server: ScriptedServer, probe: Probe) -> None:
            pod = "abc"[probe.seq % 3]
            server.send(server.message(probe, pod), probe.source, {"a": None, "b": b, "c": c}[pod])

        async with scripted(spray) as server:
            told = await probed(server.address, seconds=0.4, sessions=2, loss_threshold_ns=300 * MS)
    total = told.counts()
    assert total.answered == sum(probe.seq % 3 == 0 for probe in server.probes)
    assert total.lost == total.wrong_source == total.sent - total.answered > 0
    assert (total.pairs, total.changes) == (total.sent - 2, total.sent - 2)
    assert told.only(RunSummary).losses == Losses(down=total.lost)
    assert dict(told.only(RunSummary).kinds) == {Kind.POD: total.changes, Kind.INSTANCE: total.changes}


@pytest.mark.parametrize(("mark", "wildcard"), [(" wildcard", True), ("", False)])
def test_a_server_on_a_wildcard_is_believed_to_be_one(bench: Bench, mark: str, *, wildcard: bool) -> None:
    bench.reply = stun.ResponseEncoder("pod-a", None, bytes(8), stun.SERVER_SOFTWARE + mark).encode
    request = bench.probe()
    with bind_udp("127.0.0.2", 0) as other:
        other.sendto(bench.reply(request[8:20], bench.session.local, 1, len(request)), bench.session.local)
    bench.session.read_until_empty()
    (event,) = bench.told
    assert isinstance(event, WrongSource)
    assert event.wildcard is wildcard


def test_a_wrong_source_is_told_again_after_ten_seconds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bind_udp("127.0.0.2", 0) as other:
        for again_ns, told in ((10 * NS_PER_S, 1), (0, 2), (0, 3), (10 * NS_PER_S, 3)):
            monkeypatch.setattr(session_module, "REPEAT_AFTER_NS", again_ns)
            request = bench.probe()
            other.sendto(bench.reply(request[8:20], bench.session.local, 1, len(request)), bench.session.local)
            bench.session.read_until_empty()
            assert len(bench.told) == told
    assert [event.seq for event in bench.told if isinstance(event, WrongSource)] == [0, 1, 2]
    assert bench.session.counts() == Counts(sent=4, pending=4, pairs=3, wrong_source=4)
    assert bench.session.wrong_sources == [str(bench.told[0].source)]  # type: ignore[attr-defined]


async def test_a_connected_socket_takes_it_for_plain_loss() -> None:
    with bind_udp("127.0.0.2", 0) as other:

        def elsewhere(server: ScriptedServer, probe: Probe) -> None:
            server.send(server.message(probe), probe.source, other if probe.seq % 2 else None)

        async with scripted(elsewhere) as server:
            told = await probed(server.address, seconds=0.2, sessions=2, connected=True, loss_threshold_ns=NS_PER_S)
    total = told.counts()
    assert total.lost == sum(probe.seq % 2 for probe in server.probes)
    assert (total.answered, total.wrong_source, told.of(WrongSource)) == (total.sent - total.lost, 0, [])


async def test_what_is_no_reply_to_a_probe_of_the_session_is_counted_and_changes_nothing() -> None:
    junk = 0

    def noise(server: ScriptedServer, probe: Probe) -> None:
        nonlocal junk
        token, seq = stun.unpack_transaction_id(probe.transaction_id)
        good = server.message(probe, "pod-b")
        for transaction_id in (
            stun.pack_transaction_id(token ^ 1, seq),  # another session's
            stun.pack_transaction_id(token, seq + 1000),  # not sent yet
        ):
            server.send(good[:8] + transaction_id + good[20:], probe.source)
        for message in (b"", bytes(5), os.urandom(288), probe.data, good[:-1]):
            server.send(message, probe.source)
        junk += 7
        server.reply(probe)

    async with scripted(noise) as server:
        told = await probed(server.address, sessions=2)
    total = told.counts()
    assert (total.answered, total.undecodable) == (total.sent, junk)
    assert (total.changes, total.duplicate, total.lost) == (0, 0, 0)


async def test_a_flood_of_forged_replies_neither_hangs_nor_fools_the_client() -> None:
    forged = 0

    def flood(server: ScriptedServer, probe: Probe) -> None:
        nonlocal forged
        server.reply(probe)
        if len(server.probes) % 5 == 0:
            message = server.message(probe, "pod-x")
            for number in range(300):
                server.send(message[:8] + stun.pack_transaction_id(number, 0) + message[20:], probe.source)
            forged += 300

    async with scripted(flood) as server:
        told = await probed(server.address, seconds=1, sessions=2, stats_interval_ns=250 * MS)
    total = told.counts()
    assert total.undecodable + total.socket_drops >= forged
    assert total.changes == 0
    assert total.lost <= total.socket_drops


# --- to whom ---------------------------------------------------------------------------------------------------------


class Crossing:
    """A script that delivers some of a session's replies to another session."""

    def __init__(self, victim: int, thief: int, each: int) -> None:
        """Each `each`th reply to the session number `victim` goes to that with the number `thief`."""
        self.victim, self.thief, self.each = victim, thief, each
        self.sources: dict[int, tuple[object, ...]] = {}
        self.crossed: list[int] = []

    def __call__(self, server: ScriptedServer, probe: Probe) -> None:
        self.sources[probe.session] = probe.source
        elsewhere = (
            probe.session == self.victim and self.thief in self.sources and probe.seq % self.each == 1 % self.each
        )
        if elsewhere:
            self.crossed.append(probe.seq)
        server.send(server.message(probe), self.sources[self.thief] if elsewhere else probe.source)


@pytest.mark.parametrize("each", [20, 1])
async def test_a_reply_delivered_to_another_session_is_told_of_both_and_answers_neither(each: int) -> None:
    crossing = Crossing(victim=2, thief=0, each=each)
    async with scripted(crossing) as server:
        told = await probed(server.address, seconds=0.8, sessions=3, loss_threshold_ns=300 * MS)
    total = told.counts()
    crossed = len(crossing.crossed)
    assert (total.cross_delivered, total.lost, total.undecodable) == (crossed, crossed, 0)
    assert (total.answered, total.duplicate, total.changes, total.wrong_source) == (total.sent - crossed, 0, 0, 0)
    assert total.pairs == total.sent - 3  # who answered is known of every probe
    assert told.only(RunSummary).losses == Losses(down=crossed)
    name = {TransportAddress(*summary.local): summary.session for summary in told.of(SessionStarted)}
    thief, victim = (name[TransportAddress(*crossing.sources[number])] for number in (0, 2))  # type: ignore[arg-type]
    event = told.only(CrossDelivered)  # once in ten seconds
    assert (event.session, event.owner, event.seq) == (thief, victim, crossing.crossed[0])
    assert (event.identity.pod, event.source) == ("pod-a", server.address)
    assert event.sent_ns < event.at_ns < event.sent_ns + NS_PER_S
    counted = {summary.session: summary.total for summary in told.of(SessionSummary)}
    assert (counted[thief].cross_delivered, counted[thief].lost) == (crossed, 0)
    assert (counted[victim].cross_delivered, counted[victim].lost) == (0, crossed)


async def test_a_reply_with_a_sibling_s_token_that_is_none_to_a_probe_of_it_is_undecodable() -> None:
    sources: dict[int, tuple[object, ...]] = {}
    forged = 0

    def forge(server: ScriptedServer, probe: Probe) -> None:
        nonlocal forged
        sources[probe.session] = probe.source
        server.reply(probe)
        if len(sources) == 2:
            token, seq = stun.unpack_transaction_id(probe.transaction_id)
            message = server.message(probe, "pod-x")
            other = sources[1 - probe.session]
            server.send(message[:8] + stun.pack_transaction_id(token, seq + 1000) + message[20:], other)  # not sent yet
            error = bytes.fromhex("01110000 2112a442") + probe.transaction_id
            server.send(error, other)  # no success response
            forged += 2

    async with scripted(forge) as server:
        told = await probed(server.address, seconds=0.3, sessions=2)
    total = told.counts()
    assert (total.undecodable, total.cross_delivered, total.lost, total.changes) == (forged, 0, 0, 0)


def test_only_what_is_signed_is_cross_delivered(bench: Bench) -> None:
    owner = Bench(bench.server, token=8, key=b"secret")
    thief = Bench(bench.server, owners={8: owner.session}, key=b"secret")
    request = owner.probe()
    for key in (None, b"another", b"secret"):
        reply = stun.ResponseEncoder("pod-a", None, bytes(8), key=key).encode
        bench.server.sendto(reply(request[8:20], owner.session.local, 1, len(request)), thief.session.local)
    thief.session.read_until_empty()
    assert thief.session.counts() == Counts(undecodable=2, cross_delivered=1)
    assert owner.session.counts() == Counts(sent=1, pending=1)
    for each in (owner, thief):
        each.session.sock.close()


async def test_a_late_reply_to_a_canary_that_another_session_gets_is_cross_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canaries, "SILENCE_NS", 200 * MS)
    sources: dict[int, tuple[object, ...]] = {}

    def cross(server: ScriptedServer, probe: Probe) -> None:
        sources[probe.session] = probe.source
        if probe.session == 0:
            server.reply(probe)
        elif probe.session > 1 and probe.seq == 0:  # the canary for session 1, which it is not answered in time
            asyncio.get_running_loop().call_later(0.6, server.send, server.message(probe), sources[0])

    async with scripted(cross) as server:
        told = await probed(server.address, seconds=2, sessions=2, loss_threshold_ns=400 * MS)
    event = told.of(CrossDelivered)[0]
    assert event.owner.startswith("CANARY-CLIENT-")
    assert (event.seq, event.identity.pod) == (0, "pod-a")
    assert told.of(CanaryResult)[0].identity is None


async def test_unanswered_canaries_are_repeated_from_the_same_port_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canaries, "SILENCE_NS", 200 * MS)
    monkeypatch.setattr(canaries, "REPEAT_AFTER_NS", 900 * MS)
    ports: dict[int, set[object]] = {}

    def dead(server: ScriptedServer, probe: Probe) -> None:
        ports.setdefault(probe.session, set()).add(probe.source)
        if probe.session == 0:
            server.reply(probe)

    async with scripted(dead) as server:
        told = await probed(server.address, seconds=3, sessions=2, loss_threshold_ns=400 * MS)
    results = told.of(CanaryResult)
    repeated = [result for result in results if result.pause_ns]
    assert repeated
    assert len(repeated) <= len([result for result in results if not result.pause_ns])
    assert all(result.identity is None and 900 * MS <= result.pause_ns < 2_000 * MS for result in repeated)
    assert all(len(sources) == 1 for sources in ports.values())


def test_a_reply_to_a_probe_that_is_long_forgotten_is_counted_and_not_told(bench: Bench) -> None:
    bench.session.tracker.sent(clock.now_ns() - 100 * NS_PER_S)
    bench.session.tracker.expire(clock.now_ns() - 50 * NS_PER_S)
    bench.told.clear()
    bench.session.tracker.sent(clock.now_ns())  # which makes the first one be forgotten
    message = bench.reply(stun.pack_transaction_id(7, 0), bench.session.local, 1, 288)
    sibling = Bench(bench.server, owners={7: bench.session}, token=8)
    with bind_udp("127.0.0.2", 0) as other:
        other.sendto(message, bench.session.local)
        bench.session.read_until_empty()
    bench.server.sendto(message, sibling.session.local)
    sibling.session.read_until_empty()
    sibling.session.sock.close()
    assert (bench.told, sibling.told) == ([], [])
    assert bench.session.counts() == Counts(sent=2, lost=1, pending=1, wrong_source=1, stale=2)
    assert sibling.session.counts() == Counts(cross_delivered=1)


# --- in time or not --------------------------------------------------------------------------------------------------


async def test_late_replies_are_late_and_their_probes_stay_lost() -> None:
    def slow(server: ScriptedServer, probe: Probe) -> None:
        if probe.seq % 2:
            server.later(0.7, probe)
        else:
            server.reply(probe)

    async with scripted(slow) as server:
        told = await probed(server.address, seconds=1.2, sessions=1, interval_ns=100 * MS, loss_threshold_ns=400 * MS)
    total = told.counts()
    late = told.of(LateReply)
    lost = {seq for event in told.of(ProbesLost) for seq in range(event.first_seq, event.first_seq + event.count)}
    assert {event.seq for event in late} <= lost
    assert lost >= {probe.seq for probe in server.probes if probe.seq % 2}
    assert all(event.delay_ns >= 700 * MS for event in late if event.seq % 2)
    assert total.late == len(late) > 0
    assert total.changes == total.reordered == 0


async def test_losses_have_their_direction() -> None:
    def lossy(server: ScriptedServer, probe: Probe) -> None:
        match probe.seq % 8:
            case 3:
                pass  # lost on the way up: the server never counts it
            case 5 | 6:
                server.message(probe)  # counted; its reply is lost on the way down
            case _:
                server.reply(probe)

    async with scripted(lossy) as server:
        told = await probed(server.address, seconds=0.6, sessions=2, loss_threshold_ns=NS_PER_S)
    up = down = unknown = 0
    for session in (0, 1):
        seqs = [probe.seq for probe in server.probes if probe.session == session]
        last = max(seq for seq in seqs if seq % 8 not in (3, 5, 6))
        up += sum(seq % 8 == 3 for seq in seqs if seq < last)
        down += sum(seq % 8 in (5, 6) for seq in seqs if seq < last)
        unknown += sum(seq % 8 in (3, 5, 6) for seq in seqs if seq > last)
    assert told.only(RunSummary).losses == Losses(up, down, unknown)
    assert told.counts().lost == up + down + unknown > 0


# --- ICMP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_closed_port_is_told_once_a_session(host: str, *, connected: bool) -> None:
    told = await probed(closed_port(host), seconds=0.3, sessions=3, connected=connected, loss_threshold_ns=300 * MS)
    errors = told.of(NetworkError)
    assert {event.session for event in errors} == {started.session for started in told.of(SessionStarted)}
    assert [(event.seq, event.error, event.offender) for event in errors] == [(0, "ECONNREFUSED", host)] * 3
    total = told.counts()
    # Every probe went out, and each was answered by an ICMP error.
    assert total.sent == total.lost == total.network_errors > 3
    assert (total.answered, total.send_errors, told.of(ClientFault)) == (0, 0, [])


async def test_a_port_that_closes_for_a_while_costs_no_sequence_number() -> None:
    def restart(server: ScriptedServer, probe: Probe) -> None:
        if probe.seq == 10:
            server.close()
            asyncio.get_running_loop().call_later(0.3, server.open)
        else:
            server.reply(probe, "pod-a" if probe.seq < 10 else "pod-b")

    async with scripted(restart) as server:
        told = await probed(server.address, seconds=1, sessions=1, interval_ns=10 * MS, loss_threshold_ns=NS_PER_S)
    total = told.counts()
    arrived = [probe.seq for probe in server.probes]
    refused = sorted({*range(total.sent)} - {*arrived})
    # Each probe that was sent either arrived or was refused; no number was used twice or by a send that failed.
    assert len(arrived) == len(set(arrived)) == total.sent - total.network_errors
    assert refused == [*range(refused[0], refused[0] + total.network_errors)]
    silent = refused[0] - 10  # the probe that closed the port, and any that came with it
    assert total == Counts(
        sent=total.sent,
        answered=total.sent - len(refused) - silent,
        lost=len(refused) + silent,
        changes=1,
        pairs=total.sent - len(refused) - silent - 1,
        network_errors=len(refused),
        timer_misses=total.timer_misses,
    )
    change = told.only(ChangeSeen).change
    assert (change.before.seq, change.after.seq) == (9, refused[-1] + 1)
    error = told.only(NetworkError)
    assert (error.seq, error.error, error.offender) == (refused[0], "ECONNREFUSED", "127.0.0.1")


# --- the client's own ------------------------------------------------------------------------------------------------


async def test_replies_dropped_at_the_full_socket_are_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_socket, "RECEIVE_BUFFER", 1)  # the kernel makes it its least, about two replies

    def burst(server: ScriptedServer, probe: Probe) -> None:
        for _ in range(20):
            server.reply(probe)

    async with scripted(burst) as server:
        told = await probed(server.address, seconds=0.8, sessions=2, stats_interval_ns=100 * MS)
    total = told.counts()
    assert total.socket_drops > 0
    # Every reply is accounted for: it was read or dropped here.
    assert total.answered + total.duplicate + total.late + total.socket_drops == 20 * len(server.probes)
    assert 0 <= total.own_losses <= min(total.lost, total.socket_drops)
    faults = told.of(ClientFault)
    assert [fault.fault for fault in faults] == ["socket-drops"] * 2
    assert len({fault.session for fault in faults}) == 2


def flood(bench: Bench, count: int = 400) -> None:
    """Far more than its buffer holds, none of them a reply."""
    for _ in range(count):
        bench.server.sendto(bytes(1000), bench.session.local)


def test_a_reply_that_a_flood_keeps_out_is_an_own_loss_and_no_more(bench: Bench) -> None:
    bench.session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    requests = [bench.probe() for _ in range(3)]
    flood(bench)
    for request in requests:
        bench.answer(request)
    assert bench.session.drops_since_reply() == 3
    time.sleep(0.1)
    bench.session.expire()
    total = bench.session.counts()
    assert (total.lost, total.own_losses) == (3, 3)
    assert total.socket_drops > 300
    bench.probe()  # sent when the flood was over: the network's
    time.sleep(0.1)
    bench.session.expire()
    assert bench.session.counts().lost == 4
    assert bench.session.own_losses == 3
    bench.answer(bench.probe())
    bench.session.read_until_empty()
    assert bench.session.drops_since_reply() == 0


def test_a_flood_that_costs_no_reply_is_no_own_loss(bench: Bench) -> None:
    bench.session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    request = bench.probe()
    bench.answer(request)
    flood(bench)
    bench.session.read_until_empty()
    bench.session.check_drops()
    bench.probe()
    time.sleep(0.1)
    bench.session.expire()
    total = bench.session.counts()
    assert (total.answered, total.lost, total.own_losses) == (1, 1, 0)
    assert total.socket_drops > 300


async def test_an_outage_tells_how_many_replies_its_session_dropped_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_NS", 800 * MS)
    real = probe_socket.open_probe_socket

    def open_small(*args: Any, **kwargs: Any) -> socket.socket:
        sock = real(*args, **kwargs)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        return sock

    monkeypatch.setattr(session_group_module, "open_probe_socket", open_small)

    def flood_one(server: ScriptedServer, probe: Probe) -> None:
        if probe.session != 1 or probe.seq < 10:
            server.reply(probe)
        elif probe.seq == 20:
            for _ in range(400):
                server.send(bytes(1000), probe.source)

    async with scripted(flood_one) as server:
        told = await probed(server.address, seconds=2.5, sessions=2, loss_threshold_ns=300 * MS)
    outage = told.only(OutageStarted)
    assert 0 < outage.own_drops < outage.probes  # one burst, and the silence went on
    total = told.counts()
    assert 0 < total.own_losses <= total.lost < total.socket_drops


async def test_a_send_that_this_machine_refuses_is_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session._transmit
    failing = {5: errno.EPERM, 6: errno.EPERM, 9: errno.ENOBUFS, 12: errno.EADDRNOTAVAIL}
    slots = 0

    def transmit(self: Session, request: bytes) -> None:
        nonlocal slots
        slots += 1
        number = failing.get(slots)
        if number is not None:
            raise OSError(number, os.strerror(number))
        real(self, request)

    monkeypatch.setattr(Session, "_transmit", transmit)
    async with scripted(answer) as server:
        told = await probed(server.address, sessions=1)
    assert [probe.seq for probe in server.probes] == [*range(slots - 4)]
    total = told.counts()
    assert (total.sent, total.answered, total.send_errors, total.network_errors) == (slots - 4, slots - 4, 4, 0)
    assert [(fault.fault, fault.detail) for fault in told.of(ClientFault)] == [
        ("send-error", "EPERM: Operation not permitted"),
        ("send-error", "ENOBUFS: No buffer space available"),
        ("local-address", "EADDRNOTAVAIL: Cannot assign requested address"),
    ]


# --- one session without a loop --------------------------------------------------------------------------------------


class Bench:
    """One session and the socket that it probes."""

    def __init__(
        self,
        server: socket.socket,
        threshold_ns: int = NS_PER_S,
        owners: Mapping[int, Session] | None = None,
        token: int = 7,
        key: bytes | None = None,
    ) -> None:
        self.told: list[Event] = []
        self.server = server
        target = TransportAddress(*server.getsockname())
        sock = open_probe_socket("127.0.0.1", target, scope_id=0, connected=False)
        tracker = SessionTracker("CLIENT-1", threshold_ns, self.told.append)
        self.session = Session(
            sock,
            target,
            tracker,
            stun.ProbeCodec(token, (288,), key),
            emit=self.told.append,
            connected=False,
            sessions_by_token=owners or {},
        )
        self.reply = stun.ResponseEncoder("pod-a", None, bytes(8)).encode

    def probe(self) -> bytes:
        """Send one; what the server got."""
        self.session.send()
        return self.server.recv(2048)  # loopback delivers before it returns

    def answer(self, request: bytes, count: int = 1) -> None:
        local = self.session.local
        self.server.sendto(self.reply(request[8:20], local, count, len(request)), local)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with kernel_stamps(), bind_udp("127.0.0.1", 0) as server:
        made = Bench(server, 50 * MS)
        yield made
        made.session.sock.close()


def test_a_reply_that_waited_in_the_socket_is_timed_by_the_kernel(bench: Bench) -> None:
    bench.answer(bench.probe())
    time.sleep(0.2)  # four times the loss threshold
    bench.session.expire()
    assert bench.session.counts() == Counts(sent=1, answered=1)
    assert 0 < (bench.session.tracker.rtt.stats().max_ns or 0) < 50 * MS


def test_what_a_flood_has_not_let_be_read_is_not_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_READS", 10)
    unanswered = bench.probe()
    answered = bench.probe()
    assert stun.unpack_transaction_id(unanswered[8:20])[1] == 0
    for _ in range(15):
        bench.server.sendto(b"forged", bench.session.local)
    bench.answer(answered)
    time.sleep(0.1)
    for _ in range(15):
        bench.server.sendto(b"forged", bench.session.local)
    bench.session.expire()  # 10 read, of the time before the deadline: nothing is known to be lost
    assert bench.session.counts() == Counts(sent=2, pending=2, undecodable=10)
    bench.session.expire()  # 20 read, the reply among them; the four after it are of the time after the deadline
    assert bench.session.counts() == Counts(sent=2, answered=1, lost=1, undecodable=19)
    assert [type(event) for event in bench.told][1:] == [ProbesLost]


def test_a_send_that_reports_an_earlier_probes_icmp_error_is_made_again(bench: Bench) -> None:
    port = bench.server.getsockname()
    bench.server.close()
    bench.session.send()  # refused, which the next send is told
    with bind_udp(*port) as server:
        bench.session.send()
        bench.session.send()
        arrived = [stun.unpack_transaction_id(server.recv(2048)[8:20])[1] for _ in range(2)]
    assert arrived == [1, 2]
    assert bench.session.counts() == Counts(sent=3, pending=3, network_errors=1)
    (error,) = bench.told
    assert isinstance(error, NetworkError)
    assert (error.seq, error.error, error.offender) == (0, "ECONNREFUSED", "127.0.0.1")


def test_an_icmp_error_about_what_another_sent_from_the_same_port_is_none_of_ours(bench: Bench) -> None:
    mine = bench.probe()
    nobody = closed_port()
    other = mine[:8] + bytes(8) + mine[16:]
    for datagram in (other, b"no probe at all, yet long enough", mine, b"short"):
        bench.session.sock.sendto(datagram, tuple(nobody))
        bench.session.drain_error_queue(0)
    quoted = [(event.seq, event.error) for event in bench.told if isinstance(event, NetworkError)]
    assert quoted == [(0, "ECONNREFUSED")]  # what is too short to tell is the same error, told once
    assert bench.session.network_errors == 2


def test_a_spray_of_sources_is_told_in_bounds(bench: Bench) -> None:
    request = bench.probe()
    message = bench.reply(request[8:20], bench.session.local, 1, len(request))
    for _ in range(70):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            other.sendto(message, bench.session.local)
    bench.session.read_until_empty()
    assert bench.session.wrong_source == 70
    assert 0 < len(bench.told) <= 64
    assert {type(event) for event in bench.told} == {WrongSource}


async def test_one_silent_session_costs_the_others_nothing() -> None:
    async with scripted(lambda server, probe: probe.session == 2 or server.reply(probe)) as server:
        told = await probed(server.address, sessions=4, seconds=0.2, loss_threshold_ns=NS_PER_S)
    silent = sum(probe.session == 2 for probe in server.probes)
    total = told.counts()
    assert (total.lost, total.answered, total.pending) == (silent, total.sent - silent, 0)


async def test_the_poller_without_epoll_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(poller_module.select, "epoll")
    async with scripted(answer) as server:
        told = await probed(server.address, seconds=0.3, sessions=3)
    assert told.counts().answered == told.counts().sent > 3
