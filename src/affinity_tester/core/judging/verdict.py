"""The end of a run: PASS with its strength, INCONCLUSIVE, or FAIL (docs/judging.md#verdict)."""

from __future__ import annotations

from dataclasses import dataclass, field

from affinity_tester.core.events import Counts, Judgement, Outcome, Verdict
from affinity_tester.units import format_share, format_span, noun_form, plural

MIN_PAIRS = 300
"""Judged pairs that a PASS needs: by the rule of three, 0 of 300 means less than 1 in 100 with 95 % confidence."""

MAX_SELF_INFLICTED = 0.001
"""Share of probes that this machine itself dropped or refused, above which the run says nothing of the network."""

MAX_TIMER_MISSES = 0.01
"""Share of slots skipped, above which the client was too busy for its run to say anything."""

MAX_BLACKOUT = 0.01
"""Share of the run in which nobody was answered, above which the run says too little; less is cut out and named."""


@dataclass(frozen=True, slots=True)
class Blackout:
    """A time in which nobody was answered."""

    since_ns: int
    until_ns: int
    at_end: bool
    """True if it lasted until the run ended."""
    empty_pool: bool
    """True if no endpoint was ready, so that nobody could be answered."""
    own_link: bool = False
    """True if the reference answered nothing either, so that it was the client's own link."""

    @property
    def lasted_ns(self) -> int:
        """How long it lasted."""
        return self.until_ns - self.since_ns


@dataclass(slots=True)
class Evidence:
    """What the verdict rests on, collected over a run."""

    judgements: dict[Judgement, int] = field(default_factory=dict)
    """How many changes and outages have each class now."""
    avoidable: int = 0
    """How many of the explained ones a sound proxy would have avoided."""
    perhaps_client_nat: int = 0
    """How many of the unknown ones the client's own NAT may have made."""
    reference: bool = False
    """True if a reference was asked, which tells the client's NAT from the cluster."""
    total: Counts = field(default_factory=Counts)
    counted: bool = False
    """False if the run was killed before its first statistics."""
    blackouts: list[Blackout] = field(default_factory=list)
    interval_ns: int = 0
    """Time between two probes of a session."""
    window_ns: int = 0
    """The affinity window: a change after a longer pause is excused."""
    addresses: tuple[int, int] = (1, 0)
    """How many addresses of the target are probed, and how many are not."""
    watched: bool = False
    """True if the pool was watched, and the right one."""
    duration_ns: int = 0
    """How long probes were sent."""
    stable_ns: int = 0
    """How long the pool is proved to have stood still."""
    fully_observed: bool = True
    """True if the state of the pool is known up to the last probe."""


def decide(at_ns: int, evidence: Evidence, max_loss: float | None, *, fail_on_avoidable: bool) -> Verdict:
    """Return the verdict of a run. `max_loss` is a share (0 to 1); None: loss alone never fails."""
    stable_share = evidence.stable_ns / evidence.duration_ns if evidence.duration_ns else 0.0
    judged_pairs = round(_could_fail(evidence) * stable_share)
    violations = evidence.judgements.get(Judgement.VIOLATION, 0) + (evidence.avoidable if fail_on_avoidable else 0)

    def verdict(outcome: Outcome, reasons: list[str], strength: str = "") -> Verdict:
        return Verdict(at_ns, outcome, tuple(reasons), strength, violations, judged_pairs, evidence.stable_ns)

    failures = _failures(evidence, violations, max_loss, fail_on_avoidable=fail_on_avoidable)
    if failures:
        return verdict(Outcome.FAIL, failures)

    inconclusive = _inconclusive_reasons(evidence, judged_pairs, max_loss)
    if inconclusive:
        return verdict(Outcome.INCONCLUSIVE, inconclusive)

    span = format_span(evidence.stable_ns) + (" without an endpoint change" if evidence.watched else "")
    strength = (
        f"0 violations in {judged_pairs:,} judged pairs over {span}: 95 % confident: fewer than 1 incident per "
        f"{format_span(evidence.stable_ns // 3)} (run longer for a stronger claim)"
    )
    reasons = ["no violation"] if evidence.watched else ["no violation (cluster not watched)"]
    return verdict(Outcome.PASS, [*reasons, *_caveats(evidence)], strength)


def _could_fail(evidence: Evidence) -> int:
    """Return how many pairs of successive replies would have been violations if they had differed; excused ones would not."""
    if evidence.interval_ns > evidence.window_ns:
        return 0
    excused = (Judgement.IDLE, Judgement.EXPLAINED, Judgement.CLIENT, Judgement.UNKNOWN)
    return max(0, evidence.total.pairs - sum(evidence.judgements.get(judgement, 0) for judgement in excused))


def _caveats(evidence: Evidence) -> list[str]:
    """Return what a PASS has to say beside it: loss, avoidable changes, silent pods, blackouts, addresses left out."""
    caveats: list[str] = []
    total = evidence.total

    lost = network_losses(total)
    if lost:
        caveats.append(f"{format_share(lost / total.sent, 2)} of the probes were lost")
    if evidence.avoidable:
        changes = plural(evidence.avoidable, "change")
        caveats.append(f"{changes} that a sound proxy would have avoided: --fail-on avoidable")

    own = evidence.judgements.get(Judgement.CLIENT, 0)
    if own:
        caveats.append(f"{plural(own, 'change')} or {noun_form(own, 'outage')} of the client's own making")

    silent_pods = evidence.judgements.get(Judgement.POD_SILENT, 0)
    if silent_pods:
        caveats.append(f"{plural(silent_pods, 'outage')} of pods that answered nobody")

    for blackout in evidence.blackouts:
        why = ", no endpoint was ready" if blackout.empty_pool else _OWN_LINK if blackout.own_link else ""
        caveats.append(
            f"nobody was answered for {format_span(blackout.lasted_ns)} ({_share(blackout.lasted_ns, evidence)}){why}"
        )

    probed, left_out = evidence.addresses
    if left_out:
        caveats.append(f"{probed} of {probed + left_out} addresses of the target were probed")
    return caveats


_OWN_LINK = ", nor was the reference: the client's own link"


def _share(ns: int, evidence: Evidence) -> str:
    return f"{format_share(ns / evidence.duration_ns, 1)} of the run" if evidence.duration_ns else "all of the run"


def _failures(evidence: Evidence, violations: int, max_loss: float | None, *, fail_on_avoidable: bool) -> list[str]:
    """Return every reason why the run fails."""
    reasons: list[str] = []
    if violations:
        words = plural(violations, "violation")
        if fail_on_avoidable and evidence.avoidable:
            words += f", {evidence.avoidable:,} of them avoidable changes of the pool's making"
        reasons.append(words)

    sent, lost = evidence.total.sent, network_losses(evidence.total)
    if max_loss is not None and sent and lost / sent > max_loss:
        reasons.append(
            f"{format_share(lost / sent, 2)} of the probes were lost, more than --max-loss {format_share(max_loss, 2)}"
        )
    return reasons


def _unreadable(total: Counts, max_loss: float | None) -> bool:
    """Return whether so much arrived that is no reply that the client's losses cannot be told from the network's."""
    return max_loss is not None and total.undecodable > total.answered


def _inconclusive_reasons(evidence: Evidence, judged_pairs: int, max_loss: float | None) -> list[str]:
    """Return every reason why the run proves nothing."""
    total = evidence.total
    if not evidence.counted:
        return ["the run was killed before its first statistics"]
    if total.answered == 0:
        if total.undecodable:
            return [
                f"no reply could be read ({total.undecodable:,} came): "
                "is this a STUN server's port, and AFFINITY_KEY, where one is set, the same on both sides?"
            ]
        return ["nothing answered"]

    reasons: list[str] = []
    dark = [blackout for blackout in evidence.blackouts if not blackout.empty_pool]
    own_link = _OWN_LINK if dark and all(blackout.own_link for blackout in dark) else ""
    if last := [blackout for blackout in dark if blackout.at_end]:
        lasted = format_span(max(blackout.lasted_ns for blackout in last))
        reasons.append(f"all sessions stopped being answered, for {lasted} until the end{own_link}")
    elif dark and (dark_ns := sum(blackout.lasted_ns for blackout in dark)) >= MAX_BLACKOUT * evidence.duration_ns:
        reasons.append(f"nobody was answered for {format_span(dark_ns)} ({_share(dark_ns, evidence)}){own_link}")

    unknown = evidence.judgements.get(Judgement.UNKNOWN, 0)
    if unknown:
        reasons.append(f"{plural(unknown, 'change')} or {noun_form(unknown, 'outage')} could not be judged")
    nat = evidence.perhaps_client_nat
    if nat:
        settles = "the reference did not settle it" if evidence.reference else "--reference HOST settles it"
        reasons.append(f"{plural(nat, 'change')} may be the client's own NAT: {settles}")
    if _unreadable(total, max_loss):
        reasons.append(
            f"{total.undecodable:,} datagrams came that are no replies, more than the {total.answered:,} answers: "
            "what was lost in the network cannot be told (--max-loss)"
        )

    own = total.own_losses + total.send_errors
    tried = total.sent + total.send_errors
    if own > MAX_SELF_INFLICTED * tried:
        reasons.append(
            f"this machine itself dropped {own:,} of {tried:,} probes or replies ({format_share(own / tried, 2)})"
        )

    slots = tried + total.timer_misses
    if total.timer_misses > MAX_TIMER_MISSES * slots:
        reasons.append(
            f"this client was too busy, or stood still: {format_share(total.timer_misses / slots, 2)} of its probes were "
            "skipped"
        )

    if evidence.watched and evidence.stable_ns == 0:
        if evidence.fully_observed:
            reasons.append("endpoints kept changing, nothing could be judged")
        else:
            reasons.append("too short: endpoints could not be re-checked before the end")
    elif judged_pairs < MIN_PAIRS:
        pairs = plural(judged_pairs, "judged pair")
        if evidence.interval_ns > evidence.window_ns:
            more = "an interval longer than --affinity-window excuses every change: probe more often"
        else:
            more = "run for longer, or with more sessions"
        reasons.append(f"only {pairs} that could have failed, fewer than {MIN_PAIRS}: {more}")
    return reasons


def network_losses(total: Counts) -> int:
    """Return how many probes were lost, without those whose reply this machine itself dropped."""
    return max(0, total.lost - total.own_losses)
