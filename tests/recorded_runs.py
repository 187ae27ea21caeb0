"""Records of runs that never were, with as many sessions, incidents and losses as a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.report.recorder import RecordWriter
from affinity_tester.units import NS_PER_MS, NS_PER_S

INTERVAL_NS = 100 * NS_PER_MS
START_NS = 1_000 * NS_PER_S
_TARGET = TransportAddress("192.0.2.1", 3478)


@dataclass(frozen=True)
class Recorded:
    """An unwatched run."""

    sessions: int = 24
    seconds: int = 600
    wipes: tuple[float, ...] = ()
    """When half of the sessions meet another pod at once, in seconds."""
    loss: float = 0.0
    """Share of probes lost, in bursts of five."""
    rtt_ms: float = 1.0
    seed: int = 1
    wall_ns: int = 1_795_350_920 * NS_PER_S
    version: str = "0.1.0"

    def write(self, path: Path, *, whole: bool = True) -> Path:
        """Write the record; one that is not whole breaks off after its last statistics."""
        with RecordWriter(path, version=self.version) as writer:
            for event in self.events():
                if not whole and isinstance(event, ev.SendingStopped):
                    break
                writer.write(event)
        return path

    def events(self) -> Iterator[ev.Event]:
        """Yield the events of the run, as they were observed."""
        names = [f"CLIENT-{number}" for number in range(self.sessions)]
        yield ev.RunStarted(
            START_NS,
            self.wall_ns,
            0,
            self.version,
            _TARGET,
            "lb.example.com",
            self.sessions,
            INTERVAL_NS,
            2 * NS_PER_S,
            288,
            connected=False,
            lost_guarantees=(),
        )
        yield ev.PoolNotWatched(START_NS, "no cluster was asked for")
        for number, name in enumerate(names):
            yield ev.SessionStarted(START_NS, name, TransportAddress("198.51.100.7", 1024 + number))
            yield ev.FirstAnswer(START_NS, name, 0, self._identity(number, 0))
        timed = [*self._changes(names), *self._losses(names), *self._ticks()]
        yield from sorted(timed, key=lambda event: event.at_ns)
        yield from self._end()

    def _identity(self, session: int, wiped: int) -> Identity:
        pod = f"pod-{(session + wiped) % 3}"
        return Identity(
            TransportAddress(f"203.0.113.{session % 3}", 2000 + session), pod, f"node-{pod[-1]}", pod.encode().ljust(8)
        )

    def _changes(self, names: list[str]) -> Iterator[ev.Event]:
        for wiped, at_s in enumerate(self.wipes, 1):
            before_ns = START_NS + round(at_s * NS_PER_S)
            for number in range(0, len(names), 2):
                seq = round(at_s * NS_PER_S) // INTERVAL_NS
                before = ev.RepliedProbe(seq, before_ns, self._identity(number, wiped - 1))
                after = ev.RepliedProbe(seq + 1, before_ns + INTERVAL_NS, self._identity(number, wiped))
                seen_ns = after.sent_ns + NS_PER_MS
                kinds = (Kind.POD, Kind.NODE, Kind.INSTANCE)
                change = ev.Change(wiped, kinds, before, after, seen_ns, INTERVAL_NS, seen_ns)
                yield ev.ChangeSeen(seen_ns, names[number], change)

    def _losses(self, names: list[str]) -> Iterator[ev.Event]:
        random = Random(self.seed)
        for _ in range(round(self.loss * self._sent / 5)):
            sent_ns = START_NS + round(random.random() * (self.seconds - 5) * NS_PER_S)
            seq = (sent_ns - START_NS) // INTERVAL_NS
            yield ev.ProbesLost(
                sent_ns + 3 * NS_PER_S, random.choice(names), seq, 5, sent_ns, sent_ns + 4 * INTERVAL_NS
            )

    @property
    def _sent(self) -> int:
        return self.sessions * self.seconds * NS_PER_S // INTERVAL_NS

    def _counts(self, until_s: int) -> ev.Counts:
        sent = self._sent * until_s // self.seconds
        lost = round(self.loss * sent)
        return ev.Counts(sent=sent, answered=sent - lost, lost=lost, pairs=sent - self.sessions)

    def _ticks(self) -> Iterator[ev.Event]:
        random = Random(self.seed + 1)
        for until_s in range(10, self.seconds + 1, 10):
            p50_ns = round(self.rtt_ms * random.uniform(0.95, 1.05) * NS_PER_MS)
            yield ev.StatsTick(
                START_NS + until_s * NS_PER_S,
                self.sessions,
                self._counts(10),
                self._counts(until_s),
                p50_ns=p50_ns,
                p99_ns=round(p50_ns * random.uniform(2, 3)),
            )

    def _end(self) -> Iterator[ev.Event]:
        end_ns = START_NS + self.seconds * NS_PER_S
        total = self._counts(self.seconds)
        yield ev.SendingStopped(end_ns, interrupted=False)
        yield ev.RunSummary(end_ns, end_ns - START_NS, total, ev.Losses(), ev.RttStats(), (), 0)
        yield ev.RunEnded(end_ns + 20 * NS_PER_S, aborted=False)
