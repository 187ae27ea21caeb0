"""What the operator asked a run to be judged by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a run is judged by; times are in nanoseconds."""

    settle_ns: int = 10_000_000_000
    """How long before and after a change of the pool it still explains a change of a session: proxies take seconds."""
    affinity_window_ns: int = 30_000_000_000
    """A longer pause between sends excuses a change: the shortest common UDP conntrack timeout."""
    max_loss: float | None = None
    """Share of probes lost (0 to 1) above which the run fails; None: loss alone never fails."""
    fail_on_avoidable: bool = False
    """Explained changes whose old pod was still serving count as violations."""
    balancer_check_ns: int = 35_000_000_000
    """How long a balancer may keep sending to a dead node: three health checks of 10 s, and 5 s for what follows."""


DEFAULT_RULES = Rules()
"""What a run is judged by unless its operator says otherwise."""
