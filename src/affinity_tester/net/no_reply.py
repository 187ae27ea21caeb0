"""Why a run has no answers, as far as the client's own sessions show it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.session import Session

_MAX_SOURCES = 3
"""The most wrong sources that the reason names."""


def no_reply_reason(sessions: Collection[Session], targets: Iterable[TransportAddress], *, keyed: bool) -> str:
    """Return why no probe was answered, as a text; empty if the sessions show no reason.

    `targets` are the addresses that were probed; `keyed` is True if requests carry MESSAGE-INTEGRITY-SHA256.
    """
    wrong_source = sum(session.wrong_source for session in sessions)
    if wrong_source:
        sources = sorted({source for session in sessions for source in session.wrong_sources})
        more = f" and {len(sources) - _MAX_SOURCES} more" if len(sources) > _MAX_SOURCES else ""
        named = ", ".join(sources[:_MAX_SOURCES]) + more
        probed = ", ".join(map(str, targets))
        return f"{wrong_source:,} replies came from {named}, not from {probed}: such replies answer nothing"

    cross_delivered = sum(session.cross_delivered for session in sessions)
    if cross_delivered:
        return f"{cross_delivered:,} replies came, each to another session than the one that had sent the probe"

    for session in sessions:
        if session.error_response is not None:
            return _error_response_reason(session.error_response, keyed=keyed)

    undecodable = sum(session.undecodable for session in sessions)
    if undecodable:
        question = "is AFFINITY_KEY the same on both sides?" if keyed else "is this a STUN server's port?"
        return f"{undecodable:,} replies came that are none to these probes: {question}"

    icmp_errors = sum(session.network_errors for session in sessions)
    if icmp_errors:
        return f"{icmp_errors:,} ICMP errors came back (see above): nothing answers at this address and port"
    return ""


def _error_response_reason(error: str, *, keyed: bool) -> str:
    """Return what a STUN error response (code and reason, RFC 8489, section 14.8) says about the probes."""
    code = error.partition(" ")[0]
    if code == "401":
        why = (
            "is AFFINITY_KEY the server's?"
            if keyed
            else "it wants credentials (with an affinity-tester server: AFFINITY_KEY, on both sides), and these have none"
        )
    elif code == "420" and keyed:
        why = "it does not know what AFFINITY_KEY adds to them (MESSAGE-INTEGRITY-SHA256): unset it"
    else:
        why = "the server does not take them: probe one that answers plain Binding requests"
    return f"the server answers these probes with the error {error:.100}: {why}"
