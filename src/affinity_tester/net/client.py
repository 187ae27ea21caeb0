"""The client: N sessions on one timer, read through one epoll, until told to stop.

asyncio is the shell: `core.schedule` says what is due, `core.tracker` what a reply means. All sockets of a run are polled
as one, so that a wake-up costs one callback however many sessions answered.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import random
import secrets
import time
from array import array
from collections.abc import Callable, Iterable
from operator import sub
from typing import Any

from affinity_tester import __version__, clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.doubt import LONG_NS, DoubtPlan
from affinity_tester.core.events import (
    ChangeSeen,
    ClientFault,
    ClientFaultKind,
    Counts,
    Event,
    FirstAnswer,
    ForeignServer,
    Losses,
    NothingAnswered,
    RunStarted,
    RunSummary,
    SendingStopped,
    SessionStarted,
    SessionStats,
    StatsTick,
)
from affinity_tester.core.identity import Kind
from affinity_tester.core.outages import OutageDetector
from affinity_tester.core.schedule import Schedule
from affinity_tester.core.stats import RttHistogram
from affinity_tester.core.stun import Conversation
from affinity_tester.core.tracker import HISTORY_NS, MAX_PROBES, PRUNE_NS, SessionTracker
from affinity_tester.errors import UserError
from affinity_tester.net.canary import Canaries
from affinity_tester.net.limits import raise_descriptor_limit
from affinity_tester.net.probe_socket import learn_source, lost_guarantees, open_probe_socket
from affinity_tester.net.reader import Reader
from affinity_tester.net.resolve import Target
from affinity_tester.net.routes import Learn, Route, find_routes
from affinity_tester.net.session import Session, tally
from affinity_tester.settings import NAMING_SIZE, NS_PER_S, ClientSettings

SWEEP_NS = NS_PER_S // 4
"""How often losses and outages are looked for: well below the loss threshold."""

DROPS_TURNS = 40
"""Each session's drops are read once in so many sweeps (10 s), and with its losses: what was dropped long before a loss
is no reason for it."""

SILENCE_NS = 5 * NS_PER_S
"""After so long without any answer since the start, the run says so."""

FEW_SESSIONS = 20
"""Up to so many, each has a statistics line; beyond, the worst have."""

WORST = 3
"""So many of the worst sessions are named where there are many."""

GRAIN_NS = NS_PER_S // 2000
"""The timer's: what falls due within half a millisecond is sent together, which saves a third of a probe's cost."""

BEGIN_NS = NS_PER_S // 5_000
"""Between the first probes of two sessions: a first answer costs several times what later ones do, here and in a proxy.

Less where the beginning would take more than a quarter of the run.
"""

_LOST, _CHANGES = Counts.__slots__.index("lost"), Counts.__slots__.index("changes")


async def run_client(
    settings: ClientSettings,
    target: Target,
    emit: Callable[[Event], None],
    stop: asyncio.Event,
    abort: asyncio.Event | None = None,
    *,
    learn: Learn = learn_source,
) -> None:
    """Probe the target from the first event to the last summary; of several addresses each has a cohort of sessions.

    Events go to `emit` as they happen; whatever it raises ends the run and is raised here. `stop` ends sending (as the
    duration does), and the replies drain; `abort` ends that too. `learn` says this machine's own address towards an
    address of the target, at the start and again when something changes. Raises `UserError` when there is no route, or the
    sockets cannot be opened.
    """
    await _Client(settings, target, emit, stop, abort or asyncio.Event(), learn=learn).run()


class _Client:
    """One run."""

    def __init__(
        self,
        settings: ClientSettings,
        target: Target,
        emit: Callable[[Event], None],
        stop: asyncio.Event,
        abort: asyncio.Event,
        *,
        learn: Learn,
    ) -> None:
        self._settings = settings
        self._learn = learn
        self._target = target
        self._routes: dict[TransportAddress, Route] = {}
        """By the address that they lead to; filled when the run opens."""
        self._sources_checked_ns = 0
        self._emit = emit
        self._stop = stop
        self._abort = abort
        self._sizes = settings.sizes or (settings.request_size,)
        kept_ns = HISTORY_NS + PRUNE_NS
        self._usual_probes = min(kept_ns, settings.duration_ns or kept_ns) // settings.interval_ns + 1
        self._sessions: list[Session] = []
        self._owners: dict[int, Session] = {}
        """By token, all sessions and the canaries of late: a reply to one may arrive at another."""
        self._drops_turn = 0
        self._canaries = Canaries(
            self._open_session,
            self._close_session,
            emit,
            interval_ns=settings.interval_ns,
            wait_ns=settings.loss_threshold_ns,
        )
        self._doubt = DoubtPlan() if settings.interval_ns > LONG_NS else None
        self._timer: asyncio.Handle | None = None
        self._sweeper: asyncio.Handle | None = None
        self._reader: Reader | None = None
        self._outages = OutageDetector(settings.interval_ns, settings.loss_threshold_ns, emit)
        self._told_columns = [array("Q", bytes(8 * settings.sessions)) for _ in Counts.__slots__]
        """What was counted up to the last statistics: by counter, of all sessions."""
        self._answered = self._told_silence = False
        self._sending = True
        self._awake_ns = 0
        """When this process was last seen to run."""
        self.resumed_ns = 0
        """When it last went on after it had stood still for over a second (a stop, or a sleep); 0: it never did.

        What went unanswered meanwhile is no silence of the network: silence counts from here on.
        """

    async def run(self) -> None:
        """Run from the first event to the last summary."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        self._failed: asyncio.Future[None] = loop.create_future()
        try:
            self._open()
            # What a run keeps for its whole life is no garbage: looking through it all would hold up the probes.
            gc.freeze()
            start_ns = clock.now_ns()
            begin_ns = min(BEGIN_NS, (settings.duration_ns or NS_PER_S * 3600) // (4 * settings.sessions))
            self._schedule = Schedule(start_ns, settings.interval_ns, settings.sessions, begin_ns)
            self._last_tick_ns = self._awake_ns = start_ns
            self._next_stats_ns = start_ns + settings.stats_interval_ns
            self._tick()
            self._sweeper = loop.call_later(SWEEP_NS / NS_PER_S, self._sweep)
            interrupted = await self._wait_until(
                None if settings.duration_ns is None else start_ns + settings.duration_ns
            )
            self._sending = False
            stopped_ns = clock.now_ns()
            self._emit(SendingStopped(stopped_ns, interrupted))
            await self._drain()
            self._summarise(start_ns, stopped_ns)
        finally:
            gc.unfreeze()
            self._close()
            if self._failed.done():
                self._failed.exception()  # taken note of, though a run that is cancelled waits for it no more

    # --- start and end ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        settings = self._settings
        raise_descriptor_limit(settings.sessions)
        routes, unprobed = find_routes(self._target, settings.sessions, self._learn)
        self._routes = {route.address: route for route in routes}
        several = len(routes) > 1
        now_ns = clock.now_ns()
        self._reader = Reader(asyncio.get_running_loop(), self._guarded)
        observe = self._observe  # bound once for all
        numbers = random.SystemRandom().sample(range(1 << 31), settings.sessions)
        for number, route in zip(numbers, itertools.cycle(routes), strict=False):
            try:
                self._sessions.append(self._open_session(f"CLIENT-{number}", route.address, observe))
            except OSError as error:
                raise _open_error(error, len(self._sessions), settings.sessions, route.source) from error
        # Only now: a start that is refused is no run.
        self._emit(
            RunStarted(
                now_ns,
                wall_ns=time.time_ns(),
                utc_offset_s=time.localtime().tm_gmtoff,
                version=__version__,
                target=routes[0].address,
                target_name=self._target.name,
                sessions=settings.sessions,
                interval_ns=settings.interval_ns,
                loss_threshold_ns=settings.loss_threshold_ns,
                request_size=settings.request_size,
                connected=settings.connected,
                lost_guarantees=lost_guarantees(),
                sizes=settings.sizes,
                addresses=tuple(self._routes) if several else (),
                unprobed=unprobed,
            )
        )
        for session in self._sessions:
            self._emit(SessionStarted(now_ns, session.name, session.local, session.target if several else None))

    def _open_session(self, name: str, target: TransportAddress, emit: Callable[[Event], None]) -> Session:
        """A session on a socket of its own, read from now on. Raises `OSError`."""
        settings, route = self._settings, self._routes[target]
        sock = open_probe_socket(route.source, target, scope_id=route.scope_id, connected=settings.connected)
        session = Session(
            sock,
            target,
            SessionTracker(name, settings.loss_threshold_ns, emit, usual_probes=self._usual_probes),
            Conversation(secrets.randbits(64), self._sizes, settings.key),
            emit=emit,
            scope_id=route.scope_id,
            connected=settings.connected,
            owners=self._owners,
        )
        self._owners[session.token] = session
        assert self._reader is not None
        self._reader.add(session)
        return session

    def _close_session(self, session: Session) -> None:
        assert self._reader is not None
        self._reader.remove(session)
        session.sock.close()
        still_s = self._settings.loss_threshold_ns / NS_PER_S
        asyncio.get_running_loop().call_later(still_s, self._owners.pop, session.token, None)

    async def _wait_until(self, end_ns: int | None) -> bool:
        """Wait for `stop`; False when the end (None: none) came first.

        It looks each second, since asyncio's clock stands while the machine sleeps.
        """
        while end_ns is None or (left_ns := end_ns - clock.now_ns()) > 0:
            if await self._wait(self._stop, None if end_ns is None else min(left_ns, NS_PER_S) / NS_PER_S):
                return True
        return False

    async def _wait(self, event: asyncio.Event, longest_s: float | None) -> bool:
        """Wait for an event, or for a failure in a callback (which is raised); False when the time was up first."""
        waiter: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        failed: asyncio.Future[Any] = self._failed
        try:
            await asyncio.wait((waiter, failed), timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._failed.done():
            self._failed.result()
        return event.is_set()

    async def _drain(self) -> None:
        """Let the replies come in: until every probe is answered or lost."""
        deadline_ns = clock.now_ns() + self._settings.loss_threshold_ns + SWEEP_NS
        while clock.now_ns() < deadline_ns and any(session.tracker.pending for session in self._sessions):
            if await self._wait(self._abort, 0.05):
                break

    def _summarise(self, start_ns: int, stopped_ns: int) -> None:
        now_ns = clock.now_ns()
        total, losses, kinds, gap_ns = Counts(), Losses(), dict.fromkeys(Kind, 0), 0
        for session in self._sessions:
            session.read_empty()  # what came after the last answer counts too: duplicates, forgeries
            session.expire()
            session.check_drops()
            summary = session.summary(now_ns)
            self._emit(summary)
            total += summary.total
            losses += summary.losses
            gap_ns = max(gap_ns, summary.longest_gap_ns)
            for kind, count in summary.kinds:
                kinds[kind] += count
        rtt = RttHistogram.merged(session.tracker.rtt for session in self._sessions).stats()
        changed = tuple((kind, count) for kind, count in kinds.items() if count)
        self._emit(RunSummary(now_ns, stopped_ns - start_ns, total, losses, rtt, changed, gap_ns))

    def _close(self) -> None:
        for handle in (self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()
        self._canaries.close()
        if self._reader is not None:
            self._reader.close()
        for session in self._sessions:
            session.sock.close()

    # --- what the loop calls ---------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], object]) -> None:
        """Run a callback's work; what it raises ends the run instead of vanishing in the event loop's handler."""
        try:
            work()
        except Exception as error:  # handed on to `run`, which raises it
            if not self._failed.done():
                self._failed.set_exception(error)

    def _tick(self) -> None:
        if not self._sending:
            return
        self._guarded(self._send_due)
        due_ns = max(self._schedule.next_due_ns, self._last_tick_ns + GRAIN_NS)
        self._timer = asyncio.get_running_loop().call_later((due_ns - clock.now_ns()) / NS_PER_S, self._tick)

    def _send_due(self) -> None:
        now_ns = clock.now_ns()
        sessions = self._sessions
        self._notice_stall(now_ns)
        self._last_tick_ns = now_ns
        missed, timely = self._schedule.take(now_ns)
        for slot in missed:
            sessions[slot % len(sessions)].timer_misses += 1
        self._send([sessions[slot % len(sessions)] for slot in timely], now_ns)

    def _send(self, sessions: Iterable[Session], now_ns: int) -> None:
        for session in sessions:
            if session.tracker.sent_count < MAX_PROBES:
                session.send()
                if session.tracker.sent_count == MAX_PROBES:
                    self._emit(ClientFault(now_ns, session.name, ClientFaultKind.EXHAUSTED))

    def _notice_stall(self, now_ns: int) -> None:
        """Called by both timers, the sweep's four times a second: what comes a second late stood still."""
        if now_ns - self._awake_ns > NS_PER_S:
            self.resumed_ns = now_ns
            self._catch_up(now_ns)
        self._awake_ns = now_ns

    def _catch_up(self, now_ns: int) -> None:
        """After a stall: read and expire before anything is sent, and skip the rounds that were missed."""
        for session in self._sessions:
            session.expire()
        rounds = self._schedule.skip_rounds(now_ns)
        for session in self._sessions:
            session.timer_misses += rounds

    def _sweep(self) -> None:
        self._guarded(self._look_around)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_NS / NS_PER_S, self._sweep)

    def _look_around(self) -> None:
        self._notice_stall(clock.now_ns())
        # Over all sessions, so it only reads what is plain; few of them have anything to be looked after.
        sessions = self._sessions
        for session in [session for session in sessions if session.tracker.pending]:
            session.expire()
        for session in sessions[self._drops_turn :: DROPS_TURNS]:
            session.check_drops()
        self._drops_turn = (self._drops_turn + 1) % DROPS_TURNS
        behind = [session for session in sessions if (t := session.tracker).reached != t.sent_count - 1]
        now_ns = clock.now_ns()
        if self._sending:
            self._ask_more(now_ns, behind)
        self._outages.sweep(
            now_ns,
            [session.tracker for session in sessions],
            [session.tracker for session in behind],
            canaries=self._canaries.answer_times,
            unanswered_canaries=self._canaries.unanswered_ns,
            resumed_ns=self.resumed_ns,
            own_drops={session.name: session.drops_since_reply() for session in behind if session.drops},
        )
        silent_ns = now_ns - self._schedule.start_ns
        if not self._answered and not self._told_silence and silent_ns >= SILENCE_NS:
            self._told_silence = True
            self._emit(NothingAnswered(now_ns, silent_ns, self._why_silent()))
        if now_ns >= self._next_stats_ns and self._sending:
            self._tell_stats(now_ns)

    def _ask_more(self, now_ns: int, behind: list[Session]) -> None:
        """Send what is sent only where an answer is missing: canaries, and at long intervals probes in doubt."""
        unanswered = [(each.name, since[1]) for each in behind if (since := each.tracker.unanswered()) is not None]
        self._canaries.sweep(now_ns, behind, unanswered, self.resumed_ns)
        if self._doubt is not None and behind:
            sessions = {session.name: session for session in behind if not session.tracker.in_outage}
            doubtful = [each for each in unanswered if each[0] in sessions]
            self._send([sessions[name] for name in self._doubt.due(now_ns, doubtful, self.resumed_ns)], now_ns)

    def _why_silent(self) -> str:
        """What the sessions themselves know of it; empty: nothing."""
        strayed = sum(session.wrong_source for session in self._sessions)
        if strayed:
            sources = sorted({source for session in self._sessions for source in session.strayed_from})
            more = f" and {len(sources) - WORST} more" if len(sources) > WORST else ""
            told = ", ".join(sources[:WORST]) + more
            asked = ", ".join(map(str, self._routes))
            return f"{strayed:,} replies came from {told}, not from {asked}: such replies answer nothing"
        crossed = sum(session.cross_delivered for session in self._sessions)
        if crossed:
            return f"{crossed:,} replies came, each to another session than the one that had sent the probe"
        undecodable = sum(session.undecodable for session in self._sessions)
        keyed = self._settings.key is not None
        for session in self._sessions:
            if session.error_response is not None:
                return _why_refused(session.error_response, keyed=keyed)
        if undecodable:
            perhaps = "is AFFINITY_KEY the same on both sides?" if keyed else "is this a STUN server's port?"
            return f"{undecodable:,} replies came that are none to these probes: {perhaps}"
        refused = sum(session.network_errors for session in self._sessions)
        if refused:
            return f"{refused:,} ICMP errors came back (see above): nothing answers at this address and port"
        return ""

    def _tell_stats(self, now_ns: int) -> None:
        interval_ns = self._settings.stats_interval_ns
        self._next_stats_ns += interval_ns * ((now_ns - self._next_stats_ns) // interval_ns + 1)
        sessions = self._sessions
        lost = self._told_columns[_LOST]
        for session, before in zip(sessions, lost, strict=True):
            if session.tracker.lost != before:
                session.check_drops()
        columns = [array("Q", column) for column in zip(*map(tally, sessions), strict=True)]
        earlier, self._told_columns = self._told_columns, columns
        total = Counts(*map(sum, columns))
        told: Iterable[int] = range(len(sessions))
        if not self._settings.every_session and len(sessions) > FEW_SESSIONS:
            more_lost = map(sub, columns[_LOST], lost)
            more_changes = map(sub, columns[_CHANGES], earlier[_CHANGES])
            bad = [
                (-more, -changes, at) for at, (more, changes) in enumerate(zip(more_lost, more_changes, strict=True))
            ]
            told = [at for more, changes, at in sorted(bad)[:WORST] if more or changes]
        for at in told:
            counts = Counts(*(column[at] for column in columns))
            delta = counts - Counts(*(column[at] for column in earlier))
            self._emit(SessionStats(now_ns, sessions[at].name, delta, counts, sessions[at].tracker.serving))
        delta = total - Counts(*map(sum, earlier))
        self._emit(StatsTick(now_ns, len(sessions), delta, total))

    def _observe(self, event: Event) -> None:
        """What sessions and trackers tell goes on; some of it is the occasion to look closer."""
        self._emit(event)
        match event:
            case FirstAnswer(at_ns=at_ns, seq=seq, identity=who) if not self._answered:
                self._answered = True
                may_name_pod = self._sizes[seq % len(self._sizes)] >= NAMING_SIZE or who.software is not None
                if who.pod is None and may_name_pod:
                    self._emit(ForeignServer(at_ns, who.software))
            case (
                ChangeSeen(at_ns=at_ns, session=session)
                | ClientFault(at_ns=at_ns, session=session, fault=ClientFaultKind.SEND_ERROR)
            ) if at_ns - self._sources_checked_ns > NS_PER_S:
                self._sources_checked_ns = at_ns
                for route in self._routes.values():
                    self._check_source(at_ns, session, route)

    def _check_source(self, now_ns: int, session: str, route: Route) -> None:
        """A session changed: see whether it was this machine's own address that did."""
        try:
            source = self._learn(route.address, route.scope_id)
        except UserError as error:
            source = str(error)
        if source != route.source:
            detail = f"this machine's own address changed: {route.source} -> {source}"
            route.source = source
            of_route = [each.name for each in self._sessions if each.target == route.address]
            name = session if session in of_route else of_route[0]
            self._emit(ClientFault(now_ns, name, ClientFaultKind.LOCAL_ADDRESS, detail))


def _why_refused(error: str, *, keyed: bool) -> str:
    """What a STUN error response (code and reason, RFC 8489, section 14.8) says of these probes."""
    code = error.partition(" ")[0]
    if code == "401":
        why = (
            "is AFFINITY_KEY the server's?"
            if keyed
            else "it wants credentials (with an affinity-tester server: AFFINITY_KEY, on both sides), and these have none"
        )
    elif code == "420" and keyed:
        why = "it does not know what AFFINITY_KEY adds to them (MESSAGE-INTEGRITY-SHA256): unset it"
    else:
        why = "the server does not take them: probe one that answers plain Binding requests"
    return f"the server answers these probes with the error {error:.100}: {why}"


def _open_error(error: OSError, opened: int, wanted: int, source: str) -> UserError:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return UserError(
            f"too few file descriptors for {wanted} sessions (stopped at {opened}): "
            f"raise the hard limit (ulimit -Hn) or take fewer --sessions"
        )
    if error.errno == errno.EADDRINUSE:
        return UserError(f"no free port left at {source} after {opened} sockets: take fewer --sessions")
    return UserError(f"cannot open a socket at {source}: {error.strerror}")
