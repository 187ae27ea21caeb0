"""Faults of the client's own machine, or that it is told of: its sockets, its addresses, ICMP errors."""

from __future__ import annotations

from affinity_tester.core.diagnosis import size_rules
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import diagnosis, listed, pods, was
from affinity_tester.core.events import ClientFaultKind, Diagnosis
from affinity_tester.units import plural

_OWN_SHARE = 0.5
"""So much of an incident's loss must be the client's own for it to be the cause."""


def client_socket(view: IncidentView) -> Diagnosis | None:
    """Diagnose `client-socket`: the client's own address changed, or its machine closed its socket."""
    details = {
        event.detail
        for event in view.history.client_faults
        if event.fault is ClientFaultKind.LOCAL_ADDRESS and view.during(event.at_ns)
    }
    if details:
        sessions = {move.session for move in view.moves} | {span.session for span in view.unanswered_spans}
        return diagnosis("client-socket", [f"{view.share(sessions)}; {listed(details)}"])

    sessions = {move.session for move in view.moves} | {span.session for span in view.unanswered_spans}
    errors = [e for e in view.history.network_errors if e.session in sessions and view.during(e.at_ns)]
    aborted = {event.session for event in errors if event.error == "ECONNABORTED"}
    if aborted:
        return diagnosis(
            "client-socket", [f"{view.share(aborted)} had their socket ended by this machine (ECONNABORTED)"]
        )

    refused = {event.session for event in errors if event.error == "ECONNREFUSED" and event.offender is None}
    started = view.history.started
    if refused and started is not None and started.connected:
        evidence = [f"{view.share(refused)} heard ECONNREFUSED on a connected socket, from no known sender"]
        return diagnosis("client-socket", evidence, "the same run without --connected, for comparison")
    return None


def wrong_source(view: IncidentView) -> Diagnosis | None:
    """Diagnose `wrong-source`: sessions of the incident were answered from another address than the Service's."""
    sessions = (
        {move.session for move in view.moves} | {span.session for span in view.unanswered_spans} | view.stray_sessions
    )
    seen = [e for e in view.history.wrong_sources if e.session in sessions and view.during(e.at_ns)]
    if not seen:
        return None

    strayed = {event.session for event in seen}
    evidence = [
        f"{view.share(strayed)} {was(len(strayed))} answered from {listed({str(e.source) for e in seen})}; "
        f"probes go to {seen[0].expected}",
        f"by {pods({event.identity.pod for event in seen if event.identity.pod is not None})}"
        if any(event.identity.pod is not None for event in seen)
        else "by a server that names no pod",
        f"{plural(sum(s.lost for s in view.unanswered_spans), 'probe')} lost meanwhile: such replies do not count as answers",
    ]
    return diagnosis("wrong-source", evidence)


def too_big(view: IncidentView) -> Diagnosis | None:
    """Diagnose `mtu`: a hop reported that a probe is too big for it, or small test probes pass and none of full size does."""
    seen = [e for e in view.history.network_errors if e.error == "EMSGSIZE" and view.during(e.at_ns)]
    if not seen:
        return size_rules.small_ones_pass(view.history, view.from_ns, view.to_ns + view.history.interval_ns)
    senders = {event.offender for event in seen if event.offender is not None}
    by = f" from {listed(senders)}" if senders else ""
    sizes = ", ".join(f"{size:,}" for size in view.history.sizes)
    evidence = [f'{view.share(e.session for e in seen)} heard ICMP "packet too big"{by}; probes have {sizes} bytes']
    return diagnosis("mtu", evidence)


def self_inflicted(view: IncidentView) -> Diagnosis | None:
    """Diagnose `self-inflicted`: this machine dropped replies or refused to send while probes were lost."""
    lost = {span.session for span in view.unanswered_spans}
    faults = [
        event
        for event in view.history.client_faults
        if event.fault in {ClientFaultKind.SOCKET_DROPS, ClientFaultKind.SEND_ERROR}
        and event.session in lost
        and view.during(event.at_ns)
    ]
    hit = {event.session for event in faults}
    if not hit or len(hit) < _OWN_SHARE * len(lost):
        return None

    evidence = [f"{view.share(hit)}: {listed({f'{event.fault} ({event.detail})' for event in faults})}"]
    return diagnosis("self-inflicted", evidence)
