"""Implements `Api` with the asyncio client of `kubernetes`: its configuration, credentials and connections.

No other module imports `kubernetes`. The import takes half a second and 75 MB, so that `connect` imports this module only
when a cluster is wanted. The generated models are not used: responses stay JSON, of which a few fields are read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.incluster_config import InClusterConfigLoader
from kubernetes.aio.config.kube_config import load_kube_config

from affinity_tester import __version__
from affinity_tester.cluster.api import ApiError, Params, WatchSilentError

JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON}"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
"""What to accept: an object whole, or its metadata alone (the same in a list), else whole."""

REQUEST_S = 10.0
"""The timeout of a request other than a watch: longer than any page takes."""

UNAUTHORIZED = 401


class KubeConfig:
    """The address and the credentials of a context in a kubeconfig."""

    def __init__(self, path: str, context: str | None) -> None:
        """`path` may have several files, as KUBECONFIG may; `context` None is the current one."""
        self._path = path
        self._wanted = context
        self.context = ""
        self.namespace = "default"

    async def load(self, into: Configuration) -> None:
        """Read the files, and run the programs that they name for credentials. Raises `ApiError`."""
        with _as_api_error("the kubeconfig cannot be used"), _warnings_of_kubernetes() as heard:
            loader = await load_kube_config(self._path, self._wanted, into, persist_config=False)
            self.context = loader.current_context["name"]
            self.namespace = loader.current_context["context"].get("namespace") or "default"

        # The library logs why credentials failed and goes on without any; the requests would fail with 401.
        if heard and "BearerToken" not in into.api_key and not into.cert_file:
            raise ApiError(f"the kubeconfig's credentials cannot be had ({heard[-1]})")


class ServiceAccount:
    """The address and the credentials of the service account of the pod in which this runs."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        """`folder` is where Kubernetes mounts the files token, ca.crt and namespace."""
        self._folder = folder
        self._environ = environ
        self.context = "the pod's service account"
        self.namespace = "default"

    async def load(self, into: Configuration) -> None:
        """Read the mounted files. The library reads the token again every minute. Raises `ApiError`."""
        with _as_api_error("the pod's service account cannot be used"):
            loader = InClusterConfigLoader(self._folder / "token", self._folder / "ca.crt", environ=self._environ)
            loader.load_and_set(into)
            named = self._folder / "namespace"
            self.namespace = (named.read_text().strip() if named.exists() else "") or "default"


class KubernetesApi:
    """`Api` by `kubernetes.aio`."""

    def __init__(self, source: KubeConfig | ServiceAccount, configuration: Configuration, client: ApiClient) -> None:
        """Use `open_api` to make one."""
        self._source = source
        self._configuration = configuration
        self._client = client

    async def get(self, path: str, params: Params = (), *, metadata_only: bool = False) -> dict[str, Any]:
        """Return the JSON object at a path; `metadata_only`: as PartialObjectMetadata."""
        accept = METADATA_LIST if metadata_only else JSON
        with _no_other_error():
            response = await self._request(path, params, aiohttp.ClientTimeout(total=REQUEST_S), accept)
            try:
                body = await response.read()
            finally:
                response.release()

            found = json.loads(body)
            if not isinstance(found, dict):
                raise ApiError("the API server's answer is no object")
            return found

    async def lines(
        self, path: str, params: Params, silence_s: float, *, metadata_only: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a streamed response."""
        accept, timeouts = METADATA if metadata_only else JSON, aiohttp.ClientTimeout(total=None, sock_read=silence_s)
        with _no_other_error():
            async with asyncio.timeout(REQUEST_S):  # to the headers, which an API server sends at once
                response = await self._request(path, params, timeouts, accept)

            try:
                async for line in response.content:
                    yield line
            except TimeoutError as error:
                raise WatchSilentError(f"the watch was silent for {silence_s:g} s") from error
            finally:
                response.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _request(
        self, path: str, params: Params, timeouts: aiohttp.ClientTimeout, accept: str
    ) -> aiohttp.ClientResponse:
        response = await self._send(path, params, timeouts, accept)
        if response.status == UNAUTHORIZED:  # tokens of cloud clusters last from 15 minutes to an hour
            response.release()
            await self._source.load(self._configuration)
            response = await self._send(path, params, timeouts, accept)
        if response.ok:
            return response

        try:
            said = json.loads(await response.read()).get("message")
        except (ValueError, AttributeError):
            said = None
        finally:
            response.release()
        raise ApiError(str(said or response.reason or "no reason given"), response.status)

    async def _send(
        self, path: str, params: Params, timeouts: aiohttp.ClientTimeout, accept: str
    ) -> aiohttp.ClientResponse:
        method, url, headers, *_ = await self._client.param_serialize(
            "GET",
            path,
            query_params=list(params),
            header_params={"Accept": accept},
            auth_settings=["BearerToken"],
        )
        answer = await self._client.rest_client.request(method, url, headers=headers, _request_timeout=timeouts)
        response: aiohttp.ClientResponse = answer.response
        return response


async def open_api(source: KubeConfig | ServiceAccount) -> KubernetesApi:
    """Load the configuration and return a client for it. Sends no request. Raises `ApiError`."""
    configuration = Configuration()
    await source.load(configuration)
    with _as_api_error("the credentials cannot be used"):
        client = ApiClient(configuration)
    client.user_agent = f"affinity-tester/{__version__}"
    return KubernetesApi(source, configuration, client)


@contextmanager
def _no_other_error() -> Iterator[None]:
    """Raise the errors of requests as `ApiError`."""
    try:
        yield
    except TimeoutError as error:
        raise ApiError("the API server did not answer in time") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise ApiError("the API server's certificate is not trusted") from error
    except aiohttp.ClientConnectorError as error:
        errno = error.os_error.errno or 0  # negative: of the name's resolution
        why = os.strerror(errno) if errno > 0 else error.os_error.strerror or str(error.os_error)
        raise ApiError(f"the API server at {error.host}:{error.port} cannot be reached ({why})") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ApiError("the connection to the API server broke") from error
    except (
        ValueError,
        RecursionError,
        aiohttp.http.HttpProcessingError,
    ) as error:  # no JSON, or a line longer than the client's buffer
        raise ApiError("the API server's answer cannot be read") from error


@contextmanager
def _as_api_error(what: str) -> Iterator[None]:
    """Raise any error as an `ApiError` of one line: files that others wrote fail in many ways inside the library."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ApiError(f"{what} ({said})") from error


class _WarningCapture(logging.Handler):
    """Collects the texts of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(" ".join(record.getMessage().split()))


@contextmanager
def _warnings_of_kubernetes() -> Iterator[list[str]]:
    """Capture what the library logs about the credentials, and keep it off the terminal."""
    logger = logging.getLogger("kubernetes.aio.config")
    handler, propagate = _WarningCapture(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False

    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
