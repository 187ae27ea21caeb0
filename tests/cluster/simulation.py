"""An API server in virtual time that stalls, delays and breaks what it sends, and knows the truth.

It is honest: a list is a snapshot of some moment between request and answer, a watch tells everything in order. How long
each takes, and when the client is suspended, the test says. No socket and no sleep: an hour passes in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

from affinity_tester.cluster.api import ApiError, Params, WatchSilentError
from affinity_tester.cluster.connect import Cluster
from affinity_tester.core.events import Event
from fakeapi import Json

NS = 1_000_000_000


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when there is nothing else to do, and then at once to when there is."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 1000.0

    def time(self) -> float:
        return self._virtual_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._virtual_s = max(self._virtual_s, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class Change(NamedTuple):
    """What truly happened."""

    at_ns: int
    version: int
    resource: str
    event: Json


class Weather(NamedTuple):
    """How bad it is; times in seconds."""

    delay_s: float = 0.02
    """Of each way of a request, and of a watch's news, at the most, in good weather."""
    stalls: tuple[tuple[float, float, str], ...] = ()
    """(from, to, what): nothing of `lists`, `watches` or `all` gets through."""
    suspended: tuple[tuple[float, float], ...] = ()
    """The client runs no code; what arrives waits in its sockets."""
    cuts: tuple[float, ...] = ()
    """All watches break."""


class SimApi:
    """`Api` over a history of true changes."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self._random = random.Random(seed)
        self._weather = weather
        self._began_s = asyncio.get_running_loop().time()
        self.version = 100
        self.history: list[Change] = []
        self.objects: dict[str, dict[str, Json]] = {"endpointslices": {}, "services": {}, "nodes": {}, "pods": {}}
        self._queues: dict[asyncio.Queue[Change | None], str] = {}
        self.requests = 0
        self.bytes = 0

    # --- time -------------------------------------------------------------------------------------------------------

    def at_s(self) -> float:
        """Seconds since it began."""
        return asyncio.get_running_loop().time() - self._began_s

    def now_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * NS)

    async def _pass(self, what: str) -> None:
        """One way, of a request or an answer."""
        await asyncio.sleep(self._random.uniform(0, self._weather.delay_s))
        await self._through(what)

    async def _through(self, what: str) -> None:
        """Wait until nothing is in the way, for the network or for the client."""
        again = True
        while again:
            again = False
            now_s = self.at_s()
            ways = [(a, b) for a, b, of in self._weather.stalls if of in (what, "all")]
            for from_s, to_s in (*ways, *self._weather.suspended):
                if from_s <= now_s < to_s:
                    await asyncio.sleep(to_s - now_s + self._random.uniform(0, 0.01))
                    again = True

    # --- truth --------------------------------------------------------------------------------------------------------

    def change(self, resource: str, obj: Json, *, delete: bool = False) -> None:
        self.version += self._random.randint(1, 3)  # other resources count, too
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        obj = {**obj, "metadata": metadata}
        known = self.objects[resource]
        kind = "DELETED" if delete else "MODIFIED" if metadata["name"] in known else "ADDED"
        if delete:
            del known[metadata["name"]]
        else:
            known[metadata["name"]] = obj
        change = Change(self.now_ns(), self.version, resource, {"type": kind, "object": obj})
        self.history.append(change)
        for queue, of in self._queues.items():
            if of == resource:
                queue.put_nowait(change)

    def cut(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def get(self, path: str, params: Params = ()) -> dict[str, Any]:
        try:
            async with asyncio.timeout(10):
                answer = await self._list(path.rpartition("/")[2], dict(params))
        except TimeoutError as error:
            raise ApiError("the API server did not answer in time") from error
        self.requests += 1
        self.bytes += len(json.dumps(answer))
        return answer

    async def _list(self, resource: str, query: dict[str, str]) -> dict[str, Any]:
        await self._pass("lists")
        if "continue" in query:
            version, items = json.loads(query["continue"])
        else:
            self.version += self._random.randint(0, 2)
            version, items = self.version, [obj for _, obj in sorted(self.objects[resource].items())]
        limit = int(query["limit"])
        await self._pass("lists")
        more = {"continue": json.dumps([version, items[limit:]])} if len(items) > limit else {}
        return {"metadata": {"resourceVersion": str(version), **more}, "items": items[:limit]}

    async def lines(self, path: str, params: Params, silence_s: float) -> AsyncGenerator[bytes, None]:
        resource, query = path.rpartition("/")[2], dict(params)
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        await self._pass("watches")
        for change in self.history:
            if change.resource == resource and change.version > int(query["resourceVersion"]):
                queue.put_nowait(change)
        self._queues[queue] = resource
        ends_s = self.at_s() + int(query["timeoutSeconds"])
        try:
            while (left_s := ends_s - self.at_s()) > 0:
                try:
                    async with asyncio.timeout(min(silence_s, left_s)):
                        news = await queue.get()
                except TimeoutError as error:
                    if left_s > silence_s:
                        raise WatchSilentError(f"the watch was silent for {silence_s:g} s") from error
                    return
                await self._pass("watches")
                if news is None:
                    raise ApiError("the connection to the API server broke")
                self.bytes += len(json.dumps(news.event))
                yield json.dumps(news.event).encode()
        finally:
            del self._queues[queue]

    async def close(self) -> None:
        """Nothing is open."""


def simulate(play: Callable[[], Any]) -> Any:
    """Run a coroutine in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(play())
    finally:
        loop.close()


def cluster_of(api: SimApi) -> Cluster:
    return Cluster(api, "simulated", "media", inside=False)


def kinds(events: list[Event], *types: type) -> list[Event]:
    return [event for event in events if isinstance(event, types)]
