"""One sample as a machine: what it sends when, by the time and the replies that it is told.

    STARTING   one exchange: a request; stream: a probe each 250 ms for 3 s. The last one is sent again after 1 s, until it
               is answered, three times in all: only an answer tells when the way last saw a packet
    SILENT     from the last packet, sent or received, until the step's time has passed; direction pod: until the pod's own
               packet comes, or 2 s after it was due
    PROBING    a probe; 0.5 s later another from the same socket, so that a lost probe is not taken for a dead flow
    CHECKING   neither was answered: is a new flow?
    LAST       one is, so the path lives: a last probe; without an answer the flow is dead
    ENDED      `result` is there

An input in a phase that has no use for it changes nothing; a call after the end raises `RuntimeError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.model import Direction, Fate, FlowState, SampleResult, Step
from affinity_tester.units import NS_PER_MS, NS_PER_S

START_TRIES = 3
START_WAIT_NS = 1 * NS_PER_S

STREAM_NS = 3 * NS_PER_S
STREAM_INTERVAL_NS = 250 * NS_PER_MS
"""Traffic later than 2 s after the first packet makes a stream of a flow (`FlowState.STREAM`): four exchanges are."""

RETRY_NS = 500 * NS_PER_MS
GIVE_UP_NS = 2 * NS_PER_S
"""After the second probe; so long a reply is waited for anywhere in this tool."""
HEAR_NS = 2 * NS_PER_S
"""How long after it was due the pod's own packet is waited for."""

LATE_SHARE = 0.02
LATE_NS = 100 * NS_PER_MS
"""A silence may be longer than its step by this share and this time; steps are 5 % apart at least."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the probe of this sequence number; where a delay is given, ask the server for a second reply after it."""

    seq: int
    delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class CheckPath:
    """Ask the target from a new socket, and tell `path_checked` whether it answers."""


Command = Send | CheckPath


class _Phase(Enum):
    STARTING = auto()
    SILENT = auto()
    PROBING = auto()
    CHECKING = auto()
    LAST = auto()
    ENDED = auto()


class Sample:
    """One flow from its first probe to its result."""

    def __init__(self, step: Step, local_port: int = 0) -> None:
        """Begin nothing yet: `begin` does."""
        self.step = step
        self.result: SampleResult | None = None
        """None until it has ended."""
        self.deadline_ns: int | None = None
        """When `timer` wants to be called; None: not at all."""
        self.local_port = local_port
        """The port of its own socket."""
        self._phase = _Phase.STARTING
        self._begun_ns = self._last_ns = self._silent_ns = 0
        self._sent = self._answered = self._probe_seq = self._tries = 0
        self._seq = -1
        self._before: Identity | None = None
        self._heard: bool | None = None
        self._is_started = False
        """The last probe before the silence has been sent."""

    def begin(self, now_ns: int) -> list[Command]:
        """Start the flow."""
        self._begun_ns = now_ns
        return self._start_probe(now_ns)

    def timer(self, now_ns: int) -> list[Command]:
        """Go on, as `deadline_ns` has passed."""
        self._check_open()
        if self.deadline_ns is None or now_ns < self.deadline_ns:
            return []
        match self._phase:
            case _Phase.STARTING:
                return self._starting(now_ns)
            case _Phase.SILENT:
                return self._probe(now_ns)
            case _Phase.PROBING if self._seq == self._probe_seq:
                self.deadline_ns = now_ns + GIVE_UP_NS
                return [self._send()]
            case _Phase.PROBING:
                self._phase, self.deadline_ns = _Phase.CHECKING, None
                return [CheckPath()]
            case _:  # _Phase.LAST; while the path is checked there is no deadline
                self._end(now_ns, Fate.DEAD)
                return []

    def replied(self, now_ns: int, seq: int, identity: Identity, delay_ns: int | None = None) -> list[Command]:
        """Take in a reply to the probe of this number.

        `delay_ns` is after how long the server says that another reply follows (0: none does); None: it says nothing.
        """
        self._check_open()
        match self._phase:
            case _Phase.STARTING if 0 <= seq <= self._seq:
                return self._start_replied(now_ns, seq, identity, delay_ns)
            case _Phase.SILENT if 0 <= seq <= self._seq:
                return self._silent_replied(now_ns, delay_ns)
            case _Phase.PROBING | _Phase.CHECKING | _Phase.LAST if self._probe_seq <= seq <= self._seq:
                self._end(now_ns, Fate.ANSWERED, identity)
            case _:
                pass
        return []

    def path_checked(self, now_ns: int, *, answered: bool) -> list[Command]:
        """Take in whether a new flow was answered."""
        self._check_open()
        if self._phase is not _Phase.CHECKING:
            return []
        if not answered:
            self._end(now_ns, Fate.PATH_SILENT)
            return []
        self._phase, self.deadline_ns = _Phase.LAST, now_ns + GIVE_UP_NS
        return [self._send()]

    # --- before the silence --------------------------------------------------------------------------------------------

    def _start_probe(self, now_ns: int) -> list[Command]:
        self._sent += 1
        self._last_ns = now_ns
        is_stream = self.step.state is FlowState.STREAM
        self._is_started = not is_stream or now_ns - self._begun_ns >= STREAM_NS
        self.deadline_ns = now_ns + (START_WAIT_NS if self._is_started else STREAM_INTERVAL_NS)
        asks = self._is_started and self.step.direction is Direction.POD
        return [self._send(self.step.silence_ns if asks else 0)]

    def _starting(self, now_ns: int) -> list[Command]:
        if not self._is_started:
            return self._start_probe(now_ns)
        self._tries += 1
        # A second request for a delayed reply could bring two, one of them in the middle of the silence.
        if self.step.direction is Direction.CLIENT and self._tries < START_TRIES:
            return self._start_probe(now_ns)
        self._end(now_ns, Fate.NOT_STARTED)
        return []

    def _start_replied(self, now_ns: int, seq: int, identity: Identity, delay_ns: int | None) -> list[Command]:
        self._answered += 1
        self._before = identity
        self._last_ns = max(self._last_ns, now_ns)
        if seq < self._seq or not self._is_started:
            return []
        if self.step.direction is Direction.POD and not delay_ns:
            self._end(now_ns, Fate.NOT_DELAYED)
        else:
            self._fall_silent()
        return []

    # --- the silence and its end ---------------------------------------------------------------------------------------

    def _fall_silent(self) -> None:
        self._phase = _Phase.SILENT
        wait_ns = HEAR_NS if self.step.direction is Direction.POD else 0
        self.deadline_ns = self._last_ns + self.step.silence_ns + wait_ns

    def _silent_replied(self, now_ns: int, delay_ns: int | None) -> list[Command]:
        if self.step.direction is Direction.POD and delay_ns == 0:
            self._heard = True
            return self._probe(now_ns)
        # A late reply of the beginning: the silence begins anew.
        self._last_ns = max(self._last_ns, now_ns)
        self._fall_silent()
        return []

    def _probe(self, now_ns: int) -> list[Command]:
        if self.step.direction is Direction.POD and self._heard is None:
            self._heard = False
        self._silent_ns = now_ns - self._last_ns
        self._phase = _Phase.PROBING
        self.deadline_ns = now_ns + RETRY_NS
        command = self._send()
        self._probe_seq = self._seq
        return [command]

    # --- inside --------------------------------------------------------------------------------------------------------

    def _send(self, delay_ns: int = 0) -> Send:
        self._seq += 1
        return Send(self._seq, delay_ns)

    def _check_open(self) -> None:
        if self._phase is _Phase.ENDED:
            raise RuntimeError("the sample has ended")

    @property
    def _is_late(self) -> bool:
        wanted_ns = self.step.silence_ns + (HEAR_NS if self._heard is False else 0)
        return self._silent_ns > wanted_ns * (1 + LATE_SHARE) + LATE_NS

    def _end(self, now_ns: int, fate: Fate, after: Identity | None = None) -> None:
        if fate in (Fate.ANSWERED, Fate.DEAD) and self._is_late:
            fate = Fate.LATE
        self._phase, self.deadline_ns = _Phase.ENDED, None
        self.result = SampleResult(
            step=self.step,
            fate=fate,
            begun_ns=self._begun_ns,
            ended_ns=now_ns,
            silent_ns=self._silent_ns,
            before=self._before,
            after=after,
            heard=self._heard,
            resent=self._seq > self._probe_seq > 0,
            sent=self._sent,
            answered=self._answered,
            local_port=self.local_port,
        )
