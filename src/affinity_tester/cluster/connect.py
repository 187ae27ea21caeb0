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

from affinity_tester.cluster.api import FORBIDDEN, NOT_FOUND, Api, ApiError
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

    api: Api
    context: str
    """The kubeconfig's context, or a text that says that it is the pod's service account."""
    namespace: str
    """The namespace of names that are given without one."""
    inside: bool
    """This runs in a pod, where cluster IPs can be reached."""

    async def close(self) -> None:
        """Close the connections."""
        await self.api.close()


async def connect(
    *, context: str | None = None, timeout_s: float = CONNECT_TIMEOUT_S, account: Path = ACCOUNT
) -> Cluster:
    """Connect by KUBECONFIG or ~/.kube/config, else by the service account. Raises `NoClusterError`.

    `timeout_s` does not include the import of the package, which takes half a second to two seconds of disk and processor.
    """
    environ = dict(os.environ)
    files, missing = _kubeconfig(environ)
    inside = is_inside(account)
    if missing is not None and not inside:
        raise NoClusterError(f"no cluster: there is neither a kubeconfig ({missing}) nor a pod's service account")

    module = await _import_client()
    source = module.KubeConfig(files, context) if missing is None else module.ServiceAccount(account, environ)

    try:
        async with asyncio.timeout(timeout_s):
            api = await module.open_api(source)
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
        raise NoClusterError(f"{named}{error}") from error

    return Cluster(api, source.context, source.namespace, inside)


def is_inside(account: Path = ACCOUNT) -> bool:
    """True if this runs in a pod that has a service account."""
    return (account / "token").exists()


def _kubeconfig(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the kubeconfig's path or paths, and None if a file is there, else where it was looked for and what failed.

    The home directory may belong to another user. A user without an entry in the passwd file and without HOME has none.
    """
    files = environ.get("KUBECONFIG")
    hindered = None
    try:
        files = files or str(Path.home() / ".kube" / "config")
    except RuntimeError:
        return "", "~/.kube/config: no home directory is known"

    for name in filter(None, files.split(os.pathsep)):
        try:
            if Path(name).expanduser().exists():
                return files, None
        except OSError as error:
            hindered = f"{name}: {error.strerror}"
        except RuntimeError:
            hindered = f"{name}: no home directory is known"

    return files, hindered or files


async def _import_client() -> ModuleType:
    """Import the package in a thread, so that Ctrl-C and other tasks are served meanwhile."""
    try:
        module = await asyncio.to_thread(importlib.import_module, "affinity_tester.cluster.client")
    except ImportError as error:
        raise NoClusterError(
            f"the package for clusters is missing ({error.name}): pip install 'affinity-tester[cluster]'"
        ) from error

    # The package's 80,000 objects stay. A garbage collection of all of them would delay probes by 50 ms now and then.
    gc.collect()
    gc.freeze()
    return module


async def _check_access(api: Api) -> None:
    """Request what every account may read. It proves the address, the credentials, and EndpointSlices (Kubernetes 1.21)."""
    try:
        await api.get("/apis/discovery.k8s.io/v1")
    except ApiError as error:
        if error.status == NOT_FOUND:
            raise ApiError("it serves no discovery.k8s.io/v1: EndpointSlices need Kubernetes 1.21 or newer") from error
        if error.status == FORBIDDEN and "system:anonymous" not in str(error):
            return  # a strict cluster: what RBAC forbids in particular is reported when it is requested
        if error.status is not None:
            raise ApiError(f"the API server refuses the credentials ({error}): log in again") from error
        raise
