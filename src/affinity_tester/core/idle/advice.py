"""What to make of the estimates: whose timeout it is likely to be, and how often to send a keep-alive.

The keep-alive is half of the longest silence that was kept in every state and direction: one that is lost then does not lose
the flow. RFC 8085 section 3.5 advises against more than one in 15 s; 15 s is also ICE's own interval (RFC 8445 section 11).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from affinity_tester.core.idle.estimate import Curve, Estimate
from affinity_tester.core.idle.model import FlowState, Property
from affinity_tester.units import NS_PER_MS, NS_PER_S

ICE_INTERVAL_NS = 15 * NS_PER_S
"""ICE's keep-alive interval Tr (RFC 8445 section 11)."""

SLACK_NS = 500 * NS_PER_MS
"""A timer may be so much off the step that was just kept, or just not: conntrack counts in ticks, balancers in seconds."""


@dataclass(frozen=True, slots=True)
class KnownTimeout:
    """A timeout that something on the way is known to have."""

    name: str
    timeout_ns: int
    wanted: Property = Property.FLOW
    """What is lost when it is over."""
    state: FlowState | None = None
    """The state whose timeout it is; None: both."""


LINUX_TIMEOUTS = (
    KnownTimeout("nf_conntrack_udp_timeout, Linux's default", 30 * NS_PER_S, state=FlowState.ONE_EXCHANGE),
    KnownTimeout("nf_conntrack_udp_timeout_stream, Linux's default", 120 * NS_PER_S, state=FlowState.STREAM),
)
"""Of connection tracking on nodes and NATs (kernel.org, networking/nf_conntrack-sysctl; a stream's was 180 s before 4.20)."""


def matching(curve: Curve, known: Iterable[KnownTimeout]) -> tuple[KnownTimeout, ...]:
    """Return the timeouts that lie where this curve breaks."""
    return tuple(
        each
        for each in known
        if each.state in (None, curve.state) and _is_between(each.timeout_ns, curve.estimate(each.wanted))
    )


def _is_between(timeout_ns: int, estimate: Estimate) -> bool:
    if estimate.kept_ns is None or estimate.lost_ns is None:
        return False
    return estimate.kept_ns - SLACK_NS <= timeout_ns <= estimate.lost_ns + SLACK_NS


def longest_kept_ns(curves: Sequence[Curve]) -> int | None:
    """Return the longest silence that every state and direction keeps; None where one keeps none, or nothing is known."""
    known = [each for curve in curves if (each := curve.estimate(Property.FLOW)).is_known]
    kept = [each.kept_ns for each in known if each.kept_ns is not None]
    if not known or len(kept) < len(known):
        return None
    return min(kept)


def keep_alive_ns(curves: Sequence[Curve]) -> int | None:
    """Return the interval to choose, in whole seconds where it has one; None where nothing was kept, or is known."""
    kept_ns = longest_kept_ns(curves)
    if kept_ns is None:
        return None
    return kept_ns // 2 // NS_PER_S * NS_PER_S or kept_ns // 2
