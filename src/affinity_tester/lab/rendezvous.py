"""Weighted rendezvous hashing: how the cloud's balancer spreads flows over nodes.

Each (flow, node) pair has a pseudo-random number u in (0, 1); the node with the highest score -weight / ln(u) gets the
flow. A node that joins takes flows from the others and moves no other flow; one that leaves gives up only its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

_BITS = 52
"""How many bits of the digest are used: every such number is exact as a float."""


def draw(*key: object) -> float:
    """Return a number in (0, 1) that depends on nothing but the key: as good as random, and the same in every run."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> (64 - _BITS)) + 0.5) / (1 << _BITS)


def score(weight: float, u: float) -> float:
    """Return the score, above 0, of a node of this weight whose number for the flow is u."""
    return -weight / math.log(u)


def winner(weights: Mapping[str, float], seed: int, flow: int) -> str | None:
    """Return the node that gets this flow; None when there is no node."""
    return max(weights, key=lambda node: score(weights[node], draw(seed, node, flow)), default=None)


def weight_to_win(newcomer: str, weights: Mapping[str, float], seed: int, flows: Iterable[int], share: int) -> float:
    """Return the weight with which a newcomer takes exactly `share` of these flows from the present nodes.

    Raises `ValueError` unless there is a node and 0 <= share <= the number of flows.
    """
    if not weights:
        raise ValueError("there is no node to take flows from")

    # The weight from which on the newcomer beats the best score that each flow has now.
    needed: Sequence[float] = sorted(
        max(score(weight, draw(seed, node, flow)) for node, weight in weights.items())
        * -math.log(draw(seed, newcomer, flow))
        for flow in flows
    )
    if not 0 <= share <= len(needed):
        raise ValueError(f"{share} of {len(needed)} flows cannot move")
    if not needed:
        return 1.0

    # Between the weights that the last flow to move and the first to stay need.
    below = needed[share - 1] if share else 0.0
    above = needed[share] if share < len(needed) else 2 * below
    return (below + above) / 2
