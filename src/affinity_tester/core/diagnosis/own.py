"""Faults that the client's own machine tells of: its sockets, its addresses, what it hears by ICMP."""

from __future__ import annotations

from affinity_tester.core.diagnosis.case import Case
from affinity_tester.core.diagnosis.wording import count, diagnosis, listed, pods, was
from affinity_tester.core.events import ClientFaultKind, Diagnosis

_OWN_SHARE = 0.5
"""So much of an incident's loss must be the client's own for it to be the cause."""


def client_socket(case: Case) -> Diagnosis | None:
    """The client's own address changed, or its socket was ended under it."""
    details = {
        event.detail
        for event in case.facts.client_faults
        if event.fault is ClientFaultKind.LOCAL_ADDRESS and case.during(event.at_ns)
    }
    if details:
        sessions = {move.session for move in case.moves} | {silence.session for silence in case.silences}
        return diagnosis("client-socket", [f"{case.share(sessions)}; {listed(details)}"])
    sessions = {move.session for move in case.moves} | {silence.session for silence in case.silences}
    errors = [e for e in case.facts.network_errors if e.session in sessions and case.during(e.at_ns)]
    aborted = {event.session for event in errors if event.error == "ECONNABORTED"}
    if aborted:
        return diagnosis(
            "client-socket", [f"{case.share(aborted)} had their socket ended by this machine (ECONNABORTED)"]
        )
    refused = {event.session for event in errors if event.error == "ECONNREFUSED" and event.offender is None}
    started = case.facts.started
    if refused and started is not None and started.connected:
        evidence = [f"{case.share(refused)} heard ECONNREFUSED on a connected socket, from no known sender"]
        return diagnosis("client-socket", evidence, "the same run without --connected, for comparison")
    return None


def wrong_source(case: Case) -> Diagnosis | None:
    """Sessions of the incident were answered from another address than the service's."""
    sessions = {move.session for move in case.moves} | {silence.session for silence in case.silences} | case.astray
    seen = [e for e in case.facts.wrong_sources if e.session in sessions and case.during(e.at_ns)]
    if not seen:
        return None
    strayed = {event.session for event in seen}
    evidence = [
        f"{case.share(strayed)} {was(len(strayed))} answered from {listed({str(e.source) for e in seen})}; "
        f"probes go to {seen[0].expected}",
        f"by {pods({event.identity.pod for event in seen if event.identity.pod is not None})}"
        if any(event.identity.pod is not None for event in seen)
        else "by a server that names no pod",
        f"{count(sum(s.lost for s in case.silences), 'probe')} lost meanwhile: such replies do not count as answers",
    ]
    return diagnosis("wrong-source", evidence)


def too_big(case: Case) -> Diagnosis | None:
    """A hop said that a probe is too big for it."""
    seen = [e for e in case.facts.network_errors if e.error == "EMSGSIZE" and case.during(e.at_ns)]
    if not seen:
        return None
    senders = {event.offender for event in seen if event.offender is not None}
    by = f" from {listed(senders)}" if senders else ""
    sizes = ", ".join(f"{size:,}" for size in case.facts.sizes)
    evidence = [f'{case.share(e.session for e in seen)} heard ICMP "packet too big"{by}; probes have {sizes} bytes']
    return diagnosis("mtu", evidence)


def self_inflicted(case: Case) -> Diagnosis | None:
    """This machine dropped replies or refused to send while the incident's probes were lost."""
    lost = {silence.session for silence in case.silences}
    faults = [
        event
        for event in case.facts.client_faults
        if event.fault in {ClientFaultKind.SOCKET_DROPS, ClientFaultKind.SEND_ERROR}
        and event.session in lost
        and case.during(event.at_ns)
    ]
    hit = {event.session for event in faults}
    if not hit or len(hit) < _OWN_SHARE * len(lost):
        return None
    evidence = [f"{case.share(hit)}: {listed({f'{event.fault} ({event.detail})' for event in faults})}"]
    return diagnosis("self-inflicted", evidence)
