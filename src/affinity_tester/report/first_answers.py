"""The first sign of life of a run: how many sessions were answered, by how many pods on how many nodes, how soon."""

from __future__ import annotations

from affinity_tester.core.events import FirstAnswer
from affinity_tester.report.lines import Line
from affinity_tester.units import NS_PER_S, format_duration, plural

WAIT_NS = 2 * NS_PER_S
"""From the first answer: sessions that have none by then are said to have none yet."""


class FirstAnswers:
    """Collects the sessions' first answers until all have come, or the wait is over."""

    def __init__(self, sessions: int) -> None:
        """Wait for so many sessions."""
        self._sessions = sessions
        self._pods: set[str] = set()
        self._nodes: set[str] = set()
        self._count = 0
        self._first_ns = 0
        self._last_ns = 0

    def add(self, event: FirstAnswer) -> bool:
        """Take in a first answer; True if it is the last one waited for."""
        if not self._count:
            self._first_ns = event.at_ns
        self._count += 1
        self._last_ns = event.at_ns
        if event.identity.pod is not None:
            self._pods.add(event.identity.pod)
        if event.identity.node is not None:
            self._nodes.add(event.identity.node)
        return self._count >= self._sessions

    def is_due(self, now_ns: int) -> bool:
        """True if the wait for further sessions is over."""
        return self._count > 0 and now_ns - self._first_ns >= WAIT_NS

    def line(self) -> Line:
        """Return `24 sessions answered by 3 pods on 3 nodes within 0.3 s`."""
        missing = self._sessions - self._count
        who = f"{self._count:,} of {plural(self._sessions, 'session')}" if missing else plural(self._count, "session")
        by = f" by {plural(len(self._pods), 'pod')}" if self._pods else ""
        on = f" on {plural(len(self._nodes), 'node')}" if self._nodes else ""
        text = f"{who} answered{by}{on} within {format_duration(self._last_ns - self._first_ns)}"
        return Line(f"{text}, {missing:,} not yet" if missing else text, "warn" if missing else "info")
