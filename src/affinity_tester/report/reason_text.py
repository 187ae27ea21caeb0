"""The words for changes of the pool and for the reasons of judgements."""

from __future__ import annotations

from affinity_tester.core.judging import reasons as why
from affinity_tester.core.pool import EndpointAction, EndpointChange
from affinity_tester.units import NS_PER_S, format_offset, format_seconds, noun_form

_DOUBTS = {
    why.Doubt.RUN_ENDED_UNCONFIRMED: "the run ended before the pool was confirmed",
    why.Doubt.RUN_ENDED: "the run ended before it was certain",
    why.Doubt.WITHIN_HEALTH_CHECK: "it was silent for less than the balancer's health check",
    why.Doubt.ADDRESS_NEW: "the Service has had its address for less than 5 min",
    why.Doubt.NO_CANARY_ANSWERED: "no test probe was answered",
    why.Doubt.FEW_SESSIONS: "of fewer than 3 sessions, the client's own network may be the reason",
    why.Doubt.POOL_CHANGED_AT_START: "the pool changed in its first time",
    why.Doubt.POOL_NOT_OBSERVED_AT_START: "the pool could not be observed in its first time",
    why.Doubt.DEAD_POD_POSSIBLE: "of the ready pods one is not seen to answer, and may have got these sessions",
    why.Doubt.DEAD_SERVER_POSSIBLE: "one of several servers may have died",
    why.Doubt.LOSS_POSSIBLE: "at so much loss some sessions are silent for so long by chance",
}


def endpoint_change_text(change: EndpointChange) -> str:
    """Return what became of an endpoint or of the Service: `pod "a" left the pool`."""
    endpoint = change.endpoint
    if endpoint is None:
        return f"the Service's {change.field} changed {change.old} -> {change.new}"
    match change.action:
        case EndpointAction.LEFT:
            did = "left the pool"
        case EndpointAction.JOINED:
            did = "joined the pool" + ("" if endpoint.ready else ", not ready")
        case EndpointAction.TERMINATING:
            did = "is terminating" + (", still serving" if endpoint.serving else "")
        case EndpointAction.READY:
            did = "became ready"
        case EndpointAction.NOT_READY:
            did = "became not ready"
        case EndpointAction.SERVES:
            did = "serves"
        case EndpointAction.STOPPED_SERVING:
            did = "no longer serves"
        case _:  # NOT_TERMINATING
            did = "is no longer terminating"
    return f"{endpoint.label} {did}"


def reason_text(reason: why.Reason) -> str:
    """Return a reason's words, fit to stand after the class (`pod "…" left the pool 0.8 s before`)."""
    match reason:
        case why.PoolChanged(change, offset_ns):
            return f"{endpoint_change_text(change)} {format_offset(offset_ns)}"
        case why.PoolChangedToo(change):
            return endpoint_change_text(change)
        case why.MorePoolChanges(count):
            return f"{count} more {noun_form(count, 'change')} of the pool then"
        case why.PoolPerhapsChanged(change, width_ns, offset_ns):
            text = endpoint_change_text(change)
            return f"{text} at some time in the {format_seconds(width_ns)} up to {format_offset(offset_ns)}"
        case why.ServingPodUnknown(change, offset_ns):
            return f"{endpoint_change_text(change)} {format_offset(offset_ns)}, and which pod had answered is not known"
        case why.NoReadyEndpoint(perhaps):
            return "no endpoint was ready" + (" at about that time" if perhaps else "")
        case why.PodStopped(pod, offset_ns):
            when = "at about its end" if offset_ns is None else format_offset(offset_ns)
            return f'pod "{pod}" left the pool or stopped serving {when}'
        case why.PodReplaced(pod):
            return f'pod "{pod}" was restarted or replaced'
        case why.NothingExplains(pool):
            return _STATES[pool]
        case why.PodAnswersOthers(pod, why.PoolState.NOT_WATCHED):
            return f'pod "{pod}" answers others (cluster not watched)'
        case why.PodAnswersOthers(pod, settled_after_ns=None):
            return f'pod "{pod}" answers others, and no endpoint had changed'
        case why.PodAnswersOthers(pod, settled_after_ns=int(settled_after_ns)):
            over = f"the change of the pool at its beginning is {settled_after_ns / NS_PER_S:.0f} s over"
            return f'pod "{pod}" answers others, and {over}'
        case why.FlowNotMoved(pod, canaries):
            answered = f"{canaries} test probes from new ports are answered since"
            return f'pod "{pod}" is gone, the flow was not moved, and {answered}'
        case why.NeverAnswered(why.PoolState.NOT_WATCHED):
            return "never answered, though test probes from new ports are (cluster not watched)"
        case why.NeverAnswered(_):
            return "never answered, though test probes from new ports are, and no endpoint had changed"
        case why.CanariesAnswered(canaries, pool):
            return f"{canaries} test probes from new ports are answered ({_STATES[pool]})"
        case why.PodNameShared(pod):
            return f'two servers share the name of pod "{pod}"'
        case why.PodRestarted():
            return "the same pod answers with a new instance"
        case why.PodAnswersNobody(pod, sessions, canaries):
            whose = (
                f'all {sessions} sessions of pod "{pod}" are' if sessions > 1 else f'the one session of pod "{pod}" is'
            )
            return f"{whose} silent, and {canaries} test probes from new ports met other pods"
        case why.NodeNotReady(node, pod):
            return f'node "{node}" of pod "{pod}" is NotReady'
        case why.PodLifeUnknown(pod, answered=True):
            return f'pod "{pod}" answered others, but only shortly before the silence ended'
        case why.PodLifeUnknown(pod):
            unknown = "whether it or the path was silent is not known"
            return f'nobody was seen to be answered by pod "{pod}" meanwhile; {unknown}'
        case why.CanariesTooFew(pod):
            return f'pod "{pod}" is gone, and too few test probes were answered since to tell'
        case why.AddressUnanswered(target):
            return f"no test probe was answered at {target}, and those to other addresses are"
        case why.ForeignSource():
            return "a foreign server may answer from another address"
        case why.WildcardListener():
            return "the server listens on a wildcard, so any of its addresses may answer"
        case why.ClientPaused(pause_ns):
            return f"{format_seconds(pause_ns)} without a probe, longer than the affinity window"
        case why.RepliesDropped(count):
            return f"{count} replies were dropped at this machine's full socket buffer"
        case why.LocalAddressChanged():
            return "this machine's own address changed or was gone"
        case why.ClientNatPossible(sessions, asked):
            together = f"all {sessions} sessions changed within a second, and nothing excludes the client's own NAT"
            return together + ("; the reference does not settle it" if asked else " (--reference settles it)")
        case why.AddressBeforeCluster(old, new):
            return f"under policy Local no proxy moves an address, and neither {old.ip} nor {new.ip} is a node's"
        case why.ReferenceMoved(old, new):
            return f"the client's own NAT: the reference saw {old} -> {new} then, too"
        case why.ReferenceStayed(mapped, independent):
            how = ", as pods had: the client's NAT did not move" if independent else ""
            return f"the reference saw {mapped} throughout{how}"
        case why.WatchBeganLater(offset_ns):
            return f"the watch of the pool began {format_offset(offset_ns)} it"
        case why.PoolNotObserved(lasted_ns, at_onset):
            around = "its beginning" if at_onset else "it"
            return f"the pool could not be observed for {format_seconds(lasted_ns)} around {around}"
        case why.TooManyOpen(limit):
            return f"more than {limit:,} changes came before the pool was confirmed"
        case why.InDoubt(doubt):
            return _DOUBTS[doubt]
    raise TypeError(f"no words for {reason!r}")


_STATES = {
    why.PoolState.STILL: "no endpoint had changed",
    why.PoolState.NOT_WATCHED: "cluster not watched, endpoints assumed unchanged",
}


def reason_texts(reasons: tuple[why.Reason, ...]) -> list[str]:
    """Return the words of each."""
    return [reason_text(reason) for reason in reasons]
