"""A server as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from affinity_tester import __version__
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.report.metric_families import INFO, Described, family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

RECEIVED = Described("server_received", "counter", "Datagrams read.")
ANSWERED = Described("server_answered", "counter", "Success responses.")
REFUSED = Described("server_refused", "counter", "420 error responses.")
DROPPED = Described("server_dropped", "counter", "Datagrams that got no answer, by reason.", ("reason",))
FLOWS = Described("server_flows", "gauge", "Flows (session token and reflexive address) that are remembered.")
EVICTED = Described("server_evicted_flows", "counter", "Flows forgotten to make room for newer ones.")
SERVER_SEND_ERRORS = Described("server_send_errors", "counter", "Replies that the machine refused to send.")
DELAYED = Described("server_delayed", "counter", "Second replies, sent after the delay that their requests asked for.")
NOT_DELAYED = Described("server_not_delayed", "counter", "Second replies that were refused or not sent.", ("reason",))
START_TIME = Described("server_start_time_seconds", "gauge", "When the server started (Unix time).")

SERVER_METRICS = (
    INFO,
    RECEIVED,
    ANSWERED,
    REFUSED,
    DROPPED,
    FLOWS,
    EVICTED,
    SERVER_SEND_ERRORS,
    DELAYED,
    NOT_DELAYED,
    START_TIME,
)
"""What a server tells."""


def server_families(totals: ServerTotals, start_time_s: float) -> Iterator[Metric]:
    """Yield a server's metric families."""
    yield family(INFO, [((__version__,), 1)])
    for described, value in (
        (RECEIVED, totals.received),
        (ANSWERED, totals.answered),
        (REFUSED, totals.refused),
        (FLOWS, totals.flows),
        (EVICTED, totals.evicted),
        (SERVER_SEND_ERRORS, totals.send_errors),
        (DELAYED, totals.delayed),
        (START_TIME, start_time_s),
    ):
        yield family(described, [((), value)])
    yield family(DROPPED, [((reason,), count) for reason, count in totals.dropped])
    yield family(NOT_DELAYED, [((reason,), count) for reason, count in totals.not_delayed])
