"""What the pool is and what is known of it, from the slices and the Service as two watches tell them. No I/O.

The pool is known as long as both watches run. When one breaks a gap begins, at the time up to which both were known to be
right; it is told once, and ends when both are back: as if it had not been where their lists prove that nothing was missed,
else with what the pool is now, which became so at some time in the gap.
"""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.cluster.objects import Service, ServiceRef, Slice, pool_of
from affinity_tester.cluster.reflector import Reflector
from affinity_tester.core.events import Event, PoolConfirmed, PoolObserved, PoolUnobserved
from affinity_tester.core.pool import PoolSnapshot, differences

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
        self._confirmed_ns = 0
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

    @property
    def known_ns(self) -> int | None:
        """Until here the pool is known; None while it is not."""
        if self._waiting or self.snapshot is None:
            return None
        return self._heard_ns

    @property
    def has_service(self) -> bool:
        """Whether the Service may be read."""
        return self._service is not None

    @property
    def _heard_ns(self) -> int:
        heard_ns = self._slices.heard_ns or 0
        return heard_ns if self._service is None else min(heard_ns, self._service.heard_ns or 0)

    def up(self, watch: str, *, missed: bool) -> None:
        """A watch has a new list; whether it differs from what was known before."""
        self._waiting.discard(watch)
        self._missed |= missed
        if self._waiting:
            return
        gap_ns, self._gap_ns = self._gap_ns, None
        missed, self._missed = self._missed, False
        if self.snapshot is None or missed:
            at_ns = self._now_ns()
            self.snapshot = self._look()
            self._confirmed_ns = self._heard_ns
            self._emit(PoolObserved(at_ns, at_ns if gap_ns is None else gap_ns, self.snapshot))
        elif gap_ns is not None:
            self._confirmed_ns = self._heard_ns
            self._emit(PoolConfirmed(self._heard_ns))
        else:
            self.confirm()

    def down(self, watch: str, reason: str) -> None:
        """A watch is interrupted."""
        self._waiting.add(watch)
        if self.snapshot is not None and self._gap_ns is None:
            self._gap_ns = self._heard_ns
            self._emit(PoolUnobserved(self._now_ns(), self._gap_ns, reason))

    def changed(self, at_ns: int) -> None:
        """An object changed; told at once if that changes the pool, or by `up` at the end of a gap."""
        if self._waiting or self.snapshot is None:
            self._missed = True
            return
        after = self._look()
        if after != self.snapshot and differences(self.snapshot, after):
            self.snapshot = after
            self._emit(PoolObserved(at_ns, at_ns, after))

    def confirm(self) -> bool:
        """Say until when the pool is known, if that is news; returns whether it was."""
        known_ns = self.known_ns
        if known_ns is None or known_ns <= self._confirmed_ns:
            return False
        self._confirmed_ns = known_ns
        self._emit(PoolConfirmed(known_ns))
        return True

    def confirm_by_lists(self, asked_ns: int) -> bool:
        """The watches have told all that lists asked for at `asked_ns` show; returns whether that was news."""
        if self.known_ns is None:
            return False  # a gap began meanwhile
        self._slices.touched(asked_ns)
        if self._service is not None:
            self._service.touched(asked_ns)
        return self.confirm()

    def _look(self) -> PoolSnapshot:
        service = self.service
        if service is not None and (port := service.udp_port(self._port)) is not None:
            self._port_name = port.name
        slices = (kept.fact for kept in self._slices.items.values())
        endpoints = pool_of(slices, self._port_name, self._family)
        return PoolSnapshot(endpoints, service.pool_spec if service else ())
