"""Watches what other UDP Services do to this one's flows: their endpoints' changes, and a node port that equals its port.

kube-proxy cleans conntrack at endpoint changes of any UDP Service, and compares the destination port alone there
(kubernetes/kubernetes#49881): seen with 1.36, all flows to a Service's port were wiped which is another one's node port.
Metadata alone is asked for, of so many objects at most, and what is refused is left out without a word: it is no part of
what is needed to judge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from affinity_tester.cluster.api import Api, ApiError, Params, list_all
from affinity_tester.cluster.fields import Fields, ObjectError, parser
from affinity_tester.cluster.objects import MAX_COUNT, Service, ServiceRef, parse_service
from affinity_tester.cluster.reflector import Reflector
from affinity_tester.cluster.resource_versions import When
from affinity_tester.cluster.watch_group import WatchGroup
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject
from affinity_tester.units import NS_PER_S

MAX_OBJECTS = 5_000
"""Of Services, and of EndpointSlices: where a cluster has more, their changes are not watched. Metadata has about 1 kB."""

MAX_EVENTS = 20
"""So many changes are told in `WINDOW_NS`; more say no more, and a busy cluster has many."""

WINDOW_NS = 10 * NS_PER_S
"""The usual settle time."""

QUIET_NS = NS_PER_S
"""Changes of one Service within this time are told as one."""

SLICES_PATH = "/apis/discovery.k8s.io/v1/endpointslices"
SERVICES_PATH = "/api/v1/services"


class SliceMetadata(NamedTuple):
    """What the metadata of an EndpointSlice says."""

    service: str
    """namespace/name of its Service; empty if it has none."""
    generation: int
    """Counts changes of anything but the metadata; 0 if it is missing."""


@parser("EndpointSlice")
def parse_metadata(obj: Fields) -> SliceMetadata:
    """Parse the metadata of an EndpointSlice."""
    metadata = obj.part("metadata")
    name = metadata.part("labels").pairs().get("kubernetes.io/service-name", "")
    service = f"{metadata.text('namespace')}/{name}" if name else ""
    return SliceMetadata(service, metadata.number("generation", MAX_COUNT) or 0)


class MetadataApi:
    """An `Api` that asks for objects' metadata alone (PartialObjectMetadata)."""

    def __init__(self, api: Api) -> None:
        """Ask through this one."""
        self._api = api

    async def get(self, path: str, params: Params = (), *, metadata_only: bool = True) -> dict[str, Any]:
        """Return a list of metadata."""
        return await self._api.get(path, params, metadata_only=metadata_only)

    def lines(
        self, path: str, params: Params, silence_s: float, *, metadata_only: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """Yield a watch's lines."""
        return self._api.lines(path, params, silence_s, metadata_only=metadata_only)

    async def close(self) -> None:
        """Close nothing: the connections are the other one's."""


class NeighbourWatch:
    """Emits a warning of a shared port at the start, and a `ClusterEvent` for changes of other UDP Services' endpoints."""

    def __init__(self, group: WatchGroup, api: Api, ref: ServiceRef, port: int) -> None:
        """`ref` and `port` are the probed Service and its port."""
        self._group = group
        self._api = api
        self._ref = ref
        self._port = port
        self._names: frozenset[str] = frozenset()
        """namespace/name of the other UDP Services."""
        self._told: deque[tuple[int, str]] = deque()
        """When changes were told, and of which Service, within the window."""

    async def begin(self) -> None:
        """Look for other UDP Services; warn of a shared port, and watch their endpoints. Raises nothing."""
        try:
            if await self._too_many(SERVICES_PATH):
                return
            services = await self._services()
            own = {(s.ref.namespace, s.selector) for s in services if s.ref == self._ref}
            others = [s for s in services if s.udp_ports and s.ref != self._ref and not self._has_own_pods(s, own)]
            for service in others:
                if self._port in {port.node_port for port in service.udp_ports}:
                    detail = f"{service.ref} {self._port}"
                    self._group.warn_once(ClusterAction.NODE_PORT_SHARED, "services", detail)
            self._names = frozenset(str(service.ref) for service in others)
            if not others or await self._too_many(SLICES_PATH):
                return
        except ApiError:
            return

        reflector: Reflector[SliceMetadata] = self._group.context_reflector(
            SLICES_PATH, parse_metadata, self._on_slice, refused="", metadata=MetadataApi(self._api)
        )
        self._group.spawn("neighbours", reflector.run())

    @staticmethod
    def _has_own_pods(service: Service, own: set[tuple[str, tuple[tuple[str, str], ...]]]) -> bool:
        """True if a Service is for the same pods: its endpoints change with the pool itself."""
        return bool(service.selector) and (service.ref.namespace, service.selector) in own

    async def _services(self) -> list[Service]:
        """Return the readable Services of all namespaces."""
        found = []
        for obj in await list_all(self._api, SERVICES_PATH):
            try:
                found.append(parse_service(obj))
            except ObjectError:  # it says nothing that can be used
                continue
        return found

    async def _too_many(self, path: str) -> bool:
        """True if there are more objects than are listed here."""
        answer = await self._api.get(path, (("limit", "1"),))
        metadata = answer.get("metadata")
        remaining = metadata.get("remainingItemCount") if isinstance(metadata, dict) else None
        return isinstance(remaining, int) and remaining >= MAX_OBJECTS

    def _on_slice(self, _key: str, old: SliceMetadata | None, new: SliceMetadata | None, when: When | None) -> None:
        known = new or old
        if when is None or known is None or known.service not in self._names:
            return
        if old is not None and new is not None and old.generation == new.generation != 0:
            return  # only its metadata changed

        now_ns = when.heard_ns
        while self._told and now_ns - self._told[0][0] > WINDOW_NS:
            self._told.popleft()
        just_told = any(name == known.service and now_ns - at_ns < QUIET_NS for at_ns, name in self._told)
        if not just_told and len(self._told) < MAX_EVENTS:
            self._told.append((now_ns, known.service))
            subject, action = ClusterSubject.UDP_SERVICE, ClusterAction.ENDPOINTS_CHANGED
            self._group.emit(ClusterEvent(now_ns, subject, known.service, action))
