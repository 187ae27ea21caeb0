"""A live run until its verdict: what ends it, how long the end may take, and what the signals do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from live_events import NS, Told, changed, started, summed

from affinity_tester import clock
from affinity_tester.app import run as run_module
from affinity_tester.app.dispatcher import Dispatcher
from affinity_tester.app.run import run_to_verdict, stop_on_signals
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    CaseJudged,
    ChangeSeen,
    Event,
    Judgement,
    Outcome,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    Settling,
    Verdict,
)
from affinity_tester.core.judging.rules import Rules


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def dispatcher(told: Told) -> Dispatcher:
    return Dispatcher(RunAnalysis(Rules()), [told.append])


async def test_what_follows_from_an_event_is_shown_after_it(told: Told, dispatcher: Dispatcher) -> None:
    async def run() -> None:
        for event in (started(), changed(0), SendingStopped(clock.now_ns(), interrupted=False), summed()):
            dispatcher.emit(event)

    verdict = await run_to_verdict(dispatcher, run(), asyncio.Event(), 0)
    assert verdict.outcome is Outcome.FAIL
    kinds = [type(event) for event in told]
    assert kinds.index(CaseJudged) == kinds.index(ChangeSeen) + 1
    assert kinds.index(RunEnded) > kinds.index(RunSummary)
    assert told[-1] is verdict
    assert told.of(RunEnded) == [RunEnded(verdict.at_ns, aborted=False)]


async def test_time_alone_makes_a_judgement_certain_while_the_run_goes_on(told: Told, dispatcher: Dispatcher) -> None:
    async def run() -> None:
        dispatcher.emit(started())
        dispatcher.emit(changed(NS // 10))
        async with asyncio.timeout(20):
            while not told.of(CaseJudged):  # noqa: ASYNC110 - nothing tells but the list
                await asyncio.sleep(0.05)
        dispatcher.emit(summed())

    assert (await run_to_verdict(dispatcher, run(), asyncio.Event(), 0)).outcome is Outcome.FAIL


async def test_the_end_waits_for_judgements_and_says_so(
    told: Told, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "ADVANCE_S", 0.02)
    monkeypatch.setattr(run_module, "SETTLING_NS", NS // 5)

    async def run() -> None:
        for event in (started(), changed(NS // 2), summed()):
            dispatcher.emit(event)

    await run_to_verdict(dispatcher, run(), asyncio.Event(), 0)
    (judged,) = told.of(CaseJudged)
    assert isinstance(judged, CaseJudged)
    assert judged.judgement is Judgement.VIOLATION
    settling = [event for event in told if isinstance(event, Settling)]
    assert 1 <= len(settling) <= 3
    assert {event.open_count for event in settling} == {1}
    assert all(0 < event.up_to_ns <= 5 * NS for event in settling)
    assert told.of(RunEnded)[0].at_ns >= judged.at_ns


async def test_abort_leaves_open_judgements_unknown(told: Told, dispatcher: Dispatcher) -> None:
    abort = asyncio.Event()

    async def run() -> None:
        for event in (started(), changed(3600 * NS), summed()):
            dispatcher.emit(event)
        asyncio.get_running_loop().call_later(0.1, abort.set)

    verdict = await asyncio.wait_for(run_to_verdict(dispatcher, run(), abort, 3600 * NS), 20)
    assert isinstance(verdict, Verdict)
    (ended,) = told.of(RunEnded)
    assert isinstance(ended, RunEnded)
    assert ended.aborted


async def test_what_cannot_be_judged_holds_the_run_for_a_bounded_time(
    told: Told, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 3600 * NS, NS))
    monkeypatch.setattr(clock, "now_ns", lambda: next(times))  # each look at it is a second later
    monkeypatch.setattr(run_module, "ADVANCE_S", 0.001)

    async def run() -> None:
        for event in (started(), changed(10**6 * NS), summed()):
            dispatcher.emit(event)

    await asyncio.wait_for(run_to_verdict(dispatcher, run(), asyncio.Event(), 10 * NS), 20)
    assert told.of(RunEnded)[0].at_ns <= 32 * NS  # 2 x settle + 5 s, and the looks before it


async def test_what_the_run_raises_is_raised_and_no_verdict_is_given(told: Told, dispatcher: Dispatcher) -> None:
    async def run() -> None:
        dispatcher.emit(started())
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        await run_to_verdict(dispatcher, run(), asyncio.Event(), 0)
    assert [type(event) for event in told] == [RunStarted]


async def test_a_log_that_ends_while_time_passes_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndError(Exception):
        pass

    def show(event: Event) -> None:
        if isinstance(event, CaseJudged):
            raise EndError

    dispatcher = Dispatcher(RunAnalysis(Rules()), [show])
    ended = asyncio.Event()

    async def run() -> None:
        try:
            dispatcher.emit(started())
            dispatcher.emit(changed(NS // 10))
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(EndError):
        await asyncio.wait_for(run_to_verdict(dispatcher, run(), asyncio.Event(), 0), 20)
    await asyncio.wait_for(ended.wait(), 20)


async def test_a_failure_that_nobody_awaits_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch's tasks raise into nobody, and neither client nor time needs to come by."""
    monkeypatch.setattr(run_module, "ADVANCE_S", 3600)
    closed = asyncio.Event()

    def show(event: Event) -> None:
        if isinstance(event, Settling):
            raise BrokenPipeError

    dispatcher = Dispatcher(RunAnalysis(Rules()), [show])
    dispatcher.emit(started())

    async def client() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.set()

    asyncio.get_running_loop().call_later(0.05, dispatcher.emit, Settling(clock.now_ns(), 1, NS))
    async with asyncio.timeout(20):
        with pytest.raises(BrokenPipeError):
            await run_to_verdict(dispatcher, client(), asyncio.Event(), 0)
    assert closed.is_set(), "the client is gone when the failure is raised"


async def test_a_failure_while_judgements_are_awaited_ends_the_run() -> None:
    def show(event: Event) -> None:
        if isinstance(event, Settling):
            raise BrokenPipeError

    dispatcher = Dispatcher(RunAnalysis(Rules()), [show])

    async def client() -> None:
        for event in (started(), changed(3600 * NS), summed()):
            dispatcher.emit(event)

    async with asyncio.timeout(20):
        with pytest.raises(BrokenPipeError):
            await run_to_verdict(dispatcher, client(), asyncio.Event(), 3600 * NS)


@pytest.mark.parametrize("kind", [RunEnded, Verdict])
async def test_a_failure_at_the_very_end_is_raised(kind: type[Event]) -> None:
    def show(event: Event) -> None:
        if isinstance(event, kind):
            raise BrokenPipeError

    dispatcher = Dispatcher(RunAnalysis(Rules()), [show])

    async def client() -> None:
        dispatcher.emit(started())
        dispatcher.emit(summed())

    with pytest.raises(BrokenPipeError):
        await run_to_verdict(dispatcher, client(), asyncio.Event(), 0)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kill() -> Iterator[Callable[[signal.Signals], object]]:
    """Send this process a signal; its handlers are as before in the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda number: os.kill(os.getpid(), number)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_and_the_second_aborts(
    number: signal.Signals, dispatcher: Dispatcher, kill: Callable[[signal.Signals], object]
) -> None:
    stop, abort = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop, abort, dispatcher):
        kill(number)
        await asyncio.wait_for(stop.wait(), 20)
        assert not abort.is_set()
        kill(number)
        await asyncio.wait_for(abort.wait(), 20)


async def test_when_sending_has_stopped_by_itself_the_first_signal_aborts(
    dispatcher: Dispatcher, kill: Callable[[signal.Signals], object]
) -> None:
    stop, abort = asyncio.Event(), asyncio.Event()
    dispatcher.emit(started())
    dispatcher.emit(SendingStopped(clock.now_ns(), interrupted=False))
    with stop_on_signals(stop, abort, dispatcher):
        kill(signal.SIGINT)
        await asyncio.wait_for(abort.wait(), 20)
        assert stop.is_set()


@pytest.mark.parametrize(("to_the_end", "then"), [(True, signal.SIG_IGN), (False, signal.default_int_handler)])
async def test_a_signal_that_comes_when_the_verdict_is_told_takes_no_exit_code_away(
    to_the_end: bool, then: object
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    stop, abort = asyncio.Event(), asyncio.Event()
    dispatcher = Dispatcher(RunAnalysis(Rules()), [])
    try:
        with stop_on_signals(stop, abort, dispatcher, to_the_end=to_the_end):
            os.kill(os.getpid(), signal.SIGINT)
            await stop.wait()
        assert signal.getsignal(signal.SIGINT) is then
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
