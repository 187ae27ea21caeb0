"""What the client's NAT did is never a violation, and what the cluster did is one where something excludes the NAT."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from nat_worlds import CLUSTER, NAT, NatWorld

from affinity_tester.core.events import Change, Judgement
from affinity_tester.core.replay import judge_again
from pools import judged_cases
from trials import HISTORIES

pytestmark = pytest.mark.worlds

COUNT = HISTORIES // 30
FEW = 30
"""Of fewer worlds none may have a reference that shows it."""
VIOLATION, UNKNOWN, CLIENTS = Judgement.VIOLATION, Judgement.UNKNOWN, Judgement.CLIENT
GLOBAL = "81.2.69.142"


def random_world(seed: int, what: str, **fixed: Any) -> NatWorld:
    rng = random.Random(f"{seed} {what} world")
    chosen: dict[str, Any] = {
        "sessions": rng.randrange(8, 33),
        "independent": rng.random() < 0.5,
        "public": rng.choice([1, 1, 2, 3]),
        "local": rng.random() < 0.4,
        "client_ip": rng.random() < 0.3,
        "nodes": rng.randrange(1, 5),
        "vip": rng.random() < 0.2,
        "watched": rng.random() < 0.7,
        "reference": rng.random() < 0.3,
        "loss": rng.choice([0.0, 0.0, 0.02, 0.2]),
        "interval": rng.choice([100, 200, 500, 1000]) * 1_000_000,
    }
    if what == "some":
        chosen |= {"public": rng.choice([2, 3]), "local": True, "watched": True}
    if what == "rehash":
        chosen |= {"vip": False, "nodes": rng.randrange(2, 5)}
    if what == "failover":
        chosen |= {"vip": True, "nodes": rng.randrange(2, 5)}
    return NatWorld(seed, what, **(chosen | fixed))


def classes(world: NatWorld) -> Counter[Judgement]:
    return Counter(judgement for _, judgement in world.judgements.values())


@pytest.mark.parametrize("what", NAT)
def test_what_the_clients_nat_did_is_no_violation(what: str) -> None:
    found: Counter[Judgement] = Counter()
    for seed in range(COUNT):
        world = random_world(seed, what)
        if not world.chance_hides:
            assert not classes(world)[VIOLATION], (seed, world)
        found += classes(world)
    assert found[UNKNOWN] > 0
    assert found[CLIENTS] > 0 or COUNT < FEW


@pytest.mark.parametrize("what", CLUSTER)
def test_what_the_cluster_did_is_a_violation_where_the_nat_is_excluded(what: str) -> None:
    found: Counter[Judgement] = Counter()
    for seed in range(COUNT):
        world = random_world(seed, what, loss=0.0)
        visible = is_visible(world)
        if visible:
            assert set(classes(world)) <= {VIOLATION}, (seed, world, visible)
        assert not classes(world)[CLIENTS], (seed, world)
        found += classes(world)
    assert found[VIOLATION] > 0


def is_visible(world: NatWorld) -> str:
    """Why the NAT is excluded, by the truth; empty: it may not be."""
    changed = {session for session, _ in world.judgements}
    if len(changed) < world.sessions:
        return "a session did not change"
    if world.reference and world.local and world.independent:
        return "the reference stayed, and pods see what it sees"
    nodes = Counter(old.rpartition(".")[2] for old, _ in world.ends)
    if world.what.startswith("wipe") and not world.local and len(nodes) > 1 and sorted(nodes.values())[-2] >= 3:
        return "all kept their nodes" if world.sessions >= 16 and world.watched else ""
    if world.what == "failover" and world.watched and not world.client_ip:
        return "all went to one other node"
    return ""


@pytest.mark.parametrize("what", CLUSTER)
@pytest.mark.parametrize("fixed", [{"own": GLOBAL}, {"nat": False, "local": True}, {"sessions": 7}], ids=str)
def test_the_cluster_is_accused_where_there_is_no_nat(what: str, fixed: dict[str, Any]) -> None:
    """With a global address, where pods see the client's own one, or of fewer than eight sessions."""
    for seed in range(COUNT // 5):
        world = random_world(seed, what, reference=False, loss=0.0, **fixed)
        assert set(classes(world)) <= {VIOLATION}, (seed, world)


@pytest.mark.parametrize("what", [*NAT, *CLUSTER])
def test_a_record_is_judged_as_its_run_was(what: str) -> None:
    for seed in range(COUNT // 5):
        world = random_world(seed, what)
        again = {(e.session, c.number): e.judgement for c, e in judged_cases(list(judge_again(world.events)), Change)}
        assert again == {key: judgement for key, (_, judgement) in world.judgements.items()}, (seed, world)
