"""Watches the pool behind a Service and what happens around it in the cluster, and emits it as events.

It only reads. What RBAC forbids gets one warning, and the rest is watched. No error of a watch raises into the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from affinity_tester import clock
from affinity_tester.cluster.address_lookup import AddressLookup
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.context_watch import ContextWatch
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.neighbour_watch import NeighbourWatch
from affinity_tester.cluster.object_events import service_events
from affinity_tester.cluster.objects import Service, ServiceRef, Slice, parse_service, parse_slice
from affinity_tester.cluster.pool_view import SERVICE, SLICES, PoolView
from affinity_tester.cluster.reflector import Listener, Listing, Reflector, WatchTiming
from affinity_tester.cluster.resource_versions import When
from affinity_tester.cluster.watch_group import WatchGroup
from affinity_tester.core.events import ApiServerAnswered, ClusterAction, Event
from affinity_tester.core.pool import PoolSnapshot
from affinity_tester.units import NS_PER_S

T = TypeVar("T")

START_S = 10.0
"""How long `start` waits for the first lists."""

LIST_EVERY_NS = NS_PER_S
"""The shortest time between two whole lists that judgements ask for."""

CAUGHT_UP_POLL_S = 0.02
"""How often to check whether the watch has caught up with a list. Mostly it has before the list is read."""

SAMPLE_NS = 5 * NS_PER_S
"""The time between two lists of one object, by default.

It is half of the settle time, so that the time of a change is known to much less than the settle time.
"""

MIN_SAMPLE_NS = NS_PER_S // 4
"""The shortest time between two such lists, however short the settle time is."""


class PoolWatch:
    """The watches of one Service, from `start` to `stop`."""

    def __init__(
        self,
        cluster: Cluster,
        service: ServiceRef,
        port: int,
        emit: Callable[[Event], None],
        *,
        family: str | None = None,
        now_ns: Callable[[], int] = clock.now_ns,
        timing: WatchTiming | None = None,
        sample_ns: int = SAMPLE_NS,
    ) -> None:
        """Watch the endpoints of `service`'s UDP port.

        `port` is its number in the Service, `family` is IPv4, IPv6, or None for both, and `sample_ns` is the time between
        two lists of one object.
        """
        self._sample_s = max(sample_ns, MIN_SAMPLE_NS) / NS_PER_S
        self._ref = service
        self._now_ns = now_ns
        self._group = WatchGroup(cluster.api, str(service), emit, now_ns, timing or WatchTiming())
        self._context = ContextWatch(self._group, service.namespace)
        self._neighbours = NeighbourWatch(self._group, cluster.api, service, port)
        self._addresses = AddressLookup(self._group, cluster.api)

        self._listed_ns: int | None = None
        """When the newest list of `confirm` was requested."""
        self._refused: str | None = None
        """Why the EndpointSlices may not be listed; None if they may."""
        self._last_error = "no answer yet"
        self._gap_reason = ""
        """Why the pool is not observed: the reason that was emitted."""

        heard_slices: Listener[Slice] = Listener(
            changed=self._on_slice,
            refused=self._refuse_slices,
            failed=partial(self._group.warn_failed, SLICES),
            listed=partial(self._listed, SLICES),
            lost=partial(self._lost, SLICES),
            unwatchable=self._group.warn_unwatchable,
            detect_transient=True,
        )
        heard_service: Listener[Service] = Listener(
            changed=self._on_service,
            refused=self._refuse_service,
            failed=partial(self._group.warn_failed, SERVICE),
            listed=partial(self._listed, SERVICE),
            lost=partial(self._lost, SERVICE),
            unwatchable=self._group.warn_unwatchable,
        )

        path = f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices"
        labels = f"kubernetes.io/service-name={service.name}"
        self._slices = self._group.reflector(path, parse_slice, heard_slices, labels=labels)
        path = f"/api/v1/namespaces/{service.namespace}/services"
        self._service = self._group.reflector(path, parse_service, heard_service, name=service.name)

        self._pool = PoolView(
            self._slices, self._service, self._group.emit, now_ns, ref=service, port=port, family=family
        )

    @property
    def unwatched_reason(self) -> str | None:
        """Why the pool is not watched; None if it is."""
        if self._refused is not None:
            return self._refused
        return f"the endpointslices could not be listed ({self._last_error})" if self._pool.snapshot is None else None

    @property
    def snapshot(self) -> PoolSnapshot | None:
        """The pool as it was last emitted; None before the first list."""
        return self._pool.snapshot

    async def start(self, wait_s: float = START_S) -> str | None:
        """Start the watches; return `unwatched_reason` when the first lists are read, or after `wait_s`.

        The watches go on trying after that time.
        """
        begun = self._group.spawn("begin", self._begin())
        await asyncio.wait({begun}, timeout=wait_s)
        return self.unwatched_reason

    async def stop(self) -> None:
        """End all watches. Raises the error that `emit` raised, if it did; nothing was emitted after that."""
        await self._group.close()

    def request_confirmation(self, after_ns: int | None) -> None:
        """List the pool if a list later than `after_ns` is needed (`RunAnalysis.next_list_after_ns`), but not too often.

        Call it as often as time passes; None means that no list is needed.
        """
        now_ns = self._now_ns()
        if after_ns is None or now_ns <= after_ns or self._group.is_running("confirm"):
            return

        if self._listed_ns is None or now_ns - self._listed_ns >= LIST_EVERY_NS:
            self._group.spawn("confirm", self.confirm())

    def watch_neighbours(self) -> None:
        """Watch other UDP Services, too, where that is allowed."""
        self._group.spawn("other services", self._neighbours.begin())

    @property
    def is_busy(self) -> bool:
        """True while it is looked for other UDP Services."""
        return self._group.is_running("other services")

    def look_up(self, ip: str) -> None:
        """Look up whose a reflexive IP is, if no node has it: it may be a proxy's pod's."""
        if not self._context.is_node(ip):
            self._addresses.look_up(ip)

    async def confirm(self) -> bool:
        """List the pool now, and emit `PoolConfirmed` if the watch has everything that the list shows.

        Return True if it was emitted. A slice that came and went between two lists, and of which a late watch has not
        told yet, is not seen. A watch that lacks something of the list is restarted.
        """
        if not self._pool.is_known():
            return False

        self._listed_ns = asked_ns = self._now_ns()
        try:
            caught_up = await self._wait_until_caught_up()
        except ApiError:
            return False  # if the watch is broken too, the reflector reports it
        except Exception as error:
            self._group.warn_failed(SLICES, error)
            return False

        if not self._pool.is_known():
            return False  # a watch was interrupted meanwhile
        if caught_up:
            self._pool.confirm(asked_ns)
            return True

        self._restart_watch(SLICES, self._slices)
        if self._pool.has_service:
            self._restart_watch(SERVICE, self._service)
        return False

    async def _wait_until_caught_up(self) -> bool:
        """List both resources; return True if the watches have all that the lists show within `max_lag_s`.

        Where lists stand in for a watch, the list becomes the copy.
        """
        slices = await self._list(self._slices)
        service = await self._list(self._service) if self._pool.has_service else None

        deadline = asyncio.get_running_loop().time() + self._group.timing.max_lag_s
        while not (
            (slices is None or self._slices.has_caught_up_with(slices))
            and (service is None or self._service.has_caught_up_with(service))
        ):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(CAUGHT_UP_POLL_S)
        return True

    async def _list(self, reflector: Reflector[T]) -> Listing[T] | None:
        """Return a list that a watch has to catch up with; None where lists stand in for it."""
        if not reflector.is_polling:
            return await reflector.list()
        await reflector.poll()
        return None

    def _restart_watch(self, part: str, reflector: Reflector[Slice] | Reflector[Service]) -> None:
        """Restart a watch that is alive and does not tell what a list shows."""
        self._pool.watch_down(part, "the watch does not tell what a list shows")
        self._group.spawn(part, reflector.run())

    async def _begin(self) -> None:
        self._group.spawn(SLICES, self._slices.run())
        self._group.spawn(SERVICE, self._service.run())
        self._context.begin()

        await self._slices.first_list_done.wait()
        await self._service.first_list_done.wait()
        if self._refused is None:
            self._group.spawn("samples", self._sample())
        await self._context.wait_for_first_lists()

    async def _sample(self) -> None:
        """List one object of each part again and again: how new the answer is dates the changes that a watch tells late.

        One round is under way at a time. A round that fails is skipped.
        """
        time_s = asyncio.get_running_loop().time
        due_s = time_s()
        while True:
            due_s = max(due_s + self._sample_s, time_s())
            await asyncio.sleep(due_s - time_s())

            asked_ns = self._now_ns()
            parts = (self._slices, self._service) if self._pool.has_service else (self._slices,)
            answers = await asyncio.gather(*(part.sample() for part in parts), return_exceptions=True)

            failures = [answer for answer in answers if answer is not None]
            for failure in failures:
                if isinstance(failure, Exception) and not isinstance(failure, ApiError):
                    self._group.warn_failed("samples", failure)
            if not failures:
                self._group.emit(ApiServerAnswered(self._now_ns(), asked_ns))

    # --- callbacks of the reflectors ----------------------------------------------------------------------------------

    def _listed(self, part: str, when: When, missed: bool) -> None:
        self._pool.watch_up(part, when, missed=missed)

    def _lost(self, part: str, error: ApiError) -> None:
        self._last_error = reason = str(error)
        if self._pool.watch_down(part, reason):
            self._gap_reason = reason
        # In a gap that has another reason: an object that cannot be read would otherwise go unmentioned.
        elif isinstance(error, ObjectError) and reason != self._gap_reason:
            self._group.warn_unreadable(error)

    def _on_slice(self, _key: str, _old: Slice | None, _new: Slice | None, when: When | None) -> None:
        if when is not None:
            self._pool.changed(when)

    def _on_service(self, _key: str, old: Service | None, new: Service | None, when: When | None) -> None:
        if when is not None:
            self._group.emit(*service_events(when.heard_ns, str(self._ref), old, new))
            self._pool.changed(when)

        if new is not None and new.selector and (old is None or old.selector != new.selector):
            self._context.watch_pods(new.selector)

    def _refuse_slices(self, reason: str) -> None:
        self._refused = f"cannot list endpointslices in namespace {self._ref.namespace} ({reason})"

    def _refuse_service(self, _reason: str) -> None:
        self._group.warn_once(ClusterAction.LIST_FORBIDDEN, "services", self._ref.namespace)
        self._pool.without_service()
