"""A command whose `--help` lists its options under headings: nobody reads thirty of them in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

Groups = Mapping[str, tuple[str, ...]]
"""The names of parameters by heading, in the order of the help."""

CLIENT: Groups = {
    "Target and cluster": (
        "service",
        "via",
        "target_port",
        "ipv4",
        "ipv6",
        "watch",
        "kubeconfig",
        "context",
        "namespace",
        "reference",
    ),
    "Probes": (
        "sessions",
        "interval",
        "duration",
        "loss_threshold",
        "size",
        "sizes",
        "bind",
        "dscp",
        "connected",
        "key",
    ),
    "Judging": (
        "settle",
        "affinity_window",
        "balancer_check",
        "max_loss",
        "fail_on",
        "fail_fast",
    ),
    "Output": (
        "verbose",
        "quiet",
        "stats",
        "stats_interval",
        "live",
        "log_format",
        "record",
        "metrics_at",
        "on_violation",
    ),
}

IDLE: Groups = {
    "Target and cluster": tuple(name for name in CLIENT["Target and cluster"] if name != "reference"),
    "Samples": ("longest", "samples", "direction", "settle", "bind", "key"),
    "Output": ("live", "log_format", "document"),
}

SERVER: Groups = {
    "Addresses": ("host", "port", "health_port"),
    "Identity": ("pod_name", "node_name", "key"),
    "Load": ("workers", "rate_limit", "rate_limit_prefix", "max_flows"),
    "Run": ("drain", "stats_interval", "log_format"),
}

EXPERIMENT: Groups = {
    "What is done": ("matrix", "do", "undo", "node", "dry_run", "confirm_context", "lab", "lab_faults", "listed"),
    "Cluster": ("service", "via", "ipv4", "ipv6", "kubeconfig", "context", "namespace"),
    "Sessions": ("sessions", "interval", "loss_threshold", "settle", "steady", "limit", "key", "reference"),
    "Output": ("outputs", "record", "live", "log_format"),
}

REPORT: Groups = {
    "Form": ("form", "output", "exit_zero"),
    "Judge again": ("rejudge", "settle", "affinity_window", "balancer_check", "max_loss", "fail_on"),
}


class GroupedCommand(click.Command):
    """A command with its options in groups; those in none stand at the end, under `Options`."""

    def __init__(self, *args: Any, groups: Groups, **settings: Any) -> None:
        """Make the command as click does."""
        super().__init__(*args, **settings)
        self._groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group that has options here."""
        rest = {
            param.name: record
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None
        }
        sections = [
            (title, [rest.pop(name) for name in names if name in rest]) for title, names in self._groups.items()
        ]
        for title, records in [*sections, ("Options", list(rest.values()))]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
