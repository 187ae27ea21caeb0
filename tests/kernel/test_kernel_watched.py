"""Faults that the cluster's word tells from others: the same packets, with the pool watched and, for the limit, without.

What the API server of `ControlPlane` says and what the nodes do is the case's choice. The settle time is a second, so that
little is explained by accident.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import faults
import pytest
import rules
from control_plane import ControlPlane
from observed import Observed
from prober import Client

from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from lab import SESSIONS, Lab

pytestmark = [pytest.mark.root, pytest.mark.busy]

TERMINATING = {"ready": False, "serving": True, "terminating": True}
"""A pod that is told to end and passes its readiness probe (staging/src/k8s.io/endpointslice/utils.go, podToEndpoint)."""

either_way = pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])


class Scene:
    """A cluster, and a client that watches it or not, a second after its start: use it as a context manager."""

    def __init__(self, lab: Lab, scratch: Path, *, watched: bool) -> None:
        self._lab = lab
        self._watched = watched
        self._undo = ExitStack()
        self.cluster = ControlPlane(lab, scratch)
        self.client: Client

    def __enter__(self) -> Scene:
        with ExitStack() as undo:
            undo.enter_context(self.cluster)
            kubeconfig = self.cluster.kubeconfig if self._watched else None
            self.client = undo.enter_context(self._lab.client("--settle", "1s", kubeconfig=kubeconfig))
            if self._watched:
                self.client.until("pool.observed")
            self.client.rounds(12)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


@either_way
def test_a_terminating_pod_closes_its_socket(lab: Lab, tmp_path: Path, *, watched: bool) -> None:
    """As where an application ends at SIGTERM at once, and the endpoint is still to go.

    kube-proxy gives a terminating pod no new flow, and leaves it those that it has while it is serving (KEP-1669, and
    CleanStaleEntries in pkg/proxy/conntrack/cleanup.go). Until the endpoint goes, the pod's host answers them by ICMP.
    """
    lab.build(["pod-a", "pod-b"], ["pod-c", "pod-d"])
    lab.proxy()
    lab.balance(1, 2)
    with Scene(lab, tmp_path, watched=watched) as scene:
        scene.cluster.put_pool({"pod-c": TERMINATING})
        lab.proxy(without=["pod-c"])
        scene.client.rounds(3)
        lab.pods["pod-c"].server.kill()
        scene.client.rounds(30)
        lab.forget(lab.pods["pod-c"].address)
        lab.delete_pod("pod-c")
        scene.cluster.put_pool()
        scene.client.rounds(15)
        seen = Observed(scene.client.stop())

    moved = seen.served_by("pod-c")
    assert seen.changed == moved not in (set(), set(seen.locals))
    assert all(Kind.POD in change.kinds for change in seen.all_changes)
    assert all(seen.summaries[session].total.lost > 20 for session in moved)
    assert seen.lost(set(seen.locals) - moved) == 0
    assert {error for error, _ in seen.network_errors} == {"ECONNREFUSED"}

    if watched:
        assert seen.judged == {Judgement.EXPLAINED: len(moved)}, seen.reasons
        assert (seen.likely, seen.possible) == ({"terminating-backend"}, set()), seen.diagnoses
        assert seen.exit_code != 1
    else:  # it may as well have been gone, or have hung
        assert seen.judged == {Judgement.VIOLATION: len(moved)}, seen.reasons
        assert seen.likely == set(), seen.diagnoses
        assert {"terminating-backend"} < seen.possible <= {"terminating-backend", "stale-flow", "pod-silent"}, (
            seen.diagnoses
        )


def test_flows_are_taken_from_a_pod_that_serves_and_is_not_ready(lab: Lab, tmp_path: Path) -> None:
    """As kube-proxy did up to 1.31: it deleted the flows of an endpoint as soon as that was not ready any more.

    "Check if the endpoint has changed, including if it went from ready to not ready" (detectStaleConnections in
    pkg/proxy/endpoints.go); what KEP-5989 is to end.
    """
    lab.build(["pod-a", "pod-b"], ["pod-c", "pod-d"])
    lab.proxy()
    lab.balance(1, 2)
    with Scene(lab, tmp_path, watched=True) as scene:
        scene.cluster.put_pool({"pod-c": TERMINATING})
        lab.proxy(without=["pod-c"])
        lab.forget(lab.pods["pod-c"].address)
        scene.client.rounds(20)
        seen = Observed(scene.client.stop())

    moved = seen.served_by("pod-c")
    assert seen.changed == moved not in (set(), set(seen.locals))
    assert all(Kind.POD in change.kinds for change in seen.all_changes)
    assert seen.lost(moved) <= len(moved)
    assert seen.lost(set(seen.locals) - moved) == 0
    assert seen.judged == {Judgement.EXPLAINED: len(moved)}, seen.reasons
    assert seen.avoidable == moved
    assert (seen.likely, seen.possible) == ({"early-flush"}, set()), seen.diagnoses
    assert seen.exit_code != 1


@either_way
def test_the_balancer_is_made_anew(lab: Lab, tmp_path: Path, *, watched: bool) -> None:
    """All sessions lose together; the nodes have kept their flows, so each has its pod and its address after.

    Its controller takes the balancer's address from the Service's status, and sets it again (ServiceStatus.loadBalancer).
    """
    lab.build(["pod-a", "pod-b"], ["pod-c"])
    lab.proxy()
    addresses = [f"10.30.{number}.2" for number in range(1, len(lab.nodes) + 1)]
    for host, address in zip(lab.nodes, addresses, strict=True):
        lab.nft(host, faults.node_port(address))
    lab.nft("balancer", faults.balancer_object(addresses))
    with Scene(lab, tmp_path, watched=watched) as scene:
        scene.cluster.put_service()
        lab.nft("balancer", faults.no_balancer_object())
        lab.flush("balancer")
        scene.client.rounds(25)
        lab.nft("balancer", faults.balancer_object(addresses))
        scene.cluster.put_service(rules.VIP)
        scene.client.rounds(15)
        seen = Observed(scene.client.stop())

    assert len(seen.first) == SESSIONS
    assert (seen.changes, seen.outages, seen.wrong_sources) == ({}, {}, {})
    assert all(summary.total.lost > 15 for summary in seen.summaries.values())
    assert seen.run.losses.up == seen.run.total.lost
    assert Judgement.VIOLATION not in seen.judged
    if watched:
        assert (seen.likely, seen.possible) == ({"lb-churn"}, set()), seen.diagnoses
    else:
        assert (seen.likely, seen.possible) == (set(), {"lb-churn"}), seen.diagnoses
    assert seen.exit_code != 1
