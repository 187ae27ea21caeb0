"""`affinity-tester manifests`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

import click

from affinity_tester.app.live_service import controller_doubts, read_service, refuse_another_type
from affinity_tester.app.manifests import MANIFESTS, chosen_cloud, read_settings, render, setting_notes
from affinity_tester.app.server_archive import build_archive, find_wheels
from affinity_tester.cli import OutputFailedError, options
from affinity_tester.errors import UserError


@click.command(
    epilog="Settings: "
    + "; ".join(f"{name} has {', '.join(manifest.settings) or 'none'}" for name, manifest in MANIFESTS.items())
    + "."
)
@click.argument("name", type=click.Choice([*MANIFESTS, "archive"]))
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Value of a setting; repeatable.")
@click.option("--kind", metavar="KIND", help="Print the objects of this kind alone (ConfigMap, Deployment).")
@click.option(
    "--live",
    type=click.File(encoding="utf-8", errors="replace"),
    metavar="FILE",
    help="Print no object, but what is wrong with the Service of this file ('kubectl get service NAME --output=json'; '-':"
    " standard input): a controller that is missing, or one that makes nothing for it.",
)
@click.option(
    "--over",
    type=click.File(encoding="utf-8", errors="replace"),
    metavar="FILE",
    help="The Service that is there, in a file as for --live: refuse settings that must not change on it.",
)
@options.option(
    "--wheels",
    type=click.Path(file_okay=False, path_type=Path),
    env="AFFINITY_WHEELS",
    help="Directory with the wheels of what the servers' code imports. Default: they are downloaded once, and kept.",
)
def manifests(
    *,
    name: str,
    given: tuple[str, ...],
    kind: str | None,
    live: TextIO | None,
    over: TextIO | None,
    wheels: Path | None,
) -> None:
    """Print the objects of a cluster as YAML, for `kubectl apply --server-side -f -`.

    server: three echo servers, in a stock Python image that runs the code of a ConfigMap, or in an IMAGE of one's own;
    service: the way in that is put to the test; node-scaleup: pods that make an autoscaler add nodes; rbac: what a client in
    the cluster may ask; experiment-rbac: what its experiments may do besides; monitoring: the Prometheus Operator's objects;
    archive: no object, but the servers' code itself, as a file for Python.
    """
    if name != "service" and (live or over):
        raise UserError(f"--live and --over are about the Service that is there: {name} has none")
    if live is not None:
        if given or kind is not None or over is not None:
            raise UserError("--live prints no object: it goes without --set, --kind and --over")
        for line in controller_doubts(_service_of(live)):
            click.echo(line)
        return

    def archive() -> bytes:
        return build_archive(find_wheels(wheels, lambda text: click.echo(text, err=True)))

    if name == "archive":
        if given or kind is not None:
            raise UserError("archive is a file, no object: it has neither settings (--set) nor kinds (--kind)")
        _write_bytes(archive())
        return

    for each in given:
        setting, sign, _ = each.partition("=")
        if not setting or not sign:
            raise UserError(f"--set {each} is not NAME=VALUE")
    settings = read_settings(name, dict(each.split("=", 1) for each in given))
    if over is not None:
        refuse_another_type(_service_of(over), chosen_cloud(settings))
    objects = render(name, settings, archive, kind)
    for line in setting_notes(name, settings):
        click.echo(line, err=True)
    click.echo("---\n".join(objects), nl=False)


def _service_of(file: TextIO) -> dict[str, Any]:
    """Return the Service that a file holds; an empty one where kubectl has found none, and so printed nothing."""
    try:
        text = file.read()
    except OSError as error:
        raise UserError(f"the Service that is there cannot be read, {error.strerror}") from error
    return read_service(text) if text.strip() else {}


def _write_bytes(data: bytes) -> None:
    """Write to standard output, and fail as its text does."""
    if sys.stdout.isatty():
        raise UserError("the archive is a file for Python, not for a terminal: send it into one (> server.pyz)")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputFailedError(error.errno, error.strerror) from error
