"""Replies that come after the loss threshold: what was on its way was held, and not lost.

A frozen process or virtual machine, and a link that buffers while it has no signal, keep packets and deliver them all at
once. The probes count as lost (RFC 7680), and every lost one whose reply comes after all is proof that neither the flow's
entry nor its pod was gone. Replies that waited in this machine's own buffer do not look so: they are timed by the kernel.
"""

from __future__ import annotations

from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.text import diagnosis, pods
from affinity_tester.core.events import Diagnosis, LateReply
from affinity_tester.units import format_percent, format_seconds, plural

_HELD_SHARE = 0.8
"""So much of what was lost came late after all: the rest may have met a full buffer."""

_SOME_SHARE = 0.1
"""From this share on it is worth saying: a buffer of a server's socket holds some hundred probes, the others are dropped."""

_FEWEST = 10
"""Late replies from which on their share means something."""

_REST = "what became of the other replies: a full socket buffer of the server (nstat UdpRcvbufErrors)"


def late_replies(view: IncidentView) -> Diagnosis | None:
    """Diagnose `late-replies`: the probes that an incident counts as lost were answered after the loss threshold."""
    spans = {span.session: span for span in view.unanswered_spans}
    late = [
        event
        for event in view.history.late
        if (span := spans.get(event.session)) is not None and span.first_seq <= event.seq < span.first_seq + span.lost
    ]
    lost = sum(span.lost for span in spans.values())
    held = {event.session for event in late}
    if not late or len(late) < _SOME_SHARE * lost or 2 * len(held) < len(spans):
        return None

    served = {who.pod for name in held if (who := spans[name].old) is not None and who.pod is not None}
    others = {who.pod for name, who in view.identities.items() if name not in spans and who.pod is not None}
    evidence = [
        f"{view.share(spans)} lost {plural(lost, 'probe')}, of which {len(late):,} were answered after all, "
        f"{_delays(late)} after they were sent",
        *([f"all those were served by {pods(served)}"] if served else []),
        *(["sessions of other pods were answered in time meanwhile"] if served and others - served else []),
        *view.canary_text(view.canaries),
    ]
    return diagnosis("late-replies", evidence, "" if len(late) >= _HELD_SHARE * lost else _REST)


def late_run(history: RunHistory) -> Diagnosis | None:
    """Diagnose `late-replies` of a whole run: most of what counts as lost was answered too late."""
    late, lost = history.total.late, history.total.lost
    if late < _FEWEST or late < _HELD_SHARE * lost:
        return None
    evidence = [
        f"{late:,} of {plural(lost, 'lost probe')} ({format_percent(late / lost)}) were answered after all, "
        f"{_delays(list(history.late))} after they were sent",
    ]
    return diagnosis("late-replies", evidence)


def _delays(late: list[LateReply]) -> str:
    """Return how long replies took, from the shortest to the longest."""
    delays = [event.delay_ns for event in late]
    shortest, longest = format_seconds(min(delays, default=0)), format_seconds(max(delays, default=0))
    return shortest if shortest == longest else f"{shortest} to {longest}"
