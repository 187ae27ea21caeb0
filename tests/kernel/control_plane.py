"""An API server in the client's namespace, which tells of a lab's Service, nodes and pods what a case lets it tell.

What it says and what the nodes' rules do are two things: how far apart they are is the fault in many a case.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Self

import faults
import rules
from prober import LabError

from fakeapi import FakeApi, Json, endpoint_slice, node, service, write_kubeconfig
from lab import Lab

_CLONE_NEWNET = 0x40000000
"""setns(2): of a network namespace."""

_PORT = {"name": "stun", "protocol": "UDP", "port": rules.PORT}

_ENDS_WITHIN_S = 30


class ControlPlane:
    """The API server of a lab. Use it as a context manager, once the lab is built: it stops when left."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        """`scratch` takes the kubeconfig."""
        self.kubeconfig = scratch / "kubeconfig"
        self._lab = lab
        self._api = FakeApi()
        self._loop = asyncio.new_event_loop()
        self._started: Future[None] = Future()
        self._thread = Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._started.result(_ENDS_WITHIN_S)
            write_kubeconfig(self.kubeconfig, self._api.port)
            for number, host in enumerate(self._lab.nodes, start=1):
                self._put("nodes", node(host, internal=f"10.30.{number}.2"))
            self.put_service(rules.VIP)
            self.put_pool()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: it has not started
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        """Run in a thread of its own: a namespace is a thread's, and its sockets stay in it."""
        try:
            _enter(self._lab.ns("client"))
            self._loop.run_until_complete(self._api.start())
        except BaseException as error:
            self._started.set_exception(error)
        else:
            self._started.set_result(None)
            self._loop.run_forever()
            self._loop.run_until_complete(self._api.kill())
        finally:
            self._loop.close()

    def _put(self, resource: str, obj: Json) -> None:
        """Create or change an object, and return when watches are told."""

        async def put() -> None:
            self._api.put(resource, obj)

        asyncio.run_coroutine_threadsafe(put(), self._loop).result(_ENDS_WITHIN_S)

    # --- what it tells -----------------------------------------------------------------------------------------------

    def put_service(self, *addresses: str) -> None:
        """Tell of the Service, whose balancer has these addresses, mostly the VIP; without any it has no balancer."""
        port = {**_PORT, "targetPort": "stun", "nodePort": faults.NODE_PORT}
        self._put("services", service(ingress=addresses, ports=[port]))

    def put_pool(self, conditions: Mapping[str, Json] | None = None) -> None:
        """Tell of the endpoints: all pods there are, ready but for those that have `conditions` here."""
        given = conditions or {}
        endpoints = [
            {
                "addresses": [pod.address],
                "conditions": given.get(name, {"ready": True, "serving": True, "terminating": False}),
                "nodeName": f"node-{pod.node}",
                "targetRef": {"kind": "Pod", "name": name, "uid": f"uid-{name}"},
            }
            for name, pod in self._lab.pods.items()
        ]
        self._put("endpointslices", endpoint_slice(*endpoints, ports=[_PORT]))


def _enter(namespace: str) -> None:
    """Let the calling thread be in a network namespace from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as entered:
        if libc.setns(entered.fileno(), _CLONE_NEWNET) != 0:
            raise LabError(f"setns {namespace}: {os.strerror(ctypes.get_errno())}")
