"""What a fault's sessions saw of it: in words, and whether it had any effect at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ClientFault,
    ClientFaultKind,
    ConflictingDuplicate,
    CrossDelivered,
    NetworkError,
    OutageStarted,
    SessionEvent,
    WrongSource,
)
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import counted
from affinity_tester.lab.injection import LOST, Injection, Judged, Observable, Symptom
from affinity_tester.lab.lab_record import LabRecord, SessionRecord
from affinity_tester.lab.packet_log import Delayed, Direction, Dropped, Duplicated, PacketEvent
from affinity_tester.settings import DEFAULT_LOSS_THRESHOLD_NS
from affinity_tester.units import NS_PER_S

LAG_NS = NS_PER_S
"""How far from its cause an effect may be timed: a busy machine holds packets in queues for that long at worst."""

ALERTS: Mapping[type[SessionEvent], Symptom] = {
    OutageStarted: Symptom.OUTAGE,
    WrongSource: Symptom.WRONG_SOURCE,
    CrossDelivered: Symptom.CROSS_DELIVERED,
    NetworkError: Symptom.NETWORK_ERROR,
    ConflictingDuplicate: Symptom.DUPLICATE_DIFFERS,
    ClientFault: Symptom.CLIENT_FAULT,
}
"""Events that stand for themselves: a fault of the session expects each, or it is a false alarm."""

STRAYS: frozenset[Observable] = frozenset({Symptom.WRONG_SOURCE, Symptom.CROSS_DELIVERED})
"""Replies that arrive elsewhere than they should."""

_WAYS = (Symptom.LOSS_UP, Symptom.LOSS_DOWN, Symptom.LOSS_UNTOLD)

PACKET_CAUSES: Mapping[Symptom, Callable[[PacketEvent], bool]] = {
    Symptom.LOSS_UP: lambda packet: isinstance(packet, Dropped) and packet.direction is Direction.UP,
    Symptom.LOSS_DOWN: lambda packet: isinstance(packet, Dropped) and packet.direction is Direction.DOWN,
    Symptom.DUPLICATES: lambda packet: isinstance(packet, Duplicated),
    Symptom.REORDERING: lambda packet: isinstance(packet, Delayed),
}
"""The packet events that cause a symptom. Chance may spare a session of the fault, but not all of them."""


def missing_effects(record: LabRecord, injection: Injection) -> Iterator[str]:
    """Yield what is missing of a fault: it must hit a session, and do what is left to chance at least once."""
    sessions = list(_affected_sessions(record, injection))
    if injection.unobservable:
        return
    if injection.must_somewhere:
        yield from _somewhere(record, injection)
        return
    if not sessions:
        yield "it touched no session"
        return

    packets = [
        packet
        for session in sessions
        for packet in record.packets.get(session.flow, ())
        if is_active_at(injection, packet.at_ns)
    ]
    expected = {symptom for effect in injection.effects for symptom in effect.must}
    for symptom, causes in PACKET_CAUSES.items():
        if symptom in expected and not any(map(causes, packets)):
            yield f"the lab did nothing that makes {symptom.value}: too short a time, or chance (try another seed)"

    # Held back is not yet overtaken: the client must have counted one.
    if Symptom.REORDERING in expected and not any(
        session.summary and session.summary.total.reordered for session in sessions
    ):
        yield "no session counted a reordered reply"


def _somewhere(record: LabRecord, injection: Injection) -> Iterator[str]:
    """Yield what at least one session must see, and none did."""
    told: set[Kind | Symptom] = set()
    for session in record.sessions.values():
        told |= {kind for change in session.changes.values() if overlaps(change, injection) for kind in change.kinds}
        told |= {ALERTS[type(event)] for event in session.alerts if type(event) in ALERTS}
        if session.summary is not None:
            losses = session.summary.losses
            told |= {
                symptom for symptom, count in zip(_WAYS, (losses.up, losses.down, losses.unknown), strict=True) if count
            }

    for what in sorted(injection.must_somewhere - told):
        yield f"no session saw {what.value}"


def describe(record: LabRecord, injection: Injection) -> str:
    """Return what the fault's sessions saw of it, in words."""
    expected = injection.must_somewhere | injection.may
    expected = expected.union(*(effect.allowed for effect in injection.effects))
    seen: Counter[str] = Counter()
    noticed = 0
    for session in _affected_sessions(record, injection):
        mine = _seen_by(session, injection, expected)
        noticed += mine.total() > 0
        seen.update(mine)

    parts = [f"{what} {count}" for what, count in seen.items() if count]
    return f"{counted(noticed, 'session')}: {', '.join(parts)}" if parts else "nothing"


def _seen_by(session: SessionRecord, injection: Injection, expected: frozenset[Observable]) -> Counter[str]:
    """Count what one session saw of a fault, by its name for people."""
    seen: Counter[str] = Counter()
    changes = [change for change in session.changes.values() if overlaps(change, injection)]
    kinds = {kind for change in changes for kind in change.kinds}
    seen.update(kind.value for kind in Kind if kind in kinds & expected)

    if session.summary is not None and expected & LOST:
        losses = session.summary.losses
        seen.update({"lost up": losses.up, "lost down": losses.down, "lost (direction unknown)": losses.unknown})
    if session.summary is not None and expected & {Symptom.DUPLICATES, Symptom.REORDERING}:
        total = session.summary.total
        seen.update({"duplicate": total.duplicate, "reordered": total.reordered})
    seen.update(
        ALERTS[type(event)].value
        for event in session.alerts
        if ALERTS.get(type(event)) in expected and is_active_at(injection, cause_ns(event))
    )

    given = (session.changes_judged[change.number] for change in changes if change.number in session.changes_judged)
    seen.update(f"judged {Judged(each.judgement, each.avoidable)}" for each in given)
    seen.update(
        f"outage judged {Judged(judged.judgement, judged.avoidable)}"
        for outage, judged in session.outages_judged.items()
        if Symptom.OUTAGE in expected and is_active(injection, outage.since_ns, judged.at_ns)
    )
    seen.update(
        f"{stray.stray.value} judged {judged.judgement.value}"
        for stray, judged in session.strays_judged.items()
        if expected & STRAYS and is_active_at(injection, stray.heard_ns)
    )
    return seen


def _affected_sessions(record: LabRecord, injection: Injection) -> Iterator[SessionRecord]:
    flows: set[TransportAddress] = {effect.flow for effect in injection.effects}
    anybody = bool(injection.must_somewhere or injection.may)
    return (session for session in record.sessions.values() if anybody or session.flow in flows)


def cause_ns(event: SessionEvent) -> int:
    """Return about when the cause of an alert was: drops are counted when the losses that they made are."""
    drops = isinstance(event, ClientFault) and event.fault is ClientFaultKind.SOCKET_DROPS
    return event.at_ns - DEFAULT_LOSS_THRESHOLD_NS if drops else event.at_ns


def is_active_at(injection: Injection, at_ns: int) -> bool:
    """True if the fault's cause lasted at this time, as far as a busy machine keeps time."""
    return injection.at_ns - LAG_NS <= at_ns <= injection.until_ns + LAG_NS


def is_active(injection: Injection, from_ns: int, to_ns: int) -> bool:
    """True if the fault's cause lasted at some time between these."""
    return injection.at_ns - LAG_NS <= to_ns and from_ns <= injection.until_ns + LAG_NS


def overlaps(change: Change, injection: Injection) -> bool:
    """True if P was sent before the fault's cause ended (late, on a busy machine), and Q's reply came after it began."""
    return change.before.sent_ns <= injection.until_ns + LAG_NS and injection.at_ns <= change.seen_ns
