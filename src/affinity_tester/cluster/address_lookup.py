"""Looks up whose a reflexive IP is that is no node's: a UDP proxy that runs as a pod shows its own."""

from __future__ import annotations

import asyncio

from affinity_tester.cluster.api import Api, ApiError, read_page
from affinity_tester.cluster.fields import ObjectError, name_of
from affinity_tester.cluster.objects import parse_pod
from affinity_tester.cluster.watch_group import WatchGroup
from affinity_tester.core.events import PodAddresses

MAX_ADDRESSES = 32
"""Looked up in a run; a client's NAT may have many, and no proxy tier that is told apart has more."""

PAUSE_S = 0.5
"""Between two of them."""

PODS_PATH = "/api/v1/pods"


class AddressLookup:
    """Emits `PodAddresses` for the IPs that pods have. Where pods may not be listed, nothing is told."""

    def __init__(self, group: WatchGroup, api: Api) -> None:
        """Ask through `api`, in tasks of `group`."""
        self._group = group
        self._api = api
        self._asked: set[str] = set()
        self._waiting: list[str] = []
        self._names: dict[str, str] = {}

    def look_up(self, ip: str) -> None:
        """Look an IP up, unless it was or there were too many."""
        if ip not in self._asked and len(self._asked) < MAX_ADDRESSES:
            self._asked.add(ip)
            self._waiting.append(ip)
            if not self._group.is_running("addresses"):
                self._group.spawn("addresses", self._run())

    async def _run(self) -> None:
        while self._waiting:
            ip = self._waiting.pop(0)
            try:
                page = await read_page(
                    self._api, PODS_PATH, (("fieldSelector", f"status.podIP={ip},status.phase=Running"),), 5
                )
                for obj in page.items:
                    if not parse_pod(obj).host_network:
                        self._names[ip] = name_of(obj)
            except ObjectError:
                continue
            except ApiError:
                return
            if ip in self._names:
                self._group.emit(PodAddresses(self._group.now_ns(), tuple(sorted(self._names.items()))))
            await asyncio.sleep(PAUSE_S)
