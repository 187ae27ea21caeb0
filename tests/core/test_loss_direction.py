"""Loss by direction: what RECEIVED-COUNT tells, and what it does not."""

from __future__ import annotations

from enum import Enum

from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Losses
from affinity_tester.core.identity import Identity
from affinity_tester.core.session.loss_direction import Gap, LossDirections

A = Identity(TransportAddress("10.240.0.4", 40312), "a", "n1", b"a")
B = Identity(TransportAddress("10.240.0.4", 40312), "b", "n2", b"b")


def test_losses_after_a_session_s_first_change_have_their_direction_too() -> None:
    spans = LossDirections()
    for seq in range(10):
        assert spans.answered(seq, A, seq + 1) is None
    assert spans.answered(10, B, 1) is None
    spans.lost()  # on the way up: the server counts 11 not
    assert spans.answered(12, B, 2) == Gap(11, 11, up=1, down=0)
    spans.lost()
    spans.lost()  # on the way down: it counts both
    assert spans.answered(15, B, 5) == Gap(13, 14, up=0, down=2)
    assert spans.losses() == Losses(up=1, down=2)
    spans.answered(16, A, 11)
    assert spans.losses() == Losses(up=1, down=2)


def test_a_count_that_falls_leaves_the_span_s_losses_unknown() -> None:
    spans = LossDirections()
    for seq in range(24):  # the server forgets the flow at its twelfth probe, and counts from 1 again
        assert spans.answered(seq, A, seq % 12 + 1) is None
    for _ in range(12):
        spans.lost()  # on the way down
    assert spans.answered(36, A, 25) is None  # 36 were sent and 24 counted, as if 12 had been lost on the way up
    assert spans.losses() == Losses(unknown=12)
    spans.answered(37, B, 1)  # it does not outlast the span
    spans.lost()
    assert spans.answered(39, B, 3) == Gap(38, 38, up=0, down=1)
    assert spans.losses() == Losses(down=1, unknown=12)


def test_a_count_that_falls_in_a_gap_leaves_the_gap_unknown() -> None:
    spans = LossDirections()
    spans.answered(0, A, 5)
    spans.lost()
    spans.lost()
    assert spans.answered(3, A, 4) is None
    assert spans.losses() == Losses(unknown=2)


def test_a_flow_that_is_forgotten_after_its_first_probe_leaves_the_losses_unknown() -> None:
    spans = LossDirections()
    spans.answered(0, A, 1)
    spans.answered(1, A, 1)  # counted from 1 again
    spans.lost()  # on the way down
    assert spans.answered(3, A, 3) is None
    assert spans.losses() == Losses(unknown=1)  # as if one of the three had been lost on the way up


def test_a_span_is_one_instance_s_at_one_reflexive_address() -> None:
    same = Identity(TransportAddress("10.240.0.4", 40312), "a", "n1", b"a")
    renamed = same._replace(node="n3")
    for who in (same, renamed):
        spans = LossDirections()
        spans.answered(0, A, 1)
        spans.lost()
        assert spans.answered(2, who, 2) == Gap(1, 1, up=1, down=0)
    for who in (same._replace(instance=b"b"), same._replace(reflexive=TransportAddress("10.240.0.4", 40313))):
        spans = LossDirections()
        spans.answered(0, A, 1)
        spans.lost()
        assert spans.answered(2, who, 2) is None
        assert spans.losses() == Losses(unknown=1)


def test_a_duplicate_taints_the_span_that_its_probe_belongs_to() -> None:
    for seq, told in ((1, Losses(up=1)), (2, Losses(unknown=1)), (3, Losses(unknown=1))):
        spans = LossDirections()
        spans.taint(0)  # there is no span yet
        spans.answered(0, B, 1)
        spans.answered(1, B, 2)
        spans.answered(2, A, 1)
        spans.answered(3, A, 2)
        spans.taint(seq)
        spans.lost()
        spans.answered(5, A, 3)
        assert spans.losses() == told


class Fate(Enum):
    """What becomes of a probe; one that nobody answers goes where the one before it went."""

    AT_A = "answered by A"
    AT_B = "answered by B"
    LOST_UP = "lost on the way up"
    LOST_DOWN = "received, and its reply lost"
    ELSEWHERE = "received by another server, whose reply came from a wrong source"


@given(st.lists(st.sampled_from([*Fate, Fate.AT_A, Fate.AT_A, Fate.LOST_UP, Fate.LOST_DOWN]), max_size=40))
def test_no_direction_is_told_that_is_not_true(fates: list[Fate]) -> None:
    spans = LossDirections()
    counts = {A: 0, B: 0}
    server = A
    up = down = gaps_up = gaps_down = 0
    for seq, fate in enumerate(fates):
        match fate:
            case Fate.AT_A | Fate.AT_B:
                server = A if fate is Fate.AT_A else B
                counts[server] += 1
                if gap := spans.answered(seq, server, counts[server]):
                    gaps_up += gap.up
                    gaps_down += gap.down
            case Fate.LOST_UP:
                up += 1
                spans.lost()
            case Fate.LOST_DOWN:
                down += 1
                counts[server] += 1
                spans.lost()
            case Fate.ELSEWHERE:
                down += 1
                spans.elsewhere()
    told = spans.losses()
    assert told.up == gaps_up <= up
    assert gaps_down <= told.down <= down
    assert told.total == up + down
