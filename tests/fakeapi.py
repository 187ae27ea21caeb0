"""An API server on loopback with a history, as far as lists and watches can tell, and ways to break it.

kmock emulates the objects but no resourceVersions, so neither resuming, 410 nor consistent lists could be shown with it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from affinity_tester.cluster.connect import Cluster, ClusterOptions, connect
from affinity_tester.core.events import Event
from pools import ChangesChecker

Json = dict[str, Any]

TERM = re.compile(r"([\w./-]+) ?(in|notin|!=|=) ?(?:\(([^)]*)\)|([^,]*))")
"""One term of a label selector: a=b, a!=b, a in (b,c), a notin (b,c)."""


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that surely comes; a hang is a failure."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


@dataclass(eq=False)
class Stream:
    """A watch that is open."""

    resource: str
    fits: Callable[[Json], bool]
    request: web.Request
    queue: asyncio.Queue[Json | None] = field(default_factory=asyncio.Queue)
    """What to send; None ends it properly."""

    def abort(self) -> None:
        """Reset the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()
        self.queue.put_nowait(None)


class FakeApi:
    """Objects by resource ("nodes", "pods", ...), every change with a revision of its own."""

    def __init__(self) -> None:
        self.revision = 100
        self.objects: dict[str, dict[tuple[str, str], Json]] = {}
        self.history: list[tuple[int, str, Json]] = []
        self.compacted = 0
        self.forbidden: set[str] = set()
        """Paths as `verb path`, such as `list /api/v1/nodes`; or a verb for all of them."""
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """(verb, path, query)"""
        self.streams: list[Stream] = []
        self.hold = asyncio.Event()
        """Lists are answered, as of when they were asked for, only while it is set."""
        self.hold.set()
        self.answering = asyncio.Event()
        """Nothing at all is answered unless it is set."""
        self.answering.set()
        self.deaf = False
        """Streams, old and new, tell nothing of what changes."""
        self.statuses: list[int | None] = []
        """The next requests get these HTTP statuses (None: an answer)..."""
        self.status: int | None = None
        """...and all others this one."""
        self.token: str | None = None
        self.listed: dict[str, tuple[int, list[Json]]] = {}
        """Lists of which there are more pages, by the first part of their tokens: all pages are of one revision."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    # --- the cluster's life -----------------------------------------------------------------------------------------

    def put(self, resource: str, obj: Json) -> None:
        """Create or change an object."""
        self.revision += 1
        metadata = obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        known = self.objects.setdefault(resource, {})
        kind = "MODIFIED" if key in known else "ADDED"
        known[key] = {**obj, "metadata": {**metadata, "resourceVersion": str(self.revision)}}
        self._publish(resource, kind, known[key])

    def delete(self, resource: str, name: str, namespace: str = "media") -> None:
        self.revision += 1
        gone = self.objects[resource].pop((namespace, name))
        metadata = {**gone["metadata"], "resourceVersion": str(self.revision)}
        self._publish(resource, "DELETED", {**gone, "metadata": metadata})

    def _publish(self, resource: str, kind: str, obj: Json) -> None:
        event = {"type": kind, "object": obj}
        self.history.append((self.revision, resource, event))
        for stream in self.streams:
            if stream.resource == resource and stream.fits(obj) and not self.deaf:
                stream.queue.put_nowait(event)

    def bookmark(self, resource: str | None = None) -> None:
        for stream in self.streams:
            if resource in (None, stream.resource):
                bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.revision)}}}
                stream.queue.put_nowait(bookmark)

    def compact(self) -> None:
        """Forget how it came to be as it is: watches from before are 410."""
        self.compacted = self.revision

    def say(self, resource: str, line: Json) -> None:
        """Send anything to the open watches of a resource."""
        for stream in self.streams:
            if stream.resource == resource:
                stream.queue.put_nowait(line)

    def end(self, resource: str) -> None:
        """End the watches of a resource properly, as after timeoutSeconds."""
        for stream in self.streams:
            if stream.resource == resource:
                stream.queue.put_nowait(None)

    def cut(self, resource: str) -> None:
        """Cut the watches of a resource in mid-stream."""
        for stream in self.streams:
            if stream.resource == resource:
                stream.abort()

    async def watched(self, resource: str, count: int = 1) -> None:
        await until(lambda: sum(stream.resource == resource for stream in self.streams) == count)

    # --- the server -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, on the port of the last time."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def kill(self) -> None:
        """Die with all connections."""
        assert self._runner is not None
        for stream in self.streams:
            stream.abort()
        await self._runner.cleanup()
        await until(lambda: not self.streams)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        *_, resource = parts = request.path.strip("/").split("/")
        single = "namespaces" in parts and len(parts) - parts.index("namespaces") == 4
        verb = (
            "watch" if "watch" in query else "get" if single or parts[:-1] == ["apis", "discovery.k8s.io"] else "list"
        )
        self.asked.append((verb, request.path, query))
        await self.answering.wait()
        if self.statuses and (status := self.statuses.pop(0)) is not None:
            return self._status(status)
        if self.status is not None:
            return self._status(self.status)
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._status(401)
        if {verb, f"{verb} {request.path}"} & self.forbidden:
            return self._status(403)
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""
        if verb == "get":
            if not single:
                return web.json_response({"kind": "APIResourceList"})
            obj = self.objects.get(parts[-2], {}).get((namespace, resource))
            return self._status(404) if obj is None else web.json_response(obj)
        fits = _selection(namespace, query)
        if verb == "watch":
            return await self._watch(request, resource, fits, int(query["resourceVersion"]))
        name, _, at = query.get("continue", "").partition("-")
        if name:
            revision, items, first = *self.listed[name], int(at)
        else:
            items = [obj for _, obj in sorted(self.objects.get(resource, {}).items()) if fits(obj)]
            revision, first, name = self.revision, 0, str(len(self.asked))
        limit = int(query["limit"])
        await self.hold.wait()
        metadata: Json = {"resourceVersion": str(revision)}
        if first + limit < len(items):
            self.listed[name] = revision, items
            metadata["continue"] = f"{name}-{first + limit}"
            metadata["remainingItemCount"] = len(items) - first - limit
        page = items[first : first + limit]
        if "as=PartialObjectMetadataList" in request.headers.get("Accept", ""):
            page = [{"metadata": obj["metadata"]} for obj in page]
        return web.json_response({"metadata": metadata, "items": page})

    def _status(self, code: int) -> web.Response:
        return web.json_response({"kind": "Status", "code": code, "message": f"status {code}"}, status=code)

    async def _watch(
        self, request: web.Request, resource: str, fits: Callable[[Json], bool], since: int
    ) -> web.StreamResponse:
        if since < self.compacted:
            return self._status(410)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"")  # sends the headers
        stream = Stream(resource, fits, request)
        for revision, of, event in self.history:
            if revision > since and of == resource and fits(event["object"]) and not self.deaf:
                stream.queue.put_nowait(event)
        self.streams.append(stream)
        try:
            while (event := await stream.queue.get()) is not None:
                if "as=PartialObjectMetadata;" in request.headers.get("Accept", ""):
                    event = {**event, "object": {"metadata": event["object"]["metadata"]}}
                await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            self.streams.remove(stream)
        return response


def _selection(namespace: str, query: dict[str, str]) -> Callable[[Json], bool]:
    """By label selector, and the field selectors metadata.name=x and status.podIP=x,status.phase=y."""
    fields = dict(term.split("=") for term in query.get("fieldSelector", "").split(",") if term)
    name, pod_ip = fields.get("metadata.name", ""), fields.get("status.podIP", "")
    found = TERM.findall(query.get("labelSelector", ""))
    terms = [(key, operator in ("in", "="), (several or single).split(",")) for key, operator, several, single in found]

    def fits(obj: Json) -> bool:
        metadata = obj["metadata"]
        labels = metadata.get("labels") or {}
        if namespace not in ("", metadata.get("namespace", "")) or name not in ("", metadata["name"]):
            return False
        if pod_ip and (obj["status"].get("podIP"), obj["status"].get("phase")) != (pod_ip, "Running"):
            return False
        return all((labels.get(key) in values) == wanted for key, wanted, values in terms)

    return fits


# --- objects --------------------------------------------------------------------------------------------------------


def service(
    name: str = "turn", namespace: str = "media", ingress: tuple[str, ...] = ("203.0.113.7",), **spec: Any
) -> Json:
    """A Service of type LoadBalancer with a UDP port 3478, node port 30478."""
    port = {"name": "stun", "protocol": "UDP", "port": 3478, "targetPort": "stun", "nodePort": 30478}
    base = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": {"app": "turn"},
        "ipFamilies": ["IPv4"],
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"],
        "ports": [port],
    }
    balancer = [{"ip" if host.replace(".", "").isdigit() else "hostname": host} for host in ingress]
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {key: value for key, value in {**base, **spec}.items() if value is not None},
        "status": {"loadBalancer": {"ingress": balancer} if balancer else {}},
    }


def endpoint(pod: str, node: str = "n1", **conditions: bool) -> Json:
    return {
        "addresses": [f"10.1.0.{ord(pod)}"],
        "conditions": {"ready": True, **conditions},
        "nodeName": node,
        "targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"},
    }


def numbered_endpoint(number: int, nodes: int = 500) -> Json:
    """One of thousands, as large as a real one."""
    return {
        "addresses": [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{number % nodes}",
        "targetRef": {"kind": "Pod", "namespace": "media", "name": f"turn-{number}", "uid": f"uid-{number:032}"},
        "zone": "zone-1",
    }


def endpoint_slice(*endpoints: Json, name: str = "turn-1", of: str = "turn", **more: Any) -> Json:
    return {
        "metadata": {"name": name, "namespace": "media", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "stun", "protocol": "UDP", "port": 3478}],
        "endpoints": list(endpoints),
        **more,
    }


def node(name: str, *, ready: str = "True", cordoned: bool = False, uid: str | None = None, **ips: str) -> Json:
    """`internal` and `external`: addresses."""
    kinds = {"internal": "InternalIP", "external": "ExternalIP"}
    return {
        "metadata": {"name": name, "uid": uid or f"uid-{name}"},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}],
            "addresses": [{"type": kinds[kind], "address": ip} for kind, ip in ips.items()],
        },
    }


def pod(
    name: str, *, namespace: str = "media", on: str = "n1", restarts: int = 0, image: str = "echo:1", **more: Any
) -> Json:
    """`labels`, `uid`, `ip`, `spec`, `end` (why the last container ended)."""
    last = {"terminated": {"reason": more["end"], "finishedAt": "2026-01-01T00:00:00Z"}} if "end" in more else {}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": more.get("uid", f"uid-{name}"),
            "labels": more.get("labels", {"app": "turn"}),
        },
        "spec": {"nodeName": on, "containers": [{"image": image}], **more.get("spec", {})},
        "status": {
            "containerStatuses": [{"restartCount": restarts, "lastState": last}],
            "phase": "Running",
            **({"podIP": more["ip"]} if "ip" in more else {}),
        },
    }


def proxy(name: str, *, kind: str = "kube-proxy", **more: Any) -> Json:
    return pod(name, **{"namespace": "kube-system", "labels": {"k8s-app": kind}, "image": "proxy:1", **more})


# --- a run ----------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What was emitted; a clock that stands until the test moves it."""

    now: int = 1000
    events: list[Event] = field(default_factory=list)
    _changes: ChangesChecker = field(default_factory=ChangesChecker)

    def clock(self) -> int:
        return self.now

    def tell(self, event: Event) -> None:
        self.events.append(self._changes.check(event))

    def take(self) -> list[Event]:
        """All since the last take."""
        taken, self.events = self.events, []
        return taken

    async def at(self, now: int, count: int = 1) -> list[Event]:
        """Wait for so many events; used after something was done at time `now`."""
        await until(lambda: len(self.events) >= count)
        assert self.now == now
        return self.take()


def write_kubeconfig(path: Path, port: int, user: Json | None = None) -> None:
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "kind-test",
                "contexts": [
                    {"name": "kind-test", "context": {"cluster": "c", "user": "u", "namespace": "media"}},
                    {"name": "other", "context": {"cluster": "c", "user": "u"}},
                ],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": user or {"token": "secret"}}],
            }
        )
    )


@asynccontextmanager
async def connected(**options: str) -> AsyncIterator[Cluster]:
    found = await connect(ClusterOptions(**options), timeout_s=20, account=Path("/nonexistent"))
    try:
        yield found
    finally:
        await found.close()
