"""Chooses the proxy of a URL by the environment, by the rules of kubectl. Pure.

They are those of Go (golang.org/x/net/http/httpproxy), which other programs do not share: an entry of NO_PROXY may be a
CIDR, an address, a domain (`example.com` with its subdomains, `.example.com` and `*.example.com` its subdomains alone), each
with or without a port, or `*`; this machine itself is never asked through a proxy. Upper-case variables go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "socks5", "socks5h")


def proxy_of(url: str, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy for an http or https URL; None if it is asked directly, or cannot be read."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    proxy = _variable(environ, f"{parts.scheme}_proxy") if parts.scheme in _PORTS else ""
    if parts.scheme == "http" and environ.get("REQUEST_METHOD"):
        proxy = ""  # in a CGI program HTTP_PROXY is a header of the request (CVE-2016-5385)
    if not proxy or _is_local(host) or _is_excluded(host, port, _variable(environ, "no_proxy")):
        return None
    return proxy if proxy.lower().startswith(tuple(f"{scheme}://" for scheme in _SCHEMES)) else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name.upper()) or environ.get(name) or "").strip()


def _is_local(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """True if an entry of NO_PROXY fits a host and a port."""
    address = _address(host)
    return any(_fits(entry.strip().lower(), host, address, port) for entry in no_proxy.split(","))


def _fits(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    network = _network(entry)
    if network is not None:
        return address is not None and address in network

    name, number = _split_port(entry)
    if not name or (number and number != str(port)):
        return False
    alike = _address(name)
    if alike is not None:
        return alike == address
    name = name.removeprefix("*") if name.startswith("*.") else name
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, str]:
    """Split HOST:PORT or [ADDRESS]:PORT; the port is empty where there is none, as in a bare IPv6 address."""
    if entry.startswith("["):
        inner, bracket, port = entry[1:].partition("]:")
        return (inner, port) if bracket else (entry, "")
    host, _, port = entry.rpartition(":")
    return (host, port) if host and ":" not in host else (entry, "")


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    bits = entry.rpartition("/")[2]
    if "/" not in entry or not (bits.isascii() and bits.isdigit()):  # Go has no other masks
        return None
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
