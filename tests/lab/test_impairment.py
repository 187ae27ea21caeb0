"""Loss, duplication and delay of single packets."""

from __future__ import annotations

import random

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.impairment import Impairment, Impairments
from affinity_tester.lab.packet_log import Delayed, Direction, Dropped, Duplicated, PacketEvent

A, B = TransportAddress("127.0.0.1", 1), TransportAddress("127.0.0.1", 2)
UP, DOWN = Direction.UP, Direction.DOWN


def impairment(direction: Direction = DOWN, until_ns: int = 100, **chances: float) -> Impairment:
    return Impairment(
        direction=direction, flows=frozenset({A}), until_ns=until_ns, rng=random.Random(1), delay_ns=7, **chances
    )


def impairments(*rules: Impairment) -> tuple[Impairments, list[PacketEvent]]:
    packets: list[PacketEvent] = []
    made = Impairments(packets.append)
    for each in rules:
        made.add(each)
    return made, packets


def test_without_a_rule_packets_pass() -> None:
    made, packets = impairments()
    assert made.delays(UP, A, 0) == (0,)
    assert packets == []


def test_a_rule_hits_its_direction_its_flows_and_its_time_alone() -> None:
    made, packets = impairments(impairment(drop=1.0))
    assert made.delays(UP, A, 50) == (0,)
    assert made.delays(DOWN, B, 50) == (0,)
    assert made.delays(DOWN, A, 99) == ()
    assert made.delays(DOWN, A, 100) == (0,)
    assert packets == [Dropped(A, 99, DOWN, "fault")]


def test_a_rule_without_flows_hits_all() -> None:
    made, _ = impairments(Impairment(direction=UP, flows=None, until_ns=1, rng=random.Random(1), drop=1.0))
    assert made.delays(UP, B, 0) == ()


def test_a_packet_is_duplicated_and_its_copies_are_delayed() -> None:
    made, packets = impairments(impairment(duplicate=1.0, delay=1.0))
    assert made.delays(DOWN, A, 5) == (7, 7)
    assert packets == [Duplicated(A, 5, DOWN), Delayed(A, 5, DOWN, 7), Delayed(A, 5, DOWN, 7)]


def test_rules_add_up_and_a_dropped_packet_meets_no_further_rule() -> None:
    made, _ = impairments(impairment(delay=1.0), impairment(delay=1.0))
    assert made.delays(DOWN, A, 5) == (14,)
    made, packets = impairments(impairment(drop=1.0), impairment(duplicate=1.0))
    assert made.delays(DOWN, A, 5) == ()
    assert packets == [Dropped(A, 5, DOWN, "fault")]


def test_chances_are_met_and_a_seed_repeats_them() -> None:
    first, second = (impairments(impairment(drop=0.3))[0] for _ in range(2))
    delays = [first.delays(DOWN, A, 0) for _ in range(2000)]
    assert delays == [second.delays(DOWN, A, 0) for _ in range(2000)]
    assert 500 < delays.count(()) < 700


def test_a_rule_may_ask_for_large_packets_and_names_its_reason() -> None:
    large = Impairment(
        direction=UP, flows=None, until_ns=9, rng=random.Random(1), drop=1.0, larger_than=1200, reason="mtu"
    )
    made, packets = impairments(large)
    assert [made.delays(UP, A, 1, size) for size in (1200, 1204)] == [(0,), ()]
    assert packets == [Dropped(A, 1, UP, "mtu")]


def test_a_rule_may_ask_for_the_first_packet_of_each_flow() -> None:
    made, packets = impairments()
    assert made.delays(UP, A, 0) == (0,)
    made.add(Impairment(direction=UP, flows=None, until_ns=9, rng=random.Random(1), drop=1.0, first_only=True))
    assert [made.delays(UP, flow, 1) for flow in (A, B, B)] == [(0,), (), (0,)]
    assert packets == [Dropped(B, 1, UP, "fault")]


def test_what_is_held_comes_when_the_time_is_over_and_counts_as_dropped_where_the_client_waits_no_longer() -> None:
    end = 10_000_000_000
    made, packets = impairments(
        Impairment(direction=DOWN, flows=None, until_ns=end, rng=random.Random(1), hold=True, reason="held")
    )
    late, doubtful, early = end - 2_000_000_001, end - 2_000_000_000, end - 1_000_000_000
    assert made.delays(DOWN, A, late) == (end - late,)
    assert made.delays(DOWN, A, doubtful) == ()
    assert made.delays(DOWN, A, early) == (end - early,)
    assert made.delays(UP, A, early) == made.delays(DOWN, A, end) == (0,)
    assert packets == [
        Dropped(A, late, DOWN, "held"),
        Dropped(A, doubtful, DOWN, "held"),
        Delayed(A, early, DOWN, end - early),
    ]
