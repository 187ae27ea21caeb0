"""Connects to the cluster: by a kubeconfig, or by the service account of the pod in which this runs."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from affinity_tester.cluster.api import FORBIDDEN, NOT_FOUND, Api, ApiError, WritableApi
from affinity_tester.errors import UserError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's service account."""

CONNECT_TIMEOUT_S = 3.0
"""How long `--watch auto` tries to connect. A start should not wait longer for a watch that nobody asked for."""


class NoClusterError(UserError):
    """There is no cluster to use. The text says why and what to do; `--watch auto` prints it and goes on."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to an API server that answers."""

    api: WritableApi
    context: str
    """The kubeconfig's context, or a text that says that it is the pod's service account."""
    namespace: str
    """The namespace of names that are given without one."""
    inside: bool
    """This runs in a pod, where cluster IPs can be reached."""

    async def close(self) -> None:
        """Close the connections."""
        await self.api.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which cluster the user means, as kubectl's options of these names; None is what kubectl takes without them."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


async def connect(
    options: ClusterOptions | None = None,
    *,
    timeout_s: float = CONNECT_TIMEOUT_S,
    account: Path = ACCOUNT,
) -> Cluster:
    """Connect by --kubeconfig, KUBECONFIG or ~/.kube/config, else by the service account. Raises `NoClusterError`.

    `timeout_s` does not include the import of the package, which takes half a second to two seconds of disk and processor;
    nor a program that the kubeconfig names for credentials, which has its own time and may ask for a login.
    """
    options, environ = options or ClusterOptions(), dict(os.environ)
    files, missing = _kubeconfig(options, environ)
    inside = is_inside(account)
    by_account = inside and not options.kubeconfig and not options.context
    if missing is not None and not by_account:
        raise NoClusterError(_no_kubeconfig(options, missing, inside=inside))

    client, credentials = await _import_client()
    by_account = by_account and (missing is not None or credentials.says_nothing(files))
    source = (
        credentials.ServiceAccount(account, environ, options.namespace)
        if by_account
        else credentials.KubeConfig(files, options.context, options.namespace)
    )

    try:
        await source.prepare(may_ask=True)
        async with asyncio.timeout(timeout_s):
            api = await client.open_api(source)
            try:
                await _check_access(api)
            except BaseException:
                await api.close()
                raise
    except TimeoutError as error:
        named = f" of context {source.context}" if source.context else ""
        raise NoClusterError(f"the cluster{named} did not answer within {timeout_s:g} s") from error
    except ApiError as error:
        named = f"context {source.context}: " if source.context else ""
        advice = f": {error.advice}" if error.advice else ""
        raise NoClusterError(f"{named}{error}{advice}") from error

    return Cluster(api, source.context, source.namespace, inside)


def is_inside(account: Path = ACCOUNT) -> bool:
    """True if this runs in a pod that has a service account."""
    return (account / "token").exists()


def _no_kubeconfig(options: ClusterOptions, missing: str, *, inside: bool) -> str:
    """Return why there is no cluster without the kubeconfig that was looked for at `missing`."""
    if options.kubeconfig:
        return f"there is no kubeconfig {missing}: name another with --kubeconfig"
    if inside:
        return f"there is no kubeconfig ({missing}) that could have the context {options.context}: leave --context out"
    return f"no cluster: there is neither a kubeconfig ({missing}) nor a pod's service account"


def _kubeconfig(options: ClusterOptions, environ: Mapping[str, str]) -> tuple[tuple[Path, ...], str | None]:
    """Return the kubeconfig's files, and None if one is there, else where it was looked for and what failed.

    The home directory may belong to another user. A user without an entry in the passwd file and without HOME has none.
    """
    if options.kubeconfig is not None:
        names = [options.kubeconfig]
    elif environ.get("KUBECONFIG"):
        names = list(filter(None, environ["KUBECONFIG"].split(os.pathsep)))
    else:
        names = ["~/.kube/config"]

    files, there, hindered = [], False, None
    for name in names:
        try:
            file = Path(name).expanduser()
            files.append(file)
            there = file.exists() or there
        except OSError as error:
            files.pop()
            hindered = f"{file}: {error.strerror}"
        except RuntimeError:
            hindered = f"{name}: no home directory is known"

    where = ":".join(str(file) for file in files) or environ.get("KUBECONFIG", "")
    return tuple(files), None if there else hindered or where


async def _import_client() -> tuple[ModuleType, ModuleType]:
    """Import `client` and `credentials`, with the package that they need.

    That is done in a thread, so that Ctrl-C and other tasks are served meanwhile.
    """
    try:
        names = ("affinity_tester.cluster.client", "affinity_tester.cluster.credentials")
        client, credentials = await asyncio.to_thread(lambda: tuple(map(importlib.import_module, names)))
    except ModuleNotFoundError as error:
        raise NoClusterError("the package for clusters is missing: pip install 'affinity-tester[cluster]'") from error
    except ImportError as error:
        why = " ".join(str(error).split())
        again = "pip install --force-reinstall 'affinity-tester[cluster]'"
        raise NoClusterError(f"the package for clusters cannot be used ({why}): {again}") from error

    # The package's 80,000 objects stay. A garbage collection of all of them would delay probes by 50 ms now and then.
    gc.collect()
    gc.freeze()
    return client, credentials


async def _check_access(api: Api) -> None:
    """Request what every account may read. It proves the address, the credentials, and EndpointSlices (Kubernetes 1.21)."""
    try:
        await api.get("/apis/discovery.k8s.io/v1")
    except ApiError as error:
        if error.status == NOT_FOUND:
            raise ApiError(
                "it serves no discovery.k8s.io/v1",
                NOT_FOUND,
                advice="EndpointSlices need Kubernetes 1.21 or newer; is `server` in the kubeconfig an API server's?",
            ) from error
        if error.status != FORBIDDEN or error.advice:
            raise
        # A strict cluster: what RBAC forbids in particular is reported when it is requested.
