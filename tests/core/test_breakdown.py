"""Counts by pod, node and reflexive IP, against an oracle that keeps every probe."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import GroupCounts, GroupKind
from affinity_tester.core.identity import Identity
from affinity_tester.core.session import breakdown
from affinity_tester.core.session.breakdown import MOST_GROUPS, OTHER, Breakdown, groups_of
from affinity_tester.core.session.rtt import RttHistogram

MS = 1_000_000
S = 1_000 * MS


def _identity(pod: int, *, ip: int = 0) -> Identity:
    return Identity(TransportAddress(f"10.0.0.{ip}", 4000), f"pod-{pod}", f"node-{pod % 2}")


def _row(groups: tuple[GroupCounts, ...], kind: GroupKind, name: str | None) -> GroupCounts:
    (found,) = [group for group in groups_of(kind, groups) if group.name == name]
    return found


@given(st.integers(0, 1 << 32))
def test_each_kind_adds_up_and_losses_stand_where_the_probes_were_sent(seed: int) -> None:
    random = Random(seed)
    sessions, pods = random.randint(1, 6), random.randint(1, 5)
    counted = Breakdown(sessions)
    served: list[int | None] = [None] * sessions
    sent, answered = [0] * sessions, [0] * sessions
    lost, changes, late = Counter[int | None](), Counter[int | None](), []
    in_periods = Counter[tuple[str, str | None]]()

    for step in range(random.randint(1, 120)):
        now_ns = step * 100 * MS
        place = random.randrange(sessions)
        sent[place] += 1
        if random.random() < 0.2:
            # It is told some time later, whoever serves the session by then.
            lost[served[place]] += 1
            late.append((now_ns + random.randint(0, 2_000) * MS, place, now_ns))
        else:
            pod = random.randrange(pods)
            if pod != served[place]:
                if served[place] is not None:
                    changes[served[place]] += 1
                    counted.changed(place, now_ns - 1)
                counted.served(place, _identity(pod), now_ns, sent=sent[place] - 1, answered=answered[place])
                served[place] = pod
            answered[place] += 1

        for told in [each for each in late if each[0] <= now_ns]:
            late.remove(told)
            counted.lost(told[1], told[2], 1)
        if random.random() < 0.1:
            for group in counted.take(now_ns, sent, answered).groups:
                in_periods[group.kind, group.name] += group.sent
    for _, place, sent_ns in late:
        counted.lost(place, sent_ns, 1)

    for group in counted.take(200 * S, sent, answered).groups:
        in_periods[group.kind, group.name] += group.sent
    total = counted.total()
    for kind in GroupKind:
        rows = groups_of(kind, total)
        assert [
            sum(values)
            for values in zip(*((r.sessions, r.sent, r.answered, r.lost, r.changes) for r in rows), strict=True)
        ] == [sessions, sum(sent), sum(answered), lost.total(), changes.total()]
        assert [r.sessions for r in rows] == sorted((r.sessions for r in rows), reverse=True)
        assert all(in_periods[kind, row.name] == row.sent for row in rows)

    for row in groups_of(GroupKind.POD, total):
        pod = None if row.name is None else int(row.name.removeprefix("pod-"))
        assert (row.lost, row.changes) == (lost[pod], changes[pod])
        assert row.sessions == sum(each == pod for each in served)


def test_what_a_reply_does_not_tell_stays_as_it_was() -> None:
    counted = Breakdown(1)
    counted.served(0, _identity(1), 0, sent=0, answered=0)
    counted.served(0, Identity(), S, sent=10, answered=10)

    groups = counted.take(2 * S, [20], [20]).groups

    assert [(group.kind, group.name, group.sent) for group in groups] == [
        (GroupKind.POD, "pod-1", 20),
        (GroupKind.NODE, "node-1", 20),
        (GroupKind.REFLEXIVE_IP, "10.0.0.0", 20),
    ]


def test_times_count_for_whoever_answered() -> None:
    counted, rtt = Breakdown(1), RttHistogram()
    rtt.add(0, 1 * MS)
    rtt.share(counted.served(0, _identity(1), 0, sent=0, answered=0), 0)
    rtt.add(1, 1 * MS)
    rtt.add(2, 80 * MS)
    assert rtt.is_newest(2)
    rtt.share(counted.served(0, _identity(2), 2, sent=2, answered=2), 2)
    rtt.add(3, 80 * MS)

    period = counted.take(S, [4], [4])
    groups = period.groups
    slow, quick = _row(groups, GroupKind.POD, "pod-2"), _row(groups, GroupKind.POD, "pod-1")

    assert (quick.answered, slow.answered) == (2, 2)
    assert (period.p50_ns, period.p99_ns) == (quick.p50_ns, slow.p99_ns)
    assert quick.p50_ns == quick.p99_ns == pytest.approx(MS, rel=0.07)
    assert slow.p50_ns == slow.p99_ns == pytest.approx(80 * MS, rel=0.07)
    assert _row(groups, GroupKind.REFLEXIVE_IP, "10.0.0.0").p99_ns == slow.p99_ns

    # The next period has times of its own, and none where nothing was answered.
    (again,) = groups_of(GroupKind.POD, counted.take(2 * S, [9], [4]).groups)
    assert (again.sent, again.p50_ns) == (5, None)
    assert _row(counted.total(), GroupKind.POD, "pod-2").p50_ns == slow.p50_ns


def test_a_session_that_comes_back_counts_on_where_it_was() -> None:
    counted = Breakdown(1)
    for place, pod in enumerate([1, 2, 1, 1]):
        counted.served(0, _identity(pod), place * S, sent=place * 10, answered=place * 10)

    groups = counted.take(4 * S, [40], [40]).groups

    assert [(group.name, group.sessions, group.sent) for group in groups_of(GroupKind.POD, groups)] == [
        ("pod-1", 1, 30),
        ("pod-2", 0, 10),
    ]


def test_who_served_a_session_is_forgotten_after_two_minutes() -> None:
    counted = Breakdown(1)
    counted.served(0, _identity(1), 0, sent=0, answered=0)
    counted.served(0, _identity(2), 10 * S, sent=10, answered=10)
    counted.take(100 * S, [100], [100])
    counted.lost(0, 5 * S, 1)  # told late, of a pod that serves nobody any more
    assert _row(counted.take(131 * S, [130], [130]).groups, GroupKind.POD, "pod-1").lost == 1

    counted.lost(0, 5 * S, 1)
    assert _row(counted.take(140 * S, [140], [140]).groups, GroupKind.POD, "pod-2").lost == 1


def test_pods_beyond_the_most_are_counted_together_and_the_longest_gone_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(breakdown.MOST_GROUPS, GroupKind.POD, 3)
    counted = Breakdown(5)
    for place in range(5):
        counted.served(place, _identity(place), 0, sent=0, answered=0)
    groups = groups_of(GroupKind.POD, counted.take(S, [1] * 5, [1] * 5).groups)
    assert [(group.name, group.sessions) for group in groups] == [
        (OTHER, 2),
        ("pod-0", 1),
        ("pod-1", 1),
        ("pod-2", 1),
    ]

    counted.served(0, _identity(7), 2 * S, sent=1, answered=1)
    counted.take(3 * S, [2] * 5, [2] * 5)
    names = {group.name: group.sent for group in groups_of(GroupKind.POD, counted.total())}
    assert names == {"pod-1": 2, "pod-2": 2, "pod-3": 1, OTHER: 5}  # the first of those that waited for a row


def test_no_label_grows_without_bound() -> None:
    counted = Breakdown(1)
    for pod in range(2_000):
        counted.served(0, _identity(pod, ip=pod % 250), pod * S, sent=pod, answered=pod)
        counted.take(pod * S + 1, [pod + 1], [pod + 1])
    rows = counted.total()
    assert len(groups_of(GroupKind.POD, rows)) <= MOST_GROUPS[GroupKind.POD] + 1
    assert len(groups_of(GroupKind.REFLEXIVE_IP, rows)) <= MOST_GROUPS[GroupKind.REFLEXIVE_IP] + 1
    assert len(counted._parts) <= 2
    assert len(counted._earlier[0]) <= 121


def test_what_was_added_up_is_not_added_up_again() -> None:
    counted = Breakdown(1)
    counted.take(S, [1], [1])
    assert counted.total() is counted.total()


def test_a_time_that_another_probe_was_counted_after_stays_where_it_was() -> None:
    counted, rtt = Breakdown(1), RttHistogram()
    rtt.add(0, MS)
    rtt.add(1, MS)
    times = counted.served(0, _identity(1), 0, sent=0, answered=0)
    rtt.share(times, 0)
    assert sum(times) == 0
