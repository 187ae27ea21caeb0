"""Which change of the pool is said to explain a session's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.explain import explanation
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange
from affinity_tester.core.pool_timeline import PoolChange
from pools import texts

S = 1_000_000_000
CASE_NS = 100 * S
OWN, OTHER = Endpoint("uid-a", "a", "10.0.0.1"), Endpoint("uid-x", "x", "10.0.0.9")
A, B = Identity(None, "a"), Identity(None, "b")
Heard = Callable[[EndpointAction, Endpoint | None], PoolChange]


def heard(seconds: float) -> Heard:
    """Heard so long after the case; it may have happened up to 5 s before."""
    to_ns = CASE_NS + round(seconds * S)
    edit = ("sessionAffinity", "None", "ClientIP")
    return lambda action, endpoint: PoolChange(to_ns - 5 * S, to_ns, (EndpointChange(action, endpoint, *edit),))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # What was heard before surely came before.
        (
            [heard(-4.7)(EndpointAction.TERMINATING, OWN), heard(0.5)(EndpointAction.LEFT, OWN)],
            'pod "a" is terminating, still serving 4.7 s before',
        ),
        (
            [heard(-4.7)(EndpointAction.TERMINATING, OTHER), heard(0.5)(EndpointAction.LEFT, OTHER)],
            'pod "x" is terminating, still serving 4.7 s before',
        ),
        # The nearest of those.
        (
            [heard(-4.7)(EndpointAction.TERMINATING, OWN), heard(-0.5)(EndpointAction.LEFT, OWN)],
            'pod "a" left the pool 0.5 s before',
        ),
        # Late news of the session's own pod says more than what befell another.
        (
            [heard(-4.7)(EndpointAction.LEFT, OTHER), heard(0.5)(EndpointAction.LEFT, OWN)],
            'pod "a" left the pool 0.5 s after',
        ),
        # An edited Service moves anybody.
        (
            [heard(-4.7)(EndpointAction.SPEC, None), heard(-0.5)(EndpointAction.LEFT, OTHER)],
            "the Service's sessionAffinity changed None -> ClientIP 4.7 s before",
        ),
        # But what surely came after is no cause.
        (
            [heard(-4.7)(EndpointAction.LEFT, OTHER), heard(5.5)(EndpointAction.LEFT, OWN)],
            'pod "x" left the pool 4.7 s before',
        ),
    ],
)
def test_a_sessions_own_pod_comes_first_and_a_cause_before_its_consequence(
    changes: list[PoolChange], said: str
) -> None:
    assert texts(explanation(changes, A, B, CASE_NS)) == (said,)
    assert texts(explanation(reversed(changes), A, B, CASE_NS)) == (said,)
