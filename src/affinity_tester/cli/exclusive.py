"""Options that exclude each other: the command line goes before the environment, and what is left must agree."""

from __future__ import annotations

from ipaddress import ip_address

import click
from click.core import ParameterSource

from affinity_tester.errors import UserError


def one_of(*names: str) -> tuple[bool, ...]:
    """Return flags of which one may be set: the command line goes before the environment.

    Raises `UserError` where two are set in the same way.
    """
    context = click.get_current_context()
    given = [name for name in names if context.params[name]]
    said = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE] or given
    if len(said) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in said)} exclude each other: give one of them")
    return tuple(name in said for name in names)


def ip_version(ipv4: bool, ipv6: bool, bind: str | None) -> int | None:
    """Return the IP version that is asked for, also by a source address. Raises `UserError` where they do not agree."""
    asked = 4 if ipv4 else 6 if ipv6 else None
    bound = None if bind is None else ip_address(bind).version
    if None not in (asked, bound) and asked != bound:
        raise UserError(f"--bind {bind} is an IPv{bound} address, and -{asked} asks for IPv{asked}: give one of them")
    return asked or bound
