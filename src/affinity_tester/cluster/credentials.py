"""The address and the credentials of a cluster, as the configuration of `kubernetes`: from kubeconfigs or a pod's files.

It imports `kubernetes`: only `client` may import it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes.aio.client import Configuration
from kubernetes.aio.config.incluster_config import InClusterConfigLoader
from kubernetes.aio.config.kube_config import KubeConfigLoader

from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.exec_plugin import run_plugin
from affinity_tester.cluster.kubeconfig import Access, choose, read_kubeconfigs
from affinity_tester.cluster.response_errors import one_line


def says_nothing(files: tuple[Path, ...]) -> bool:
    """True if kubeconfigs are there and empty: then kubectl takes the pod's service account, where there is one."""
    try:
        return read_kubeconfigs(files).is_empty
    except ApiError:
        return False


class KubeConfig:
    """The address and the credentials of a context in one or more kubeconfigs."""

    def __init__(self, files: tuple[Path, ...], context: str | None, namespace: str | None) -> None:
        """`context` None is the current one, `namespace` None the context's."""
        self._files = files
        self._wanted = context
        self._named_namespace = namespace
        self._user: dict[str, Any] | None = None
        """The user with the credentials that a plugin gave and that were not used yet."""
        self._access: Access | None = None
        self.context = context or ""
        self.namespace = namespace or "default"

    async def prepare(self, *, may_ask: bool) -> None:
        """Read the files, and run the program that they name for credentials. Raises `ApiError`.

        `may_ask`: somebody is at the terminal and waits, so that the program may ask for a login.
        """
        with as_api_error("the kubeconfig cannot be used"):
            where = ":".join(map(str, self._files))
            access = choose(read_kubeconfigs(self._files), self._wanted, where)
            self.context, self.namespace = access.context, self._named_namespace or access.namespace

            user = dict(access.user)
            plugin = user.pop("exec", None)
            has_own = any(user.get(name) for name in ("token", "tokenFile", "username"))
            if plugin is not None and not has_own:  # as in kubectl, which asks a plugin only without these
                user |= await run_plugin(plugin, access.cluster, may_ask=may_ask)
            self._access, self._user = access, user

    async def load(self, into: Configuration) -> None:
        """Set the address and the credentials. Raises `ApiError`."""
        if self._user is None or self._access is None:
            await self.prepare(may_ask=False)
        assert self._access is not None
        user, self._user = self._user, None  # the next time they are got anew

        config = {
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": self._access.cluster}],
            "users": [{"name": "it", "user": user}],
        }
        with as_api_error("the kubeconfig's credentials cannot be used"):
            await KubeConfigLoader(config).load_and_set(into)


class ServiceAccount:
    """The address and the credentials of the service account of the pod in which this runs."""

    def __init__(self, folder: Path, environ: dict[str, str], namespace: str | None) -> None:
        """`folder` is where Kubernetes mounts the files token, ca.crt and namespace."""
        self._folder = folder
        self._environ = environ
        self._named_namespace = namespace
        self.context = "the pod's service account"
        self.namespace = namespace or "default"

    async def prepare(self, *, may_ask: bool) -> None:
        """Do nothing: its credentials are files."""

    async def load(self, into: Configuration) -> None:
        """Read the mounted files. The library reads the token again every minute. Raises `ApiError`."""
        with as_api_error("the pod's service account cannot be used"):
            loader = InClusterConfigLoader(self._folder / "token", self._folder / "ca.crt", environ=self._environ)
            loader.load_and_set(into)
            named = self._folder / "namespace"
            own = named.read_text().strip() if named.exists() else ""
            self.namespace = self._named_namespace or own or "default"


@contextmanager
def as_api_error(what: str) -> Iterator[None]:
    """Raise any error as an `ApiError` of one line: files that others wrote fail in many ways inside the library."""
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        said = one_line(str(error)) or type(error).__name__
        raise ApiError(f"{what} ({said})") from error
