"""The balancer's own object: made anew, it costs all sessions their replies for a while."""

from __future__ import annotations

from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis
from affinity_tester.core.events import ClusterSubject, Diagnosis
from affinity_tester.units import plural


def lb_churn(view: IncidentView) -> Diagnosis | None:
    """Diagnose `lb-churn`: all sessions lose probes together, and have the same pod and address after."""
    lost = [span for span in view.unanswered_spans if span.old is not None]
    same = [span for span in lost if span.ended and span.change is None]
    together = bool(lost) and max(s.from_ns for s in lost) <= min(s.to_ns for s in lost)
    if not view.nearly_all(len(same)) or not together or view.moves:
        return None

    evidence = [
        f"{view.share(s.session for s in same)} lost {plural(min(s.lost for s in same), 'probe')} or more at the same time "
        f"and were answered by the same pod at the same address after",
    ]
    near = view.cluster_events_near(ClusterSubject.SERVICE)
    if not near:
        unseen = "none was seen" if view.history.watched else NO_CLUSTER
        return diagnosis("lb-churn", evidence, f"a change of the Service or its balancer at that time: {unseen}")
    return diagnosis("lb-churn", [*evidence, *near])
