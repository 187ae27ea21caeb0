"""Extra probes of a silence: the time is passed in."""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.core.session.extra_probes import MAX_PER_S, MAX_PER_SILENCE, ExtraProbes

MS = 1_000_000
S = 1_000 * MS
SWEEP = S // 4


def play(
    silences: dict[str, list[tuple[int, int]]],
    until_s: int,
    *,
    late_ns: Callable[[int], int] = lambda _number: 0,
    resumed_ns: int = 0,
) -> list[tuple[int, str]]:
    """Sessions unanswered from and until these times (ns), looked at four times a second: what was sent, and when, in ms."""
    plan, sent = ExtraProbes(), []
    for number in range(until_s * 4):
        now_ns = number * SWEEP + late_ns(number)
        unanswered = [
            (name, since) for name, spans in silences.items() for since, until in spans if since < now_ns < until
        ]
        sent += [
            (now_ns // MS, name) for name in plan.due(now_ns, unanswered, resumed_ns if now_ns >= resumed_ns else 0)
        ]
    return sent


def times(sent: list[tuple[int, str]]) -> list[int]:
    return [at for at, _ in sent]


def test_the_fifth_is_sent_when_the_silence_is_5_s_old_and_no_more_follow() -> None:
    assert times(play({"a": [(10 * S, 100 * S)]}, 60)) == [12_000, 12_750, 13_500, 14_250, 15_000]


def test_an_answer_ends_them_and_the_next_silence_has_its_own() -> None:
    assert times(play({"a": [(10 * S, 12_600 * MS), (20 * S, 100 * S)]}, 24)) == [12_000, 22_000, 22_750, 23_500]
    assert play({"a": [(10 * S, 12 * S)]}, 24) == []


def test_sweeps_that_come_late_do_not_add_up() -> None:
    sent = times(play({"a": [(10 * S, 100 * S)]}, 60, late_ns=lambda number: 4 * MS * (number % 60)))
    assert len(sent) == MAX_PER_SILENCE
    assert all(0 <= at - due < 250 for at, due in zip(sent, range(12_000, 15_001, 750), strict=True))


def test_one_that_was_held_up_keeps_its_distance() -> None:
    plan = ExtraProbes()
    sent = [at for at in range(2_500, 9_000, 250) if at > 6_000 and plan.due(at * MS, [("a", 0)])]
    assert sent == [6_250, 6_750, 7_500, 8_250]


def test_a_silence_counts_from_when_the_client_went_on() -> None:
    def stood_still(number: int) -> int:
        return 20 * S if number >= 40 else 0

    sent = play({"a": [(9 * S, 100 * S)]}, 14, resumed_ns=30 * S, late_ns=stood_still)
    assert times(sent) == [32_000, 32_750, 33_500]
    sent = play({"a": [(7 * S, 100 * S)]}, 14, resumed_ns=30 * S, late_ns=stood_still)
    assert times(sent) == [9_000, 9_750, 32_000, 32_750, 33_500]


def test_all_together_send_2000_a_second_those_that_waited_longest_first() -> None:
    sent = play({f"s{n:04}": [(S + n, 100 * S)] for n in range(4_000)}, 40)
    assert len(sent) == 4_000 * MAX_PER_SILENCE
    second: dict[int, int] = {}
    for at in times(sent):
        second[at // 1_000] = second.get(at // 1_000, 0) + 1
    assert max(second.values()) == MAX_PER_S == 2_000
    assert [name for _, name in sent[:4_000]] == [f"s{n:04}" for n in range(4_000)]
    assert times(sent)[3_999] == 5_000
