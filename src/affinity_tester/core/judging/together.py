"""Which sessions changed together: in the second that holds a change of the most, and that none kept its address through.

Of a session that was not answered on both sides of a second it is not known what it did then. It says nothing of that
second, and may have changed, or not, in another one.
"""

from __future__ import annotations

from collections import Counter

from affinity_tester.core.events import Change
from affinity_tester.core.judging.address_history import SessionAddresses
from affinity_tester.units import NS_PER_S

TOGETHER_NS = NS_PER_S
"""They changed together if it was within this time."""

Span = tuple[int, int]
"""From when to when, both included."""


def seconds_kept(
    session: SessionAddresses, change: Change, until_ns: int, known_ns: int, interval_ns: int
) -> list[Span]:
    """Return the times at which a second would have to begin that a session kept its address through, near a change.

    Of such a second only what comes after the change's P counts, and only what was still to be seen when the run ended.
    """
    found = []
    for span in session.spans_kept(known_ns, interval_ns):
        begin_ns, end_ns = span.from_ns, span.to_ns - TOGETHER_NS
        if span.since_move:
            begin_ns += 1  # a second that begins at its end holds the move, too
        elif begin_ns <= change.before.sent_ns:
            begin_ns -= TOGETHER_NS
        if span.until_move:
            end_ns -= 1
        elif span.to_ns >= until_ns:
            end_ns = max(end_ns, change.after.sent_ns)
        if begin_ns <= end_ns:
            found.append((begin_ns, end_ns))
    return found


def most_moved(moved: dict[str, list[Span]], kept: list[Span]) -> tuple[Span | None, set[str]]:
    """Return when a second may begin that holds a change of the most sessions, and is kept by none; and these sessions."""
    edges = [
        (at_ns, order, name) for name, spans in moved.items() for span in spans for at_ns, order in _edges(span, 1)
    ]
    edges += [(at_ns, order, "") for span in kept for at_ns, order in _edges(span, 0)]
    edges.sort()

    inside: Counter[str] = Counter()
    best: set[str] = set()
    second: Span | None = None
    for (at_ns, order, name), following in zip(edges, [*edges[1:], None], strict=True):
        inside[name] += 1 if order <= 1 else -1
        if not inside[name]:
            del inside[name]
        if following is None or following[0] == at_ns or "" in inside or len(inside) <= len(best):
            continue
        best, second = set(inside), (at_ns, following[0] - 1)
    return second, best


def _edges(span: Span, order: int) -> tuple[Span, Span]:
    """Return where a span begins and where it is over."""
    return (span[0], order), (span[1] + 1, order + 2)
