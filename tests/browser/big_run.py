"""A run of many sessions, made up: a node that is hashed anew, losses at one pod, a pod that is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import NothingExplains, PodReplaced, PoolState
from affinity_tester.core.session.breakdown import Breakdown

MS = 1_000_000
S = 1_000 * MS
START = 1_000 * S


def big_run(sessions: int, duration_s: int, *, changes: int, losses: int) -> Iterator[ev.Event]:
    """Yield the events of a run whose pool stands still; the last are a summary of each session and a verdict."""
    random = Random(1)
    names = [f"CLIENT-{1_000_000 + n * 977}" for n in range(sessions)]
    local = TransportAddress("192.0.2.1", 50_000)
    target = TransportAddress("203.0.113.7", 3478)
    yield ev.RunStarted(
        START, 1_780_000_000 * S, 3600, "0.1.0", target, "udp.example.com", sessions, S // 10, 2 * S, 288, False, ()
    )

    def identity(n: int, moved: int = 0) -> Identity:
        pod = (n + moved) % 12
        return Identity(
            TransportAddress(f"10.240.0.{4 + (n + moved) % 4}", 20_000 + n % 40_000),
            f"affinity-tester-7c9d8b6f5-{pod:05x}",
            f"pool1-{pod % 4:06}",
            bytes([pod] * 8),
        )

    yield from (ev.SessionStarted(START, name, local) for name in names)
    yield from (ev.FirstAnswer(START + n * MS, name, 0, identity(n)) for n, name in enumerate(names))
    breakdown = Breakdown(sessions)
    for n in range(sessions):
        breakdown.served(n, identity(n), START, sent=0, answered=0)

    timed: list[tuple[int, ev.Event]] = []
    numbers: dict[str, int] = {}
    for _ in range(changes):
        n = random.randrange(sessions)
        # Most come together, as they do where a proxy drops its flows.
        at = START + (duration_s // 3 * S if random.random() < 0.7 else 0) + random.randrange(duration_s // 2 * S)
        number = numbers[names[n]] = numbers.get(names[n], 0) + 1
        before = ev.RepliedProbe(10 * number, at, identity(n, number - 1))
        after = ev.RepliedProbe(10 * number + 1, at + S // 10, identity(n, number))
        change = ev.Change(
            number,
            (Kind.REFLEXIVE_IP, Kind.POD, Kind.NODE, Kind.INSTANCE),
            before,
            after,
            at + S // 10 + MS,
            S // 10,
            at + 2 * S,
        )
        timed.append((change.seen_ns, ev.ChangeSeen(change.seen_ns, names[n], change)))
        judged = (
            (ev.Judgement.EXPLAINED, False, (PodReplaced("affinity-tester-7c9d8b6f5-00001"),))
            if random.random() < 0.2
            else (ev.Judgement.VIOLATION, None, (NothingExplains(PoolState.STILL),))
        )
        timed.append((at + 12 * S, ev.CaseJudged(at + 12 * S, names[n], change, *judged)))
    for _ in range(losses):
        n, at = random.randrange(sessions), START + random.randrange(duration_s * S)
        timed.append((at + 2 * S, ev.ProbesLost(at + 2 * S, names[n], 5, 3, at, at + 2 * S // 10)))
    for each in range(1, duration_s // 10):
        at = START + each * 10 * S
        sent = [each * 100] * sessions
        period = breakdown.take(at, sent, sent)
        groups = tuple(
            ev.GroupCounts(g.kind, g.name, g.sessions, g.sent, g.answered, 0, 0, MS // 2, (1 + each % 7) * MS)
            for g in period.groups
        )
        counts = ev.Counts(sent=100 * sessions, answered=99 * sessions, lost=sessions)
        timed.append((at, ev.StatsTick(at, sessions, counts, counts, groups, each % 3, MS // 2, (1 + each % 7) * MS)))
    timed.append(
        (
            START + 20 * S,
            ev.ClusterEvent(START + 20 * S, ev.ClusterSubject.NODE, "pool1-000003", ev.ClusterAction.ADDED),
        )
    )
    yield from (event for _, event in sorted(timed, key=lambda item: item[0]))

    end, total = (
        START + duration_s * S,
        ev.Counts(sent=10 * duration_s, answered=10 * duration_s - 7, lost=7, changes=1),
    )
    rtt = ev.RttStats(10 * duration_s, 90_000, 200_000, 150_000, 800_000, 2_500_000, 80_000_000, 40_000)
    for n, name in enumerate(names):
        counts = ev.Counts(10 * duration_s, 10 * duration_s, changes=numbers.get(name, 0))
        yield ev.SessionSummary(end, name, local, counts, ev.Losses(), rtt, (), 0, 0, identity(n, numbers.get(name, 0)))
    yield ev.RunSummary(end, duration_s * S, total, ev.Losses(7, 0, 0), rtt, (), 0, breakdown.total())
    yield ev.Verdict(end, ev.Outcome.FAIL, (f"{changes} violations",), "", changes, 10**6, duration_s * S)
