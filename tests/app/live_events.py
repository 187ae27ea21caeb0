"""Events of a live run, made by hand."""

from __future__ import annotations

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeSeen,
    Counts,
    Event,
    Losses,
    RepliedProbe,
    RttStats,
    RunStarted,
    RunSummary,
)
from affinity_tester.core.identity import Identity, Kind

NS = 1_000_000_000
TARGET = TransportAddress("192.0.2.1", 3478)


def started() -> RunStarted:
    return RunStarted(
        clock.now_ns(),
        wall_ns=0,
        utc_offset_s=0,
        version="0",
        target=TARGET,
        target_name="x",
        sessions=1,
        interval_ns=NS,
        loss_threshold_ns=NS,
        request_size=288,
        connected=False,
        lost_guarantees=(),
    )


def changed(settles_in_ns: int) -> ChangeSeen:
    """A change that becomes certain so much later."""
    now_ns = clock.now_ns()
    before = RepliedProbe(1, now_ns - 2, Identity(pod="pod-a"))
    after = RepliedProbe(2, now_ns - 1, Identity(pod="pod-b"))
    change = Change(1, (Kind.POD,), before, after, now_ns, 1, now_ns + settles_in_ns)
    return ChangeSeen(now_ns, "CLIENT-1", change)


def summed() -> RunSummary:
    total = Counts(sent=1000, answered=1000, pairs=999)
    return RunSummary(clock.now_ns(), NS, total, Losses(), RttStats(), (), 0)


class Told(list[Event]):
    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]
