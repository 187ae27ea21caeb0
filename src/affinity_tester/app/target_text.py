"""Reads what the user wrote as the target, before anything is resolved or connected."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from affinity_tester.core.address import MAX_PORT, split_host_port
from affinity_tester.errors import UserError

LIKE_A_PORT = 3
"""The last group of an IPv6 address with so many digits, all decimal, may be meant as a port."""

_CLUSTER_NAME = re.compile(r"(?P<name>[^.]+)\.(?P<namespace>[^.]+)\.svc(\..+)?\.?", re.IGNORECASE)
"""A Service's name in the DNS of a cluster."""

_URI = re.compile("(?:stuns?|turns?|udp|https?):(?![0-9]+$)/*", re.IGNORECASE)
"""How URIs begin that people have at hand for such a server (RFC 7064, 7065); `stun:3478` is a host and its port."""


def split_target(text: str) -> tuple[str, int | None]:
    """Split a target into host and port; the port is None where there is none. Raises `UserError`."""
    if uri := _URI.match(text):
        raise UserError(
            f"the target is wrong: {text!r} is a URI: leave {uri[0]!r} out, and what is behind host and port"
        )
    try:
        host, port = split_host_port(text)
    except ValueError as error:
        raise UserError(f"the target is wrong: {error}") from error

    meant = _with_port(text)
    if meant and ("%" in host or not _is_ipv6(host)):
        raise UserError(f"the target is wrong: {text!r} is not an IPv6 address: with a port, write {meant}")
    return host, port


def cluster_name(text: str) -> str | None:
    """Return NAMESPACE/NAME of the Service that a target names as a cluster's DNS does; None for any other target.

    Such names are `turn.media.svc.cluster.local`, with the cluster's own domain at the end or without one.
    """
    found = _CLUSTER_NAME.fullmatch(split_target(text)[0])
    return f"{found['namespace']}/{found['name']}".lower() if found else None


def ambiguity_warning(text: str) -> str:
    """Return a line about a target that may be meant otherwise; empty where it may not."""
    meant = _with_port(text)
    return f"{text} is taken as an IPv6 address without a port: if its end is the port, write {meant}" if meant else ""


def _with_port(text: str) -> str:
    """Return `[::1]:4000` for `::1:4000`; empty where the end of the text cannot be meant as a port."""
    host, _, end = text.rpartition(":")
    like = len(end) >= LIKE_A_PORT and end.isascii() and end.isdigit() and int(end) <= MAX_PORT
    return f"[{host}]:{end}" if like and _is_ipv6(host) else ""


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
