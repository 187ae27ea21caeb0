"""What the judges say of sessions, and whether it is known of a move that the cluster made it."""

from __future__ import annotations

from affinity_tester.core.events import (
    CaseJudged,
    Change,
    ChangeWithdrawn,
    Event,
    Judgement,
)
from affinity_tester.core.judging.client_nat import ClientNat
from affinity_tester.core.judging.reasons import NodeNotReady, PodAnswersNobody, PoolPerhapsChanged
from affinity_tester.core.judging.tally import CaseKey, case_key

_REAL = frozenset({Judgement.VIOLATION, Judgement.EXPLAINED, Judgement.POD_RESTART})
"""Classes of changes that the cluster made, whatever excuses them."""


class JudgedMoves:
    """Take in judgements, and what the client's own NAT is judged by. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with no judgement."""
        self._nat = ClientNat()
        self._judged: dict[CaseKey, CaseJudged] = {}
        self._newest_ns = 0

    def feed(self, event: Event) -> None:
        """Take in an event."""
        self._nat.feed(event)
        self._newest_ns = max(self._newest_ns, event.at_ns)
        match event:
            case CaseJudged(session=session, case=case):
                self._judged[case_key(session, case)] = event
            case ChangeWithdrawn(session=session, change=change):
                self._judged.pop(case_key(session, change), None)
            case _:
                pass

    @property
    def violations(self) -> list[CaseJudged]:
        """The cases that are violations."""
        return [judged for judged in self._judged.values() if judged.judgement is Judgement.VIOLATION]

    @property
    def asked_reference(self) -> bool:
        """True if a second STUN server was asked from the same sockets."""
        return self._nat.history.reference is not None

    def left_dead_pod(self, session: str, change: Change) -> bool:
        """True if a session left a pod that answered nobody, which no affinity keeps a flow on."""
        judged = self._judged.get(case_key(session, change))
        return judged is not None and any(
            isinstance(reason, PodAnswersNobody | NodeNotReady) for reason in judged.reasons
        )

    def is_clear(self, session: str, change: Change, *, translated: bool) -> bool:
        """True if it is known that the cluster made a change; `translated`: a NAT may be before this session.

        What a change of the pool explains is not weighed by the judge, so whether the client's own NAT may have made it,
        too, is asked here. Where a pool change lies only perhaps within reach, the change of the session is no less real.
        """
        judged = self._judged.get(case_key(session, change))
        if judged is None:
            return False
        perhaps = any(isinstance(reason, PoolPerhapsChanged) for reason in judged.reasons)
        if judged.judgement not in _REAL and not perhaps:
            return False
        if judged.judgement is Judgement.VIOLATION or not translated:
            return True
        if (
            self._nat.due_ns(session, change) is None
        ):  # such as where the address stayed: a NAT maps a flow anew to another
            return True
        return self._nat.weigh(session, change, self._newest_ns).judgement is None
