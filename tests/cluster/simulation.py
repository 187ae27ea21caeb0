"""An API server in virtual time that stalls, delays and breaks what it sends, and knows the truth.

It is honest: a list is a snapshot of some moment between request and answer, a watch tells everything in order. How long
each takes, and when the client is suspended, the test says. No socket and no sleep: an hour passes in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from affinity_tester.cluster.api import ApiError, Params, WatchSilentError
from affinity_tester.cluster.connect import Cluster
from fakeapi import Json

NS = 1_000_000_000
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when there is nothing else to do, and then at once to when there is."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 1000.0
        self.asleep: list[tuple[float, float]] = []
        """(from, to) in which nothing runs: what was due meanwhile runs afterwards, in its order."""

    def time(self) -> float:
        return self._virtual_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._virtual_s = max(self._virtual_s, self._scheduled[0]._when)  # type: ignore[attr-defined]
            for from_s, to_s in self.asleep:
                if from_s <= self._virtual_s < to_s:
                    self._virtual_s = to_s
        super()._run_once()  # type: ignore[misc]


class Change(NamedTuple):
    """What truly happened."""

    at_ns: int
    version: int
    resource: str
    event: Json


class Weather(NamedTuple):
    """How bad it is; times in seconds since the beginning."""

    delay_s: float = 0.02
    """Of each way of a request, and of a watch's news, at the most, in good weather."""
    stalls: tuple[tuple[float, float, str], ...] = ()
    """(from, to, what): nothing of `lists`, `watches` or `all` gets through."""
    suspended: tuple[tuple[float, float], ...] = ()
    """The client runs no code; what arrives waits in its sockets."""
    unwatchable_from_s: float | None = None
    """From then on watches are refused, and those that are open end; lists are answered. None: never."""


class SimApi:
    """`Api` over a history of true changes."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self._random = random.Random(seed)
        self._weather = weather
        self._loop = asyncio.get_running_loop()
        self.began_s = self._loop.time()
        if isinstance(self._loop, VirtualLoop):
            self._loop.asleep = sorted((self.began_s + a, self.began_s + b) for a, b in weather.suspended)
        self.version = 100
        self.history: list[Change] = []
        self.objects: dict[str, dict[str, Json]] = {"endpointslices": {}, "services": {}, "nodes": {}, "pods": {}}
        self._queues: dict[asyncio.Queue[Change | None], str] = {}
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    # --- time -------------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return round(self._loop.time() * NS)

    def ns(self, at_s: float) -> int:
        """On the clock, of seconds since the beginning."""
        return round((self.began_s + at_s) * NS)

    def plan(self, at_s: float, do: Callable[[], None]) -> None:
        self._loop.call_at(self.began_s + at_s, do)

    async def _pass(self, what: str) -> None:
        """One way, of a request or an answer."""
        await asyncio.sleep(self._random.uniform(0, self._weather.delay_s))
        await self._through(what)

    async def _through(self, what: str) -> None:
        """Wait until nothing is in the way."""
        stalls = [(a, b) for a, b, of in self._weather.stalls if of in (what, "all")]
        for _ in range(10):
            now_s = self._loop.time() - self.began_s
            ends = [to_s for from_s, to_s in stalls if from_s <= now_s < to_s]
            if not ends:
                return
            await asyncio.sleep(max(ends) - now_s + self._random.uniform(0, 0.01))

    def _refuses_watches(self) -> bool:
        from_s = self._weather.unwatchable_from_s
        return from_s is not None and self._loop.time() - self.began_s >= from_s

    # --- truth --------------------------------------------------------------------------------------------------------

    def change(self, resource: str, obj: Json, *, at_s: float = 0, delete: bool = False) -> None:
        """It happens at `at_s`, whenever the client comes to run this."""
        self.version += self._random.randint(1, 3)  # other resources count, too
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        obj = {**obj, "metadata": metadata}
        known = self.objects[resource]
        kind = "DELETED" if delete else "MODIFIED" if metadata["name"] in known else "ADDED"
        if delete:
            del known[metadata["name"]]
        else:
            known[metadata["name"]] = obj
        change = Change(self.ns(at_s), self.version, resource, {"type": kind, "object": obj})
        self.history.append(change)
        self._publish(change)

    def bookmark(self) -> None:
        for resource in self.objects:
            bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
            self._publish(Change(0, self.version, resource, bookmark))

    def cut(self) -> None:
        """All watches break, behind what is under way."""
        for queue in self._queues:
            queue.put_nowait(None)

    def _publish(self, change: Change) -> None:
        for queue, of in self._queues.items():
            if of == change.resource:
                queue.put_nowait(change)

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def get(self, path: str, params: Params = ()) -> dict[str, Any]:
        try:
            async with asyncio.timeout(10):
                answer = await self._list(path.rpartition("/")[2], dict(params))
        except TimeoutError as error:
            raise ApiError("the API server did not answer in time") from error
        self.requests[path] += 1
        self.bytes[path] += len(json.dumps(answer))
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
        try:
            async with asyncio.timeout(10):
                await self._pass("watches")
        except TimeoutError as error:
            raise ApiError("the API server did not answer in time") from error
        if self._refuses_watches():
            raise ApiError("endpointslices is forbidden", 403)
        for change in self.history:
            if change.resource == resource and change.version > int(query["resourceVersion"]):
                queue.put_nowait(change)
        self._queues[queue] = resource
        ends_s = self._loop.time() + int(query["timeoutSeconds"])
        try:
            while (left_s := ends_s - self._loop.time()) > 0:
                try:
                    async with asyncio.timeout(min(silence_s, left_s)):
                        news = await queue.get()
                except TimeoutError as error:
                    if left_s > silence_s:
                        raise WatchSilentError(f"the watch was silent for {silence_s:g} s") from error
                    return
                await self._pass("watches")
                if self._refuses_watches():
                    return
                if news is None:
                    raise ApiError("the connection to the API server broke")
                yield json.dumps(news.event).encode()
        finally:
            del self._queues[queue]

    async def close(self) -> None:
        """Nothing is open."""


def simulate(play: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(play())
    finally:
        loop.close()


def cluster_of(api: SimApi) -> Cluster:
    return Cluster(api, "simulated", "media", inside=False)
