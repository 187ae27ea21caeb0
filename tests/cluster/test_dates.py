"""Every change of the pool lies in the interval that is told for it, whatever an honest API server and client do to time.

The oracle knows when each change truly happened. Delays, stalls of lists and watches, cuts and a suspended client are drawn;
each state of an object is unlike any other of it, so that what is told says which changes it has.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.core.events import (
    ApiServerAnswered,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
)
from affinity_tester.core.pool import PoolSnapshot
from cluster.simulation import NS, SimApi, Weather, cluster_of, simulate
from fakeapi import Json, endpoint_slice, numbered_endpoint, service

REF = ServiceRef("media", "turn")


@dataclass(frozen=True)
class History:
    """What happens, in seconds."""

    seed: int
    slices: int
    weather: Weather
    changes: tuple[tuple[float, str], ...] = ()
    """(when, what): `slice`, `delete`, `create` or `service`."""
    cuts: tuple[float, ...] = ()
    until_s: float = 60
    wants: bool = False
    """A judgement waits for lists all the time."""


@dataclass
class Play:
    """What was told, and what was true."""

    states: dict[str, list[tuple[int, int | None]]] = field(default_factory=dict)
    """By object: when, in ns, it came into each of its states, all unlike each other; None: it is not there."""
    events: list[Event] = field(default_factory=list)


def state_of(snapshot: PoolSnapshot) -> dict[str, int]:
    """By object: which state of it a snapshot shows."""
    found = {"service": int(dict(snapshot.spec)["sessionAffinityTimeout"].removesuffix(" s"))}
    for each in snapshot.endpoints:
        number = int(each.pod.removeprefix("turn-"))
        found[f"turn-{number // 1000}"] = number % 1000
    return found


def a_slice(number: int, state: int) -> Json:
    return endpoint_slice(numbered_endpoint(number * 1000 + state), name=f"turn-{number}")


def a_service(state: int) -> Json:
    return service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": state}})


def play(history: History) -> Play:
    """Have a watch look at it."""
    return simulate(lambda: _play(history))


async def _play(history: History) -> Play:
    random.seed(history.seed)
    api = SimApi(history.seed, history.weather)
    done = Play()
    api.change("services", a_service(0))
    done.states["service"] = [(0, 0)]
    for number in range(history.slices):
        api.change("endpointslices", a_slice(number, 0))
        done.states[f"turn-{number}"] = [(0, 0)]
    _plan(api, history, done)
    watch = PoolWatch(cluster_of(api), REF, 3478, done.events.append, now_ns=api.now_ns)
    await watch.start(history.until_s)
    while api.now_ns() < api.ns(history.until_s):
        await asyncio.sleep(0.25)
        watch.request_confirmation(api.now_ns() - 12 * NS if history.wants else None)
    last = None
    for _ in range(100):  # calm weather
        if await watch.confirm():
            last = watch.snapshot
            break
        await asyncio.sleep(0.5)
    assert last is not None, "the pool is never confirmed"
    await watch.stop()
    return done


def _plan(api: SimApi, history: History, done: Play) -> None:
    """Have the changes happen; slices come and go once at the most."""
    chance = random.Random(history.seed)
    alive, count = list(range(history.slices)), history.slices
    for order, (about_s, what) in enumerate(sorted(history.changes)):
        at_s = about_s + order / 1e6  # no two at once
        state: int | None = None
        if what == "service":
            state = len(done.states["service"])
            name, obj = "service", a_service(state)
        elif what == "create":
            number, count, state = count, count + 1, 0
            name, obj = f"turn-{number}", a_slice(number, state)
            done.states[name] = [(0, None)]
        elif not alive:
            continue
        else:
            number = chance.choice(alive)
            name = f"turn-{number}"
            if what == "delete":
                alive.remove(number)
            else:
                state = len(done.states[name])
            obj = a_slice(number, state or 0)
        done.states[name].append((api.ns(at_s), state))
        resource = "services" if what == "service" else "endpointslices"
        api.plan(at_s, partial(api.change, resource, obj, at_s=at_s, delete=state is None))
    for at_s in history.cuts:
        api.plan(at_s, api.cut)
    for at_s in range(5, int(history.until_s), 20):
        api.plan(at_s, api.bookmark)


def check(done: Play) -> list[int]:
    """Compare what was told with what was true. Returns the widths of the intervals, in ns."""
    shown: dict[str, int] | None = None
    widths, until_ns, at_ns = [], 0, 0

    def has_all_before(asked_ns: int) -> None:
        assert shown is not None
        for name, states in done.states.items():
            assert not [when for when, _ in states[shown[name] + 1 :] if when < asked_ns], (name, asked_ns, shown)

    for event in done.events:
        assert event.at_ns >= at_ns
        at_ns = event.at_ns
        match event:
            case PoolObserved():
                now = state_of(event.snapshot)
                after = {name: [v for _, v in each].index(now.get(name)) for name, each in done.states.items()}
                assert event.since_ns <= event.until_ns <= event.at_ns
                assert until_ns <= event.until_ns
                until_ns = event.until_ns
                for name, states in done.states.items():
                    assert states[after[name]][0] <= event.until_ns
                    for when, _ in [] if shown is None else states[shown[name] + 1 : after[name] + 1]:
                        assert event.since_ns < when <= event.until_ns, (name, when, event)
                    assert shown is None or after[name] >= shown[name]
                if shown is not None:
                    widths.append(event.until_ns - event.since_ns)
                shown = after
                if event.asked_ns is not None:
                    has_all_before(event.asked_ns)
            case PoolConfirmed(asked_ns=asked_ns):
                assert asked_ns <= at_ns
                has_all_before(asked_ns)
            case PoolUnobserved(since_ns=since_ns):
                assert since_ns <= at_ns
                has_all_before(since_ns)
            case _:
                pass
    assert shown == {name: len(states) - 1 for name, states in done.states.items()}
    return widths


# --- the kinds --------------------------------------------------------------------------------------------------------


def seconds(done: Play) -> list[tuple[float, float, float]]:
    """(since, until, told) of each change, to a tenth of a second since the beginning."""
    changes = [event for event in done.events if isinstance(event, PoolObserved)][1:]
    return [
        tuple(round(ns / NS - 1000, 1) for ns in (each.since_ns, each.until_ns, each.at_ns))  # type: ignore[misc]
        for each in changes
    ]


def test_in_good_weather_a_change_is_dated_to_half_the_settle_time() -> None:
    done = play(History(1, 3, Weather(), ((12.5, "slice"), (22.5, "delete"), (32.5, "service"), (42.5, "create"))))
    check(done)
    assert seconds(done) == [(10.0, 12.5, 12.5), (20.0, 22.5, 22.5), (30.0, 32.5, 32.5), (40.0, 42.5, 42.5)]
    answered = [event for event in done.events if isinstance(event, ApiServerAnswered)]
    assert [round(event.asked_ns / NS) % 1000 for event in answered] == [*range(5, 65, 5)]
    assert all(0 < event.at_ns - event.asked_ns < NS // 10 for event in answered)


def test_news_that_comes_late_while_lists_stall_too() -> None:
    """The API server tells nothing for 17 s, in which a pod leaves."""
    done = play(History(1, 1, Weather(stalls=((18, 35, "all"),)), ((19.5, "slice"),)))
    check(done)
    assert seconds(done) == [(15.0, 35.0, 35.0)]  # not (33, 35], when it was heard


def test_a_list_that_shows_a_change_before_the_watch_tells_it() -> None:
    done = play(History(1, 3, Weather(stalls=((18, 35, "watches"),)), ((19.5, "slice"),)))
    check(done)
    assert seconds(done) == [(15.0, 20.0, 35.0)]


def test_a_watch_that_tells_before_an_earlier_list_is_there() -> None:
    done = play(History(1, 3, Weather(stalls=((14, 22, "lists"),)), ((16.5, "slice"),), wants=True))
    check(done)
    assert seconds(done) == [(13.3, 16.5, 16.5)]


def test_a_watch_that_lags_behind_the_lists_that_a_judgement_wants() -> None:
    done = play(History(1, 3, Weather(stalls=((18, 35, "watches"),)), ((19.5, "slice"), (30.5, "delete")), wants=True))
    check(done)
    assert seconds(done) == [(19.3, 22.4, 24.4), (30.0, 34.8, 35.0)]  # the first is told by a list


def test_a_client_that_was_suspended_has_its_news_in_its_sockets() -> None:
    done = play(History(1, 2, Weather(suspended=((18, 58),)), ((19.5, "slice"), (40.5, "service")), until_s=80))
    check(done)
    assert seconds(done) == [(15.0, 58.0, 58.0), (15.0, 58.0, 58.0)]


def test_a_watch_that_was_cut_while_things_changed() -> None:
    """The changes themselves tell when the first of them happened; the watch alone was known to be level at 0."""
    weather = Weather(stalls=((20, 29, "all"),))
    done = play(History(1, 2, weather, ((22.5, "slice"), (24.5, "delete")), cuts=(21,)))
    check(done)
    assert seconds(done) == [(15.0, 29.5, 29.5)]


def test_lists_stand_in_for_a_watch_that_is_refused_and_are_dated_by_their_own_times() -> None:
    weather = Weather(unwatchable_from_s=0)
    done = play(History(1, 3, weather, ((12.5, "slice"), (22.5, "delete"), (32.5, "service"), (42.5, "create"))))
    check(done)
    assert max(check(done)) < 2.2 * NS  # a list every 2 s
    said = [event for event in done.events if isinstance(event, ClusterEvent)]
    assert [event.action for event in said if event.subject is ClusterSubject.WATCH] == [
        ClusterAction.WATCH_FORBIDDEN,
        ClusterAction.NO_PROXY_SEEN,
    ]
    assert not [event for event in done.events if isinstance(event, PoolUnobserved)]


def test_lists_that_stand_in_for_a_watch_through_an_outage_of_the_api_server() -> None:
    weather = Weather(stalls=((18, 35, "all"),), unwatchable_from_s=0)
    done = play(History(1, 1, weather, ((19.5, "slice"),)))
    widths = check(done)
    assert len(widths) == 1
    assert widths[0] > 15 * NS
    assert len([event for event in done.events if isinstance(event, PoolUnobserved)]) == 1


# --- all of them ------------------------------------------------------------------------------------------------------


def spans(longest_s: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(6, 75), st.floats(0.1, longest_s)).map(lambda span: (span[0], span[0] + span[1]))


WEATHER = st.builds(
    Weather,
    delay_s=st.sampled_from([0.001, 0.05, 1.5]),
    stalls=st.lists(
        st.tuples(spans(20), st.sampled_from(["lists", "watches", "all"])).map(lambda stall: (*stall[0], stall[1])),
        max_size=4,
    ).map(tuple),
    suspended=st.lists(spans(40), max_size=1).map(tuple),
    unwatchable_from_s=st.sampled_from([None, None, 0.0, 30.0]),
)
HISTORIES = st.builds(
    History,
    seed=st.integers(0, 2**32),
    slices=st.integers(1, 7),
    weather=WEATHER,
    changes=st.lists(
        st.tuples(st.floats(2, 85), st.sampled_from(["slice", "slice", "delete", "create", "service"])), max_size=12
    ).map(tuple),
    cuts=st.lists(st.floats(2, 85), max_size=2).map(tuple),
    until_s=st.just(90.0),
    wants=st.booleans(),
)


@settings(max_examples=75)
@given(HISTORIES)
def test_every_change_lies_in_its_interval_and_nothing_is_missed_before_a_list(history: History) -> None:
    check(play(history))
