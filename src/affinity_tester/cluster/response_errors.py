"""Says what an answer means that is not what was asked for: of the API server, or of what stands before it. Pure.

An API server answers with JSON, or with a line of plain text where it refuses before it reads the request. A web page is
never its own: a login page, a portal, a load balancer or a firewall answers in its place. So the status of a web page says
nothing about rights, credentials or objects in the cluster, and an error of it has no status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from affinity_tester.cluster.api import FORBIDDEN, TOO_MANY_REQUESTS, ApiError

UNAUTHORIZED = 401
PROXY_AUTHENTICATION = 407
SERVER_ERRORS = range(500, 600)

BUDGET = "DisruptionBudget"
"""The cause in the Status of an eviction that a PodDisruptionBudget does not allow (policy/v1)."""

MAX_SAID = 200
"""So many characters of what a server says are shown."""

MAX_RETRY_AFTER_S = 60.0
"""A server is not left alone for longer, whatever it asks for: a run should not be blind for long."""

ANONYMOUS = "system:anonymous"
"""The user of a request whose credentials the API server ignored."""

LOG_IN = "log in again"
LATER = "try again in a moment"
CHECK_SERVER = "log in there, or check `server` in the kubeconfig"


def response_error(status: int, reason: str | None, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Return the error of an answer whose status is no success. `headers` ignores the case of names."""
    code = one_line(f"{status} {reason or ''}".strip())
    if status == PROXY_AUTHENTICATION:
        return proxy_refusal("the proxy", status, reason)
    if status == TOO_MANY_REQUESTS or status in SERVER_ERRORS:
        return _unavailable(status, code, headers, body)
    if b"SSL certificate" in body and status not in (UNAUTHORIZED, FORBIDDEN):  # nginx, with 400, 495 or 496
        return ApiError(
            f"what stands before the API server refuses the client certificate ({code})",
            advice="get the kubeconfig anew, or log in",
        )
    if b"HTTP request was sent to HTTPS port" in body or b"HTTP request to an HTTPS server" in body:  # nginx; Go
        return ApiError("the API server wants TLS", advice="write https:// in `server` of the kubeconfig")
    if is_web_page(headers, body):
        return ApiError(f"a web page answers in place of the API server ({code})", advice=CHECK_SERVER)

    said = _said(body)
    said = said or one_line(reason or "") or f"HTTP {status}"
    if status == UNAUTHORIZED or (status == FORBIDDEN and ANONYMOUS in said):
        return ApiError(f"the API server refuses the credentials ({said})", status, advice=LOG_IN)
    return ApiError(said, status, causes=_causes(body))


def _unavailable(status: int, code: str, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Return the error of a server that cannot answer now, which is no matter of credentials."""
    retry_after_s = _retry_after_s(headers)
    said, causes = _said(body), _causes(body)
    if BUDGET in causes:  # the API server is well: the answer is about the pod
        return ApiError(said or code, status, causes=causes)
    if is_web_page(headers, body):
        who, what = "what stands before the API server", f"({code})"
    else:
        who, what = "the API server", f"({status}: {said})" if said else f"({code})"

    if status == TOO_MANY_REQUESTS:
        return ApiError(f"{who} is busy {what}", status, advice=LATER, retry_after_s=retry_after_s)
    state = "is out of order" if who == "the API server" else "says that it is out of order"
    return ApiError(f"{who} {state} {what}", status, advice=LATER, retry_after_s=retry_after_s)


def unexpected_body(headers: Mapping[str, str], body: bytes) -> ApiError:
    """Return the error of a successful answer that is not JSON."""
    if is_web_page(headers, body):
        return ApiError("a web page answers in place of the API server, such as a login page", advice=CHECK_SERVER)
    return ApiError("the API server's answer cannot be read", advice="is `server` in the kubeconfig an API server's?")


def redirected(target: str) -> ApiError:
    """Return the error of a redirect to another host, where no API server sends its clients."""
    return ApiError(
        f"the API server's address leads to {one_line(without_secrets(target))}, which is a login page or a portal",
        advice=CHECK_SERVER,
    )


def proxy_refusal(proxy: str, status: int, reason: str | None) -> ApiError:
    """Return the error of a proxy that does not let the request through."""
    code = one_line(f"{status} {reason or ''}".strip())
    if status == PROXY_AUTHENTICATION:
        advice = "give them as in HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
        return ApiError(f"{proxy} wants a user and a password ({code})", advice=advice)
    if status == TOO_MANY_REQUESTS or status in SERVER_ERRORS:
        return ApiError(f"{proxy} does not reach the API server ({code})", advice=f"{LATER}, or set NO_PROXY")
    return ApiError(f"{proxy} does not let the request through ({code})", advice="set NO_PROXY, or ask who runs it")


def is_web_page(headers: Mapping[str, str], body: bytes) -> bool:
    """True if an answer is a web page, by what it says of itself or by how it begins."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") or (kind != "application/json" and body.lstrip()[:1] == b"<")


def one_line(text: str, most: int = MAX_SAID) -> str:
    """Return a text from outside as one printable line of at most so many characters."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def without_secrets(url: str) -> str:
    """Return a URL without user, password and query, which may carry tokens."""
    scheme, found, rest = url.partition("://")
    if not found:
        scheme, rest = "", url
    host, slash, path = rest.partition("/")
    path = path.partition("?")[0].partition("#")[0]
    return f"{scheme}{found}{host.partition('?')[0].rpartition('@')[2]}{slash}{path}"


def _causes(body: bytes) -> tuple[str, ...]:
    """Return the reasons of a Status' `details.causes`; empty for any other answer."""
    try:
        causes = json.loads(body)["details"]["causes"]
        return tuple(each["reason"] for each in causes if isinstance(each["reason"], str))
    except (ValueError, TypeError, LookupError, RecursionError):
        return ()


def _said(body: bytes) -> str:
    """Return what an answer says for people: a Status' message, or the first line of a plain text; empty if nothing."""
    text = body.decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return one_line(text.partition("\n")[0]) if text[:1] not in ("<", "{", "[") else ""
    said = found.get("message") if isinstance(found, dict) else None
    return one_line(said) if isinstance(said, str) else ""


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After, at most `MAX_RETRY_AFTER_S`; None without, and for a date, which none sends."""
    text = headers.get("Retry-After", "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return min(float(text[:9]), MAX_RETRY_AFTER_S)
