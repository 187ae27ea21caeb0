"""The way of an event to its consumers: the order, what waits, and what becomes of a consumer that fails."""

from __future__ import annotations

import asyncio

import pytest
from live_events import NS, Told, changed, started, summed

from affinity_tester import clock
from affinity_tester.app.dispatcher import Dispatcher
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    CaseJudged,
    ChangeSeen,
    Event,
    NoReplies,
    PoolNotWatched,
    PoolObserved,
    PoolWatchStarted,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    Settling,
    Verdict,
)
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import PoolSnapshot


class BrokenConsumerError(Exception):
    pass


def fail(*_arguments: object) -> None:
    raise BrokenConsumerError


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def dispatcher(told: Told) -> Dispatcher:
    return Dispatcher(RunAnalysis(Rules()), [told.append])


def settling() -> Settling:
    return Settling(clock.now_ns(), 1, NS)


def test_every_consumer_gets_an_event_before_any_gets_what_follows_from_it() -> None:
    got: list[tuple[str, type[Event]]] = []
    dispatcher = Dispatcher(
        RunAnalysis(Rules()),
        [lambda event: got.append(("first", type(event))), lambda event: got.append(("second", type(event)))],
    )
    dispatcher.emit(started())
    got.clear()
    dispatcher.emit(changed(0))
    assert got == [("first", ChangeSeen), ("second", ChangeSeen), ("first", CaseJudged), ("second", CaseJudged)]


def test_what_came_before_the_start_is_told_after_it_and_keeps_the_time_that_counts(
    told: Told, dispatcher: Dispatcher
) -> None:
    seen = PoolObserved(5, 5, 5, PoolSnapshot(frozenset(), ()), 5)
    for event in (seen, PoolWatchStarted(6, "kind-test", "media/turn", ""), PoolNotWatched(7, "why")):
        dispatcher.emit(event)
    assert told == []
    start = started()
    dispatcher.emit(start)
    begun = PoolWatchStarted(start.at_ns, "kind-test", "media/turn", "")
    assert told == [start, seen, begun, PoolNotWatched(start.at_ns, "why")]


def test_the_clocks_are_told_the_time_after_what_it_made_certain(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[tuple[int, int]] = []
    dispatcher = Dispatcher(
        RunAnalysis(Rules()), [told.append], [lambda now_ns: times.append((now_ns, len(told.of(CaseJudged))))]
    )
    dispatcher.emit(started())
    dispatcher.emit(changed(NS))
    then_ns = clock.now_ns() + 60 * NS
    monkeypatch.setattr(clock, "now_ns", lambda: then_ns)
    dispatcher.advance()
    assert times == [(then_ns, 1)]


def test_it_knows_the_end_of_sending_and_the_verdict(told: Told, dispatcher: Dispatcher) -> None:
    dispatcher.emit(started())
    assert (dispatcher.sending, dispatcher.verdict) == (True, None)
    dispatcher.emit(SendingStopped(clock.now_ns(), interrupted=False))
    assert not dispatcher.sending
    dispatcher.emit(summed())
    dispatcher.emit(RunEnded(clock.now_ns(), aborted=False))
    assert told[-1] is dispatcher.verdict
    assert isinstance(told[-1], Verdict)


# --- a consumer that fails -------------------------------------------------------------------------------------------


def test_what_a_consumer_raises_is_kept_and_nothing_is_dispatched_after_it(told: Told) -> None:
    def show(event: Event) -> None:
        if isinstance(event, Settling):
            fail()

    dispatcher = Dispatcher(RunAnalysis(Rules()), [told.append, show])
    dispatcher.emit(started())
    dispatcher.raise_failure()
    assert not dispatcher.failed.is_set()

    dispatcher.emit(settling())
    dispatcher.emit(summed())
    dispatcher.advance()
    assert [type(event) for event in told] == [RunStarted, Settling]
    assert dispatcher.failed.is_set()
    with pytest.raises(BrokenConsumerError):
        dispatcher.raise_failure()


def test_what_the_analysis_raises_is_kept_too(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher.emit(started())
    monkeypatch.setattr(dispatcher.analysis, "feed", fail)
    dispatcher.emit(summed())
    assert isinstance(dispatcher.failure, BrokenConsumerError)


def test_what_fails_as_time_passes_is_kept_too() -> None:
    dispatcher = Dispatcher(RunAnalysis(Rules()), [], [fail])
    dispatcher.emit(started())
    dispatcher.advance()
    assert isinstance(dispatcher.failure, BrokenConsumerError)


# --- events that are enriched ----------------------------------------------------------------------------------------


def silence(reason: str) -> NoReplies:
    return NoReplies(clock.now_ns(), NS, reason)


async def test_an_event_waits_for_its_enrichment_and_others_do_not(told: Told, dispatcher: Dispatcher) -> None:
    known = asyncio.Event()
    with_reason = silence("no endpoints")

    async def enrich(_event: NoReplies) -> Event:
        await known.wait()
        return with_reason

    dispatcher.enrich(NoReplies, enrich)
    dispatcher.emit(started())
    dispatcher.emit(silence(""))
    await asyncio.sleep(0)
    dispatcher.emit(summed())
    known.set()
    async with asyncio.timeout(20):
        while not told.of(NoReplies):  # noqa: ASYNC110 - nothing tells but the list
            await asyncio.sleep(0)
    assert [type(event) for event in told] == [RunStarted, RunSummary, NoReplies]
    assert told[-1] is with_reason


async def test_an_event_whose_enrichment_is_not_there_in_the_end_is_dropped(told: Told, dispatcher: Dispatcher) -> None:
    async def enrich(_event: NoReplies) -> Event:
        await asyncio.Event().wait()
        raise AssertionError

    dispatcher.enrich(NoReplies, enrich)
    dispatcher.emit(started())
    dispatcher.emit(silence(""))
    await asyncio.sleep(0)
    await dispatcher.close()
    assert told.of(NoReplies) == []
    dispatcher.raise_failure()


@pytest.mark.parametrize("where", ["enrichment", "consumer"])
async def test_a_failure_of_an_enriched_event_is_kept_too(where: str) -> None:
    def show(event: Event) -> None:
        if isinstance(event, NoReplies):
            fail()

    async def enrich(event: NoReplies) -> Event:
        if where == "enrichment":
            fail()
        return event

    dispatcher = Dispatcher(RunAnalysis(Rules()), [show])
    dispatcher.enrich(NoReplies, enrich)
    dispatcher.emit(started())
    dispatcher.emit(silence(""))
    async with asyncio.timeout(20):
        await dispatcher.failed.wait()
    assert isinstance(dispatcher.failure, BrokenConsumerError)
    await dispatcher.close()


def test_nothing_comes_after_the_verdict(dispatcher: Dispatcher, told: Told) -> None:
    """The watch is still open while the run ends, and may tell something in that moment."""
    dispatcher.emit(started())
    dispatcher.emit(RunEnded(clock.now_ns(), aborted=False))
    assert isinstance(told[-1], Verdict)
    dispatcher.emit(PoolObserved(clock.now_ns(), 0, clock.now_ns(), PoolSnapshot(frozenset()), 0))
    dispatcher.advance()
    assert isinstance(told[-1], Verdict)
