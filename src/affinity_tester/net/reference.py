"""The reference: a second STUN server, outside of the cluster, that some sessions ask from their own sockets.

The mapped address that it sees tells a change of the client's own NAT from one of the cluster. Its requests and replies
are no probes: no counter and no time of a session knows of them.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Callable, Iterable, Sequence

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, NoReferenceReplies, ReferenceResult
from affinity_tester.core.stun import HEADER_SIZE, decode_mapped_address, new_request
from affinity_tester.errors import StunError
from affinity_tester.net.probe_socket import IcmpError, socket_address, transport_address
from affinity_tester.net.resolve import Target
from affinity_tester.net.session import Session
from affinity_tester.settings import REFERENCE_INTERVAL_NS, REFERENCE_SESSIONS
from affinity_tester.units import NS_PER_S

NO_REPLIES_NS = 5 * NS_PER_S
"""A reference without any answer for so long says so."""

_TOKEN = slice(8, 16)
"""Where a message has what would be a session's token, if it were a probe or a reply to one."""
_TRANSACTION_ID = slice(8, HEADER_SIZE)


class Reference:
    """Asks the reference in turn from each of its sessions, one request at a time, and tells each answer."""

    def __init__(
        self,
        target: Target,
        sessions: Sequence[Session],
        emit: Callable[[Event], None],
        run_guarded: Callable[[Callable[[], object]], None],
        *,
        loss_threshold_ns: int,
    ) -> None:
        """Choose the sessions that ask, and let all know what is the reference's and not the target's.

        `run_guarded` runs each callback and handles the exceptions it raises. A request is unanswered once
        `loss_threshold_ns` has passed.
        """
        self._address = target.address
        self._destination = socket_address(target.address, target.scope_id)
        self._asking = choose_asking(sessions)
        self._is_asking = frozenset(session.name for session in self._asking)
        self._tokens = frozenset(session.token for session in sessions)
        self._emit = emit
        self._run_guarded = run_guarded
        self._loss_threshold_ns = loss_threshold_ns
        self._pending: dict[bytes, tuple[Session, int]] = {}
        """By transaction id: who asked, and when; in the order of asking."""
        self._start_ns = 0
        self._interval_ns = REFERENCE_INTERVAL_NS // len(self._asking)
        self._slot = self._turn = 0
        self._timer: asyncio.Handle | None = None
        self._reason = ""
        """Why an answer is missing, by what was met last."""
        self._is_answered = False
        self._no_replies_emitted = False
        for session in sessions:
            session.reference = self

    # --- asking ------------------------------------------------------------------------------------------------------

    def start(self, start_ns: int) -> None:
        """Ask from `start_ns` on: request k is due at start + k x interval, and each session has its turn."""
        self._start_ns = start_ns
        self._set_timer()

    def stop(self) -> None:
        """Ask no more; answers may still come."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _set_timer(self) -> None:
        due_ns = self._start_ns + self._slot * self._interval_ns
        self._timer = asyncio.get_running_loop().call_later((due_ns - clock.now_ns()) / NS_PER_S, self._tick)

    def _tick(self) -> None:
        self._run_guarded(self._ask)
        # What this process slept through is left out: there is one request a tick, and never a burst.
        self._slot = max(self._slot, (clock.now_ns() - self._start_ns) // self._interval_ns) + 1
        self._set_timer()

    def _ask(self) -> None:
        """Send one request, from the session whose turn it is."""
        session = self._asking[self._turn % len(self._asking)]
        self._turn += 1
        transaction_id = self._draw_transaction_id()
        try:
            sent_ns = session.send_aside(new_request(transaction_id, HEADER_SIZE), self._destination)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            self._reason = f"this machine does not send to it: {name}, {error.strerror}"
        else:
            self._pending[transaction_id] = session, sent_ns

    def _draw_transaction_id(self) -> bytes:
        """Return 96 random bits (RFC 8489 section 5) that no probe of a session begins with."""
        while True:
            transaction_id = secrets.token_bytes(HEADER_SIZE - 8)
            if int.from_bytes(transaction_id[:8], "big") not in self._tokens:
                return transaction_id

    # --- what comes back ---------------------------------------------------------------------------------------------

    def read(self, session: Session, data: bytes, source: tuple[str, int], received_ns: int) -> bool:
        """Take a datagram that is no reply to a probe. True if it is the reference's, and no session's to count."""
        transaction_id = data[_TRANSACTION_ID]
        asked = self._pending.get(transaction_id)
        address = transport_address(source)
        if address != self._address:
            if asked is not None:
                self._reason = f"its answers come from {address}"
            return asked is not None
        if asked is None or asked[0] is not session:
            # Late, a second time, at another's socket, or of nothing that was asked.
            return int.from_bytes(data[_TOKEN], "big") not in self._tokens

        del self._pending[transaction_id]
        try:
            mapped = decode_mapped_address(data)
        except StunError as error:
            # It lives, and its answer is without evidence: neither an address, nor a silence.
            what = "the error " if error.reason == "error-response" else ""
            self._reason = f"it answers with {what}{error.detail or error.reason:.100}"
        else:
            self._is_answered = True
            self._emit(ReferenceResult(received_ns, session.name, asked[1], mapped))
        return True

    def owns_error(self, session: Session, error: IcmpError) -> bool:
        """True if an ICMP error is about a request to the reference, or may be: then it says nothing about the target."""
        if session.name not in self._is_asking:
            return False
        if error.destination == self._address:
            sender = f" from {error.offender}" if error.offender is not None else ""
            self._reason = f"ICMP error {error.error} came back{sender}"
        return error.destination in (self._address, None)

    # --- what does not come back -------------------------------------------------------------------------------------

    def sweep(self, now_ns: int) -> None:
        """Give up requests that were not answered in time, and tell if none ever was."""
        due_ns = now_ns - self._loss_threshold_ns
        overdue = [asked for asked in self._pending.items() if asked[1][1] < due_ns]
        for session in {session.name: session for _, (session, _) in overdue}.values():
            session.read_until_empty()  # an answer may wait there, as this process may have been held up
        for transaction_id, (session, sent_ns) in overdue:
            if self._pending.pop(transaction_id, None) is not None:
                self._emit(ReferenceResult(now_ns, session.name, sent_ns, None))

        if now_ns - self._start_ns >= NO_REPLIES_NS:
            self._tell_if_never_answered(now_ns)

    def finish(self, now_ns: int) -> None:
        """Look a last time at what came back; a request that was not given the time to be answered is left out."""
        self.sweep(now_ns)
        self._tell_if_never_answered(now_ns)

    def _tell_if_never_answered(self, now_ns: int) -> None:
        if not self._is_answered and not self._no_replies_emitted:
            self._no_replies_emitted = True
            self._emit(NoReferenceReplies(now_ns, now_ns - self._start_ns, self._reason))


def choose_asking(sessions: Iterable[Session]) -> tuple[Session, ...]:
    """Return the sessions that ask: the first ones, by turns of those with each local address and each target."""
    by_path: dict[tuple[str, TransportAddress], list[Session]] = {}
    for session in sessions:
        by_path.setdefault((session.local.ip, session.target), []).append(session)

    chosen: list[Session] = []
    for place in range(REFERENCE_SESSIONS):
        chosen += [alike[place] for alike in by_path.values() if place < len(alike)]
    return tuple(chosen[:REFERENCE_SESSIONS])
