"""What options share: types for times, ports and addresses, and a help that names default and environment variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import click

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.units import format_exact, parse_duration

F = TypeVar("F", bound=Callable[..., Any])


class Whole(click.IntRange):
    """A whole number in a range; the error for anything else is in plain words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number, and check its range."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{str(value)!r} is not a whole number from {self.min} to {self.max}", param, ctx)


class Seed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4 alone
    """Any whole number."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number."""
        try:
            return int(value)
        except ValueError:
            self.fail(f"{str(value)!r} is not a whole number", param, ctx)


class Percentage(click.FloatRange):
    """A number from 0 to 100."""

    def __init__(self) -> None:
        super().__init__(0, 100)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number; nan, which click finds in every range, is refused."""
        try:
            percentage = float(super().convert(value, param, ctx))
        except click.BadParameter:
            percentage = math.nan
        if math.isnan(percentage):
            self.fail(f"{str(value)!r} is not a percentage from 0 to 100", param, ctx)
        return percentage


class Confidence(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """A confidence as a share of 1; less than 0.8 would assert what is little more than a guess."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number."""
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not 0.8 <= share <= 0.9999:  # noqa: PLR2004 - as the error says
            self.fail(f"{str(value)!r} is not a number from 0.8 to 0.9999, such as 0.95", param, ctx)
        return share


PORT = Whole(1, 65_535)
"""A UDP or TCP port."""

PORT_OR_ZERO = Whole(0, 65_535)
"""A port, or 0, whose meaning the option's help says."""


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """A time in seconds or with a unit, as integer nanoseconds."""

    name = "time"

    def __init__(self, minimum_ns: int = 0, maximum_ns: int | None = None) -> None:
        self._minimum_ns = minimum_ns
        self._maximum_ns = maximum_ns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the time, and check its bounds."""
        try:
            ns = parse_duration(value)
        except (ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)
        if ns < self._minimum_ns:
            self.fail(f"{value} is too short: at least {format_exact(self._minimum_ns)} is possible", param, ctx)
        if self._maximum_ns is not None and ns > self._maximum_ns:
            self.fail(f"{value} is too long: at most {format_exact(self._maximum_ns)} is possible", param, ctx)
        return ns


DURATION = Duration()
"""A time without bounds."""


class SourceAddress(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """One numeric IP address, without a port; whether it is this machine's shows when it is bound."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Parse it; return its usual form."""
        try:
            address = ip_address(str(value).strip())
        except ValueError:
            self.fail(
                f"{str(value)!r} is no numeric address: take one of this machine's, such as 192.0.2.1", param, ctx
            )
        if address.is_unspecified or address.is_multicast:
            self.fail(f"{address} is no address of one machine: leave it out, or name one", param, ctx)
        return str(address)


class AddressList(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """One numeric IP address of a repeatable option; in the environment commas separate them, as in the Downward API."""

    name = "address"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Strip the blanks around it. Binding shows whether it is an address of this machine."""
        return str(value).strip()


class ListenAddress(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """`[HOST:]PORT`, HOST a numeric address, IPv6 in brackets; without it this machine alone may connect."""

    name = "[host:]port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TransportAddress:
        """Parse host and port."""
        if isinstance(value, TransportAddress):
            return value
        host, _, port = str(value).strip().rpartition(":")
        host = host or "127.0.0.1"
        try:
            ip = ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            self.fail(f"{host!r} is no numeric address: take one of this machine's, such as 0.0.0.0:9464", param, ctx)
        return TransportAddress(str(ip), Whole(1, 65_535).convert(port, param, ctx))


def option(*names: str, help: str, env: str | list[str] | None = None, **settings: Any) -> Callable[[F], F]:  # noqa: A002
    """Return a `click.option` whose help names the unit (in `help`), the default and the environment variable.

    The variable is AFFINITY_<OPTION>, or `env`, where another is customary. A default of a `Duration` is in nanoseconds.
    An empty environment variable counts as unset.
    """
    long_name = next(name for name in names if name.startswith("--")).partition("/")[0]
    default = settings.get("default")
    if default is not None:
        settings.setdefault("show_default", True)
        if isinstance(settings.get("type"), Duration):
            settings["default"] = format_exact(default)
    return click.option(
        *names,
        help=help,
        envvar=env or "AFFINITY_" + long_name.removeprefix("--").replace("-", "_").upper(),
        show_envvar=True,
        **settings,
    )


def log_format() -> Callable[[F], F]:
    """Return the option `--log-format`."""
    return option(
        "--log-format",
        type=click.Choice(["console", "json"]),
        default="console",
        help="Lines for people, or one JSON object a line.",
    )


def live() -> Callable[[F], F]:
    """Return the option `--live/--no-live`."""
    return option(
        "--live/--no-live",
        default=True,
        help="Show how the run stands in a line at the bottom, where the output is a terminal.",
    )


def record() -> Callable[[F], F]:
    """Return the option `--record` of `demo` and `lab`."""
    return option(
        "--record",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        help="File to record every event in (JSON lines; gzip where it ends in .gz), for `affinity-tester report`.",
    )


def check_record(record: Path | None) -> None:
    """Refuse a record that has something in it already. Raises `UserError`."""
    if record is not None and record.is_file() and record.stat().st_size:
        raise UserError(f"--record {record} has something in it already: name another file, or move that one away")


def key() -> Callable[[F], F]:
    """Return the option `--key`; its value is bytes, or None."""
    return option(
        "--key",
        metavar="TEXT",
        callback=lambda _context, _option, value: value.encode() if value else None,
        help="Secret for MESSAGE-INTEGRITY-SHA256 on every packet; set it at client and server alike. The environment is"
        " the safer way, since other users see command lines.",
    )
