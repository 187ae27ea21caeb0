"""What canaries tell of fresh flows, beside how many of the sessions are dead: whether these live, or die as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from affinity_tester.core.events import CanaryResult
from affinity_tester.core.exact import shares_differ
from affinity_tester.core.judging.chance import DOUBT

_MIN_CANARIES = 2
"""One answer is no more than one flow that lives."""


class FreshFlows(ABC):
    """Sessions of which some are dead, and the canaries that were sent beside them."""

    @property
    @abstractmethod
    def dead_count(self) -> int:
        """How many sessions are dead."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many sessions there are, dead or not."""

    @property
    @abstractmethod
    def sampled(self) -> Sequence[CanaryResult]:
        """The canaries from fresh ports that tell of them."""

    @property
    def unanswered(self) -> int:
        """How many canaries were not answered."""
        return sum(canary.identity is None for canary in self.sampled)

    @property
    def share(self) -> float:
        """The share of dead flows among the sessions."""
        return self.dead_count / self.total

    @property
    def miss_chance(self) -> float:
        """The chance that so many canaries all miss what this share of the flows meets."""
        return float((1 - self.share) ** len(self.sampled))

    @property
    def fresh_live(self) -> bool:
        """True if fresh flows live: none of the canaries died, and so many are no chance."""
        return not self.unanswered and len(self.sampled) >= _MIN_CANARIES and self.miss_chance < DOUBT

    @property
    def fresh_die(self) -> bool:
        """True if fresh flows die as well, no more and no fewer of them than of the sessions but for chance."""
        chance = shares_differ(self.dead_count, self.total, self.unanswered, len(self.sampled))
        return self.unanswered > 0 and chance >= DOUBT
