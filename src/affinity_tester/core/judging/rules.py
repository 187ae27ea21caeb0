"""What the operator asked a run to be judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from affinity_tester.core.events import RulesGiven


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

    @classmethod
    def of(cls, given: RulesGiven) -> Self:
        """The rules of a recorded run."""
        return cls(
            settle_ns=given.settle_ns,
            affinity_window_ns=given.affinity_window_ns,
            max_loss=given.max_loss,
            fail_on_avoidable=given.fail_on_avoidable,
            balancer_check_ns=given.balancer_check_ns,
        )

    def given(self, at_ns: int) -> RulesGiven:
        """As an event."""
        return RulesGiven(
            at_ns,
            self.settle_ns,
            self.affinity_window_ns,
            self.max_loss,
            self.fail_on_avoidable,
            self.balancer_check_ns,
        )
