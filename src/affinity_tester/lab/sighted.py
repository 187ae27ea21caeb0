"""What a fault's sessions saw of it: in words, and whether it did and showed anything at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ClientFault,
    ClientFaultKind,
    CrossDelivered,
    DuplicateDiffers,
    NetworkError,
    OutageStarted,
    SessionEvent,
    WrongSource,
)
from affinity_tester.core.identity import Kind
from affinity_tester.lab.deeds import Deed, Delayed, Direction, Dropped, Duplicated
from affinity_tester.lab.fault import LOST, Judged, Sign, counted
from affinity_tester.lab.ledger import Injection, Ledger, Seen
from affinity_tester.settings import NS_PER_S

LAG_NS = NS_PER_S
"""How far from its cause an effect may be timed: a busy machine holds packets in queues that long at worst."""

LOSS_NS = 2 * NS_PER_S
"""The client's loss threshold."""

REDS: Mapping[type[SessionEvent], Sign] = {
    OutageStarted: Sign.OUTAGE,
    WrongSource: Sign.WRONG_SOURCE,
    CrossDelivered: Sign.CROSS_DELIVERED,
    NetworkError: Sign.NETWORK_ERROR,
    DuplicateDiffers: Sign.DUPLICATE_DIFFERS,
    ClientFault: Sign.CLIENT_FAULT,
}
"""Events that stand for themselves: each is wanted by a fault of its session, or it is a false alarm."""

STRAYS: frozenset[Kind | Sign] = frozenset({Sign.WRONG_SOURCE, Sign.CROSS_DELIVERED})
"""Replies that arrived elsewhere than they should have."""

_WAYS = (Sign.LOSS_UP, Sign.LOSS_DOWN, Sign.LOSS_UNTOLD)

MAKERS: Mapping[Sign, Callable[[Deed], bool]] = {
    Sign.LOSS_UP: lambda deed: isinstance(deed, Dropped) and deed.direction is Direction.UP,
    Sign.LOSS_DOWN: lambda deed: isinstance(deed, Dropped) and deed.direction is Direction.DOWN,
    Sign.DUPLICATES: lambda deed: isinstance(deed, Duplicated),
    Sign.REORDERING: lambda deed: isinstance(deed, Delayed),
}
"""The deeds that make a sign. Chance has a part in them, so a session of the fault may be spared, but not all of them."""


def effort(ledger: Ledger, injection: Injection) -> Iterator[str]:
    """Whether a fault touched any session at all, and did what is left to chance at least once."""
    sessions = list(_touched(ledger, injection))
    if injection.deal.quiet:
        return
    if injection.deal.some:
        yield from _somewhere(ledger, injection)
        return
    if not sessions:
        yield "it touched no session"
        return
    deeds = [
        deed for session in sessions for deed in ledger.deeds.get(session.flow, ()) if within(injection, deed.at_ns)
    ]
    wanted = {sign for effect in injection.deal.effects for sign in effect.must}
    for sign, makes in MAKERS.items():
        if sign in wanted and not any(map(makes, deeds)):
            yield f"the lab did nothing that makes {sign.value}: too short a time, or chance (try another seed)"
    if Sign.REORDERING in wanted and not any(
        session.summary and session.summary.total.reordered for session in sessions
    ):
        yield "no session counted a reordered reply"


def _somewhere(ledger: Ledger, injection: Injection) -> Iterator[str]:
    """What is to be seen by at least one session, and was by none."""
    told: set[Kind | Sign] = set()
    for session in ledger.sessions.values():
        told |= {kind for change in session.changes.values() if straddles(change, injection) for kind in change.kinds}
        told |= {REDS[type(event)] for event in session.reds if type(event) in REDS}
        if session.summary is not None:
            losses = session.summary.losses
            told |= {sign for sign, count in zip(_WAYS, (losses.up, losses.down, losses.unknown), strict=True) if count}
    for what in sorted(injection.deal.some - told):
        yield f"no session saw {what.value}"


def seen_words(ledger: Ledger, injection: Injection) -> str:
    """What the fault's sessions saw of it, in words."""
    deal = injection.deal
    wanted = {what for effect in deal.effects for what in effect.allowed} | deal.some | deal.may
    seen: Counter[str] = Counter()
    noticed = 0
    for session in _touched(ledger, injection):
        mine: Counter[str] = Counter()
        changes = [change for change in session.changes.values() if straddles(change, injection)]
        kinds = {kind for change in changes for kind in change.kinds}
        mine.update(kind.value for kind in Kind if kind in kinds & wanted)
        if session.summary is not None and wanted & LOST:
            losses = session.summary.losses
            mine.update({"lost up": losses.up, "lost down": losses.down, "lost, direction unknown": losses.unknown})
        if session.summary is not None and wanted & {Sign.DUPLICATES, Sign.REORDERING}:
            total = session.summary.total
            mine.update({"duplicate": total.duplicate, "reordered": total.reordered})
        mine.update(
            REDS[type(event)].value
            for event in session.reds
            if REDS.get(type(event)) in wanted and within(injection, caused_ns(event))
        )
        given = (session.judged[change.number] for change in changes if change.number in session.judged)
        mine.update(f"judged {Judged(each.judgement, each.avoidable)}" for each in given)
        mine.update(
            f"outage judged {Judged(outage.judgement, outage.avoidable)}"
            for outage in session.outages.values()
            if Sign.OUTAGE in wanted and overlaps(injection, outage.since_ns, outage.at_ns)
        )
        mine.update(
            f"{stray.stray.value} judged {stray.judgement.value}"
            for stray in session.strays.values()
            if wanted & STRAYS and within(injection, stray.heard_ns)
        )
        noticed += mine.total() > 0
        seen.update(mine)
    parts = [f"{what} {count}" for what, count in seen.items() if count]
    return f"{counted(noticed, 'session')}: {', '.join(parts)}" if parts else "nothing"


def _touched(ledger: Ledger, injection: Injection) -> Iterator[Seen]:
    deal = injection.deal
    flows: set[TransportAddress] = {effect.flow for effect in deal.effects}
    anybody = bool(deal.some or deal.may)
    return (session for session in ledger.sessions.values() if anybody or session.flow in flows)


def caused_ns(event: SessionEvent) -> int:
    """About when what this tells happened: drops are counted when the losses that they made are."""
    drops = isinstance(event, ClientFault) and event.fault is ClientFaultKind.SOCKET_DROPS
    return event.at_ns - LOSS_NS if drops else event.at_ns


def within(injection: Injection, at_ns: int) -> bool:
    """Whether something happened while the fault's cause lasted, as far as a busy machine keeps time."""
    return injection.at_ns - LAG_NS <= at_ns <= injection.deal.until_ns + LAG_NS


def overlaps(injection: Injection, from_ns: int, to_ns: int) -> bool:
    """Whether the fault's cause lasted at some time from then to then."""
    return injection.at_ns - LAG_NS <= to_ns and from_ns <= injection.deal.until_ns + LAG_NS


def straddles(change: Change, injection: Injection) -> bool:
    """Whether P was sent before the fault's cause ended (or a busy machine let it end), and Q's reply came after it began."""
    return change.before.sent_ns <= injection.deal.until_ns + LAG_NS and injection.at_ns <= change.seen_ns
