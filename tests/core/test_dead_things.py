"""Whatever dies in a network: no wrong name is ever likely, and what is possible has the right one."""

from __future__ import annotations

from collections import Counter

import pytest
from dead_things import DEATHS, LIKELY, POSSIBLE, kill
from network_faults import is_sound

from trials import HISTORIES

SEEDS = max(10, HISTORIES // 40)
"""Networks in which each thing dies."""

MAX_CHANCE = 0.05
"""Canaries are drawn by chance: what they exclude at 95 % is wrong in so many of all runs at most."""


ODD = [
    ("a node", False, 3),
    ("some entries from the start", False, 6),
    ("an ingress from the start", False, 2),
    ("a bucket from the start", True, 5),
]
"""Networks in which fewer canaries, or fewer names, are left than usual, or in which a way was never likely to be met."""


@pytest.mark.parametrize(("what", "watched", "seed"), [*((what, w, 0) for what in DEATHS for w in (False, True)), *ODD])
def test_a_network_in_which_it_dies(what: str, seed: int, *, watched: bool) -> None:
    death = DEATHS[what]
    world = kill(death, seed, watched=watched).run()
    for diagnosis in world.diagnoses:
        is_sound(diagnosis)
    assert {name for name, certainty in world.named if certainty is LIKELY} <= death.right
    assert {name for name, _ in world.named} & death.right


@pytest.mark.worlds
@pytest.mark.parametrize("what", DEATHS)
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
def test_no_wrong_name_is_likely_and_the_right_one_is_possible(what: str, *, watched: bool) -> None:
    death, seen = DEATHS[what], Counter[str]()
    for seed in range(SEEDS):
        w = kill(death, seed, watched=watched).run()
        for diagnosis in w.diagnoses:
            is_sound(diagnosis)
        likely = {name for name, certainty in w.named if certainty is LIKELY}
        possible = {name for name, certainty in w.named if certainty is POSSIBLE}
        if not likely <= death.right:
            seen["wrong"] += 1
        elif likely:
            seen["likely"] += 1
        elif possible & death.right:
            seen["possible"] += 1
        else:
            seen["not told"] += 1
    assert seen["wrong"] <= MAX_CHANCE * SEEDS, seen
    assert seen["not told"] <= MAX_CHANCE * SEEDS, seen
    # Unwatched, what is dead from the start has no name that excludes the others, unless fresh flows live.
    if watched and what != "a node from the start":
        assert seen["likely"] >= SEEDS // 3, seen
