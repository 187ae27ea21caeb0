"""The requests to an API server: GET as JSON, lists by pages, watches by lines, and writes. Does not import `kubernetes`.

`client.py` implements the protocols; the rest of the package uses only these. What only watches takes an `Api`, which cannot
write.
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
METHOD_NOT_ALLOWED = 405
CONFLICT = 409
GONE = 410
TOO_MANY_REQUESTS = 429


class ApiError(AffinityTesterError):
    """A request failed; the text says why in a few words."""

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        *,
        advice: str = "",
        retry_after_s: float | None = None,
        causes: tuple[str, ...] = (),
    ) -> None:
        """`status` is the HTTP status of the API server's answer; None without one, or where something else answered.

        `advice` says what to do, for who waits for the answer; `retry_after_s` is how long the server asks to be left
        alone, None if it does not say; `causes` are the reasons of the Status' details, such as `DisruptionBudget`.
        """
        super().__init__(reason)
        self.status = status
        self.advice = advice
        self.retry_after_s = retry_after_s
        self.causes = causes
        self.may_be_done = False
        """True for a write that was sent, and whose fate no answer tells."""


class WatchSilentError(ApiError):
    """A watch had no event and no bookmark for too long."""


class WatchRefusedError(ApiError):
    """What may be listed may not be watched."""


class Api(Protocol):
    """A connection to an API server. Its methods raise no other error than `ApiError`."""

    async def get(self, path: str, params: Params = (), *, metadata_only: bool = False) -> dict[str, Any]:
        """Return the JSON object at a path; `metadata_only`: as PartialObjectMetadata."""
        ...

    def lines(
        self, path: str, params: Params, silence_s: float, *, metadata_only: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a streamed response until the server ends it. Raises `WatchSilentError` after `silence_s`."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class WritableApi(Api, Protocol):
    """A connection that can also write. An error says by `may_be_done` that a write may have been done all the same.

    No write is sent twice unless the API server said that it did not do it (401, and 429 with Retry-After).
    """

    async def create(self, path: str, body: Json) -> Json:
        """Create an object in a collection, or call a subresource such as pods/eviction; return what was made."""
        ...

    async def patch(self, path: str, body: Json) -> Json:
        """Change an object by a JSON merge patch (RFC 7386); return it.

        With `metadata.resourceVersion` in the patch another change since then gives 409 (optimistic locking).
        """
        ...

    async def delete(self, path: str, body: Json) -> Json:
        """Delete an object; `body` has the fields of DeleteOptions: gracePeriodSeconds, preconditions. Return the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. All parts have one resourceVersion."""

    version: str
    """The resourceVersion; empty if the response has none."""
    items: list[object]
    more: str
    """The `continue` token of the next page; empty on the last page."""


async def read_page(api: Api, path: str, params: Params, limit: int, more: str = "") -> Page:
    """Return one page of a list. Raises `ApiError`.

    Without a resourceVersion in the request the list is consistent, and as new as the request.
    """
    going_on = (("continue", more),) if more else ()
    answer = await api.get(path, (*params, ("limit", str(limit)), *going_on))
    metadata = _or_none(answer, "metadata", dict) or {}
    version, more = _or_none(metadata, "resourceVersion", str) or "", _or_none(metadata, "continue", str) or ""
    items = _or_none(answer, "items", list) or []
    return Page(version, items, more)


def _or_none(answer: Json, name: str, kind: type[T]) -> T | None:
    """Return a field of a list's response, which may be null or absent. Raises `ApiError` for another type."""
    value = answer.get(name)
    if value is not None and not isinstance(value, kind):
        raise ApiError("the API server's answer is no list")
    return value


async def pages(api: Api, path: str, params: Params = (), limit: int = 50) -> AsyncIterator[Page]:
    """Yield the pages of a consistent list, with `limit` objects each. Raises `ApiError`.

    Other tasks run between pages, so that probes wait for the parsing of one page at most.
    """
    page = await read_page(api, path, params, limit)
    yield page
    while page.more:
        await asyncio.sleep(0)
        page = await read_page(api, path, params, limit, page.more)
        yield page


async def list_all(api: Api, path: str, params: Params = (), limit: int = 50) -> list[object]:
    """Return all objects of a list, unparsed: for a list that is small, or read only once."""
    return [item async for page in pages(api, path, params, limit) for item in page.items]


async def watch_events(
    api: Api, path: str, params: Params, version: str, *, silence_s: float, rotate_s: int
) -> AsyncGenerator[tuple[str, Json], None]:
    """Yield the events after `version` as (type, object), until the server ends the watch after about `rotate_s`.

    Raises `ApiError`, with its code for an ERROR event. Code 410 says that `version` is too old, which is routine after a
    quiet time: API servers keep some minutes of history. It has the same text as a response and as an event.
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
        if error.status in (FORBIDDEN, METHOD_NOT_ALLOWED):
            raise WatchRefusedError(str(error), error.status) from error
        if error.status != GONE:
            raise

        raise ApiError(f"the API server no longer has the changes since we last looked ({GONE})", GONE) from error


def _read_event(line: bytes) -> tuple[str, Json]:
    """Return an event of a watch as (type, object). Raises `ApiError` for an ERROR event and for what is no event."""
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
