"""How a live run is conducted: what the signals do, what is shown in which order, and how long the end may take."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from affinity_tester import clock
from affinity_tester.app import run as run_module
from affinity_tester.app.run import EXIT_CODES, Pipeline, conduct, stop_on_signals
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.analysis import Rules, RunAnalysis
from affinity_tester.core.events import (
    Change,
    ChangeJudged,
    ChangeSeen,
    Counts,
    Event,
    Judgement,
    Losses,
    Outcome,
    PoolObserved,
    RttStats,
    RulesGiven,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    Settling,
    Sighting,
    Verdict,
    WatchBegun,
    WatchMissing,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.pool import PoolSnapshot

NS = 1_000_000_000
TARGET = TransportAddress("192.0.2.1", 3478)


def started() -> RunStarted:
    return RunStarted(
        clock.now_ns(),
        wall_ns=0,
        utc_offset_s=0,
        version="0",
        target=TARGET,
        target_name="x",
        sessions=1,
        interval_ns=NS,
        loss_threshold_ns=NS,
        request_size=288,
        connected=False,
        lost_guarantees=(),
    )


def changed(settles_in_ns: int) -> ChangeSeen:
    """A change that becomes certain so much later."""
    now_ns = clock.now_ns()
    before = Sighting(1, now_ns - 2, Identity(pod="pod-a"))
    after = Sighting(2, now_ns - 1, Identity(pod="pod-b"))
    change = Change(1, (Kind.POD,), before, after, now_ns, 1, now_ns + settles_in_ns)
    return ChangeSeen(now_ns, "CLIENT-1", change)


def summed() -> RunSummary:
    total = Counts(sent=1000, answered=1000, pairs=999)
    return RunSummary(clock.now_ns(), NS, total, Losses(), RttStats(), (), 0)


class Told(list[Event]):
    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def pipeline(told: Told) -> Pipeline:
    return Pipeline(RunAnalysis(Rules()), told.append)


def test_1_means_nothing_but_a_failed_verdict() -> None:
    assert EXIT_CODES == {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}
    assert set(EXIT_CODES) == set(Outcome)


async def test_what_follows_from_an_event_is_shown_after_it(told: Told, pipeline: Pipeline) -> None:
    async def run() -> None:
        for event in (started(), changed(0), SendingStopped(clock.now_ns(), interrupted=False), summed()):
            pipeline.emit(event)

    verdict = await conduct(pipeline, run(), asyncio.Event(), 0)
    assert verdict.outcome is Outcome.FAIL
    kinds = [type(event) for event in told]
    assert kinds.index(ChangeJudged) == kinds.index(ChangeSeen) + 1
    assert kinds.index(RunEnded) > kinds.index(RunSummary)
    assert told[-1] is verdict
    assert told.of(RunEnded) == [RunEnded(verdict.at_ns, aborted=False)]


def test_what_came_before_the_start_is_told_after_it_and_keeps_the_time_that_counts(
    told: Told, pipeline: Pipeline
) -> None:
    seen = PoolObserved(5, 5, 5, PoolSnapshot(frozenset(), ()), 5)
    for event in (seen, WatchBegun(6, "kind-test", "media/turn", ""), WatchMissing(7, "why")):
        pipeline.emit(event)
    assert told == []
    start = started()
    pipeline.emit(start)
    begun = WatchBegun(start.at_ns, "kind-test", "media/turn", "")
    assert told == [start, Rules().given(start.at_ns), seen, begun, WatchMissing(start.at_ns, "why")]


async def test_time_alone_makes_a_judgement_certain_while_the_run_goes_on(told: Told, pipeline: Pipeline) -> None:
    async def run() -> None:
        pipeline.emit(started())
        pipeline.emit(changed(NS // 10))
        async with asyncio.timeout(20):
            while not told.of(ChangeJudged):  # noqa: ASYNC110 - nothing tells but the list
                await asyncio.sleep(0.05)
        pipeline.emit(summed())

    assert (await conduct(pipeline, run(), asyncio.Event(), 0)).outcome is Outcome.FAIL


async def test_the_end_waits_for_judgements_and_says_so(
    told: Told, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "ADVANCE_S", 0.02)
    monkeypatch.setattr(run_module, "SETTLING_NS", NS // 5)

    async def run() -> None:
        for event in (started(), changed(NS // 2), summed()):
            pipeline.emit(event)

    await conduct(pipeline, run(), asyncio.Event(), 0)
    (judged,) = told.of(ChangeJudged)
    assert isinstance(judged, ChangeJudged)
    assert judged.judgement is Judgement.VIOLATION
    settling = [event for event in told if isinstance(event, Settling)]
    assert 1 <= len(settling) <= 3
    assert {event.open_count for event in settling} == {1}
    assert all(0 < event.up_to_ns <= 5 * NS for event in settling)
    assert told.of(RunEnded)[0].at_ns >= judged.at_ns


async def test_abort_leaves_open_judgements_unknown(told: Told, pipeline: Pipeline) -> None:
    abort = asyncio.Event()

    async def run() -> None:
        for event in (started(), changed(3600 * NS), summed()):
            pipeline.emit(event)
        asyncio.get_running_loop().call_later(0.1, abort.set)

    verdict = await asyncio.wait_for(conduct(pipeline, run(), abort, 3600 * NS), 20)
    assert isinstance(verdict, Verdict)
    (ended,) = told.of(RunEnded)
    assert isinstance(ended, RunEnded)
    assert ended.aborted


async def test_what_cannot_be_judged_holds_the_run_for_a_bounded_time(
    told: Told, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 3600 * NS, NS))
    monkeypatch.setattr(clock, "now_ns", lambda: next(times))  # each look at it is a second later
    monkeypatch.setattr(run_module, "ADVANCE_S", 0.001)

    async def run() -> None:
        for event in (started(), changed(10**6 * NS), summed()):
            pipeline.emit(event)

    await asyncio.wait_for(conduct(pipeline, run(), asyncio.Event(), 10 * NS), 20)
    assert told.of(RunEnded)[0].at_ns <= 32 * NS  # 2 x settle + 5 s, and the looks before it


async def test_what_the_run_raises_is_raised_and_no_verdict_is_given(told: Told, pipeline: Pipeline) -> None:
    async def run() -> None:
        pipeline.emit(started())
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        await conduct(pipeline, run(), asyncio.Event(), 0)
    assert [type(event) for event in told] == [RunStarted, RulesGiven]


async def test_a_log_that_ends_while_time_passes_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndError(Exception):
        pass

    def show(event: Event) -> None:
        if isinstance(event, ChangeJudged):
            raise EndError

    pipeline = Pipeline(RunAnalysis(Rules()), show)
    ended = asyncio.Event()

    async def run() -> None:
        try:
            pipeline.emit(started())
            pipeline.emit(changed(NS // 10))
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(EndError):
        await asyncio.wait_for(conduct(pipeline, run(), asyncio.Event(), 0), 20)
    await asyncio.wait_for(ended.wait(), 20)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kill() -> Iterator[Callable[[signal.Signals], object]]:
    """Send this process a signal; its handlers are as before in the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda number: os.kill(os.getpid(), number)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_and_the_second_aborts(
    number: signal.Signals, pipeline: Pipeline, kill: Callable[[signal.Signals], object]
) -> None:
    stop, abort = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop, abort, pipeline):
        kill(number)
        await asyncio.wait_for(stop.wait(), 20)
        assert not abort.is_set()
        kill(number)
        await asyncio.wait_for(abort.wait(), 20)


async def test_when_sending_has_stopped_by_itself_the_first_signal_aborts(
    pipeline: Pipeline, kill: Callable[[signal.Signals], object]
) -> None:
    stop, abort = asyncio.Event(), asyncio.Event()
    pipeline.emit(started())
    pipeline.emit(SendingStopped(clock.now_ns(), interrupted=False))
    with stop_on_signals(stop, abort, pipeline):
        kill(signal.SIGINT)
        await asyncio.wait_for(abort.wait(), 20)
        assert stop.is_set()


async def test_a_log_whose_reader_has_gone_ends_the_run_whoever_told_the_line() -> None:
    gone = False

    def show(event: Event) -> None:
        nonlocal gone
        if isinstance(event, PoolObserved) and not gone:
            gone = True
            raise BrokenPipeError

    pipeline = Pipeline(RunAnalysis(Rules()), show)
    pipeline.emit(started())
    with pytest.raises(BrokenPipeError):  # the watch keeps it to itself, as its tasks raise into nobody
        pipeline.emit(PoolObserved(clock.now_ns(), 0, clock.now_ns(), PoolSnapshot(frozenset()), 0))
    async with asyncio.timeout(10):
        with pytest.raises(BrokenPipeError):
            await conduct(pipeline, asyncio.sleep(60), asyncio.Event(), 0)


@pytest.mark.parametrize(("to_the_end", "then"), [(True, signal.SIG_IGN), (False, signal.default_int_handler)])
async def test_a_signal_that_comes_when_the_verdict_is_told_takes_no_exit_code_away(
    to_the_end: bool, then: object
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    stop, abort = asyncio.Event(), asyncio.Event()
    pipeline = Pipeline(RunAnalysis(Rules()), lambda _event: None)
    try:
        with stop_on_signals(stop, abort, pipeline, to_the_end=to_the_end):
            os.kill(os.getpid(), signal.SIGINT)
            await stop.wait()
        assert signal.getsignal(signal.SIGINT) is then
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
