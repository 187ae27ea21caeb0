"""What lists tell of when a change happened."""

from __future__ import annotations

import pytest

from affinity_tester.cluster.resource_versions import MAX_LISTS, ListHistory, as_number, at_least


def lists(*made: tuple[str, int, int]) -> ListHistory:
    """(version, asked, heard)"""
    found = ListHistory()
    for each in made:
        found.note(*each)
    return found


@pytest.mark.parametrize(
    ("version", "below", "up_to", "from_"),
    [
        ("99", None, None, 12),
        ("100", None, 10, 12),
        ("101", 10, 10, 25),
        ("105", 10, 20, 25),
        ("106", 20, 20, 32),
        ("110", 20, 30, 32),
        ("111", 30, 30, None),
        ("x", None, None, None),
    ],
)
def test_a_change_lies_between_two_lists(version: str, below: int | None, up_to: int | None, from_: int | None) -> None:
    made = lists(("100", 10, 12), ("x", 11, 12), ("105", 20, 25), ("110", 30, 32))
    assert made.asked_below(version) == below
    assert made.asked_up_to(version) == up_to
    assert made.heard_from(version) == from_


def test_lists_that_overtake_each_other() -> None:
    """One that was asked for first is heard last, and one that was heard first is the newest."""
    made = lists(("105", 20, 21), ("104", 10, 40), ("103", 15, 30))
    assert made.asked_below("104") == 15
    assert made.asked_below("106") == 20
    assert made.heard_from("103") == made.heard_from("105") == 21


def test_numbers_that_begin_anew() -> None:
    """A cluster that was restored from a backup: what was listed before tells nothing of what comes."""
    made = lists(("500", 10, 12), ("100", 13, 14))
    assert made.asked_below("101") == 13
    assert made.heard_from("101") is None


def test_only_the_newest_are_remembered() -> None:
    made = lists(*((str(n), 10 * n, 10 * n + 1) for n in range(1, MAX_LISTS + 2)))
    assert made.asked_below("2") is None
    assert made.asked_below("3") == 20
    assert made.heard_from("1") == 21


@pytest.mark.parametrize("version", ["", "x", "-1", "1.0", "\u0663", "1" * 21])
def test_what_is_no_number(version: str) -> None:
    assert as_number(version) is None
    assert at_least(version, version)
    assert not at_least(version, "0")
    assert not at_least("9", version)
