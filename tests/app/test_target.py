"""A target without a cluster, and what a cluster that does not answer means for a silence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from affinity_tester.app import target as target_module
from affinity_tester.app.target import TargetContext, TargetOptions, open_target
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Change, ChangeSeen, Event, FirstAnswer, NoReplies, PoolNotWatched, RepliedProbe
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target

SILENCE = NoReplies(7, 5_000_000_000, "2 ICMP errors came back")


def options(**given: Any) -> TargetOptions:
    defaults: dict[str, Any] = {
        "target": "127.0.0.1",
        "service": None,
        "via": "auto",
        "watch": "off",
        "port": None,
    }
    return TargetOptions(**{**defaults, **given})


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, TransportAddress("127.0.0.1", 3478)),
        ({"port": 4000}, TransportAddress("127.0.0.1", 4000)),
        ({"target": "127.0.0.1:5000", "port": 4000}, TransportAddress("127.0.0.1", 5000)),
        ({"target": "[::1]:5000", "service": "media/turn"}, TransportAddress("::1", 5000)),
    ],
)
async def test_without_a_watch_an_address_needs_no_cluster(given: dict[str, Any], address: TransportAddress) -> None:
    events: list[Event] = []
    async with open_target(options(**given)) as context:
        assert context.target.address == address
        assert not context.has_service
        await context.start_watch(events.append, required=False, settle_ns=0)
        context.request_list(1)
        assert await context.with_cluster_reason(SILENCE) is SILENCE
    (missing,) = events
    assert isinstance(missing, PoolNotWatched)
    assert missing.reason == "--watch off"


async def test_a_watch_that_is_required_and_cannot_be_is_the_users_to_mend() -> None:
    context = TargetContext(Target(TransportAddress("127.0.0.1", 1), "x"), None, None, "no cluster")
    events: list[Event] = []
    with pytest.raises(UserError, match="--watch on: no cluster"):
        await context.start_watch(events.append, required=True, settle_ns=0)
    assert events == []


def test_reflexive_ips_are_looked_up_where_there_is_a_watch() -> None:
    asked: list[str] = []

    class Watch:
        def look_up(self, ip: str) -> None:
            asked.append(ip)

    before, after = (RepliedProbe(n, n, Identity(TransportAddress(f"10.2.0.{n}", 7))) for n in (1, 2))
    change = Change(1, (Kind.REFLEXIVE_IP,), before, after, 3, 1, 4)
    context = TargetContext(Target(TransportAddress("127.0.0.1", 1), "x"), None, None, "")
    context.observe(FirstAnswer(1, "CLIENT-1", 1, before.identity))
    context._watch = Watch()  # type: ignore[assignment] # all that is asked of a watch here
    context.observe(FirstAnswer(1, "CLIENT-1", 1, before.identity))
    context.observe(FirstAnswer(1, "CLIENT-2", 1, Identity()))
    context.observe(ChangeSeen(3, "CLIENT-1", change))
    context.observe(SILENCE)
    assert asked == ["10.2.0.1", "10.2.0.2"]


@pytest.mark.parametrize("answer", ["fails", "never comes", "knows nothing", "knows"])
async def test_a_silence_has_its_own_reason_unless_the_cluster_knows_one(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    async def explain(*_arguments: object) -> str | None:
        if answer == "fails":
            raise OSError
        if answer == "never comes":
            await asyncio.Event().wait()
        return "no endpoints" if answer == "knows" else None

    class Anything:
        """Nobody looks into it."""

        def __getattr__(self, _name: str) -> Anything:
            return self

    monkeypatch.setattr(target_module, "explain_no_reply", explain)
    monkeypatch.setattr(target_module, "CONNECT_TIMEOUT_S", 0.05)
    anything: Any = Anything()
    context = TargetContext(Target(TransportAddress("127.0.0.1", 1), "x"), anything, anything, "")
    assert context.has_service
    async with asyncio.timeout(20):
        told = await context.with_cluster_reason(SILENCE)
    assert told.reason == ("no endpoints" if answer == "knows" else SILENCE.reason)
    assert (told.at_ns, told.waited_ns) == (SILENCE.at_ns, SILENCE.waited_ns)
