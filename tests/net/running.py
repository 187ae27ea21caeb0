"""Runs the client in a test and looks through what it told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import busy
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Counts, Event, RunSummary, SessionSummary
from affinity_tester.net.addresses import bind_udp, bound_address
from affinity_tester.net.client import run_client
from affinity_tester.net.probe_socket import local_source_for, open_probe_socket, receive
from affinity_tester.net.resolve import Target
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S

MS = 1_000_000
E = TypeVar("E", bound=Event)


class Told(list[Event]):
    """The events of a run, in order."""

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self if isinstance(event, kind)]

    def only(self, kind: type[E]) -> E:
        (event,) = self.of(kind)
        return event

    def counts(self) -> Counts:
        """All sessions' counts, after a look at what holds at the end of every run."""
        run, sessions = self.only(RunSummary), self.of(SessionSummary)
        for total in (run.total, *(session.total for session in sessions)):
            assert total.sent == total.answered + total.lost + total.pending
        assert run.total == sum((session.total for session in sessions), Counts())
        assert run.losses.total == run.total.lost
        return run.total


@contextmanager
def kernel_stamps() -> Iterator[None]:
    """Keep the kernel stamping packets as they arrive.

    It begins some time after the first socket of the machine asked for it, and stamps at the reading until then.
    """
    with (
        bind_udp("127.0.0.1", 0) as sock,
        open_probe_socket("127.0.0.1", bound_address(sock), scope_id=0, connected=False) as probe,
    ):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            sock.sendto(b"?", probe.getsockname())
            time.sleep(0.02)
            wall_ns = receive(probe, (bytearray(2048),))[1]
            if wall_ns is not None and time.time_ns() - wall_ns > 15 * MS:
                break
        yield


async def probed(
    address: TransportAddress,
    *,
    seconds: float | None = 0.5,
    reference: TransportAddress | None = None,
    source_for: Callable[[TransportAddress, int], str] = local_source_for,
    **settings: Any,
) -> Told:
    """Run the client for some seconds, with a probe every 20 ms from each session unless it is told otherwise."""
    told = Told()
    given = {"interval_ns": 20 * MS, "duration_ns": None if seconds is None else int(seconds * NS_PER_S), **settings}
    await run_client(
        ClientSettings(**given),
        Target(address, str(address)),
        told.append,
        asyncio.Event(),
        reference=None if reference is None else Target(reference, str(reference)),
        source_for=source_for,
    )
    busy.look_at_events(told)
    return told


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so, for five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what changes it has no event to wait for
            await asyncio.sleep(0)
