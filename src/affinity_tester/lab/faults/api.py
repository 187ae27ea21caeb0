"""An API server that is slow, or gone: what the client knows of the pool is old then, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester import clock
from affinity_tester.lab.fault import Fault, FaultContext, Injection
from affinity_tester.lab.parameter import TIME, parameter, read_time
from affinity_tester.settings import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiStalled(Fault):
    """The API server stalls: requests hang for a time and are answered then, and the watch tells nothing meanwhile.

    An overloaded etcd or API server does so, and a network that holds packets back and then delivers them: no connection
    breaks, so nothing says that what is known of the pool is old.
    """

    name = "api-stalled"
    expects = "nothing; what changed of the pool meanwhile is told late, with the time in which it may have happened"
    control = True

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=3_000_000_000)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Hold back every answer and the watch's news."""
        context.runtime.control.stall(now_ns, self.for_ns)
        return Injection(
            number,
            now_ns,
            f"the API server stalls for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            unobservable=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiGone(Fault):
    """The API server does not answer for a time: the pool is not known then.

    It comes back restarted: what it could prove of the time before is forgotten.
    """

    name = "api-gone"
    expects = "nothing; what changed meanwhile could not be judged"
    control = True

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=3_000_000_000)

    def inject(self, context: FaultContext, number: int, now_ns: int) -> Injection:
        """Break the watch."""
        context.runtime.control.disconnect(now_ns)
        context.runtime.spawn(self._back(context))
        return Injection(
            number,
            now_ns,
            f"the API server does not answer for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            unobservable=True,
        )

    async def _back(self, context: FaultContext) -> None:
        await context.runtime.wait(self.for_ns)
        context.runtime.control.reconnect(clock.now_ns())
