"""The probability of accidents: how many canaries show that a pod, or a server, answers nobody."""

from __future__ import annotations

import math

from affinity_tester.core.exact import chance_of_at_least

DOUBT = 0.05
"""An accident less probable than this is ruled out."""

_FEW = 100
"""Up to so many sessions the probability is exact; beyond, the share is taken as known."""


def canaries_needed(pods: int) -> int:
    """Return how many canaries at other pods show, at 95 %, that one pod answers nobody (docs/judging.md#outages, row 7)."""
    if pods < 2:  # noqa: PLR2004 - of one pod there are no others
        return 1
    return math.ceil(math.log(DOUBT) / math.log(1 - 1 / pods))


def chance_of_dead_server(sessions: int, dead: int, answered: int, unanswered: int = 0) -> float:
    """Return the highest probability that a dead server with a share of the flows got so many sessions, no more canaries.

    A canary that was not answered may have met it.
    """
    dead = min(dead, sessions)
    canaries = answered + unanswered

    def missed(share: float) -> float:
        """Return the probability that it got no more canaries than were not answered."""
        return 1 - chance_of_at_least(canaries, unanswered + 1, share)

    if sessions > _FEW:
        return missed(dead / sessions)
    return max(
        chance_of_at_least(sessions, dead, share) * missed(share) for share in (step / 100 for step in range(1, 100))
    )
