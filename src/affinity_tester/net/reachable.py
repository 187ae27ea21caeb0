"""Finds which addresses answer a new flow at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from affinity_tester.errors import UserError
from affinity_tester.net.flow_socket import FlowSocket
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Destination

ATTEMPTS = 3
"""Probes that an address gets: one lost packet is no dead address."""

WAIT_S = 0.7
"""How long each of them is waited for."""


async def find_answering(destinations: Iterable[Destination], key: bytes | None = None) -> tuple[Destination, ...]:
    """Return those that answer, in their order. All are asked at once; one without a route answers nothing."""

    async def asked(destination: Destination) -> bool:
        with suppress(UserError):
            return await answers(destination, key, local_source_for(*destination))
        return False

    destinations = tuple(destinations)
    answered = await asyncio.gather(*map(asked, destinations))
    return tuple(each for each, does in zip(destinations, answered, strict=True) if does)


async def answers(destination: Destination, key: bytes | None, source: str) -> bool:
    """Return whether a probe from a new port of this source is answered; what cannot be sent is not."""
    answered = asyncio.Event()
    with suppress(OSError):  # no descriptor, no port: then nothing is known
        flow = FlowSocket(source, destination, key, lambda *_: answered.set())
        try:
            for seq in range(ATTEMPTS):
                flow.send(seq)
                with suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_S):
                        await answered.wait()
                        break
        finally:
            flow.close()
    return answered.is_set()
