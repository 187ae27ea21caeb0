"""What the pool is and what is known of it, from the slices and the Service as two watches tell them. No I/O.

The pool is known as long as both watches run, and confirmed by lists only: a watch may be late. When one breaks a gap
begins, told once, with the last that was heard and what may have been under way then, or with the last list where a watch
is known to be late. It ends when both are back: as if it had not been where the new list proves that nothing was missed,
else with what the pool is now, so at some time in the gap.
"""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.cluster.objects import Service, ServiceRef, Slice, pool_of
from affinity_tester.cluster.reflector import Reflector
from affinity_tester.core.events import Event, PoolConfirmed, PoolObserved, PoolUnobserved
from affinity_tester.core.pool import PoolSnapshot, differences

LAG_NS = 2_000_000_000
"""How late the news of a watch may be: `Pace.level_s`, after which it is not trusted any more."""

SLICES, SERVICE = "slices", "service"
"""The two watches."""


class PoolView:
    """Turns what two reflectors hold into pool events."""

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
        """`port`: the Service's UDP port by number; `family`: IPv4, IPv6, or None for any."""
        self._key = str(ref)
        self._port = port
        self._family = family
        self._slices = slices
        self._service: Reflector[Service] | None = service
        self._emit = emit
        self._now_ns = now_ns
        self._port_name: str | None = None
        """Of the Service as it was last seen: it names the port in the slices, also when the Service itself is gone."""
        self._waiting = {SLICES, SERVICE}
        """Watches that are down, or not up yet."""
        self._missed = False
        self._gap_ns: int | None = None
        self.snapshot: PoolSnapshot | None = None
        """The last that was told."""

    def without_service(self) -> None:
        """The Service may not be read: the pool is its endpoints alone, of any UDP port."""
        self._service = None
        self.up(SERVICE, missed=False)

    @property
    def service(self) -> Service | None:
        """The Service as it is now."""
        kept = self._service.items.get(self._key) if self._service else None
        return kept.fact if kept else None

    def is_known(self) -> bool:
        """Whether both watches are up."""
        return not self._waiting and self.snapshot is not None

    @property
    def has_service(self) -> bool:
        """Whether the Service may be read."""
        return self._service is not None

    @property
    def _parts(self) -> tuple[Reflector[Slice] | Reflector[Service], ...]:
        return (self._slices,) if self._service is None else (self._slices, self._service)

    def up(self, watch: str, *, missed: bool) -> None:
        """A watch has a new list; whether it differs from what was known before."""
        self._waiting.discard(watch)
        self._missed |= missed
        if self._waiting:
            return
        gap_ns, self._gap_ns = self._gap_ns, None
        missed, self._missed = self._missed, False
        if self.snapshot is None or missed:
            # What happened after the list was asked for is still in the gap, so that this may claim to be of now.
            at_ns = self._now_ns()
            self.snapshot = self._look()
            self._emit(PoolObserved(at_ns, at_ns if gap_ns is None else gap_ns, self.snapshot, listed=True))
        else:
            self._emit(PoolConfirmed(min(part.listed_ns for part in self._parts)))

    def down(self, watch: str, reason: str, *, late: bool = False) -> None:
        """A watch is interrupted; `late`: it is known to be late, so that what it told last does not prove anything."""
        self._waiting.add(watch)
        if self.snapshot is not None and self._gap_ns is None:
            self._gap_ns = min(part.listed_ns for part in self._parts)
            if not late:
                self._gap_ns = max(self._gap_ns, min(part.heard_ns for part in self._parts) - LAG_NS)
            self._emit(PoolUnobserved(self._now_ns(), self._gap_ns, reason))

    def changed(self, at_ns: int) -> None:
        """An object changed; told at once if that changes the pool, or by `up` at the end of a gap."""
        if not self.is_known():
            self._missed = True
            return
        before, after = self.snapshot, self._look()
        if before is not None and after != before and differences(before, after):
            self.snapshot = after
            self._emit(PoolObserved(at_ns, at_ns, after))

    def level(self, asked_ns: int) -> None:
        """The watches have told all that lists asked for at `asked_ns` show."""
        for part in self._parts:
            part.proved(asked_ns)
        self._emit(PoolConfirmed(asked_ns))

    def _look(self) -> PoolSnapshot:
        service = self.service
        if service is not None and (port := service.udp_port(self._port)) is not None:
            self._port_name = port.name
        slices = (kept.fact for kept in self._slices.items.values())
        endpoints = pool_of(slices, self._port_name, self._family)
        return PoolSnapshot(endpoints, service.pool_spec if service else ())
