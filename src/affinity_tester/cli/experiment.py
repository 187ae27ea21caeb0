"""`affinity-tester experiment`: act on the cluster, and say what it did to the sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from affinity_tester.app.experiment import ExperimentOptions, run_experiments
from affinity_tester.app.experiment_file import Planned
from affinity_tester.app.experiment_lab import open_lab_cluster
from affinity_tester.app.experiment_run import Timing
from affinity_tester.app.lab_cluster import CONTEXT as LAB_CONTEXT
from affinity_tester.app.target import TargetOptions
from affinity_tester.cli import EXIT_INTERRUPTED, options
from affinity_tester.cli.exclusive import ip_version, one_of
from affinity_tester.cli.experiment_output import ExperimentOutput, OutputFile, check_writable, write_report
from affinity_tester.cli.experiment_suite import read_experiments
from affinity_tester.cli.grouped import EXPERIMENT, GroupedCommand
from affinity_tester.cli.target_options import (
    cluster_options,
    family_options,
    read_cluster_options,
    read_reference,
    reference_option,
)
from affinity_tester.cluster.connect import ClusterOptions
from affinity_tester.cluster.discover import Via, split_service
from affinity_tester.core.experiment.catalogue import ALL, EXPERIMENTS
from affinity_tester.core.experiment.phases import INTERRUPTED
from affinity_tester.core.experiment.results import ExperimentReport, Held
from affinity_tester.core.judging.rules import Rules
from affinity_tester.errors import UserError
from affinity_tester.report.experiment_words import held_of, overall
from affinity_tester.report.logging import LogFormat
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_MS, NS_PER_S

SESSIONS = 24
"""Eight at each of three pods: 0 of 24 moved means at most 12 % would (95 %)."""

INTERVAL_NS = NS_PER_S // 5
"""As in the runs that docs/failure-modes.md tells of; a blackout is known to a fifth of a second."""

LAB_DEFAULTS = {
    "interval": 100 * NS_PER_MS,
    "loss_threshold": 500 * NS_PER_MS,
    "settle": NS_PER_S,
    "steady": 2 * NS_PER_S,
    "limit": 30 * NS_PER_S,
}
"""What `--lab` takes where nothing else is asked for: its pods start and end in about a second."""


EXIT_CODES = {Held.YES: 0, Held.NO: 1, Held.UNKNOWN: 3}
"""By what all requirements together came to."""


def _complete(_context: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    names = {"all": "those that touch only this tool's own objects"}
    names |= {name: each.does for name, each in EXPERIMENTS.items()}
    own = [CompletionItem(name, help=does) for name, does in names.items() if name.startswith(start)]
    return own or [CompletionItem(start, type="file")]


@click.command(
    cls=GroupedCommand,
    groups=EXPERIMENT,
    epilog="Exit codes: 0 every requirement held, 1 one was broken, 2 usage, 3 something could not be told, 70 internal"
    " error, 130 Ctrl-C.",
)
@click.argument("names", metavar="[NAME…|FILE.yaml|all]", nargs=-1, shell_complete=_complete)
@click.option("--list", "listed", is_flag=True, help="List the experiments with their requirements, and run nothing.")
@click.option(
    "--matrix",
    is_flag=True,
    help="Make four Services over the same pods, of each policy (Cluster, Local) and affinity (None, ClientIP), act once"
    " and judge four times; they are deleted afterwards.",
)
@click.option(
    "--lab",
    is_flag=True,
    help="Run against a small cluster on this machine's loopback: no cluster is needed. Its times are shorter unless given:"
    " --interval 100ms, --loss-threshold 500ms, --settle 1s, --steady 2s, --limit 30s.",
)
@click.option(
    "--lab-fault",
    "lab_faults",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="With --lab: a known fault that its proxies have (flush-on-change, stale-entries, early-flush, ...).",
)
@click.option("--dry-run", is_flag=True, help="Show the API calls, and change nothing.")
@click.option(
    "--confirm-context",
    metavar="NAME",
    help="The context's name once more: wanted by experiments that touch more than this tool's own objects.",
)
@click.option(
    "--do",
    "do",
    metavar="COMMAND",
    help="command: what to run, with KUBECONFIG, CONTEXT and NAMESPACE set; no shell reads it (sh -c '...' for one).",
)
@click.option("--undo", metavar="COMMAND", help="command: what undoes it. Default: nothing does.")
@click.option("--node", metavar="NAME", help="node-drain, proxy-restart: the (first) node. Default: it is chosen.")
@options.option("-n", "--sessions", type=options.Whole(1, 10_000), default=SESSIONS, help="Sessions, of each Service.")
@options.option(
    "-i",
    "--interval",
    type=options.Duration(2 * NS_PER_MS, 10 * NS_PER_S),
    default=INTERVAL_NS,
    help="Time between two probes of a session.",
)
@options.option(
    "-t",
    "--loss-threshold",
    type=options.Duration(1 * NS_PER_MS, 30 * NS_PER_S),
    default=ClientSettings().loss_threshold_ns,
    help="A probe not answered in this time is lost.",
)
@options.option(
    "--settle",
    type=options.Duration(0, 600 * NS_PER_S),
    default=Rules().settle_ns,
    help="A change of the pool explains changes of sessions up to so long before and after it.",
)
@click.option(
    "--steady",
    type=options.Duration(NS_PER_S // 10, 3600 * NS_PER_S),
    default="10s",
    show_default=True,
    help="How long all sessions must be answered and unchanged before the action.",
)
@click.option(
    "--limit",
    type=options.Duration(NS_PER_S, 3600 * NS_PER_S),
    default="5m",
    show_default=True,
    help="How long to wait for what an action changed, and for its undo, to settle.",
)
@options.option(
    "--service",
    metavar="NAME",
    help="Service to probe, as NAME or NAMESPACE/NAME; its pods must be this tool's. Default: the one that k8s/service.yaml"
    " makes.",
)
@cluster_options
@options.option(
    "--via",
    type=click.Choice(["auto", "load-balancer", "node-port", "cluster-ip"]),
    default="auto",
    help="The way into the Service; auto: as `client`, and with --matrix node ports. --matrix --via load-balancer makes"
    " four balancers, which cost money, quota and minutes.",
)
@family_options
@reference_option
@options.key()
@click.option(
    "--record",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the records of all runs and the journal (journal.jsonl); it is made if need be.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    type=OutputFile(),
    multiple=True,
    help="File for the report; its name's end says the form: .json (for `compare`), .md, .xml (JUnit) or .html.",
)
@options.live()
@options.log_format()
def experiment(*, names: tuple[str, ...], listed: bool, **given: Any) -> int:
    """Run sessions, act on the cluster, and say which of them moved that need not have.

    NAME is an experiment (--list shows them), `all` those that touch only this tool's own objects, and FILE.yaml a suite.
    What is changed is undone, after Ctrl-C and failures too; what a killed run left is mended by the next one.
    """
    if listed:
        _list()
        return 0
    if not names:
        raise UserError("no experiment: name one (--list shows them), a .yaml file, or all")

    source = click.get_current_context().get_parameter_source
    said = {name for name in given if source(name) is not ParameterSource.DEFAULT}
    experiments = read_experiments(names, given, said)
    if given["lab"]:
        given |= {name: ns for name, ns in LAB_DEFAULTS.items() if name not in said}
    chosen = _Given(**given)
    return _run(_options(chosen, experiments, said), chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The command's options, as click read them."""

    matrix: bool
    lab: bool
    lab_faults: tuple[str, ...]
    dry_run: bool
    confirm_context: str | None
    do: str | None
    undo: str | None
    node: str | None
    sessions: int
    interval: int
    loss_threshold: int
    settle: int
    steady: int
    limit: int
    service: str | None
    kubeconfig: str | None
    context: str | None
    namespace: str | None
    via: Via
    ipv4: bool
    ipv6: bool
    reference: str | None
    key: bytes | None
    record: Path | None
    outputs: tuple[Path, ...]
    live: bool
    log_format: LogFormat


def _run(options: ExperimentOptions, given: _Given) -> int:
    if not given.dry_run:
        for path in given.outputs:
            check_writable(path)
    with ExperimentOutput(given.log_format, live=given.live) as output:
        report = asyncio.run(_experiment(options, given, output))
        if report is None:
            return 0
        output.show_report(report)
        for path in given.outputs:
            write_report(report, path)
    results = report.results
    if any(result.failure == INTERRUPTED for result in results):
        return EXIT_INTERRUPTED
    return EXIT_CODES[overall(map(held_of, results))]


async def _experiment(options: ExperimentOptions, given: _Given, output: ExperimentOutput) -> ExperimentReport | None:
    """Run the experiments, in the lab if that is asked for."""
    if not given.lab:
        return await run_experiments(options, output)
    async with open_lab_cluster(given.lab_faults) as kubeconfig:
        cluster = ClusterOptions(kubeconfig=str(kubeconfig))
        options = replace(options, target=replace(options.target, cluster=cluster), confirmed_context=LAB_CONTEXT)
        return await run_experiments(options, output)


def _options(given: _Given, experiments: tuple[Planned, ...], said: set[str]) -> ExperimentOptions:
    """Return what is to be run. Raises `UserError` for what does not go together."""
    if given.service is not None:
        split_service(given.service)
        if given.matrix:
            raise UserError("--matrix makes Services of its own over the same pods: leave --service out")
    for name in ("service", "kubeconfig", "context", "namespace"):
        if given.lab and name in said:
            raise UserError(f"--lab has a cluster of its own: leave --{name} out")
    if given.lab_faults and not given.lab:
        raise UserError("--lab-fault goes with --lab")

    names = {each.name for each in experiments}
    for option, wants in (("do", {"command"}), ("undo", {"command"}), ("node", {"node-drain", "proxy-restart"})):
        if getattr(given, option) and not names & wants:
            raise UserError(f"--{option} goes with the experiment {' or '.join(sorted(wants))}")
    experiments = tuple(_with_options(each, given) for each in experiments)
    if any(each.name == "command" and not each.options.do for each in experiments):
        raise UserError("the experiment command wants --do COMMAND, and --undo COMMAND where something undoes it")

    ipv4, ipv6 = one_of("ipv4", "ipv6")
    return ExperimentOptions(
        experiments=experiments,
        target=TargetOptions(
            target=None,
            service=given.service,
            cluster=read_cluster_options(given.kubeconfig, given.context, given.namespace),
            via=given.via,
            watch="on",
            port=None,
            version=ip_version(ipv4, ipv6, None),
            every_node=True,
            reference=read_reference(given.reference),
        ),
        settings=ClientSettings(
            sessions=given.sessions,
            interval_ns=given.interval,
            loss_threshold_ns=given.loss_threshold,
            key=given.key,
            rules=Rules(settle_ns=given.settle),
        ),
        matrix=given.matrix,
        steady_ns=given.steady,
        timing=Timing(settle_limit_ns=given.limit, steady_limit_ns=6 * given.steady),
        record=given.record,
        confirmed_context=given.confirm_context,
        dry_run=given.dry_run,
    )


def _with_options(each: Planned, given: _Given) -> Planned:
    """Return an experiment with what the command line chooses for it."""
    chosen = each.options
    if each.name == "command":
        chosen = replace(chosen, do=given.do or chosen.do, undo=given.undo or chosen.undo)
    if each.name in {"node-drain", "proxy-restart"}:
        chosen = replace(chosen, node=given.node or chosen.node)
    return replace(each, options=chosen)


def _list() -> None:
    for name, each in EXPERIMENTS.items():
        wants = "" if name in ALL else "; wants --confirm-context"
        click.echo(f"{name}: {each.does} ({each.kind.value}{wants})")
        click.echo(f"    {each.requirement}")
        click.echo(f"    source: {each.source}")
