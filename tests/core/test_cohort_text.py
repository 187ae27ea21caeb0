"""Which way sessions went, by cohort."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis.cohort_text import ways_text
from affinity_tester.core.identity import Identity


def who(ip: int | None, pod: str = "a", port: int = 1) -> Identity:
    return Identity(None if ip is None else TransportAddress(f"10.0.0.{ip}", port), pod)


def told(*moves: tuple[Identity, Identity]) -> list[str]:
    view: Any = SimpleNamespace(
        moves=[SimpleNamespace(old=old, new=new) for old, new in moves],
        identities={str(number): old for number, (old, _) in enumerate(moves)},
        place=lambda ip: ip,
    )
    return ways_text(view)


def test_each_way_is_told_with_its_cohort_and_the_pods() -> None:
    moved = (who(1), who(2, "b"))
    assert told(moved, moved, (who(1), who(1, port=2)), (who(None), who(3))) == [
        "10.0.0.1 -> 10.0.0.2: 2 of its 3 sessions",
        "at 10.0.0.1: 1 of its 3 sessions, 1 with a new port",
        "an address that no reply told -> 10.0.0.3: 1 of its 1 session",
        'from pod "a" to pod "b"',
    ]


def test_a_pod_alone_that_changed_is_told() -> None:
    assert told((who(1), who(1, "b"))) == [
        "at 10.0.0.1: 1 of its 1 session, with the same port",
        'from pod "a" to pod "b"',
    ]
    assert told((who(None), who(None))) == ["at an address that no reply told: 1 of its 1 session"]


def test_of_many_ways_only_the_most_used_are_told() -> None:
    lines = told(*((who(number), who(number + 1)) for number in range(8)))
    assert (len(lines), lines[-1]) == (6, "other ways: 3 sessions")
