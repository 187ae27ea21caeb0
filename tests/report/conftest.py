"""A small run in events, told by hand: two sessions, one change, one outage, and its end."""

import pytest

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import NothingExplains, PodReplaced, PoolState

S = 1_000_000_000
MS = 1_000_000

ONE, TWO = "CLIENT-1058228236", "CLIENT-7"


class Story:
    """Makes events of one run; `t` is seconds after its start, which is 2026-11-22 13:35:20.176042 at UTC+01:00."""

    START_NS = 5_000 * S
    WALL_NS = 1_795_350_920_176_042_999

    pod_a = Identity(TransportAddress("10.240.0.4", 40312), "pod-a", "node-1", b"\x01" * 8, "affinity-tester/0.1.0")
    pod_b = Identity(TransportAddress("10.240.0.7", 61022), "pod-b", "node-2", b"\x02" * 8, "affinity-tester/0.1.0")

    def at(self, t: float) -> int:
        return self.START_NS + round(t * 1000) * MS

    def started(self, sessions: int = 2, **changed: object) -> ev.RunStarted:
        fields: dict[str, object] = {
            "at_ns": self.START_NS,
            "wall_ns": self.WALL_NS,
            "utc_offset_s": 3600,
            "version": "0.1.0",
            "target": TransportAddress("203.0.113.7", 3478),
            "target_name": "udp.example.com",
            "sessions": sessions,
            "interval_ns": 100 * MS,
            "loss_threshold_ns": 2 * S,
            "request_size": 288,
            "connected": False,
            "lost_guarantees": (),
        }
        return ev.RunStarted(**fields | changed)  # type: ignore[arg-type]

    def change(
        self, t: float = 3, *, before: Identity = pod_a, after: Identity = pod_b, number: int = 1, seq: int = 29
    ) -> ev.Change:
        """P was sent at `t` - 0.1 and Q at `t`, answered 2 ms later."""
        return ev.Change(
            number=number,
            kinds=tuple(
                kind
                for kind in Kind
                if before.value(kind) is not None
                and after.value(kind) is not None
                and before.value(kind) != after.value(kind)
            ),
            before=ev.RepliedProbe(seq, self.at(t - 0.1), before),
            after=ev.RepliedProbe(seq + 1, self.at(t), after),
            seen_ns=self.at(t + 0.002),
            longest_pause_ns=100 * MS,
            settled_ns=self.at(t + 2),
        )

    def seen(self, session: str = ONE, t: float = 3, **parts: object) -> ev.ChangeSeen:
        change = self.change(t, **parts)  # type: ignore[arg-type]
        return ev.ChangeSeen(change.seen_ns, session, change)

    def stats(self, session: str, t: float, serving: Identity | None, **delta: int) -> ev.SessionStats:
        return ev.SessionStats(self.at(t), session, ev.Counts(**delta), ev.Counts(**delta), serving)

    def ending(self) -> list[ev.Event]:
        """What comes after sending stopped: summaries and a verdict of FAIL."""
        total = ev.Counts(sent=1000, answered=990, lost=10, late=1, duplicate=2, reordered=3, changes=1, pairs=989)
        quiet = ev.Counts(sent=1000, answered=1000, pairs=999)
        losses = ev.Losses(up=1, down=2, unknown=7)
        rtt = ev.RttStats(990, 25_000, 700_000, 250_000, 1_520_000, 12_040_000, 1_203_400_000, 90_000)
        kinds = tuple((kind, 1) for kind in Kind if kind is not Kind.SOFTWARE)
        local = TransportAddress("192.0.2.1", 50001)
        both = total + quiet
        return [
            ev.SessionSummary(self.at(112), ONE, local, total, losses, rtt, kinds, 102 * MS, 0, self.pod_b),
            ev.SessionSummary(self.at(112), TWO, local, quiet, ev.Losses(), ev.RttStats(), (), 0, 0, None),
            ev.RunSummary(self.at(112), 100 * S, both, losses, rtt, kinds, 102 * MS, self.groups()),
            ev.RunEnded(self.at(112), aborted=False),
            ev.Verdict(self.at(112), ev.Outcome.FAIL, ("1 violation",), "", 1, 1988, 100 * S),
        ]

    def groups(self) -> tuple[ev.GroupCounts, ...]:
        pod, ip = ev.GroupKind.POD, ev.GroupKind.REFLEXIVE_IP
        return (
            ev.GroupCounts(pod, "pod-a", 1, 1500, 1490, 10, 1, 250_000, 12_040_000),
            ev.GroupCounts(pod, "pod-b", 1, 500, 500, 0, 0, 250_000, 12_040_000),
            ev.GroupCounts(ip, "10.240.0.4", 1, 1500, 1490, 10, 1, 250_000, 12_040_000),
            ev.GroupCounts(ip, "10.240.0.7", 1, 500, 500, 0, 0, 250_000, 12_040_000),
        )

    def run(self) -> list[ev.Event]:
        """A whole run with one event of nearly every class."""
        outage_ns = self.at(20)
        return [
            self.started(),
            ev.SessionStarted(self.at(0), ONE, TransportAddress("192.0.2.1", 50001)),
            ev.SessionStarted(self.at(0), TWO, TransportAddress("192.0.2.1", 50002)),
            self.seen(),
            self.stats(ONE, 10, self.pod_b, sent=100, answered=99, pending=1, changes=1),
            self.stats(TWO, 10, self.pod_a, sent=100, answered=100),
            ev.StatsTick(self.at(10), 2, ev.Counts(sent=200, answered=199), ev.Counts(sent=200, answered=199)),
            ev.CaseJudged(
                self.at(13), ONE, self.change(), ev.Judgement.VIOLATION, None, (NothingExplains(PoolState.NOT_WATCHED),)
            ),
            ev.NodeAddresses(self.at(14), (("10.240.0.7", "node-2"),)),
            ev.ProbesLost(self.at(22), TWO, 200, 2, outage_ns, self.at(20.1)),
            ev.OutageStarted(self.at(25), TWO, 200, outage_ns, ev.RepliedProbe(199, self.at(19.9), self.pod_a)),
            ev.OutageEnded(self.at(30), TWO, 200, outage_ns, 100, ev.RepliedProbe(300, self.at(30), self.pod_a)),
            ev.CaseJudged(
                self.at(40), TWO, ev.OutageCase(200, outage_ns), ev.Judgement.EXPLAINED, False, (PodReplaced("pod-a"),)
            ),
            ev.SendingStopped(self.at(100), interrupted=False),
            *self.ending(),
        ]


@pytest.fixture(scope="session")
def story() -> Story:
    return Story()
