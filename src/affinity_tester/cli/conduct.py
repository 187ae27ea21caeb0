"""Conducts a live run: what is observed goes through the analysis to whoever shows it, until the judgements have settled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from affinity_tester import clock
from affinity_tester.cli.signals import TERMINATING, handle_signals
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    Event,
    Outcome,
    RunEnded,
    RunStarted,
    SendingStopped,
    Settling,
    Verdict,
    WatchBegun,
    WatchMissing,
)
from affinity_tester.settings import NS_PER_S

EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}
"""docs/judging.md#verdict; 1 means nothing else."""

ADVANCE_S = 0.25
"""How often time alone may make a judgement certain."""

SETTLING_NS = 5 * NS_PER_S
"""How often the run says what it still waits for."""


class Pipeline:
    """One way for every event: it is shown, and so is what follows from it."""

    def __init__(
        self, analysis: RunAnalysis, show: Callable[[Event], None], pass_time: Callable[[int], None] | None = None
    ) -> None:
        """`show` gets every event, observed or derived, in the order in which they became known.

        `pass_time` is told the time as it passes (in ns of the run's clock).
        """
        self._analysis = analysis
        self._show = show
        self._pass_time = pass_time
        self._waiting: list[Event] | None = []
        """Events before `RunStarted`; None after it."""
        self.sending = True
        """Until the last probe went out."""
        self.verdict: Verdict | None = None
        self.failure: Exception | None = None
        """What `show` raised first, to whomever: whoever reads the log may have gone when the watch had news."""

    @property
    def open_count(self) -> int:
        """Judgements that are still to come."""
        return self._analysis.open_count

    @property
    def settled(self) -> bool:
        """Whether the run has nothing more to wait for."""
        return self._analysis.settled

    @property
    def wants_list_after_ns(self) -> int | None:
        """A list of the pool made later than this would settle the oldest open judgement; None: none is wanted."""
        return self._analysis.wants_list_after_ns

    def emit(self, event: Event) -> None:
        """Take in an observed event. What comes before the run has started (the first look at the pool) waits for that.

        It keeps its time, which counts for judging; only what merely says whether there is a watch gets that of its telling.
        """
        if isinstance(event, RunStarted):
            waiting, self._waiting = self._waiting or [], None
            self._pass(event)
            self._pass(self._analysis.rules.given(event.at_ns))
            for each in waiting:
                said = isinstance(each, WatchBegun | WatchMissing)
                self._pass(replace(each, at_ns=event.at_ns) if said else each)
        elif self._waiting is not None:
            self._waiting.append(event)
        else:
            self._pass(event)

    def _pass(self, event: Event) -> None:
        if isinstance(event, SendingStopped):
            self.sending = False
        self._present(event)
        self._tell(self._analysis.feed(event))

    def advance(self) -> None:
        """Time passed."""
        now_ns = clock.now_ns()
        self._tell(self._analysis.advance(now_ns))
        if self._pass_time is not None:
            self._pass_time(now_ns)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Verdict):
                self.verdict = event
            self._present(event)

    def _present(self, event: Event) -> None:
        try:
            self._show(event)
        except Exception as error:
            self.failure = self.failure or error
            raise


def _nothing(_after_ns: int | None) -> None:
    """Without a watch no list can be had."""


async def conduct(
    pipeline: Pipeline,
    observed: Awaitable[None],
    abort: asyncio.Event,
    settle_ns: int,
    want_list: Callable[[int | None], None] = _nothing,
) -> Verdict:
    """Let `observed` (the client's run) end, then wait until every judgement is certain, or `abort` is set.

    What the pipeline failed to show ends the run and is raised here, whoever had told it.
    `want_list` is told, as often as time passes, after when a list of the pool is wanted.
    """
    observing = asyncio.ensure_future(observed)
    try:
        while not observing.done():
            await asyncio.wait({observing}, timeout=ADVANCE_S)
            if pipeline.failure is not None and not observing.done():
                raise pipeline.failure
            want_list(pipeline.wants_list_after_ns)
            pipeline.advance()
        observing.result()
        # A list of the pool is asked for as soon as the settle time is over; a dead API server must not hold the run.
        deadline_ns = clock.now_ns() + 2 * settle_ns + 5 * NS_PER_S
        tell_ns = 0
        while not pipeline.settled and not abort.is_set() and (now_ns := clock.now_ns()) < deadline_ns:
            if pipeline.open_count and now_ns >= tell_ns:
                pipeline.emit(Settling(now_ns, pipeline.open_count, deadline_ns - now_ns))
                tell_ns = now_ns + SETTLING_NS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(abort.wait(), ADVANCE_S)
            want_list(pipeline.wants_list_after_ns)
            pipeline.advance()
    finally:
        observing.cancel()
    pipeline.emit(RunEnded(clock.now_ns(), abort.is_set()))
    assert pipeline.verdict is not None, "the end of a run has a verdict"
    return pipeline.verdict


@contextlib.contextmanager
def stop_on_signals(
    stop: asyncio.Event, abort: asyncio.Event, pipeline: Pipeline, *, to_the_end: bool = False
) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP (a dropped terminal) set `stop`.

    A second one, or the first when sending has stopped by itself, sets `abort` too. `to_the_end`: the process ends with this
    run; one that comes when the verdict is told must not take its exit code away.
    """
    numbers = (signal.SIGINT, *TERMINATING)

    def on_signal() -> None:
        if stop.is_set() or not pipeline.sending:
            abort.set()
        stop.set()

    try:
        with handle_signals(dict.fromkeys(numbers, on_signal)):
            yield
    finally:
        if to_the_end and stop.is_set():
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
