from __future__ import annotations

import dataclasses

import pytest

from affinity_tester.core import server_events
from affinity_tester.core.server_events import ServerDraining, ServerEvent

KINDS = [kind for kind in vars(server_events).values() if isinstance(kind, type) and issubclass(kind, ServerEvent)]


def test_each_event_is_a_fact_with_its_time_first() -> None:
    assert len(KINDS) > 1
    for kind in KINDS:
        assert dataclasses.fields(kind)[0].name == "at_ns"
        assert "__dict__" not in dir(kind), f"{kind.__name__} has no slots"


def test_an_event_cannot_be_changed() -> None:
    draining = ServerDraining(at_ns=1, drain_ns=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        draining.drain_ns = 3  # type: ignore[misc]
