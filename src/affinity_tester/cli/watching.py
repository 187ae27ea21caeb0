"""The cluster beside a run: where its target comes from, whether the pool is watched, and what a silence may mean.

Nothing here imports the `kubernetes` package; `cluster.connect` does, when a cluster is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic_ns
from typing import Literal

from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster, NoClusterError, connect
from affinity_tester.cluster.discover import Found, Via, discover, find_service
from affinity_tester.cluster.lookup import family_of
from affinity_tester.cluster.silence import explain_silence
from affinity_tester.cluster.watch import PoolWatch
from affinity_tester.core.events import Event, NothingAnswered, WatchBegun, WatchMissing
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target, resolve_target

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
    port: int
    """Where the target names none."""


class Lookout:
    """A resolved target and, where there is a cluster, the watch of the pool behind it."""

    def __init__(self, target: Target, cluster: Cluster | None, found: Found | None, missing: str) -> None:
        """`missing` says why the pool is not watched; empty when it can be."""
        self.target = target
        self._cluster = cluster
        self._found = found
        self._missing = missing
        self._watch: PoolWatch | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, emit: Callable[[Event], None]) -> None:
        """Watch, and say whether the pool is watched. Raises `UserError` when it was demanded and cannot be."""
        if self._cluster is not None and self._found is not None:
            service = self._found.service
            family = family_of(service, self.target.address)
            self._watch = PoolWatch(self._cluster, service.ref, self._found.port.port, emit, family=family)
            self._missing = await self._watch.start() or ""
            if not self._missing:
                emit(WatchBegun(monotonic_ns(), self._cluster.context, str(service.ref), self._found.via))
                return
        emit(WatchMissing(monotonic_ns(), self._missing))

    def want(self, after_ns: int | None) -> None:
        """See to it that the pool is listed later than this; None: not needed."""
        if self._watch is not None:
            self._watch.want(after_ns)

    def explaining(self, emit: Callable[[Event], None]) -> Callable[[Event], None]:
        """`emit`, but for the news that nothing is answered, which waits for what the cluster says of it."""
        cluster, found = self._cluster, self._found
        if cluster is None or found is None:
            return emit

        async def explain(event: NothingAnswered) -> None:
            reason = await explain_silence(cluster, found.service.ref, found.port.port, self.target.address)
            emit(replace(event, reason=reason or ""))

        def observe(event: Event) -> None:
            if isinstance(event, NothingAnswered):
                task = asyncio.get_running_loop().create_task(explain(event))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                emit(event)

        return observe

    async def close(self) -> None:
        """End the watch and the connections."""
        for task in self._tasks:
            task.cancel()
        if self._watch is not None:
            await self._watch.stop()
        if self._cluster is not None:
            await self._cluster.close()


@asynccontextmanager
async def look_out(asked: Asked) -> AsyncIterator[Lookout]:
    """Find the target, and the Service behind it where a cluster is at hand. Raises `UserError`."""
    wants_cluster = asked.service is not None or not asked.target
    cluster, missing = await _connect(asked, wants_cluster=wants_cluster)
    lookout: Lookout | None = None
    try:
        if asked.target and asked.service is None:
            target = await resolve_target(asked.target, asked.port)
            found, missing = await _find(cluster, target, missing)
            if found is None and asked.watch == "on":
                raise UserError(f"--watch on: {missing}")
        else:
            if cluster is None:
                raise UserError(f"{NO_TARGET}; there is no cluster to find the Service in")
            found = await discover(cluster, asked.service, asked.via)
            target = await resolve_target(asked.target or found.target, found.host_port)
            if asked.watch == "off":
                missing = "--watch off"
        watched = found if asked.watch != "off" else None
        lookout = Lookout(target, cluster, watched, missing)
        yield lookout
    finally:
        if lookout is not None:
            await lookout.close()
        elif cluster is not None:
            await cluster.close()


async def _connect(asked: Asked, *, wants_cluster: bool) -> tuple[Cluster | None, str]:
    if asked.watch == "off" and not wants_cluster:
        return None, "--watch off"
    try:
        return await connect(), ""
    except NoClusterError as error:
        if asked.watch == "on" or asked.service is not None:
            raise
        return None, str(error)


async def _find(cluster: Cluster | None, target: Target, missing: str) -> tuple[Found | None, str]:
    """The Service that the target leads to; why there is none otherwise."""
    if cluster is None:
        return None, missing
    try:
        found = await find_service(cluster, target.address, target.name)
    except ApiError as error:
        return None, f"Services could not be listed ({error})"
    if found is None:
        return None, f"no Service of context {cluster.context} has the address {target.address} (name one: --service)"
    return found, ""
