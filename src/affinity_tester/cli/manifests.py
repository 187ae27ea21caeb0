"""`affinity-tester manifests`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from affinity_tester.app.manifests import MANIFESTS, chosen_cloud, read_settings, render
from affinity_tester.app.server_archive import build_archive, find_wheels
from affinity_tester.cli import options
from affinity_tester.errors import UserError


@click.command(
    epilog="Settings: "
    + "; ".join(f"{name} has {', '.join(manifest.settings)}" for name, manifest in MANIFESTS.items())
    + "."
)
@click.argument("name", type=click.Choice([*MANIFESTS, "archive"]))
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Value of a setting; repeatable.")
@click.option("--kind", metavar="KIND", help="Print the objects of this kind alone (ConfigMap, Deployment).")
@options.option(
    "--wheels",
    type=click.Path(file_okay=False, path_type=Path),
    env="AFFINITY_WHEELS",
    help="Directory with the wheels of what the servers' code imports. Default: they are downloaded once, and kept.",
)
def manifests(*, name: str, given: tuple[str, ...], kind: str | None, wheels: Path | None) -> None:
    """Print the objects of a cluster as YAML, for `kubectl apply --server-side -f -`.

    server: three echo servers, in a stock Python image that runs the code of a ConfigMap, or in an IMAGE of one's own;
    service: the way in that is put to the test; node-scaleup: pods that make an autoscaler add nodes; rbac: what a client in
    the cluster may ask; archive: no object, but the servers' code itself, as a file for Python.
    """

    def archive() -> bytes:
        return build_archive(find_wheels(wheels, lambda text: click.echo(text, err=True)))

    if name == "archive":
        sys.stdout.buffer.write(archive())
        return

    for each in given:
        if not each.partition("=")[1]:
            raise UserError(f"--set {each} is not NAME=VALUE")
    settings = read_settings(name, dict(each.split("=", 1) for each in given))

    if name == "service" and settings["PROVIDER_ID"] and not settings["CLOUD"]:
        click.echo(f"CLOUD={chosen_cloud(settings)}, by a node's providerID {settings['PROVIDER_ID']}", err=True)
    click.echo("---\n".join(render(name, settings, archive, kind)), nl=False)
