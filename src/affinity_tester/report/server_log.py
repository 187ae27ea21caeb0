"""The server's log: each `ServerEvent` as one line, for people or as JSON.

Whoever reads it slowly, or not at all, must not make the server's answers wait: a thread writes the lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from affinity_tester.core.server_events import (
    ServerDraining,
    ServerEvent,
    ServerStarted,
    ServerStats,
    ServerStopped,
    ServerWarning,
)
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.report.background_writer import MOST_CHARACTERS, BackgroundWriter, left_out_line
from affinity_tester.report.clock import RunClock
from affinity_tester.report.logging import (
    Colour,
    Level,
    Log,
    LogFormat,
    OutputClosed,
    configure,
    output_closed,
    wants_colour,
)
from affinity_tester.units import format_duration, plural, quoted

CLOSE_S = 1.0
"""How long the end waits for a reader that has not taken all lines yet."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One event in both forms."""

    name: str
    """The dotted name for JSON."""
    text: str
    """The line for people."""
    data: dict[str, Any]
    """The fields for JSON."""
    level: Level = "info"
    colour: Colour = Colour.STATISTICS


class ServerLog:
    """Writes a server's events. `ServerStarted` must come first; every call may raise `OutputClosed`."""

    def __init__(
        self, log: Log, log_format: LogFormat, background: BackgroundWriter | None = None, own: TextIO | None = None
    ) -> None:
        """Write to `log`. If it writes in the background, `close` waits for its reader, and closes `own` below it."""
        self._log = log
        self._json = log_format == "json"
        self._background = background
        self._own = own
        self._clock: RunClock | None = None

    @classmethod
    def open(
        cls, stream: TextIO | None, log_format: LogFormat, environ: Mapping[str, str], *, most: int = MOST_CHARACTERS
    ) -> Self:
        """Write to `stream` (None: nowhere) from a thread, which keeps at most so many characters."""
        own = _duplicate(stream)
        background = BackgroundWriter(own, most, _left_out_object if log_format == "json" else left_out_line)
        log = configure(
            format=log_format, stream=background, colour=stream is not None and wants_colour(stream, environ)
        )
        return cls(log, log_format, background, None if own is stream else own)

    def close(self) -> None:
        """Wait a moment for a reader that has not taken all. Raises `OutputClosed`."""
        if self._background is None:
            return
        is_over = True
        try:
            is_over = self._background.drain(within_s=CLOSE_S)
        except (OSError, ValueError) as error:
            raise output_closed(self._background) from error
        finally:
            if is_over and self._own is not None:
                self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        with contextlib.nullcontext() if error is None else contextlib.suppress(OutputClosed):
            self.close()

    def emit(self, event: ServerEvent) -> None:
        """Write one event. Raises `ValueError` for any before `ServerStarted`."""
        if isinstance(event, ServerStarted):
            self._clock = RunClock(wall_ns=event.wall_ns, at_ns=event.at_ns, utc_offset_s=event.utc_offset_s)
            self._log = self._log.bind(self._clock)

        clock = self._clock
        if clock is None:
            raise ValueError(f"{type(event).__name__} came before ServerStarted")

        line = _line(event, clock)
        if self._json:
            said = {"message": line.text, **line.data}
            self._log.line(line.level, line.name, at_ns=event.at_ns, colour=line.colour, **said)
        else:
            self._log.line(line.level, line.text, at_ns=event.at_ns, colour=line.colour)
        self._log.flush()


def _duplicate(stream: TextIO | None) -> TextIO:
    """Return a stream of its own to the same output: Python's flush of `stream` at exit must not wait for a reader."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    try:
        descriptor = os.dup(stream.fileno())
    except io.UnsupportedOperation:
        return stream  # a test's, without a descriptor
    return os.fdopen(descriptor, "w", encoding=stream.encoding, errors="backslashreplace")


def _left_out_object(lines: int) -> str:
    """Return `left_out_line` for machines, with the wall clock's time, since no event gives it one."""
    now_ns = time.time_ns()
    clock = RunClock(wall_ns=now_ns, at_ns=now_ns, utc_offset_s=0)
    text = left_out_line(lines).strip("… \n")
    line = {"time": clock.rfc3339(now_ns), "level": "warn", "event": "server.warning", "message": text, "text": text}
    return json.dumps(line, separators=(",", ":")) + "\n"


def _line(event: ServerEvent, clock: RunClock) -> _Line:
    match event:
        case ServerStarted():
            return _started(event, clock)
        case ServerWarning(text=text):
            return _Line("server.warning", text, {"text": text}, "warn", Colour.WARNING)
        case ServerStats(delta=delta, total=total):
            return _Line("server.stats", _counts(delta), {"delta": _data(delta), "total": _data(total)})
        case ServerDraining(drain_ns=drain_ns):
            text = f"draining for {format_duration(drain_ns)} (still ready)"
            return _Line("server.draining", text, {"drain_ns": drain_ns})
        case ServerStopped(total=total, uptime_ns=uptime_ns):
            text = f"ended after {format_duration(uptime_ns)}; in all {_counts(total)}"
            return _Line("server.stopped", text, {"uptime_ns": uptime_ns, "total": _data(total)})
        case _:
            raise TypeError(f"{type(event).__name__} is no event of a server")


def _started(event: ServerStarted, clock: RunClock) -> _Line:
    node = "" if event.node_name is None else f" on node {quoted(event.node_name)}"
    key = "only requests signed with the key, " if event.keyed else ""
    workers = f" with {event.workers} workers" if event.workers > 1 else ""
    health = f"at {', '.join(map(str, event.health))}" if event.health else "off"
    text = (
        f"affinity-tester {event.version}, {clock.date(event.at_ns)} {clock.utc_offset}: pod {quoted(event.pod_name)}{node}"
        f" answers {key}at {', '.join(map(str, event.addresses))}{workers}; health port {health}"
    )

    data = {
        "version": event.version,
        "pod_name": event.pod_name,
        "node_name": event.node_name,
        "instance_id": event.instance_id.hex(),
        "addresses": [str(address) for address in event.addresses],
        "health": [str(address) for address in event.health],
        "keyed": event.keyed,
        "workers": event.workers,
    }
    return _Line("server.started", text, data)


def _counts(totals: ServerTotals) -> str:
    """Return `received 10 datagrams, answered 8, refused 0, dropped 2 (legacy 2); 3 flows`."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in totals.dropped)
    parts = [
        f"received {plural(totals.received, 'datagram')}",
        f"answered {totals.answered:,}",
        f"refused {totals.refused:,}",
        f"dropped {sum(count for _, count in totals.dropped):,}{f' ({reasons})' if reasons else ''}",
    ]
    if totals.send_errors:
        parts.append(f"{plural(totals.send_errors, 'send error')}")
    if totals.delayed or totals.not_delayed:
        lost = ", ".join(f"{reason} {count:,}" for reason, count in totals.not_delayed)
        parts.append(f"{totals.delayed:,} delayed {'reply' if totals.delayed == 1 else 'replies'}")
        parts += [f"not delayed {sum(count for _, count in totals.not_delayed):,} ({lost})"] if lost else []
    evicted = f", {plural(totals.evicted, 'older one')} forgotten" if totals.evicted else ""
    return f"{', '.join(parts)}; {plural(totals.flows, 'flow')}{evicted}"


def _data(totals: ServerTotals) -> dict[str, Any]:
    return {**asdict(totals), "dropped": dict(totals.dropped), "not_delayed": dict(totals.not_delayed)}
