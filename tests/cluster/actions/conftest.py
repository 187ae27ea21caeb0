"""A cluster in memory for each test, and contexts that act on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from memory_api import NAMESPACE, WALL, MemoryApi, populate, settled

from affinity_tester.cluster.actions.base import ActionContext, Step
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.reflector import WatchTiming

TIMING = WatchTiming(backoff_s=0.001, backoff_max_s=0.002, max_lag_s=0.05)

MakeContext = Callable[..., ActionContext]


@pytest.fixture
async def memory() -> MemoryApi:
    api = MemoryApi()
    populate(api)
    await settled(api)
    return api


@pytest.fixture
def steps() -> list[Step]:
    return []


@pytest.fixture
def make_context(memory: MemoryApi, steps: list[Step]) -> MakeContext:
    def make(**more: Any) -> ActionContext:
        fields: dict[str, Any] = {
            "cluster": Cluster(memory, "kind-test", NAMESPACE, inside=False),
            "namespace": NAMESPACE,
            "services": (ServiceRef(NAMESPACE, "affinity-tester"),),
            "emit_step": steps.append,
            "now_ns": lambda: 0,
            "timing": TIMING,
            "holder": "me@here (pid 1)",
            "wall": lambda: WALL,
            "act_limit_s": 10,
        }
        return ActionContext(**{**fields, **more})

    return make


@pytest.fixture
def context(make_context: MakeContext) -> ActionContext:
    return make_context()
