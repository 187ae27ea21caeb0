"""What a run does about probes that are not answered: it sends more, and notices outages, blackouts and a dead target.

`core.session.canaries`, `core.session.extra_probes` and `core.session.outages` have the rules. This module gives them the
sessions' state at each sweep, and sends what they want.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from affinity_tester.core.events import Event, NoReplies
from affinity_tester.core.session.extra_probes import LONG_INTERVAL_NS, ExtraProbes
from affinity_tester.core.session.outages import OutageDetector
from affinity_tester.net.canary import LARGE_PAYLOAD, Canaries
from affinity_tester.net.no_reply import no_reply_reason
from affinity_tester.net.session import Session
from affinity_tester.net.session_group import SessionGroup
from affinity_tester.settings import DEFAULT_REQUEST_SIZE, ClientSettings
from affinity_tester.units import NS_PER_S

NO_REPLIES_NS = 5 * NS_PER_S
"""A run without any answer for so long since its start says so."""


class UnansweredMonitor:
    """Checks all sessions at each sweep for probes that are not answered."""

    def __init__(
        self,
        group: SessionGroup,
        settings: ClientSettings,
        *,
        start_ns: int,
        send: Callable[[Iterable[Session], int], None],
        emit: Callable[[Event], None],
    ) -> None:
        """The group's sessions send from `start_ns` on. `send(sessions, now_ns)` sends one more probe of each."""
        self._group = group
        self._sessions = group.sessions
        self._start_ns = start_ns
        self._send = send
        self._emit = emit
        self._is_keyed = settings.key is not None
        are_large = min(settings.sizes or (settings.request_size,)) > LARGE_PAYLOAD
        self._canaries = Canaries(
            group.open,
            group.close_one,
            emit,
            interval_ns=settings.interval_ns,
            wait_ns=settings.loss_threshold_ns,
            open_small=group.open_small if are_large else None,
            small_size=DEFAULT_REQUEST_SIZE,
        )
        self._outages = OutageDetector(settings.interval_ns, settings.loss_threshold_ns, emit)
        # At short intervals the schedule itself sends enough probes to distinguish a dead flow from a lost packet.
        self._extra_probes = ExtraProbes() if settings.interval_ns > LONG_INTERVAL_NS else None
        self._no_replies_emitted = False

    def check(self, now_ns: int, *, is_sending: bool, is_answered: bool, resumed_ns: int) -> None:
        """Send more probes while the run `is_sending`, and emit what is noticed.

        `is_answered` is True once any probe of the run was answered. The client last went on at `resumed_ns` after a stop.
        """
        unanswered = [session for session in self._sessions if (t := session.tracker).reached != t.sent_count - 1]
        if is_sending:
            self._send_more(now_ns, unanswered, resumed_ns)

        self._outages.sweep(
            now_ns,
            [session.tracker for session in self._sessions],
            [session.tracker for session in unanswered],
            canaries=self._canaries.answer_times,
            unanswered_canaries=self._canaries.unanswered_ns,
            resumed_ns=resumed_ns,
            own_drops={session.name: session.drops_since_reply() for session in unanswered if session.drops},
        )

        unanswered_ns = now_ns - self._start_ns
        if not is_answered and not self._no_replies_emitted and unanswered_ns >= NO_REPLIES_NS:
            self._no_replies_emitted = True
            reason = no_reply_reason(self._sessions, self._group.targets, keyed=self._is_keyed)
            self._emit(NoReplies(now_ns, unanswered_ns, reason))

    def close(self) -> None:
        """Close the sockets of all canaries."""
        self._canaries.close()

    def _send_more(self, now_ns: int, sessions: list[Session], resumed_ns: int) -> None:
        """Send the canaries that are due about these sessions and, at long intervals, extra probes of them."""
        unanswered_since = [
            (each.name, since[1]) for each in sessions if (since := each.tracker.unanswered()) is not None
        ]
        self._canaries.sweep(now_ns, sessions, unanswered_since, resumed_ns)

        if self._extra_probes is not None and sessions:
            # A session in an outage sends no extra probes: it is known to be unanswered.
            by_name = {session.name: session for session in sessions if not session.tracker.in_outage}
            due = self._extra_probes.due(now_ns, [each for each in unanswered_since if each[0] in by_name], resumed_ns)
            self._send([by_name[name] for name in due], now_ns)
