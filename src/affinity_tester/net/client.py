"""Runs the client: N sessions on one timer, polled as one, until its duration is over or it is stopped.

This is the asyncio shell. `core.session.schedule` says which probes are due, and `core.session.tracker` what a reply means.
`net.session_group` opens the sockets, `net.unanswered` looks after probes without an answer, `net.client_stats` counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from affinity_tester import __version__, clock
from affinity_tester.core.events import (
    ChangeSeen,
    ClientFault,
    ClientFaultKind,
    Event,
    FirstAnswer,
    ForeignServer,
    RunStarted,
    SendingStopped,
    SessionStarted,
)
from affinity_tester.core.pulse import Pulse
from affinity_tester.core.session.schedule import Schedule
from affinity_tester.core.session.tracker import MAX_PROBES
from affinity_tester.net.client_stats import IntervalStats, emit_summaries
from affinity_tester.net.limits import raise_descriptor_limit
from affinity_tester.net.poller import SocketPoller
from affinity_tester.net.probe_socket import local_source_for, missing_capabilities
from affinity_tester.net.pulse import PulseSampler
from affinity_tester.net.reference import Reference
from affinity_tester.net.resolve import Target
from affinity_tester.net.routes import LocalAddressCheck, SourceFor, find_routes
from affinity_tester.net.session import Session
from affinity_tester.net.session_group import SessionGroup
from affinity_tester.net.unanswered import UnansweredMonitor
from affinity_tester.settings import NAMING_SIZE, ClientSettings
from affinity_tester.units import NS_PER_S

SWEEP_NS = NS_PER_S // 4
"""How often losses and outages are looked for: well below the loss threshold."""

DROP_CHECK_SWEEPS = 40
"""Each session's drop count is read once in so many sweeps (10 s), and whenever a probe is lost.

Drops that are read long after they happened would explain the wrong losses.
"""

STALL_NS = NS_PER_S
"""A timer this late means that the whole process stood still: it was stopped, or the machine slept."""

RUN_ID_BYTES = 8
"""So many random bytes are one run's alone among all that anybody's logs hold."""

TIMER_COALESCE_NS = NS_PER_S // 2000
"""Probes that are due within half a millisecond are sent together, which saves a third of a probe's cost."""

START_SPACING_NS = NS_PER_S // 5_000
"""The time between two sessions' first probes: a first answer costs several times a later one, here and in a proxy.

It is shorter if starting would otherwise take more than a quarter of the run.
"""


async def run_client(
    settings: ClientSettings,
    target: Target,
    emit: Callable[[Event], None],
    stop: asyncio.Event,
    abort: asyncio.Event | None = None,
    *,
    reference: Target | None = None,
    source_for: SourceFor = local_source_for,
    watch_pulse: Callable[[Pulse], None] | None = None,
) -> None:
    """Probe the target until the run ends. If it has several addresses, the sessions are spread over them.

    Events are passed to `emit` as they happen; an exception from it ends the run and is raised here. `stop` ends sending (as
    the duration does), then replies drain; `abort` ends draining too. `reference` is a STUN server of the target's address
    family, that some sessions ask too. `source_for` returns this machine's own address towards an address of the target; it
    is called at the start and again when something changes. `watch_pulse` is told about once a second what the sessions are
    at. Raises `UserError` if there is no route, or a socket cannot be opened.
    """
    run = _ClientRun(
        settings,
        target,
        emit,
        stop,
        abort or asyncio.Event(),
        reference=reference,
        source_for=source_for,
        watch_pulse=watch_pulse,
    )
    await run.run()


class _ClientRun:
    """One run of the client."""

    def __init__(
        self,
        settings: ClientSettings,
        target: Target,
        emit: Callable[[Event], None],
        stop: asyncio.Event,
        abort: asyncio.Event,
        *,
        reference: Target | None,
        source_for: SourceFor,
        watch_pulse: Callable[[Pulse], None] | None,
    ) -> None:
        self._settings = settings
        self._reference_target = reference
        self._reference: Reference | None = None
        self._watch_pulse = watch_pulse
        self._source_for = source_for
        self._target = target
        self._emit = emit
        self._stop = stop
        self._abort = abort
        self._sizes = settings.sizes or (settings.request_size,)
        self._sessions: list[Session] = []
        self._drop_check_turn = 0
        self._timer: asyncio.Handle | None = None
        self._sweeper: asyncio.Handle | None = None
        self._is_answered = False
        self._is_sending = True
        self._last_awake_ns = 0
        """When this process was last seen running."""
        self._resumed_ns = 0
        """When this process last went on after a stop of more than a second; 0 if there was none.

        Probes that went unanswered meanwhile say nothing about the network: outages count from here on.
        """

    async def run(self) -> None:
        """Run from the first event to the last summary."""
        settings = self._settings
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with contextlib.ExitStack() as on_exit:
            on_exit.callback(self._retrieve_failure)
            self._open(on_exit)
            # What a run keeps for its whole life is no garbage: collecting it again and again would delay probes.
            on_exit.callback(gc.unfreeze)
            gc.freeze()

            start_ns = clock.now_ns()
            self._start(start_ns, on_exit)
            interrupted = await self._wait_until(
                None if settings.duration_ns is None else start_ns + settings.duration_ns
            )

            self._is_sending = False
            if self._reference is not None:
                self._reference.stop()
            stopped_ns = clock.now_ns()
            self._emit(SendingStopped(stopped_ns, interrupted))
            await self._drain()
            if self._reference is not None:
                self._reference.finish(clock.now_ns())
            emit_summaries(self._sessions, self._stats, self._emit, stopped_ns - start_ns)

    # --- start and end ---------------------------------------------------------------------------------------------

    def _open(self, on_exit: contextlib.ExitStack) -> None:
        """Open all sessions. Raise `UserError` if that is not possible."""
        settings = self._settings
        raise_descriptor_limit(settings.sessions)
        self._routes, unprobed = find_routes(self._target, settings.sessions, self._source_for)

        now_ns = clock.now_ns()
        poller = SocketPoller(asyncio.get_running_loop(), self._run_guarded)
        self._group = SessionGroup(settings, self._routes, poller)
        on_exit.callback(self._group.close)
        self._sessions = self._group.sessions
        self._group.open_all(self._observe)

        # Only once all sockets are open: before that, the run has not started.
        targets = self._group.targets
        several = len(targets) > 1
        reference = self._reference_target
        self._emit(
            RunStarted(
                now_ns,
                wall_ns=time.time_ns(),
                utc_offset_s=time.localtime().tm_gmtoff,
                version=__version__,
                target=targets[0],
                target_name=self._target.name,
                sessions=settings.sessions,
                interval_ns=settings.interval_ns,
                loss_threshold_ns=settings.loss_threshold_ns,
                request_size=settings.request_size,
                connected=settings.connected,
                lost_guarantees=missing_capabilities(),
                sizes=settings.sizes,
                addresses=targets if several else (),
                unprobed=unprobed,
                rules=settings.rules,
                reference=reference.address if reference else None,
                reference_name=reference.name if reference else "",
                dscp=settings.dscp,
                run_id=secrets.token_hex(RUN_ID_BYTES),
            )
        )
        for session in self._sessions:
            self._emit(SessionStarted(now_ns, session.name, session.local, session.target if several else None))

    def _start(self, start_ns: int, on_exit: contextlib.ExitStack) -> None:
        """Start sending, and the periodic checks."""
        settings, sessions, emit = self._settings, self._sessions, self._emit
        duration_ns = settings.duration_ns or NS_PER_S * 3600
        start_spacing_ns = min(START_SPACING_NS, duration_ns // (4 * settings.sessions))
        self._schedule = Schedule(start_ns, settings.interval_ns, settings.sessions, start_spacing_ns)
        self._last_tick_ns = self._last_awake_ns = start_ns

        self._local_addresses = LocalAddressCheck(self._routes, sessions, self._source_for, emit)
        self._unanswered = UnansweredMonitor(self._group, settings, start_ns=start_ns, send=self._send, emit=emit)
        on_exit.callback(self._unanswered.close)
        if self._reference_target is not None:
            self._reference = Reference(
                self._reference_target,
                sessions,
                emit,
                self._run_guarded,
                loss_threshold_ns=settings.loss_threshold_ns,
            )
            on_exit.callback(self._reference.stop)
        self._stats = IntervalStats(
            sessions,
            emit,
            start_ns=start_ns,
            interval_ns=settings.stats_interval_ns,
            per_session_stats=settings.per_session_stats,
        )

        self._pulse = (
            PulseSampler(sessions, self._stats.breakdown, settings.loss_threshold_ns, self._watch_pulse)
            if self._watch_pulse is not None
            else None
        )

        on_exit.callback(self._cancel_timers)
        self._tick()
        if self._reference is not None:
            self._reference.start(start_ns)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_NS / NS_PER_S, self._sweep)

    async def _wait_until(self, end_ns: int | None) -> bool:
        """Wait until `stop` is set (True), or until `end_ns` (False); None for no end.

        It wakes up every second, since asyncio's clock does not advance while the machine sleeps.
        """
        while end_ns is None or (left_ns := end_ns - clock.now_ns()) > 0:
            if await self._wait(self._stop, None if end_ns is None else min(left_ns, NS_PER_S) / NS_PER_S):
                return True
        return False

    async def _wait(self, event: asyncio.Event, timeout_s: float | None) -> bool:
        """Wait for an event (True), or for the timeout (False). Raise what a callback of this run has raised meanwhile."""
        waiter: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        failed: asyncio.Future[Any] = self._failed
        try:
            await asyncio.wait((waiter, failed), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._failed.done():
            self._failed.result()
        return event.is_set()

    async def _drain(self) -> None:
        """Wait until every probe is answered or lost, or until `abort` is set."""
        deadline_ns = clock.now_ns() + self._settings.loss_threshold_ns + SWEEP_NS
        while clock.now_ns() < deadline_ns and any(session.tracker.pending for session in self._sessions):
            if await self._wait(self._abort, 0.05):
                break

    def _cancel_timers(self) -> None:
        for handle in (self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()

    def _retrieve_failure(self) -> None:
        """Mark a callback's exception as retrieved: a run that is cancelled no longer waits for it."""
        if self._failed.done():
            self._failed.exception()

    # --- what the event loop calls -----------------------------------------------------------------------------------

    def _run_guarded(self, work: Callable[[], object]) -> None:
        """Run a callback; an exception in it ends the run, instead of being only logged by the event loop."""
        try:
            work()
        except Exception as error:  # `run` raises it
            if not self._failed.done():
                self._failed.set_exception(error)

    def _tick(self) -> None:
        """Send the probes that are due, and set the timer for the next ones."""
        if not self._is_sending:
            return
        self._run_guarded(self._send_due)
        due_ns = max(self._schedule.next_due_ns, self._last_tick_ns + TIMER_COALESCE_NS)
        self._timer = asyncio.get_running_loop().call_later((due_ns - clock.now_ns()) / NS_PER_S, self._tick)

    def _send_due(self) -> None:
        now_ns = clock.now_ns()
        sessions = self._sessions
        self._check_for_stall(now_ns)
        self._last_tick_ns = now_ns

        missed, timely = self._schedule.take(now_ns)
        for slot in missed:
            sessions[slot % len(sessions)].timer_misses += 1
        self._send([sessions[slot % len(sessions)] for slot in timely], now_ns)

    def _send(self, sessions: Iterable[Session], now_ns: int) -> None:
        """Send one probe of each session that has sequence numbers left."""
        for session in sessions:
            if session.tracker.sent_count < MAX_PROBES:
                session.send()
                if session.tracker.sent_count == MAX_PROBES:
                    self._emit(ClientFault(now_ns, session.name, ClientFaultKind.EXHAUSTED))

    def _check_for_stall(self, now_ns: int) -> None:
        """Recover if this process stood still. Both timers call this, the sweep's four times a second."""
        if now_ns - self._last_awake_ns > STALL_NS:
            self._resumed_ns = now_ns
            self._recover_from_stall(now_ns)
        self._last_awake_ns = now_ns

    def _recover_from_stall(self, now_ns: int) -> None:
        """Read replies and declare losses before anything is sent, then skip the rounds that were missed."""
        for session in self._sessions:
            session.expire()

        rounds = self._schedule.skip_rounds(now_ns)
        for session in self._sessions:
            session.timer_misses += rounds

    def _sweep(self) -> None:
        self._run_guarded(self._periodic_check)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_NS / NS_PER_S, self._sweep)

    def _periodic_check(self) -> None:
        """Declare losses, read drops, look for outages, and emit the statistics that are due."""
        self._check_for_stall(clock.now_ns())

        # These go over all sessions, so they only read plain attributes: few sessions have anything to be done.
        sessions = self._sessions
        for session in [session for session in sessions if session.tracker.pending]:
            session.expire()
        for session in sessions[self._drop_check_turn :: DROP_CHECK_SWEEPS]:
            session.check_drops()
        self._drop_check_turn = (self._drop_check_turn + 1) % DROP_CHECK_SWEEPS
        if self._reference is not None:
            self._reference.sweep(clock.now_ns())

        now_ns = clock.now_ns()
        self._unanswered.check(
            now_ns,
            is_sending=self._is_sending,
            is_answered=self._is_answered,
            resumed_ns=self._resumed_ns,
        )
        if self._is_sending:
            self._stats.emit_if_due(now_ns)
            if self._pulse is not None:
                self._pulse.sweep(now_ns)

    def _observe(self, event: Event) -> None:
        """Pass on an event of a session or its tracker; some events are a reason to check something."""
        self._emit(event)
        self._stats.observe(event)
        match event:
            case FirstAnswer(at_ns=at_ns, seq=seq, identity=who) if not self._is_answered:
                self._is_answered = True
                may_name_pod = self._sizes[seq % len(self._sizes)] >= NAMING_SIZE or who.software is not None
                if who.pod is None and may_name_pod:
                    self._emit(ForeignServer(at_ns, who.software))
            case (
                ChangeSeen(at_ns=at_ns, session=name)
                | ClientFault(at_ns=at_ns, session=name, fault=ClientFaultKind.SEND_ERROR)
            ):
                # Perhaps nothing in the network changed, but this machine's own address did.
                self._local_addresses.check(at_ns, name)
