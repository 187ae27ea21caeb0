"""The cluster beside a run: where its target comes from, whether the pool is watched, and what a silence may mean.

Nothing here imports the `kubernetes` package; `cluster.connect` does, when a cluster is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from time import time_ns
from typing import Literal

from affinity_tester import clock
from affinity_tester.cli.target import split_target
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import PATIENCE_S, Cluster, NoClusterError, connect
from affinity_tester.cluster.discover import Found, Via, discover, find_service, look_up
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.cluster.queries import family_of
from affinity_tester.cluster.unreachable import explain_no_reply
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, NothingAnswered, WatchBegun, WatchMissing
from affinity_tester.errors import UserError
from affinity_tester.net.probe_socket import learn_source
from affinity_tester.net.resolve import Target, resolve_target
from affinity_tester.settings import DEFAULT_PORT

WatchMode = Literal["auto", "on", "off"]

NO_TARGET = "no target: name it (affinity-tester client 203.0.113.7), or set TARGET_ADDR (make apply-service does)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user said of target and cluster."""

    target: str | None
    service: str | None
    """[NAMESPACE/]NAME"""
    via: Via
    watch: WatchMode
    port: int | None
    """Where the target names none, and of several UDP ports of the Service; None: not said."""


class Lookout:
    """A resolved target and, where there is a cluster, the watch of the pool behind it."""

    def __init__(self, target: Target, cluster: Cluster | None, found: Found | None, missing: str) -> None:
        """`missing` says why the pool is not watched; empty when it can be."""
        self.target = target
        self._cluster = cluster
        self._found = found
        self._missing = missing
        self._watch: PoolWatch | None = None
        self._explaining: list[asyncio.Task[None]] = []

    async def begin(self, emit: Callable[[Event], None], *, demanded: bool, settle_ns: int) -> None:
        """Watch, and say whether the pool is watched. Raises `UserError` when that is demanded and cannot be.

        The API server is asked for a list of one object twice in a settle time, by which late news is dated.
        """
        if self._cluster is not None and self._found is not None:
            service = self._found.service
            family = family_of(service, self.target.address)
            self._watch = PoolWatch(
                self._cluster, service.ref, self._found.port.port, emit, family=family, sample_ns=settle_ns // 2
            )
            self._missing = await self._watch.start() or ""
            if not self._missing:
                now_ns = clock.now_ns()
                addressed_ns = None if service.addressed_ns is None else service.addressed_ns - time_ns() + now_ns
                emit(WatchBegun(now_ns, self._cluster.context, str(service.ref), self._found.via, addressed_ns))
                return
        if demanded:
            raise UserError(f"--watch on: {self._missing}")
        emit(WatchMissing(clock.now_ns(), self._missing))

    def want(self, after_ns: int | None) -> None:
        """See to it that the pool is listed later than this; None: not needed."""
        if self._watch is not None:
            self._watch.request_confirmation(after_ns)

    def explaining(self, emit: Callable[[Event], None]) -> Callable[[Event], None]:
        """`emit`, but for the news that nothing is answered, which waits for what the cluster says of it."""
        cluster, found = self._cluster, self._found
        if cluster is None or found is None:
            return emit

        async def explain(event: NothingAnswered) -> None:
            reason = None
            with suppress(Exception):  # whatever the cluster says or fails to say, nothing is answered
                async with asyncio.timeout(PATIENCE_S):
                    reason = await explain_no_reply(cluster, found.service.ref, found.port.port, self.target.address)
            emit(replace(event, reason=reason or event.reason))

        def observe(event: Event) -> None:
            if isinstance(event, NothingAnswered):
                self._explaining.append(asyncio.get_running_loop().create_task(explain(event)))
            else:
                emit(event)

        return observe

    async def close(self) -> None:
        """End the watch and the connections. Raises what `emit` raised to the watch, if it did."""
        for task in self._explaining:
            task.cancel()
        await asyncio.gather(*self._explaining, return_exceptions=True)
        try:
            if self._watch is not None:
                await self._watch.stop()
        finally:
            if self._cluster is not None:
                await self._cluster.close()


@asynccontextmanager
async def look_out(asked: Asked) -> AsyncIterator[Lookout]:
    """Find the target, and the Service behind it where a cluster is at hand. Raises `UserError`."""
    cluster, missing = await _connect(asked)
    lookout: Lookout | None = None
    try:
        target, found, missing = await _find(asked, cluster, missing)
        if asked.watch == "off":
            found, missing = None, "--watch off"
        lookout = Lookout(target, cluster, found, missing)
        yield lookout
    finally:
        if lookout is not None:
            await lookout.close()
        elif cluster is not None:
            await cluster.close()


async def _connect(asked: Asked) -> tuple[Cluster | None, str]:
    """The cluster, where one is wanted and there; why there is none otherwise. Raises `UserError` where it must be."""
    instead = "without a cluster, give TARGET and no --service"
    if asked.watch == "off" and asked.target:
        if asked.service is None or _ports(asked):
            return None, "--watch off"
        instead = "it is asked for the port alone: name that, as in TARGET:3478"
    try:
        return await connect(), ""
    except NoClusterError as error:
        if asked.service is not None:
            raise UserError(f"--service: {error}; {instead}") from error
        if asked.watch == "on":
            raise UserError(f"--watch on: {error}; without a cluster, say --watch off") from error
        return None, str(error)


def _ports(asked: Asked) -> tuple[int, ...]:
    """Those that the user named, the target's own first. Raises `UserError`."""
    own_port = split_target(asked.target)[1] if asked.target else None
    return tuple(port for port in (own_port, asked.port) if port is not None)


async def _find(asked: Asked, cluster: Cluster | None, missing: str) -> tuple[Target, Found | None, str]:
    """The target, the Service behind it, and why there is none. Raises `UserError`."""
    if not asked.target:
        if cluster is None:
            raise UserError(f"{NO_TARGET}; nor can its Service be looked up ({missing})")
        found = await discover(cluster, asked.service, asked.via, asked.port, has_route=_has_route)
        return await _resolve_all(found), found, ""
    if cluster is None or asked.service is None:
        target = await resolve_target(asked.target, asked.port or DEFAULT_PORT)
        patience_s = PATIENCE_S if asked.watch == "auto" else None
        return target, *await _find_behind(cluster, target, missing, patience_s)
    host, _ = split_target(asked.target)
    found = await look_up(cluster, asked.service, host, _ports(asked))
    return await resolve_target(asked.target, found.host_port), found, ""


async def _resolve_all(found: Found) -> Target:
    """The way into a Service, with all its addresses of one family. Raises `UserError`."""
    target = await resolve_target(found.target, found.host_port)
    more, unprobed = dict.fromkeys(target.more), dict.fromkeys(target.unprobed)
    for text in found.more_targets:
        with suppress(UserError):  # what cannot be had is no reason to leave out the rest
            for each in (await resolve_target(text, found.host_port)).destinations:
                if each.address.is_ipv6 == target.address.is_ipv6:
                    more[each] = None
                else:
                    unprobed[each.address] = None
    more.pop(target.destinations[0], None)
    return target._replace(more=tuple(more), unprobed=tuple(unprobed))


def _has_route(address: TransportAddress) -> bool:
    try:
        learn_source(address)
    except UserError:
        return False
    return True


async def _find_behind(
    cluster: Cluster | None, target: Target, missing: str, patience_s: float | None
) -> tuple[Found | None, str]:
    """The Service that has the target's address; why there is none otherwise."""
    if cluster is None:
        return None, missing
    unread: list[ObjectError] = []
    try:
        async with asyncio.timeout(patience_s):
            found = await find_service(cluster, target.address, target.name, unread)
    except TimeoutError:
        return None, f"the Services of context {cluster.context} could not be listed within {patience_s:g} s"
    except ApiError as error:
        return None, f"Services could not be listed ({error})"
    if found is None:
        odd = f"; {unread[0]}" if unread else ""
        where = f"no Service of context {cluster.context} has the address {target.address}"
        return None, f"{where} (name one: --service){odd}"
    return found, ""
