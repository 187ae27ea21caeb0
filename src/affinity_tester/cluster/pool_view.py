"""Makes pool events of what two reflectors hold: the EndpointSlices and the Service. No I/O.

The pool is known while both watches run. Only lists confirm it, since a watch may be late. When a watch breaks, or tells
an object that cannot be read, a gap begins: it is emitted once, with the time up to which nothing was missed. The gap ends
when both watches are back. If the new list proves that nothing was missed, the pool is confirmed as it was; else the pool
as it is now is emitted.
"""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.cluster.objects import Service, ServiceRef, Slice, endpoints_of
from affinity_tester.cluster.reflector import Reflector
from affinity_tester.cluster.resource_versions import When
from affinity_tester.core.events import Event, PoolConfirmed, PoolObserved, PoolUnobserved
from affinity_tester.core.pool import EndpointChange, PoolSnapshot, differences

SLICES, SERVICE = "slices", "service"
"""The names of the two watches."""


class PoolView:
    """Emits `PoolObserved`, `PoolConfirmed` and `PoolUnobserved`."""

    def __init__(
        self,
        slices: Reflector[Slice],
        service: Reflector[Service],
        emit: Callable[[Event], None],
        now_ns: Callable[[], int],
        *,
        ref: ServiceRef,
        port: int,
        family: str | None,
    ) -> None:
        """`port` is the UDP port's number in the Service; `family` is IPv4, IPv6, or None for both."""
        self._key = str(ref)
        self._port = port
        self._family = family
        self._slices = slices
        self._service: Reflector[Service] | None = service
        self._emit = emit
        self._now_ns = now_ns
        self._port_name: str | None = None
        """The port's name in the Service as it was last seen. Slices name ports so, also when the Service is gone."""
        self._waiting = {SLICES, SERVICE}
        """Watches that are down, or have not been up yet."""
        self._held_back: tuple[int, int] | None = None
        """(since_ns, until_ns) of what changed, or may have changed, while the pool was not known."""
        self._until_ns = 0
        """`until_ns` of the newest snapshot. It never goes back, so that changes are emitted in order."""
        self._in_gap = False
        self.snapshot: PoolSnapshot | None = None
        """The newest that was emitted; None before the first."""

    def without_service(self) -> None:
        """Go on without the Service, which may not be read: the pool is the endpoints of any UDP port, without a spec."""
        self._service = None
        self._waiting.discard(SERVICE)
        self._emit_if_known()

    @property
    def service(self) -> Service | None:
        """The Service as it is now; None if it is gone or may not be read."""
        cached = self._service.items.get(self._key) if self._service else None
        return cached.value if cached else None

    def is_known(self) -> bool:
        """True if both watches are up and a snapshot was emitted."""
        return not self._waiting and self.snapshot is not None

    @property
    def has_service(self) -> bool:
        """True if the Service may be read."""
        return self._service is not None

    @property
    def _parts(self) -> tuple[Reflector[Slice] | Reflector[Service], ...]:
        return (self._slices,) if self._service is None else (self._slices, self._service)

    @property
    def _known_ns(self) -> int:
        """Nothing that happened before this time was missed, of neither part."""
        return min(part.known_ns for part in self._parts)

    def watch_up(self, watch: str, when: When, *, missed: bool) -> None:
        """Take in that a watch has a new list. `missed`: something changed while it was down, within `when`."""
        self._waiting.discard(watch)
        if missed or self.snapshot is None:
            self._hold_back(when)
        self._emit_if_known()

    def watch_down(self, watch: str, reason: str) -> bool:
        """Take in that a watch is interrupted. Return True if that was emitted: it is once for each gap."""
        self._waiting.add(watch)
        if self.snapshot is None or self._in_gap:
            return False

        self._in_gap = True
        self._emit(PoolUnobserved(self._now_ns(), self._known_ns, reason))
        return True

    def changed(self, when: When) -> None:
        """Take in that an object changed. A change of the pool is emitted at once, or in a gap at its end."""
        if not self.is_known():
            self._hold_back(when)
            return

        after = self._build_snapshot()
        changes = self._differing(after)
        if changes:
            self._emit_snapshot(when.since_ns, when.until_ns, after, changes, None)

    def confirm(self, asked_ns: int) -> None:
        """Take in that the watches have all that lists requested at `asked_ns` show, and emit that."""
        for part in self._parts:
            part.mark_verified(asked_ns)
        self._emit(PoolConfirmed(self._now_ns(), asked_ns))

    def _hold_back(self, when: When) -> None:
        since_ns, until_ns = self._held_back or (when.since_ns, when.until_ns)
        self._held_back = min(since_ns, when.since_ns), max(until_ns, when.until_ns)

    def _emit_if_known(self) -> None:
        if self._waiting:
            return

        self._in_gap = False
        held_back, self._held_back = self._held_back, None
        if held_back is None:
            self._emit(PoolConfirmed(self._now_ns(), self._known_ns))
        else:
            after = self._build_snapshot()
            self._emit_snapshot(*held_back, after, self._differing(after), self._known_ns)

    def _differing(self, after: PoolSnapshot) -> tuple[EndpointChange, ...]:
        """Return how the pool differs from the newest snapshot; empty before the first."""
        before = self.snapshot
        return () if before is None or after == before else differences(before, after)

    def _emit_snapshot(
        self,
        since_ns: int,
        until_ns: int,
        snapshot: PoolSnapshot,
        changes: tuple[EndpointChange, ...],
        asked_ns: int | None,
    ) -> None:
        self._until_ns = max(until_ns, self._until_ns)
        self.snapshot = snapshot
        since_ns = min(since_ns, self._until_ns)
        self._emit(PoolObserved(self._now_ns(), since_ns, self._until_ns, snapshot, asked_ns, changes))

    def _build_snapshot(self) -> PoolSnapshot:
        service = self.service
        if service is not None and (port := service.udp_port(self._port)) is not None:
            self._port_name = port.name

        slices = (cached.value for cached in self._slices.items.values())
        endpoints = endpoints_of(slices, self._port_name, self._family)
        return PoolSnapshot(endpoints, service.pool_spec if service else ())
