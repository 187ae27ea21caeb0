"""How two sides differ in what they ran with and on, before anything is compared."""

from __future__ import annotations

from collections.abc import Mapping

from affinity_tester.core.comparison.results import Difference
from affinity_tester.core.experiment.results import ExperimentReport, RanOn
from affinity_tester.units import format_exact

Settings = Mapping[str, str]
"""Texts by key, in the order in which they are told; empty: not known."""

UNFAIR = frozenset(
    {
        "addresses",
        "affinity-window",
        "balancer-check",
        "connected",
        "dscp",
        "foreign",
        "interval",
        "loss-threshold",
        "lost-guarantees",
        "sessions",
        "settle",
        "size",
        "via",
        "watched",
    }
)
"""What decides how much is seen: figures that differ in one of these differ for its sake, too."""


def differences(before: Settings, after: Settings) -> tuple[Difference, ...]:
    """Return what differs, in the order of the settings."""
    return tuple(
        Difference(key, before.get(key, ""), after.get(key, ""), key in UNFAIR)
        for key in dict.fromkeys((*before, *after))
        if before.get(key, "") != after.get(key, "")
    )


def report_settings(report: ExperimentReport) -> Settings:
    """Return what a report's figures depend on, as texts."""
    ran_on = report.ran_on
    return {
        "context": ran_on.context,
        **_platform(ran_on),
        "via": ran_on.via,
        "version": report.version,
        "matrix": "yes" if report.matrix else "no",
        "sessions": str(report.sessions),
        "interval": format_exact(report.interval_ns),
    }


def _platform(ran_on: RanOn) -> Settings:
    return {
        "kubernetes": ran_on.kubernetes,
        "nodes": "" if ran_on.nodes is None else str(ran_on.nodes),
        "os": _counted(ran_on.os),
        "kernel": _counted(ran_on.kernels),
        "runtime": _counted(ran_on.runtimes),
        "kubelet": _counted(ran_on.kubelets),
        "proxy": ran_on.proxy,
        "cni": ran_on.cni,
        "cloud": ran_on.cloud,
        "balancer": ran_on.balancer,
    }


def _counted(texts: tuple[tuple[str, int], ...]) -> str:
    """Return `5.15.0 (2), 6.1.0 (1)`; the number alone where all are the same is that of the nodes."""
    if len(texts) == 1:
        return texts[0][0]
    return ", ".join(f"{text} ({count})" for text, count in texts)
