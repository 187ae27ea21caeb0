"""The reference: who asks it, when, what counts as its answer, and that no session's account knows of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from running import MS, Told, kernel_stamps, probed

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Counts,
    Losses,
    NetworkError,
    NoReferenceReplies,
    ReferenceResult,
    RunStarted,
    RunSummary,
    SessionStarted,
)
from affinity_tester.core.stun.attributes import ERROR_CODE, MAPPED_ADDRESS, ErrorCode
from affinity_tester.core.stun.message import BINDING_ERROR, BINDING_SUCCESS, pack_header
from affinity_tester.errors import UserError
from affinity_tester.net import probe_socket
from affinity_tester.net import reference as reference_module
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.client import run_client
from affinity_tester.net.reference import choose_asking
from affinity_tester.net.resolve import Destination, Target, resolve_reference
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S
from scripted import Probe, ScriptedServer, answer, closed_port, foreign_reply, scripted

pytestmark = pytest.mark.busy

MAPPED = TransportAddress("203.0.113.9", 40312)


def says(server: ScriptedServer, probe: Probe) -> None:
    """The script of a reference without fault."""
    server.send(foreign_reply(probe), probe.source)


def message(kind: int, probe: Probe, body: bytes) -> bytes:
    return pack_header(kind, len(body)) + probe.transaction_id + body


def untouched(told: Told) -> None:
    """What the sessions' own accounts say: nothing but probes and their answers."""
    total = told.counts()
    assert replace(total, sent=0, answered=0, pairs=0, timer_misses=0) == Counts()
    assert total.sent == total.answered
    assert told.only(RunSummary).rtt.count == total.answered
    assert told.only(RunSummary).losses == Losses()


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_eight_sockets_ask_in_turn_ten_times_a_second(host: str) -> None:
    with kernel_stamps():
        async with scripted(answer, host) as target, scripted(says, host) as server:
            told = await probed(target.address, seconds=2.5, sessions=10, reference=server.address)
    untouched(told)
    assert (told.only(RunStarted).reference, told.only(RunStarted).reference_name) == (
        server.address,
        str(server.address),
    )

    locals_ = {event.session: event.local for event in told.of(SessionStarted)}
    asking = list(locals_)[:8]
    results = told.of(ReferenceResult)
    assert {result.mapped for result in results} == {locals_[name] for name in asking}
    assert all(result.mapped == locals_[result.session] for result in results)
    # Isochronous, by turns, and never two at once; a busy machine leaves some out.
    assert 20 <= len(results) == len(server.probes) <= 26
    assert [result.session for result in results] == [asking[turn % 8] for turn in range(len(results))]
    assert min(after.sent_ns - before.sent_ns for before, after in pairwise(results)) > 20 * MS
    assert all(0 < result.at_ns - result.sent_ns < NS_PER_S for result in results)
    assert told.of(NoReferenceReplies) == []


async def test_a_request_is_a_bare_header_that_no_session_sends() -> None:
    async with scripted(answer) as target, scripted(says) as server:
        await probed(target.address, seconds=1, sessions=2, reference=server.address)
    tokens = {probe.data[8:16] for probe in target.probes}
    asked = [probe.data for probe in server.probes]
    assert len({request[8:] for request in asked}) == len(asked) > 1
    assert not tokens & {request[8:16] for request in asked}
    assert {(request[:8].hex(), len(request)) for request in asked} == {("000100002112a442", 20)}


async def test_fewer_sessions_ask_less_in_all_and_not_more_each() -> None:
    async with scripted(answer) as target, scripted(says) as server:
        told = await probed(target.address, seconds=2, sessions=1, reference=server.address)
    assert 2 <= len(told.of(ReferenceResult)) <= 3


async def test_an_id_that_begins_like_a_session_s_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    token, fresh = bytes(range(8)), bytes(range(8, 16))
    monkeypatch.setattr("secrets.randbits", lambda _bits: int.from_bytes(token, "big"))
    drawn = iter([token, token, fresh])
    monkeypatch.setattr("secrets.token_bytes", lambda size: next(drawn, fresh).ljust(size, b"x"))
    async with scripted(answer) as target, scripted(says) as server:
        await probed(target.address, seconds=0.3, sessions=1, reference=server.address)
    assert [probe.data[8:16] for probe in server.probes] == [fresh]


async def test_what_this_process_slept_through_is_left_out() -> None:
    async with scripted(answer) as target, scripted(says) as server:
        asyncio.get_running_loop().call_later(0.5, time.sleep, 1.2)  # as if it had been stopped
        told = await probed(target.address, seconds=2.5, sessions=8, reference=server.address)
    results = told.of(ReferenceResult)
    assert 10 <= len(results) == len(server.probes) <= 15  # 25 if all were made up for
    assert [result.session for result in results[8:]] == [result.session for result in results[: len(results) - 8]]


def test_those_that_ask_have_every_local_address_and_every_target() -> None:
    class Stub:
        def __init__(self, number: int) -> None:
            self.local = TransportAddress("10.0.0.2" if number % 50 == 49 else "10.0.0.1", number)
            self.target = TransportAddress(f"192.0.2.{number % 3}", 3478)

    sessions: list[Any] = [Stub(number) for number in range(200)]
    asking = choose_asking(sessions)
    assert len(asking) == 8
    assert {session.local.ip for session in asking} == {"10.0.0.1", "10.0.0.2"}
    assert {session.target for session in asking} == {session.target for session in sessions}
    assert choose_asking(sessions[:1]) == tuple(sessions[:1])


# --- what counts -----------------------------------------------------------------------------------------------------


async def test_the_old_form_of_an_address_counts() -> None:
    def old(server: ScriptedServer, probe: Probe) -> None:
        server.send(message(BINDING_SUCCESS, probe, MAPPED_ADDRESS.encode(MAPPED)), probe.source)

    async with scripted(answer) as target, scripted(old) as server:
        told = await probed(target.address, sessions=1, reference=server.address)
    untouched(told)
    assert [result.mapped for result in told.of(ReferenceResult)] == [MAPPED]


async def test_duplicates_and_what_was_not_asked_are_nobody_s() -> None:
    others: dict[int, tuple[Any, ...]] = {}

    def noisy(server: ScriptedServer, probe: Probe) -> None:
        others[probe.source[1]] = probe.source
        for to in others.values():  # its own is the last, for the first time
            server.send(foreign_reply(probe), to)
        server.send(foreign_reply(probe), probe.source)
        server.send(b"not STUN", probe.source)
        server.send(stun.new_request(bytes(12)), probe.source)
        server.send(message(BINDING_SUCCESS, probe._replace(data=bytes(20)), b""), probe.source)

    async with scripted(answer) as target, scripted(noisy) as server:
        told = await probed(target.address, seconds=1.2, sessions=3, reference=server.address)
    untouched(told)
    results = told.of(ReferenceResult)
    assert len(results) == len(server.probes) > 3
    locals_ = {event.session: event.local for event in told.of(SessionStarted)}
    assert all(result.mapped == locals_[result.session] for result in results)


async def test_a_sibling_s_probe_that_the_reference_answers_stays_cross_delivered() -> None:
    """The reference is another door of the target's server, which mixes up two sockets."""
    replies: dict[int, bytes] = {}

    def keep(server: ScriptedServer, probe: Probe) -> None:
        replies.setdefault(probe.session, server.message(probe))
        server.reply(probe)

    def mix(server: ScriptedServer, probe: Probe) -> None:
        says(server, probe)
        for reply in replies.values():
            server.send(reply, probe.source)

    async with scripted(keep) as target, scripted(mix) as server:
        told = await probed(target.address, seconds=1, sessions=2, reference=server.address)
    total = told.counts()
    assert total.cross_delivered > 0
    assert total.wrong_source > 0
    assert total.undecodable == 0


async def test_with_a_key_the_reference_needs_none() -> None:
    async with scripted(lambda *_: None) as target, scripted(says) as server:
        told = await probed(target.address, sessions=1, seconds=0.3, reference=server.address, key=b"secret")
    assert [len(probe.data) for probe in server.probes] == [20]
    assert [result.mapped for result in told.of(ReferenceResult)] == [told.only(SessionStarted).local]
    assert told.counts().undecodable == 0


# --- what does not count ---------------------------------------------------------------------------------------------


async def silent_run(script: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Told, NoReferenceReplies]:
    monkeypatch.setattr(reference_module, "NO_REPLIES_NS", NS_PER_S // 2)
    monkeypatch.setattr(reference_module, "MIN_WAIT_NS", 0)
    async with scripted(answer) as target, scripted(script) as server:
        told = await probed(target.address, seconds=1.5, sessions=2, reference=server.address, **settings)
    untouched(told)
    return told, told.only(NoReferenceReplies)


async def test_a_silence_is_told_for_each_request_and_once_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told, silent = await silent_run(lambda *_: None, monkeypatch, loss_threshold_ns=300 * MS)
    results = told.of(ReferenceResult)
    assert len(results) >= 2
    assert {result.mapped for result in results} == {None}
    assert all(result.at_ns - result.sent_ns > 300 * MS for result in results)
    assert silent.reason == ""
    assert NS_PER_S // 2 <= silent.waited_ns < 1.4 * NS_PER_S


async def test_an_answer_that_is_late_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(server: ScriptedServer, probe: Probe) -> None:
        asyncio.get_running_loop().call_later(0.8, server.send, foreign_reply(probe), probe.source)

    told, _ = await silent_run(late, monkeypatch, loss_threshold_ns=200 * MS)
    assert {result.mapped for result in told.of(ReferenceResult)} == {None}


async def test_a_loss_threshold_that_suits_the_target_may_be_too_short_for_the_reference() -> None:
    def far(server: ScriptedServer, probe: Probe) -> None:
        asyncio.get_running_loop().call_later(0.4, server.send, foreign_reply(probe), probe.source)

    async with scripted(answer) as target, scripted(far) as server:
        told = await probed(
            target.address, seconds=1.3, sessions=2, reference=server.address, loss_threshold_ns=100 * MS
        )
    results = told.of(ReferenceResult)
    assert results
    assert None not in {result.mapped for result in results}


async def test_an_error_response_is_neither_an_address_nor_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(server: ScriptedServer, probe: Probe) -> None:
        server.send(message(BINDING_ERROR, probe, ERROR_CODE.encode(ErrorCode(401, "Unauthorized"))), probe.source)

    told, silent = await silent_run(refuse, monkeypatch, loss_threshold_ns=100 * MS)
    assert told.of(ReferenceResult) == []
    assert silent.reason == "it answers with the error 401 Unauthorized"


async def test_an_answer_without_an_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(server: ScriptedServer, probe: Probe) -> None:
        server.send(message(BINDING_SUCCESS, probe, b""), probe.source)

    _, silent = await silent_run(empty, monkeypatch)
    assert silent.reason == "it answers with XOR-MAPPED-ADDRESS is missing, and so is MAPPED-ADDRESS"


async def test_an_answer_from_elsewhere_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with bind_udp("127.0.0.1", 0) as elsewhere:
        port = elsewhere.getsockname()[1]
        told, silent = await silent_run(
            lambda server, probe: server.send(foreign_reply(probe), probe.source, elsewhere),
            monkeypatch,
            loss_threshold_ns=300 * MS,
        )
    assert {result.mapped for result in told.of(ReferenceResult)} == {None}
    assert silent.reason == f"its answers come from 127.0.0.1:{port}"


@pytest.mark.skipif(not probe_socket.LINUX, reason="ICMP errors at unconnected sockets need Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_its_icmp_errors_are_no_evidence_against_the_target(host: str) -> None:
    async with scripted(answer, host) as target:
        told = await probed(target.address, seconds=1.5, sessions=4, reference=closed_port(host))
    untouched(told)
    assert told.of(NetworkError) == []
    assert told.only(NoReferenceReplies).reason == f"ICMP error ECONNREFUSED came back from {host}"


@pytest.mark.skipif(not probe_socket.LINUX, reason="ICMP errors at unconnected sockets need Linux")
async def test_the_target_s_icmp_errors_stay_the_target_s() -> None:
    async with scripted(says) as server:
        told = await probed(closed_port(), seconds=1.5, sessions=10, reference=server.address)
    assert {event.session for event in told.of(NetworkError)} == {event.session for event in told.of(SessionStarted)}
    total = told.counts()
    assert (total.answered, total.send_errors) == (0, 0)
    assert total.network_errors >= total.sent - 10  # the last ones may come too late
    results = told.of(ReferenceResult)
    assert len(results) == len(server.probes) >= 8
    assert None not in {result.mapped for result in results}


async def test_a_machine_that_does_not_send_to_it_says_why() -> None:
    """A socket on loopback cannot send to the world."""
    outside = TransportAddress("192.0.2.1", 3478)
    async with scripted(answer) as target:
        told = await probed(target.address, sessions=1, reference=outside)
    untouched(told)
    assert told.of(ReferenceResult) == []
    assert told.only(NoReferenceReplies).reason.startswith("this machine does not send to it: EINVAL, ")


async def test_an_exception_from_a_consumer_of_its_answer_ends_the_run() -> None:
    def refuse(event: object) -> None:
        if isinstance(event, ReferenceResult):
            raise RuntimeError("the reader has gone")

    async with scripted(answer) as target, scripted(says) as server:
        with pytest.raises(RuntimeError, match="the reader has gone"):
            await run_client(
                ClientSettings(sessions=1),
                Target(target.address, ""),
                refuse,
                asyncio.Event(),
                reference=Target(server.address, ""),
            )


# --- which one -------------------------------------------------------------------------------------------------------

IPV4, IPV6 = Target(TransportAddress("192.0.2.1", 3478), ""), Target(TransportAddress("2001:db8::1", 3478), "")


@pytest.mark.parametrize(
    ("text", "target", "reference"),
    [
        ("198.51.100.7", IPV4, TransportAddress("198.51.100.7", 3478)),
        ("198.51.100.7:19302", IPV4, TransportAddress("198.51.100.7", 19302)),
        ("192.0.2.1:3479", IPV4, TransportAddress("192.0.2.1", 3479)),
        ("[2001:db8::7]", IPV6, TransportAddress("2001:db8::7", 3478)),
        ("[2001:db8::7]:19302", IPV6, TransportAddress("2001:db8::7", 19302)),
    ],
)
async def test_a_reference_is_written_as_a_target_is(text: str, target: Target, reference: TransportAddress) -> None:
    assert await resolve_reference(text, 3478, target) == Target(reference, text)


async def test_of_a_name_the_address_of_the_target_s_family_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    six, four = ("2001:db8::7", 3478, 0, 0), ("198.51.100.7", 3478)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", place) for place in (six, four)])
    assert (await resolve_reference("stun.example.org", 3478, IPV4)).address == TransportAddress("198.51.100.7", 3478)
    assert (await resolve_reference("stun.example.org", 3478, IPV6)).address == TransportAddress("2001:db8::7", 3478)


@pytest.mark.parametrize(
    ("text", "target", "told"),
    [
        ("[2001:db8::7]", IPV4, "the reference [2001:db8::7] has no IPv4 address, and the target 192.0.2.1:3478 is probed"
         " over IPv4: name a server that has one"),
        ("198.51.100.7", IPV6, "the reference 198.51.100.7 has no IPv6 address, and the target [2001:db8::1]:3478 is"
         " probed over IPv6: name a server that has one"),
        ("192.0.2.1", IPV4, "the reference 192.0.2.1:3478 is the target: name a server that is not in this cluster"),
        ("192.0.2.2", IPV4._replace(more=(Destination(TransportAddress("192.0.2.2", 3478)),)),
         "the reference 192.0.2.2:3478 is the target: name a server that is not in this cluster"),
        ("224.0.0.1", IPV4, "the reference 224.0.0.1 is no unicast address: give the address of a STUN server"),
        ("fe80::1", IPV6, "the reference fe80::1 is link-local and names no interface: write fe80::1%eth0, or so"),
        ("x:0", IPV4, "the reference is wrong: port '0' is not a number from 1 to 65535"),
        ("no-such-host.invalid", IPV4, "the reference 'no-such-host.invalid' does not resolve"),
    ],
)  # fmt: skip
async def test_a_reference_that_cannot_be_asked_is_one_line(text: str, target: Target, told: str) -> None:
    with pytest.raises(UserError) as raised:
        await resolve_reference(text, 3478, target)
    assert str(raised.value).startswith(told)
