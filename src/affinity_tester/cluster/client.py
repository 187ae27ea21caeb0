"""Implements `Api` with the asyncio client of `kubernetes`: its configuration, credentials and connections.

This module and `credentials`, which it needs, alone import `kubernetes` and `aiohttp`. The import takes half a second and
75 MB, so that `connect` imports them only when a cluster is wanted. The generated models are not used: responses stay JSON,
of which a few fields are read. Which proxy is asked, which kubeconfig counts and what an error means follow kubectl, not the
library (`go_proxy`, `kubeconfig`, `response_errors`, `connection_errors`).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from yarl import URL

from affinity_tester import __version__
from affinity_tester.cluster.api import TOO_MANY_REQUESTS, ApiError, Json, Params, WatchSilentError
from affinity_tester.cluster.connection_errors import certificate_error, tls_error, unreachable
from affinity_tester.cluster.credentials import KubeConfig, ServiceAccount, as_api_error
from affinity_tester.cluster.go_proxy import proxy_of
from affinity_tester.cluster.response_errors import (
    UNAUTHORIZED,
    is_web_page,
    one_line,
    proxy_refusal,
    redirected,
    response_error,
    unexpected_body,
    without_secrets,
)

JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON}"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
"""What to accept: an object whole, or its metadata alone (the same in a list), else whole."""

MERGE_PATCH = "application/merge-patch+json"
"""RFC 7386. Unlike a strategic merge patch, every API server takes it for every kind."""

REQUEST_S = 10.0
"""The timeout of a request other than a watch: longer than any page takes."""

BUSY_S = 2.0
"""How long a request waits in all for a server that asks to come back later (Retry-After), before it fails."""

LINE_BYTES = 2**21
"""The buffer for a line of a watch: an object may have more than a megabyte."""

_WHOLE = aiohttp.ClientTimeout(total=REQUEST_S)

MAYBE_DONE = (500, 502, 504)
"""Answers to a write that may have been done: the server, or what stands before it, failed after it was asked."""

REDIRECTS = (301, 302, 303, 307, 308)
SAME_METHOD_REDIRECTS = (307, 308)
"""The others may turn a write into a GET (RFC 9110 section 15.4)."""
MAX_REDIRECTS = 5


class Content(NamedTuple):
    """What a write sends."""

    method: str
    kind: str
    """Content-Type."""
    body: bytes


class KubernetesApi:
    """`Api` by `kubernetes.aio`."""

    def __init__(self, source: KubeConfig | ServiceAccount, configuration: Configuration, client: ApiClient) -> None:
        """Use `open_api` to make one; the `proxy` is what it asks through, None if directly."""
        self._source = source
        self._configuration = configuration
        self._client = client
        self._session: aiohttp.ClientSession | None = None
        self._former: list[aiohttp.ClientSession] = []
        """Those of former client certificates: a watch may still be open."""
        self.proxy = configuration.proxy or proxy_of(str(configuration.host), os.environ)

    async def get(self, path: str, params: Params = (), *, metadata_only: bool = False) -> dict[str, Any]:
        """Return the JSON object at a path; `metadata_only`: as PartialObjectMetadata."""
        accept = METADATA_LIST if metadata_only else JSON
        with self._no_other_error():
            response = await self._request(path, params, _WHOLE, accept)
            return await _read_object(response)

    async def create(self, path: str, body: Json) -> Json:
        """Create an object in a collection, or call a subresource; return what was made."""
        return await self._write(path, Content("POST", JSON, json.dumps(body).encode()))

    async def patch(self, path: str, body: Json) -> Json:
        """Change an object by a JSON merge patch; return it."""
        return await self._write(path, Content("PATCH", MERGE_PATCH, json.dumps(body).encode()))

    async def delete(self, path: str, body: Json) -> Json:
        """Delete an object; return the Status. Name its uid: aiohttp sends a DELETE again on a connection that broke."""
        return await self._write(path, Content("DELETE", JSON, json.dumps(body).encode()))

    async def _write(self, path: str, content: Content) -> Json:
        """Send a write once, and say of an error whether it may have been done."""
        try:
            with self._no_other_error():
                response = await self._request(path, (), _WHOLE, JSON, content)
                return await _read_object(response)
        except ApiError as error:
            unsent = isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
            if error.status in MAYBE_DONE or (error.status is None and not unsent):
                raise _unsure(error) from error
            raise

    async def lines(
        self, path: str, params: Params, silence_s: float, *, metadata_only: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a streamed response."""
        accept, timeouts = METADATA if metadata_only else JSON, aiohttp.ClientTimeout(total=None, sock_read=silence_s)
        with self._no_other_error():
            async with asyncio.timeout(REQUEST_S):  # to the headers, which an API server sends at once
                response = await self._request(path, params, timeouts, accept)

            try:
                if is_web_page(response.headers, b""):
                    raise unexpected_body(response.headers, b"")
                async for line in response.content:
                    yield line
            except TimeoutError as error:
                raise WatchSilentError(f"the watch was silent for {silence_s:g} s") from error
            finally:
                response.close()

    async def close(self) -> None:
        """Close the connections."""
        for session in (*self._former, *filter(None, [self._session])):
            await session.close()
        await self._client.close()

    async def _request(
        self,
        path: str,
        params: Params,
        timeouts: aiohttp.ClientTimeout,
        accept: str,
        content: Content | None = None,
    ) -> aiohttp.ClientResponse:
        """Return a successful response. A busy server that says when to come back is asked again, for a short time."""
        params, left_s = list(params), BUSY_S
        renewed = False
        while True:
            response = await self._send(path, params, timeouts, accept, content)
            if response.ok:
                return response
            try:
                body = await response.read()
            finally:
                response.release()

            if response.status == UNAUTHORIZED and not renewed:
                renewed = True  # tokens of cloud clusters last from 15 minutes to an hour
                certificate = self._configuration.cert_file
                await self._source.load(self._configuration)
                if self._configuration.cert_file != certificate:
                    self._forget_connections()
                continue
            error = response_error(response.status, response.reason, response.headers, body)
            wait_s = error.retry_after_s
            is_refused = content is None or response.status == TOO_MANY_REQUESTS  # else a write may be done
            if wait_s is None or wait_s > left_s or not is_refused:
                raise error
            left_s -= max(wait_s, BUSY_S / 10)
            await asyncio.sleep(wait_s)

    async def _send(
        self,
        path: str,
        params: list[tuple[str, str]],
        timeouts: aiohttp.ClientTimeout,
        accept: str,
        content: Content | None,
    ) -> aiohttp.ClientResponse:
        method, url, headers, *_ = await self._client.param_serialize(
            content.method if content else "GET",
            path,
            query_params=params,
            header_params={"Accept": accept, **({"Content-Type": content.kind} if content else {})},
            auth_settings=["BearerToken"],
        )
        session = self._open_session()
        for _ in range(MAX_REDIRECTS):
            response = await session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=content.body if content else None,
                timeout=timeouts,
                proxy=self.proxy,
                server_hostname=self._configuration.tls_server_name or None,
                allow_redirects=False,
            )
            target = response.headers.get("Location")
            if response.status not in REDIRECTS or not target:
                return response
            response.release()
            goes_to = response.url.join(URL(target))
            keeps_method = content is None or response.status in SAME_METHOD_REDIRECTS
            if goes_to.host != response.url.host or not keeps_method:  # credentials go nowhere else
                raise redirected(str(goes_to))
            url = str(goes_to)
        raise redirected(url)

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the session, a new one after the credentials were renewed: they may be a certificate.

        The library's own session has proxies by other rules than kubectl.
        """
        if self._session is None:
            with as_api_error("the credentials cannot be used"):
                tls = _tls_context(self._configuration)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls), read_bufsize=LINE_BYTES, trust_env=False
            )
        return self._session

    def _forget_connections(self) -> None:
        """Have the next request use a client certificate that was given anew; watches under way go on."""
        if self._session is not None:
            self._former.append(self._session)
            self._session = None

    @contextmanager
    def _no_other_error(self) -> Iterator[None]:
        """Raise the errors of requests as `ApiError`."""
        try:
            yield
        except TimeoutError as error:
            raise ApiError("the API server did not answer in time") from error
        except aiohttp.ClientHttpProxyError as error:
            raise proxy_refusal(self._named_proxy, error.status, error.message) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise _certificate(error.certificate_error, error.host) from error
        except aiohttp.ClientProxyConnectionError as error:
            raise unreachable(self._named_proxy, error.os_error) from error
        except aiohttp.ClientConnectorError as error:
            raise self._tls(error) or unreachable(
                f"the API server at {error.host}:{error.port}", error.os_error
            ) from error
        except aiohttp.InvalidURL as error:
            host = one_line(without_secrets(str(self._configuration.host)))
            raise ApiError(f"`server` in the kubeconfig is no URL ({host})") from error
        except aiohttp.ServerDisconnectedError as error:
            raise self._broken("the API server closed the connection without an answer") from error
        except (aiohttp.ClientResponseError, aiohttp.http.HttpProcessingError) as error:  # no HTTP, or too long
            raise self._broken("the API server's answer cannot be read") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._tls(error) or ApiError("the connection to the API server broke") from error
        except (ValueError, RecursionError) as error:  # no JSON, or a line longer than the client's buffer
            raise ApiError("the API server's answer cannot be read") from error

    @property
    def _named_proxy(self) -> str:
        return f"the proxy {one_line(without_secrets(self.proxy or ''))}"

    def _broken(self, what: str) -> ApiError:
        """Return the error of a server that does not speak HTTP: over plain TCP it may want TLS, over TLS others."""
        advice = ""
        if not str(self._configuration.host).lower().startswith("https"):
            advice = "write https:// in `server` of the kubeconfig"
        elif self._configuration.cert_file:
            advice = "it may refuse the client certificate: get the kubeconfig anew, or log in"
        return ApiError(what, advice=advice)

    def _tls(self, error: BaseException) -> ApiError | None:
        """Return the error of TLS that a client's error is about; None if it is about something else."""
        cause: BaseException | None = error
        while cause is not None:
            inner = getattr(cause, "os_error", None) or cause
            if isinstance(inner, ssl.SSLCertVerificationError):
                return certificate_error(inner, URL(str(self._configuration.host)).host or "")
            if isinstance(inner, ssl.SSLError):
                return tls_error(inner, has_certificate=bool(self._configuration.cert_file))
            cause = cause.__cause__ or cause.__context__
        return None


async def _read_object(response: aiohttp.ClientResponse) -> Json:
    """Return the JSON object of a successful answer."""
    try:
        body = await response.read()
    finally:
        response.release()

    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise unexpected_body(response.headers, body) from error
    if not isinstance(found, dict):
        raise ApiError("the API server's answer is no object")
    return found


def _unsure(error: ApiError) -> ApiError:
    """Return the error of a write that may have been done all the same."""
    unsure = ApiError(f"{error}; it may have been done all the same", error.status, advice=error.advice)
    unsure.may_be_done = True
    return unsure


def _certificate(error: Exception, host: str) -> ApiError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_error(error, host)
    return ApiError(f"the API server's certificate is not accepted ({one_line(str(error))})")


def _tls_context(configuration: Configuration) -> ssl.SSLContext:
    """Return what TLS connections accept and show, as strict as kubectl: Python 3.13 refuses CAs that Go accepts."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def open_api(source: KubeConfig | ServiceAccount) -> KubernetesApi:
    """Load the configuration and return a client for it. Sends no request. Raises `ApiError`."""
    configuration = Configuration()
    await source.load(configuration)
    with as_api_error("the credentials cannot be used"):
        _tls_context(configuration)
        client = ApiClient(configuration)
    client.user_agent = f"affinity-tester/{__version__}"

    api = KubernetesApi(source, configuration, client)
    if not (api.proxy or "http").lower().startswith("http"):
        await api.close()
        raise ApiError(
            f"the proxy {one_line(without_secrets(api.proxy or ''))} is of a kind that is not supported",
            advice="set HTTPS_PROXY to an http:// proxy, or NO_PROXY",
        )
    return api
