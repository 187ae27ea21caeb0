"""A name with several addresses: each is probed by a cohort of sessions, and what is not probed is said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from running import MS, Told

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
    ChangeSeen,
    ClientFault,
    RunStarted,
    SessionStarted,
    WrongSource,
)
from affinity_tester.core.session import canaries
from affinity_tester.errors import UserError
from affinity_tester.net.client import run_client
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Destination, Target, resolve_target
from affinity_tester.net.routes import Route, SourceFor, find_routes
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S
from scripted import Probe, ScriptedServer, answer

pytestmark = pytest.mark.busy

A, B, C = (TransportAddress(f"192.0.2.{n}", 3478) for n in (1, 2, 3))
V6 = TransportAddress("2001:db8::1", 3478)


def knows(*unreachable: TransportAddress) -> SourceFor:
    def source_for(target: TransportAddress, scope_id: int) -> str:
        if target in unreachable:
            raise UserError(f"no route from this machine to {target}")
        return f"10.0.0.{target.ip[-1]}%{scope_id}"

    return source_for


def test_each_address_has_its_own_source_and_what_is_not_probed_is_known() -> None:
    target = Target(A, "lb.example", more=(Destination(B, 7), Destination(C)), unprobed=(V6,))
    routes = [Route(A, 0, "10.0.0.1%0"), Route(B, 7, "10.0.0.2%7"), Route(C, 0, "10.0.0.3%0")]
    assert find_routes(target, 10, knows()) == (routes, (V6,))
    assert find_routes(target, 3, knows()) == (routes, (V6,))
    assert find_routes(target, 1, knows()) == (routes[:1], (B, C, V6))
    assert find_routes(target, 10, knows(A)) == (routes[1:], (A, V6))
    assert find_routes(target, 1, knows(A)) == ([routes[1]], (A, C, V6))
    with pytest.raises(UserError, match=r"no route from this machine to 192\.0\.2\.1:3478"):
        find_routes(target, 10, knows(A, B, C))


@contextlib.asynccontextmanager
async def zones(
    monkeypatch: pytest.MonkeyPatch, script: Callable[[ScriptedServer, Probe], object] = answer, *, closed: int = 0
) -> AsyncIterator[tuple[Target, list[ScriptedServer]]]:
    """Three servers on one port of 127.0.0.1 to 3, which the name lb.example has; the last `closed` of them are not there."""
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    servers = [ScriptedServer(hosts[0], 0, script)]
    port = servers[0].address.port
    servers += [ScriptedServer(host, port, script) for host in hosts[1:]]
    for server in servers[3 - closed :]:
        server.close()
    found = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, port)) for host in hosts]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    try:
        yield await resolve_target("lb.example", port), servers
    finally:
        for server in servers:
            server.close()


async def told_of(
    target: Target, *, seconds: float = 0.5, source_for: SourceFor = local_source_for, **settings: Any
) -> Told:
    told = Told()
    given = ClientSettings(interval_ns=20 * MS, duration_ns=int(seconds * NS_PER_S), **settings)
    await run_client(given, target, told.append, asyncio.Event(), source_for=source_for)
    return told


async def test_every_address_is_probed_by_a_cohort_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    async with zones(monkeypatch) as (target, servers):
        told = await told_of(target, sessions=7)
    addresses = tuple(server.address for server in servers)
    started = told.only(RunStarted)
    assert (started.target, started.addresses, started.unprobed) == (addresses[0], addresses, ())
    sessions = told.of(SessionStarted)
    assert [session.target for session in sessions] == [*addresses, *addresses, addresses[0]]
    for server, cohort in zip(servers, (3, 2, 2), strict=True):
        ports = {session.local.port for session in sessions if session.target == server.address}
        assert {probe.source[1] for probe in server.probes} == ports
        assert len(ports) == cohort
    # Each session takes replies from its own address alone, and no other is a wrong source.
    total = told.counts()
    assert (total.answered, total.wrong_source) == (total.sent, 0)
    assert not told.of(WrongSource)


async def test_one_address_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with zones(monkeypatch) as (target, _):
        told = await told_of(target._replace(more=()), sessions=2)
    started = told.only(RunStarted)
    assert (started.addresses, started.unprobed) == ((), ())
    assert [session.target for session in told.of(SessionStarted)] == [None, None]


async def test_more_addresses_than_sessions_are_said_to_be_unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with zones(monkeypatch) as (target, servers):
        told = await told_of(target, sessions=2, seconds=0.1)
    addresses = tuple(server.address for server in servers)
    started = told.only(RunStarted)
    assert (started.addresses, started.unprobed) == (addresses[:2], addresses[2:])
    assert not servers[2].probes


async def test_a_dead_address_is_seen_and_asked_by_its_own_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "SILENCE_NS", 300 * MS)
    async with zones(monkeypatch, closed=1) as (target, servers):
        told = await told_of(target, sessions=6, seconds=1.5, loss_threshold_ns=300 * MS)
    dead = {s.session for s in told.of(SessionStarted) if s.target == servers[2].address}
    results = told.of(CanaryResult)
    assert results
    assert {canary.session for canary in results} <= dead
    assert {canary.identity for canary in results} == {None}
    answered = Counter(probe.session for server in servers[:2] for probe in server.probes)
    assert told.counts().answered == answered.total()


async def test_each_addresses_source_is_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[TransportAddress] = Counter()

    def source_for(target: TransportAddress, scope_id: int) -> str:
        asked[target] += 1
        moved = asked[target] > 1 and target.ip == "127.0.0.2"
        return "127.0.0.9" if moved else local_source_for(target, scope_id)

    def moves(server: ScriptedServer, probe: Probe) -> None:
        # Only sessions of the third address are moved; that the second one's source is another is seen all the same.
        server.reply(probe, "pod-b" if server.address.ip == "127.0.0.3" and probe.seq > 5 else "pod-a")

    async with zones(monkeypatch, moves) as (target, servers):
        told = await told_of(target, sessions=3, source_for=source_for)
    of = {session.session: session.target for session in told.of(SessionStarted)}
    assert {of[change.session] for change in told.of(ChangeSeen)} == {servers[2].address}
    fault = told.only(ClientFault)
    assert (of[fault.session], fault.fault) == (servers[1].address, "local-address")
    assert fault.detail == "this machine's own address changed: 127.0.0.1 -> 127.0.0.9"
