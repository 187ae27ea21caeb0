"""The one way of every event of a run: to the analysis, and to all who show, record or compare it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from affinity_tester import clock
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    Event,
    PoolNotWatched,
    PoolWatchStarted,
    RunEnded,
    RunStarted,
    SendingStopped,
    Verdict,
)

E = TypeVar("E", bound=Event)
T = TypeVar("T")


class Dispatcher:
    """Gives each event to all consumers in their order, and after it what the analysis derives from it.

    What a consumer or the analysis raises ends the run, and in one way only: it is kept in `failure` and sets `failed`,
    nothing is dispatched after it, and `run_to_verdict` raises it. Whoever emitted the event, a timer of the client or a
    task of the watch, never sees it.
    """

    def __init__(
        self,
        analysis: RunAnalysis,
        consumers: Sequence[Callable[[Event], None]],
        clocks: Sequence[Callable[[int], None]] = (),
    ) -> None:
        """Each of `consumers` gets every event, observed or derived; each of `clocks` the run's time as it passes, in ns."""
        self.analysis = analysis
        self.sending = True
        """Until the last probe went out."""
        self.verdict: Verdict | None = None
        self.failure: Exception | None = None
        """What a consumer or the analysis raised first."""
        self.failed = asyncio.Event()
        """Set with `failure`."""
        self._consumers = tuple(consumers)
        self._clocks = tuple(clocks)
        self._ended = False
        """`RunEnded` was dispatched: what the watch still tells comes after the verdict, and is dropped."""
        self._early: list[Event] | None = []
        """Events before `RunStarted`; None after it."""
        self._enrichments: dict[type[Event], Callable[[Any], Awaitable[Event]]] = {}
        self._enriching: set[asyncio.Task[None]] = set()

    def enrich(self, kind: type[E], enrichment: Callable[[E], Awaitable[Event]]) -> None:
        """Replace each event of a kind by what `enrichment` returns for it; events of other kinds do not wait for it."""
        self._enrichments[kind] = enrichment

    def emit(self, event: Event) -> None:
        """Take in an observed event; raises nothing.

        What comes before `RunStarted` (the first look at the pool) waits for it: it must be the first event of the log.
        """
        enrichment = self._enrichments.get(type(event))
        if enrichment is not None:
            task = asyncio.ensure_future(self._dispatch_enriched(enrichment(event)))
            self._enriching.add(task)
            task.add_done_callback(self._enriching.discard)
        elif isinstance(event, RunStarted):
            self._guarded(self._start, event)
        elif self._early is not None:
            self._early.append(event)
        else:
            self._guarded(self._dispatch, event)

    def advance(self) -> None:
        """Let time pass: some judgements become certain by it alone."""
        self._guarded(self._advance, clock.now_ns())

    def raise_failure(self) -> None:
        """Raise what a consumer or the analysis raised, if one did."""
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """Drop the events that still wait to be enriched."""
        for task in self._enriching:
            task.cancel()
        await asyncio.gather(*self._enriching, return_exceptions=True)

    def _guarded(self, work: Callable[[T], None], argument: T) -> None:
        if self.failure is not None or self._ended:
            return
        try:
            work(argument)
        except Exception as error:  # handed on to `run_to_verdict`, which raises it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self.failed.set()

    def _start(self, event: RunStarted) -> None:
        early, self._early = self._early or [], None
        self._dispatch(event)

        for each in early:
            # The pool was seen when it was seen, which counts for judging. That there is a watch is news of the start.
            is_news = isinstance(each, PoolWatchStarted | PoolNotWatched)
            self._dispatch(replace(each, at_ns=event.at_ns) if is_news else each)

    async def _dispatch_enriched(self, enriched: Awaitable[Event]) -> None:
        try:
            event = await enriched
        except Exception as error:  # as above
            self._fail(error)
        else:
            self._guarded(self._dispatch, event)

    def _dispatch(self, event: Event) -> None:
        """Publish an observed event, and then what follows from it."""
        if isinstance(event, SendingStopped):
            self.sending = False
        self._publish(event)
        self._publish_all(self.analysis.feed(event))
        self._ended = isinstance(event, RunEnded)

    def _advance(self, now_ns: int) -> None:
        self._publish_all(self.analysis.advance(now_ns))
        for advance in self._clocks:
            advance(now_ns)

    def _publish_all(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Verdict):
                self.verdict = event
            self._publish(event)

    def _publish(self, event: Event) -> None:
        for consume in self._consumers:
            consume(event)
