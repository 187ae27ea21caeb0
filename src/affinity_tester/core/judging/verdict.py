"""The end of a run: PASS with its strength, INCONCLUSIVE, or FAIL (docs/judging.md#verdict)."""

from __future__ import annotations

from dataclasses import dataclass, field

from affinity_tester.core.events import Counts, Judgement, Outcome, Verdict

MIN_PAIRS = 300
"""By the rule of three, 0 of 300 says with 95 % certainty: less than one pair in a hundred."""

MAX_SELF_INFLICTED = 0.001
"""Share of probes that this machine itself dropped or refused, above which the run says nothing of the network."""

MAX_TIMER_MISSES = 0.01
"""Share of slots skipped, above which the client was too busy to be a witness."""

MAX_BLACKOUT = 0.01
"""Share of the run in which nobody was answered, above which it says too little; a shorter one is cut out and named."""

_MIN_NS = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Blackout:
    """A time in which nobody was answered."""

    since_ns: int
    until_ns: int
    at_end: bool
    """It lasted until the run ended."""
    empty_pool: bool
    """No endpoint was ready: nobody could be answered."""

    @property
    def lasted_ns(self) -> int:
        """How long."""
        return self.until_ns - self.since_ns


@dataclass(slots=True)
class Evidence:
    """What the verdict rests on, gathered over a run."""

    judgements: dict[Judgement, int] = field(default_factory=dict)
    """How many changes and outages have each class now."""
    avoidable: int = 0
    """Of the explained ones."""
    total: Counts = field(default_factory=Counts)
    counted: bool = False
    """Whether anything was ever summed up: not in a run that was killed before its first statistics."""
    blackouts: list[Blackout] = field(default_factory=list)
    interval_ns: int = 0
    window_ns: int = 0
    """The affinity window: a pair over a longer pause is excused, whatever it shows."""
    addresses: tuple[int, int] = (1, 0)
    """How many addresses of the target are probed, and how many are not."""
    watched: bool = False
    duration_ns: int = 0
    still_ns: int = 0
    """For how long the pool is proved to have stood still."""
    proved: bool = True
    """Whether what the pool did is known up to the last probe."""


def give_verdict(at_ns: int, evidence: Evidence, max_loss: float | None, *, fail_on_avoidable: bool) -> Verdict:
    """Judge a whole run. `max_loss` is a share (0 to 1)."""
    still = evidence.still_ns / evidence.duration_ns if evidence.duration_ns else 0.0
    judged_pairs = round(_could_fail(evidence) * still)
    violations = evidence.judgements.get(Judgement.VIOLATION, 0) + (evidence.avoidable if fail_on_avoidable else 0)

    def verdict(outcome: Outcome, reasons: list[str], strength: str = "") -> Verdict:
        return Verdict(at_ns, outcome, tuple(reasons), strength, violations, judged_pairs, evidence.still_ns)

    failures = _failures(evidence, violations, max_loss, fail_on_avoidable=fail_on_avoidable)
    if failures:
        return verdict(Outcome.FAIL, failures)
    doubts = _doubts(evidence, judged_pairs, max_loss)
    if doubts:
        return verdict(Outcome.INCONCLUSIVE, doubts)
    span = _span(evidence.still_ns) + (" without an endpoint change" if evidence.watched else "")
    strength = (
        f"0 violations in {judged_pairs:,} judged pairs over {span}: "
        f"95 % confident: fewer than 1 incident per {_span(evidence.still_ns // 3)} (run longer for a stronger claim)"
    )
    reasons = ["no violation"] if evidence.watched else ["no violation (cluster not watched)"]
    return verdict(Outcome.PASS, [*reasons, *_also(evidence)], strength)


def _could_fail(evidence: Evidence) -> int:
    """Pairs of successive replies that would have been violations if they had differed: excused ones are no evidence."""
    if evidence.interval_ns > evidence.window_ns:
        return 0
    excused = (Judgement.IDLE, Judgement.EXPLAINED, Judgement.UNKNOWN)
    return max(0, evidence.total.pairs - sum(evidence.judgements.get(judgement, 0) for judgement in excused))


def _also(evidence: Evidence) -> list[str]:
    """What a PASS does not hide."""
    said: list[str] = []
    total = evidence.total
    lost = network_losses(total)
    if lost:
        said.append(f"{lost / total.sent:.2%} of the probes were lost")
    if evidence.avoidable:
        changes = f"{evidence.avoidable:,} change{'' if evidence.avoidable == 1 else 's'}"
        said.append(f"{changes} that a sound proxy would have avoided: --fail-on avoidable")
    silent_pods = evidence.judgements.get(Judgement.POD_SILENT, 0)
    if silent_pods:
        said.append(f"{silent_pods:,} outage{'' if silent_pods == 1 else 's'} of pods that answered nobody")
    for blackout in evidence.blackouts:
        why = ", no endpoint was ready" if blackout.empty_pool else ""
        said.append(
            f"nobody was answered for {_span(blackout.lasted_ns)} ({_share(blackout.lasted_ns, evidence)}){why}"
        )
    probed, left_out = evidence.addresses
    if left_out:
        said.append(f"{probed} of {probed + left_out} addresses of the target were probed")
    return said


def _share(ns: int, evidence: Evidence) -> str:
    return f"{ns / evidence.duration_ns:.1%} of the run" if evidence.duration_ns else "all of the run"


def _failures(evidence: Evidence, violations: int, max_loss: float | None, *, fail_on_avoidable: bool) -> list[str]:
    said: list[str] = []
    if violations:
        words = f"{violations:,} violation{'s' if violations > 1 else ''}"
        if fail_on_avoidable and evidence.avoidable:
            words += f", {evidence.avoidable:,} of them avoidable changes of the pool's making"
        said.append(words)
    sent, lost = evidence.total.sent, network_losses(evidence.total)
    if max_loss is not None and sent and lost / sent > max_loss:
        said.append(f"{lost / sent:.2%} of the probes were lost, more than --max-loss {max_loss:.2%}")
    return said


def _unreadable(total: Counts, max_loss: float | None) -> bool:
    """Whether so much arrives that is no reply that the client's losses cannot be told from the network's."""
    return max_loss is not None and total.undecodable > total.answered


def _doubts(evidence: Evidence, judged_pairs: int, max_loss: float | None) -> list[str]:
    """Every reason why the run proves nothing."""
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
    said: list[str] = []
    dark = [blackout for blackout in evidence.blackouts if not blackout.empty_pool]
    if any(blackout.at_end for blackout in dark):
        said.append("all sessions stopped being answered, until the end")
    elif dark and (dark_ns := sum(blackout.lasted_ns for blackout in dark)) >= MAX_BLACKOUT * evidence.duration_ns:
        said.append(f"nobody was answered for {_span(dark_ns)} ({_share(dark_ns, evidence)})")
    unknown = evidence.judgements.get(Judgement.UNKNOWN, 0)
    if unknown:
        said.append(
            f"{unknown:,} change{'s' if unknown > 1 else ''} or outage{'s' if unknown > 1 else ''} could not be judged"
        )
    if _unreadable(total, max_loss):
        said.append(
            f"{total.undecodable:,} datagrams came that are no replies, more than the {total.answered:,} answers: "
            "what was lost in the network cannot be told (--max-loss)"
        )
    own = total.own_losses + total.send_errors
    tried = total.sent + total.send_errors
    if own > MAX_SELF_INFLICTED * tried:
        said.append(f"this machine itself dropped {own:,} of {tried:,} probes or replies ({own / tried:.2%})")
    slots = tried + total.timer_misses
    if total.timer_misses > MAX_TIMER_MISSES * slots:
        said.append(
            f"this client was too busy, or stood still: {total.timer_misses / slots:.2%} of its probes were skipped"
        )
    if evidence.watched and evidence.still_ns == 0:
        if evidence.proved:
            said.append("endpoints kept changing, nothing could be judged")
        else:
            said.append("too short: endpoints could not be re-checked before the end")
    elif judged_pairs < MIN_PAIRS:
        pairs = f"{judged_pairs:,} judged pair{'' if judged_pairs == 1 else 's'}"
        if evidence.interval_ns > evidence.window_ns:
            more = "an interval longer than --affinity-window excuses every change: probe more often"
        else:
            more = "run for longer, or with more sessions"
        said.append(f"only {pairs} that could have failed, fewer than {MIN_PAIRS}: {more}")
    return said


def network_losses(total: Counts) -> int:
    """Lost probes but for those whose reply this machine itself dropped."""
    return max(0, total.lost - total.own_losses)


def _span(ns: int) -> str:
    if ns >= 2 * _MIN_NS:
        return f"{ns / _MIN_NS:.0f} min"
    return f"{ns / 1_000_000_000:.3g} s"
