"""Loss of every kind, by an oracle that knows who loses what and why: a name that is called likely is never a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from losing import LosingRun, Lost, gilbert

from affinity_tester.core.diagnosis import equivalents
from affinity_tester.core.events import Certainty, Diagnosis

pytestmark = pytest.mark.worlds

SEEDS = range(20)
"""Runs of each kind: enough to see a rule that errs in one of twenty."""

FEWER = range(10)
"""Runs of each even kind in each shape, of which there are many."""

Kind = Callable[[LosingRun], Lost]


def uniform(share: float) -> Kind:
    """Each probe is lost by itself, whoever sends it."""
    return lambda run: lambda _place, _seq, _at: run.rng.random() < share


def bursts(rate: float, mean_s: float, share: float) -> Kind:
    """Each session has bad times of its own (Gilbert 1960)."""

    def kind(run: LosingRun) -> Lost:
        each = [gilbert(run.rng, rate, mean_s, share) for _ in run.places]
        return lambda place, seq, _at: each[place.session](seq)

    return kind


def accidents(count: int, sessions: int, for_s: float) -> Kind:
    """Some times some sessions together lose all for a while."""

    def kind(run: LosingRun) -> Lost:
        hits = [
            (run.rng.uniform(0.5, run.seconds), set(run.rng.sample(range(run.sessions), sessions)))
            for _ in range(count)
        ]
        return lambda place, _seq, at: any(
            from_s <= at < from_s + for_s and place.session in who for from_s, who in hits
        )

    return kind


def of_some(count: int, share: float, besides: float = 0.0) -> Kind:
    """The path that some source ports are hashed to is lossy."""

    def kind(run: LosingRun) -> Lost:
        lossy = set(run.rng.sample(range(run.sessions), count))
        return lambda place, _seq, _at: run.rng.random() < (share if place.session in lossy else besides)

    return kind


def at_a(what: str, share: float) -> Kind:
    """One pod, one node of pods or one ingress node is lossy."""

    def kind(run: LosingRun) -> Lost:
        lossy = run.rng.choice(sorted({getattr(place, what) for place in run.places}))
        return lambda place, _seq, _at: getattr(place, what) == lossy and run.rng.random() < share

    return kind


def table_full(refused: float) -> Kind:
    """One ingress node refuses new flows, each attempt by chance; flows that have an entry lose nothing."""

    def kind(run: LosingRun) -> Lost:
        full = run.rng.choice(sorted({place.ingress for place in run.places}))
        waiting = {place.session for place in run.places if place.ingress == full}

        def lost(place: object, _seq: int, _at: float) -> bool:
            session = place.session  # type: ignore[attr-defined]  # a Place
            if session in waiting and run.rng.random() >= refused:
                waiting.discard(session)
            return session in waiting

        return lost

    return kind


def race(share: float) -> Kind:
    """The first packets of some flows are lost, whichever node they meet."""

    def kind(run: LosingRun) -> Lost:
        unlucky = {session for session in range(run.sessions) if run.rng.random() < share}
        return lambda place, seq, _at: seq == 0 and place.session in unlucky

    return kind


def blip(for_s: float) -> Kind:
    """Nothing passes at the very start."""
    return lambda _run: lambda _place, _seq, at: at < for_s


def slow_pod() -> Kind:
    """One pod answers nobody at first."""

    def kind(run: LosingRun) -> Lost:
        slow = run.rng.choice(sorted({place.pod for place in run.places}))
        return lambda place, _seq, at: place.pod == slow and at < 0.25

    return kind


def likely(diagnoses: tuple[Diagnosis, ...]) -> set[str]:
    """The names that are called likely, but for `port-rewrite`, which tells of policy Local and of no loss."""
    return {each.name for each in diagnoses if each.certainty is Certainty.LIKELY} - {"port-rewrite"}


EVEN = {
    "no loss": uniform(0.0),
    "1 %": uniform(0.01),
    "5 %": uniform(0.05),
    "30 %": uniform(0.3),
    "short bursts": bursts(0.1, 0.5, 0.5),
    "long bursts": bursts(0.1, 1.0, 1.0),
    "longer bursts": bursts(0.05, 2.0, 0.5),
    "one accident": accidents(1, 6, 1.5),
    "three accidents": accidents(3, 6, 0.5),
    "many accidents": accidents(20, 4, 0.3),
    "a blip at the start": blip(0.05),
    "a longer blip at the start": blip(0.3),
    "a second of nothing at the start": blip(1.0),
}
SHAPES = {
    "10 s": {"seconds": 10.0},
    "16 s": {"seconds": 16.0},
    "40 s": {"seconds": 40.0, "sessions": 12},
    "Local": {"local": True},
    "one node": {"nodes": 1, "pods": 1},
    "few": {"sessions": 5},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", EVEN)
def test_loss_that_is_spread_evenly_is_called_nothing(kind: str, shape: str) -> None:
    if "accident" in kind and shape == "few":
        pytest.skip("as many sessions as an accident hits")
    for seed in FEWER:
        run = LosingRun(seed, **SHAPES[shape])  # type: ignore[arg-type]  # a shape's own
        assert likely(run.diagnosed(EVEN[kind](run))) == set(), (kind, shape, seed)


def told(kind: Kind, right: str, seeds: Collection[int] = SEEDS, **shape: object) -> list[Diagnosis]:
    """Return the right diagnoses that are called likely; no wrong name may be."""
    found = []
    for seed in seeds:
        run = LosingRun(seed, **shape)  # type: ignore[arg-type]  # a run's own
        diagnoses = run.diagnosed(kind(run))
        assert likely(diagnoses) <= {right}, (seed, diagnoses)
        # What is only possible may be a name that no client can tell from it.
        assert {each.name for each in diagnoses} - {"port-rewrite"} <= equivalents(right), (seed, diagnoses)
        found += [each for each in diagnoses if each.name == right and each.certainty is Certainty.LIKELY]
    return found


def place_of(diagnosis: Diagnosis) -> str:
    """Where the loss is said to be."""
    return diagnosis.evidence[2]


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        (of_some(6, 0.3), 19),
        (of_some(2, 0.3), 19),
        (of_some(1, 0.3), 10),
        (of_some(18, 0.3), 19),
        (of_some(6, 0.2, 0.01), 19),
        (of_some(6, 0.6, 0.05), 19),
    ],
)
def test_loss_by_source_port_is_told_and_no_pod_or_node_is_accused(kind: Kind, least: int) -> None:
    found = told(kind, "lossy-path")
    assert len(found) >= least
    assert all(place_of(each).startswith("by source port") for each in found if "6 of 24" in each.evidence[0])
    assert not any(place_of(each).startswith("by place") for each in found)


@pytest.mark.parametrize(
    ("what", "words", "shape"),
    [
        ("pod", "served by pod", {"pods": 6, "sessions": 36}),
        ("node", "served on node", {"pods": 9, "sessions": 36}),
        ("ingress", "that came in through", {}),
        ("node", "served on node", {"local": True}),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_loss_of_a_place_is_told_with_it(what: str, words: str, share: float, shape: dict[str, object]) -> None:
    found = told(at_a(what, share), "lossy-path", seconds=30.0, **shape)
    assert len(found) >= 19
    placed = [place_of(each) for each in found if place_of(each).startswith("by place")]
    assert len(placed) >= 18
    assert all(words in each for each in placed)


@pytest.mark.parametrize("refused", [0.5, 0.8, 0.95])
def test_a_full_table_is_told_apart_from_a_race(refused: float) -> None:
    found = told(table_full(refused), "table-full")
    assert len(found) >= 6


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_race_is_told_apart_from_a_full_table(share: float) -> None:
    assert len(told(race(share), "first-packet-race")) >= 10


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_where_all_come_in_through_one_node_a_race_is_known_by_its_single_probes(share: float) -> None:
    assert len(told(race(share), "first-packet-race", nodes=1)) >= 15
    assert told(table_full(0.5), "table-full", nodes=1) == []


def test_a_pod_that_is_slow_to_begin_is_no_race_of_flows() -> None:
    for seed in SEEDS:
        run = LosingRun(seed)
        assert likely(run.diagnosed(slow_pod()(run))) == set(), seed
