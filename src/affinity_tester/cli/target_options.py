"""The options by which a command finds its target and the cluster around it, and what they say together."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from affinity_tester.app.target import TargetOptions, WatchMode
from affinity_tester.app.target_text import ambiguity_warning, split_target
from affinity_tester.cli import options
from affinity_tester.cli.exclusive import ip_version, one_of
from affinity_tester.cluster.connect import ClusterOptions
from affinity_tester.cluster.discover import Via, check_namespace, split_service
from affinity_tester.core.address import split_host_port
from affinity_tester.errors import UserError
from affinity_tester.settings import DEFAULT_PORT

F = TypeVar("F", bound=Callable[..., Any])


def target_options(command: F) -> F:
    """Give a command the argument TARGET, and the options of the group `Target and cluster`, --bind included."""
    return reduce(lambda wrapped, decorate: decorate(wrapped), reversed(_OPTIONS), command)


def cluster_options(command: F) -> F:
    """Give a command the options that say which cluster and namespace are meant."""
    return reduce(lambda wrapped, decorate: decorate(wrapped), reversed(_CLUSTER), command)


def family_options(command: F) -> F:
    """Give a command the options that ask for an IP version."""
    return reduce(lambda wrapped, decorate: decorate(wrapped), reversed(_FAMILY), command)


def is_explicit(context: click.Context, option: click.Parameter) -> bool:
    """Return whether an option has another source than its default."""
    assert option.name is not None, "an option has a name"
    return context.get_parameter_source(option.name) is not ParameterSource.DEFAULT


_CLUSTER: tuple[Callable[[Any], Any], ...] = (
    options.option(
        "--kubeconfig",
        metavar="FILE",
        help="Kubeconfig of the cluster. Default: KUBECONFIG or ~/.kube/config, as kubectl; in a pod its service account.",
    ),
    options.option("--context", metavar="NAME", help="Context of the kubeconfig. Default: its current one."),
    options.option(
        "--namespace", metavar="NAME", help="Namespace of --service, where that names none. Default: the context's."
    ),
)

_FAMILY: tuple[Callable[[Any], Any], ...] = (
    options.option("-4", "--ipv4", is_flag=True, help="Probe IPv4 addresses only."),
    options.option("-6", "--ipv6", is_flag=True, help="Probe IPv6 addresses only."),
)

reference_option = options.option(
    "--reference",
    metavar="HOST[:PORT]",
    help="A second STUN server, any public one or your own, but not in this cluster: asked from 8 of the same sockets, 10"
    f" requests a second in all, it tells a change of your own NAT from one of the cluster. Port {DEFAULT_PORT} unless"
    " named. Default: none.",
)

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("target", envvar="TARGET_ADDR", required=False),
    options.option(
        "--target-port",
        type=options.PORT,
        default=DEFAULT_PORT,
        callback=lambda context, option, value: value if is_explicit(context, option) else None,
        help="UDP port, where TARGET does not name one; of several UDP ports of --service, which one.",
    ),
    options.option(
        "--service",
        metavar="NAME",
        help="Service to probe and to watch, as NAME or NAMESPACE/NAME: its address is looked up. Default: the one that"
        " TARGET is an address of or, without TARGET, the one that k8s/service.yaml makes.",
    ),
    *_CLUSTER,
    options.option(
        "--via",
        type=click.Choice(["auto", "load-balancer", "node-port", "cluster-ip"]),
        default="auto",
        help="The way into --service; auto: the load balancer, inside the cluster the cluster IP.",
    ),
    *_FAMILY,
    options.option(
        "--watch",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        help="Watch the pool in the cluster, so that changes are judged by what it did; auto: if one answers within 3 s.",
    ),
    options.option(
        "--bind",
        type=options.SourceAddress(),
        help="Source address of all probes, one of this machine's. Default: what the system chooses for the target.",
    ),
)


def read_target_options(
    *,
    target: str | None,
    target_port: int | None,
    service: str | None,
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    via: Via,
    ipv4: bool,
    ipv6: bool,
    watch: WatchMode,
    bind: str | None,
    reference: str | None = None,
) -> TargetOptions:
    """Return what the options of `target_options` say, after a warning about a doubtful TARGET. Raises `UserError`."""
    cluster = read_cluster_options(kubeconfig, context, namespace)
    if service is not None:
        split_service(service)  # a wrong name is told before anything is looked up
    target = (target or "").strip() or None
    if target is not None:
        split_target(target)
        via = _check_via(via)
        if line := ambiguity_warning(target):
            warn(line)
    ipv4, ipv6 = one_of("ipv4", "ipv6")
    return TargetOptions(
        target=target,
        service=service,
        cluster=cluster,
        via=via,
        watch=watch,
        port=target_port,
        version=ip_version(ipv4, ipv6, bind),
        reference=reference,
    )


def read_reference(reference: str | None, *, connected: bool = False) -> str | None:
    """Return what --reference names, after a warning about a doubtful one; None if nothing. Raises `UserError`."""
    reference = (reference or "").strip() or None
    if reference is None:
        return None
    if connected:
        raise UserError(
            "--reference (AFFINITY_REFERENCE) cannot be asked from sockets that are --connected (AFFINITY_CONNECTED) to"
            " the target: leave one of them out"
        )
    try:
        split_host_port(reference)
    except ValueError as error:
        raise UserError(f"the reference is wrong: {error}") from error
    if line := ambiguity_warning(reference):
        warn(line)
    return reference


def read_cluster_options(kubeconfig: str | None, context: str | None, namespace: str | None) -> ClusterOptions:
    """Return what the options of `cluster_options` say. Raises `UserError` for a name that no namespace can have."""
    if namespace:
        check_namespace(namespace)
    return ClusterOptions(kubeconfig=kubeconfig or None, context=context or None, namespace=namespace or None)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    click.echo(f"warning: {text}", err=True)


def _check_via(via: Via) -> Via:
    """Return `auto`: TARGET is an address already. One on the command line goes before a --via in the environment.

    Raises `UserError` for a --via that would be ignored otherwise.
    """
    source = click.get_current_context().get_parameter_source
    overruled = source("via") is not ParameterSource.COMMANDLINE and source("target") is ParameterSource.COMMANDLINE
    if via != "auto" and not overruled:
        raise UserError(
            f"--via {via} (AFFINITY_VIA) says how to reach --service, and TARGET (TARGET_ADDR) is an address already:"
            " give one of them"
        )
    return "auto"
