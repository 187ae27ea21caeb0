"""`affinity-tester lab-cluster`, which stands in for a cluster; `experiment --lab` and tests start it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from affinity_tester.app.lab_cluster import LabClusterRun
from affinity_tester.cli import options
from affinity_tester.lab.kube.addresses import MAX_NODES
from affinity_tester.lab.kube.cluster import LabClusterSettings
from affinity_tester.lab.kube.faults import FAULTS, read_faults
from affinity_tester.lab.kube.kubelet import PodTiming
from affinity_tester.lab.kube.service_proxy import ProxyTiming


@click.command(
    "lab-cluster", epilog="Faults: " + "; ".join(f"{name}: {entry.text}" for name, entry in FAULTS.items()) + "."
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    required=True,
    help="File to write when the cluster is ready, with its one context; removed in the end.",
)
@click.option("--seed", type=options.Seed(), default=1, show_default=True, help="Decides names, ports and choices.")
@click.option(
    "--nodes", type=options.Whole(1, MAX_NODES), default=3, show_default=True, help="How many nodes there are at first."
)
@click.option(
    "--replicas", type=options.Whole(0, 200), default=3, show_default=True, help="How many echo servers run at first."
)
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[=VALUE]", help="A fault of proxies or balancer; repeatable."
)
@click.option(
    "--autoscale", is_flag=True, help="Add a node for a pod that fits nowhere, and remove it when it is empty."
)
@click.option("--static-proxies", is_flag=True, help="Run kube-proxy as static pods in place of a DaemonSet's.")
@click.option(
    "--deny", multiple=True, metavar="VERB:RESOURCE", help="A right that the user lacks (delete:pods); repeatable."
)
@click.option(
    "--pod-start",
    type=options.DURATION,
    default="300ms",
    show_default=True,
    help="Time from a pod's binding to a node until it is ready.",
)
@click.option(
    "--pod-drain",
    type=options.DURATION,
    default="1s",
    show_default=True,
    help="Time for which a pod answers that was told to end.",
)
@click.option(
    "--flow-clean",
    type=options.DURATION,
    default="1s",
    show_default=True,
    help="Time from an endpoint's end until the proxies drop its flows.",
)
@click.option("--with-parent", is_flag=True, help="End when standard input ends, as it does with the parent process.")
def lab_cluster(
    *,
    kubeconfig: Path,
    seed: int,
    nodes: int,
    replicas: int,
    faults: tuple[str, ...],
    autoscale: bool,
    static_proxies: bool,
    deny: tuple[str, ...],
    pod_start: int,
    pod_drain: int,
    flow_clean: int,
    with_parent: bool,
) -> None:
    """Emulate a cluster on loopback: an API server with controllers, pods that are echo servers, node ports, a balancer."""
    settings = LabClusterSettings(
        seed=seed,
        nodes=nodes,
        faults=read_faults(faults),
        pods=PodTiming(start_ns=pod_start, drain_ns=pod_drain),
        proxies=ProxyTiming(clean_ns=flow_clean),
        autoscale=autoscale,
        static_proxies=static_proxies,
        denied=deny,
    )
    run = LabClusterRun(kubeconfig=kubeconfig, replicas=replicas, with_parent=with_parent, settings=settings)
    asyncio.run(run.run(click.echo))
