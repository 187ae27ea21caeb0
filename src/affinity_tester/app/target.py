"""Finds the target of a run and the Service behind it, watches the pool, and asks the cluster why nothing is answered.

Nothing here imports the `kubernetes` package; `cluster.connect` does, when a cluster is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from time import time_ns
from typing import Literal

from affinity_tester import clock
from affinity_tester.app.target_text import cluster_name, split_target
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import (
    CONNECT_TIMEOUT_S,
    Cluster,
    ClusterOptions,
    NoClusterError,
    connect,
    is_inside,
)
from affinity_tester.cluster.discover import Found, Via, discover, find_service, look_up
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.objects import Service
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.cluster.queries import family_of
from affinity_tester.cluster.unreachable import explain_no_reply
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import ChangeSeen, Event, FirstAnswer, NoReplies, PoolNotWatched, PoolWatchStarted
from affinity_tester.core.identity import Identity
from affinity_tester.errors import UserError
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Target, resolve_target
from affinity_tester.settings import DEFAULT_PORT

WatchMode = Literal["auto", "on", "off"]

NO_TARGET = "no target: name it (affinity-tester client 203.0.113.7), or set TARGET_ADDR (make apply-service does)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """What the user said about the target and its cluster."""

    target: str | None
    """HOST or HOST:PORT; None: the address of a Service is looked up."""
    service: str | None
    """[NAMESPACE/]NAME; None: the Service that has the target's address or, without a target, the default one."""
    via: Via
    """The way into the Service."""
    watch: WatchMode
    """Whether the pool must be watched (`on`), may be (`auto`) or must not be (`off`)."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    """Which cluster is asked."""
    port: int | None
    """The UDP port where the target names none, and of several of the Service which one; None: not said."""
    reference: str | None = None
    """A second STUN server, outside of the cluster, as HOST or HOST:PORT; None: none is asked."""
    version: int | None = None
    """The IP version that must be probed; None: any."""
    every_node: bool = False
    """Of node ports, take those of every node."""


class TargetContext:
    """A resolved target and, where there is a cluster, the Service and the watch of the pool behind it."""

    def __init__(self, target: Target, cluster: Cluster | None, found: Found | None, unwatched_reason: str) -> None:
        """`unwatched_reason` says why the pool is not watched; empty when it can be."""
        self.target = target
        self._cluster = cluster
        self._found = found
        self._unwatched_reason = unwatched_reason
        self._watch: PoolWatch | None = None

    @property
    def has_service(self) -> bool:
        """True if the Service behind the target is known, so that the cluster can be asked about it."""
        return self._cluster is not None and self._found is not None

    @property
    def service(self) -> Service:
        """The Service behind the target. Raises `UserError` where none is known."""
        if self._found is None:
            raise UserError(f"the Service behind {self.target.address} is not known: {self._unwatched_reason}")
        return self._found.service

    @property
    def found(self) -> Found | None:
        """The Service behind the target, and the way to it; None where it is not known."""
        return self._found

    async def start_watch(self, emit: Callable[[Event], None], *, required: bool, settle_ns: int) -> None:
        """Start the watch, and emit whether the pool is watched. Raises `UserError` when that is required and cannot be.

        The API server is asked for a list of one object twice in a settle time: this dates news that come late.
        """
        if self._cluster is not None and self._found is not None:
            service = self._found.service
            family = family_of(service, self.target.address)
            self._watch = PoolWatch(
                self._cluster, service.ref, self._found.port.port, emit, family=family, sample_ns=settle_ns // 2
            )
            self._unwatched_reason = await self._watch.start() or ""

            if not self._unwatched_reason:
                now_ns = clock.now_ns()
                # The API server's time is the wall clock's; a record has only the run's own.
                addressed_ns = None if service.addressed_ns is None else service.addressed_ns - time_ns() + now_ns
                self._watch.watch_neighbours()
                emit(PoolWatchStarted(now_ns, self._cluster.context, str(service.ref), self._found.via, addressed_ns))
                return
        if required:
            raise UserError(f"--watch on: {self._unwatched_reason}")
        emit(PoolNotWatched(clock.now_ns(), self._unwatched_reason))

    def request_list(self, after_ns: int | None) -> None:
        """Have the pool listed later than this; None: no list is needed."""
        if self._watch is not None:
            self._watch.request_confirmation(after_ns)

    def observe(self, event: Event) -> None:
        """Have it looked up whose the reflexive IPs are that sessions show."""
        if self._watch is None:
            return
        match event:
            case FirstAnswer(identity=who):
                self._look_up(who)
            case ChangeSeen(change=change):
                self._look_up(change.after.identity)
            case _:
                pass

    def _look_up(self, who: Identity) -> None:
        if self._watch is not None and who.reflexive is not None:
            self._watch.look_up(who.reflexive.ip)

    async def with_cluster_reason(self, event: NoReplies) -> NoReplies:
        """Return the event with the reason that the cluster knows; with its own where the cluster knows none in time."""
        reason = await self.explain_no_reply()
        return replace(event, reason=reason) if reason else event

    async def explain_no_reply(self) -> str | None:
        """Return why nothing is answered, as far as the cluster knows it in time; else None."""
        if self._cluster is None or self._found is None:
            return None
        with suppress(Exception):  # whatever the cluster says or fails to say, nothing is answered
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await explain_no_reply(
                    self._cluster, self._found.service.ref, self._found.port.port, self.target.address
                )
        return None

    async def close(self) -> None:
        """End the watch and the connections."""
        try:
            if self._watch is not None:
                await self._watch.stop()
        finally:
            if self._cluster is not None:
                await self._cluster.close()


@asynccontextmanager
async def open_target(options: TargetOptions) -> AsyncIterator[TargetContext]:
    """Find the target, and the Service behind it where a cluster is at hand. Raises `UserError`."""
    cluster, unwatched_reason = await _connect(options)
    context: TargetContext | None = None
    try:
        target, found, unwatched_reason = await _find(options, cluster, unwatched_reason)
        if options.watch == "off":
            found, unwatched_reason = None, "--watch off"
        context = TargetContext(target, cluster, found, unwatched_reason)
        yield context
    finally:
        if context is not None:
            await context.close()
        elif cluster is not None:
            await cluster.close()


async def _connect(options: TargetOptions) -> tuple[Cluster | None, str]:
    """Return the cluster, or None with the reason why there is none. Raises `UserError` where there must be one."""
    advice = "without a cluster, give TARGET and no --service"
    if options.watch == "off" and options.target:
        if options.service is None or _named_ports(options):
            return None, "--watch off"
        # The Service is still asked for the port.
        advice = "it is asked for the port alone: name that, as in TARGET:3478"
    try:
        return await connect(options.cluster), ""
    except NoClusterError as error:
        if options.service is not None:
            raise UserError(f"--service: {error}; {advice}") from error
        if options.watch == "on":
            raise UserError(f"--watch on: {error}; without a cluster, say --watch off") from error
        return None, str(error)


def _named_ports(options: TargetOptions) -> tuple[int, ...]:
    """Return the ports that the user named, the target's own first. Raises `UserError`."""
    own_port = split_target(options.target)[1] if options.target else None
    return tuple(port for port in (own_port, options.port) if port is not None)


async def _find(
    options: TargetOptions, cluster: Cluster | None, no_cluster_reason: str
) -> tuple[Target, Found | None, str]:
    """Return the target, the Service behind it, and why there is none. Raises `UserError`."""
    if not options.target:
        if cluster is None:
            raise UserError(f"{NO_TARGET}; nor can its Service be looked up ({no_cluster_reason})")

        def may_send(address: TransportAddress) -> bool:
            return options.version in (None, 6 if address.is_ipv6 else 4) and _has_route(address)

        found = await discover(
            cluster, options.service, options.via, options.port, has_route=may_send, every_node=options.every_node
        )
        return await _resolve_all(found, options.version), found, ""

    if cluster is None or options.service is None:
        target = await _resolve(options.target, options.port or DEFAULT_PORT, options.version)
        # A cluster that nobody insists on must not hold up the run.
        timeout_s = CONNECT_TIMEOUT_S if options.watch == "auto" else None
        return target, *await _find_behind(cluster, target, no_cluster_reason, timeout_s)

    host, _ = split_target(options.target)
    found = await look_up(cluster, options.service, host, _named_ports(options))
    return await _resolve(options.target, found.host_port, options.version), found, ""


async def _resolve(text: str, port: int, version: int | None) -> Target:
    """Resolve what the user wrote. A name that only the cluster's DNS knows is told as such. Raises `UserError`."""
    try:
        return await resolve_target(text, port, version)
    except UserError as error:
        ref = cluster_name(text)
        if ref is None or is_inside():
            raise
        raise UserError(
            f"the target {split_target(text)[0]!r} is a name of the cluster's own DNS, and this is not inside:"
            f" say --service {ref} instead, which finds its address"
        ) from error


async def _resolve_all(found: Found, version: int | None) -> Target:
    """Resolve the way into a Service, with all its addresses of one family. Raises `UserError`."""
    target = await resolve_target(found.target, found.host_port, version)
    more, unprobed = dict.fromkeys(target.more), dict.fromkeys(target.unprobed)
    for text in found.more_targets:
        with suppress(UserError):  # one address that does not resolve is no reason to leave out the others
            for each in (await resolve_target(text, found.host_port, version)).destinations:
                if each.address.is_ipv6 == target.address.is_ipv6:
                    more[each] = None
                else:
                    unprobed[each.address] = None
    more.pop(target.destinations[0], None)
    return target._replace(more=tuple(more), unprobed=tuple(unprobed))


def _has_route(address: TransportAddress) -> bool:
    try:
        local_source_for(address)
    except UserError:
        return False
    return True


async def _find_behind(
    cluster: Cluster | None, target: Target, no_cluster_reason: str, timeout_s: float | None
) -> tuple[Found | None, str]:
    """Return the Service that has the target's address, or None with the reason why there is none."""
    if cluster is None:
        return None, no_cluster_reason
    unread: list[ObjectError] = []
    try:
        async with asyncio.timeout(timeout_s):
            found = await find_service(cluster, target.address, target.name, unread)
    except TimeoutError:
        return None, f"the Services of context {cluster.context} could not be listed within {timeout_s:g} s"
    except ApiError as error:
        return None, f"Services could not be listed ({error})"

    if found is None:
        odd = f"; {unread[0]}" if unread else ""
        where = f"no Service of context {cluster.context} has the address {target.address}"
        return None, f"{where} (name one: --service){odd}"
    return found, ""
