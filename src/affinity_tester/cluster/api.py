"""What is asked of an API server: GET as JSON, lists by pages, watches by lines. No import of `kubernetes` here.

`client.py` has the one real implementation; everything else in this package speaks to the `Api` protocol.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from affinity_tester.errors import AffinityTesterError

T = TypeVar("T")
Json = dict[str, Any]
Params = Iterable[tuple[str, str]]

FORBIDDEN = 403
NOT_FOUND = 404
GONE = 410


class ApiError(AffinityTesterError):
    """A request that failed, in a few words."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        """`status`: HTTP's; None when there was no answer."""
        super().__init__(reason)
        self.status = status


class WatchSilentError(ApiError):
    """Nothing was heard on a watch for longer than bookmarks take."""


class Api(Protocol):
    """A connection to an API server. Every method raises `ApiError` and nothing else."""

    async def get(self, path: str, params: Params = ()) -> dict[str, Any]:
        """The JSON object at a path."""
        ...

    def lines(self, path: str, params: Params, silence_s: float) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer, until the server ends it; `WatchSilentError` after so many silent seconds."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; all parts are of one resourceVersion."""

    version: str
    """Empty where the answer has none."""
    items: list[object]
    more: str
    """What to ask the next page with; empty where this is the last."""


async def read_page(api: Api, path: str, params: Params, limit: int, more: str = "") -> Page:
    """One page of a consistent list (resourceVersion unset: as new as the request). Raises `ApiError`."""
    going_on = (("continue", more),) if more else ()
    answer = await api.get(path, (*params, ("limit", str(limit)), *going_on))
    metadata = _or_none(answer, "metadata", dict) or {}
    version, more = _or_none(metadata, "resourceVersion", str) or "", _or_none(metadata, "continue", str) or ""
    items = _or_none(answer, "items", list) or []
    return Page(version, items, more)


def _or_none(answer: Json, name: str, kind: type[T]) -> T | None:
    """A field of a list's answer; an empty one may be null."""
    value = answer.get(name)
    if value is not None and not isinstance(value, kind):
        raise ApiError("the API server's answer is no list")
    return value


async def pages(api: Api, path: str, params: Params = (), limit: int = 50) -> AsyncIterator[Page]:
    """A consistent list, `limit` objects at a time.

    The loop gets its turn between pages: a page is all that is parsed at once.
    """
    page = await read_page(api, path, params, limit)
    yield page
    while page.more:
        await asyncio.sleep(0)
        page = await read_page(api, path, params, limit, page.more)
        yield page


async def list_all(api: Api, path: str, params: Params = (), limit: int = 50) -> list[object]:
    """All objects of a list that is small or looked at once, none of them read yet."""
    return [item async for page in pages(api, path, params, limit) for item in page.items]


async def watch_events(
    api: Api, path: str, params: Params, version: str, *, silence_s: float, rotate_s: int
) -> AsyncGenerator[tuple[str, Json], None]:
    """Events after `version` as (type, object), until the server ends the watch after about `rotate_s`.

    An ERROR event is raised as `ApiError` with its code. 410 (`version` is too old: routine after a quiet while, since API
    servers keep minutes of history) is raised with the same words whether it came as an answer or as an event.
    """
    asked = (
        ("watch", "true"),
        ("allowWatchBookmarks", "true"),
        ("resourceVersion", version),
        ("timeoutSeconds", str(rotate_s)),
    )
    try:
        async with aclosing(api.lines(path, (*params, *asked), silence_s)) as lines:
            async for line in lines:
                yield _read_event(line)
                await asyncio.sleep(0)  # many lines may wait in the buffer, and probes are due
    except ApiError as error:
        if error.status != GONE:
            raise
        raise ApiError(f"the API server no longer has the changes since we last looked ({GONE})", GONE) from error


def _read_event(line: bytes) -> tuple[str, Json]:
    try:
        event = json.loads(line)
        kind, obj = event["type"], event["object"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ApiError("the API server sent a watch event that cannot be read") from error
    if not isinstance(kind, str) or not isinstance(obj, dict):
        raise ApiError("the API server sent a watch event that cannot be read")
    if kind == "ERROR":
        code = obj.get("code")
        raise ApiError(
            f"the API server ended the watch ({obj.get('message', 'no reason')})",
            code if isinstance(code, int) else None,
        )
    return kind, obj
