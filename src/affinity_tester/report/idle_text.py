"""What a measurement of silence came to, in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from affinity_tester.core.idle.advice import ICE_INTERVAL_NS, longest_kept_ns, matching
from affinity_tester.core.idle.estimate import FEWEST, Curve, KeptCount, Standing, StepSummary
from affinity_tester.core.idle.model import Direction, Fate, FlowState, Property
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.report.logging import Colour
from affinity_tester.units import NS_PER_MIN, NS_PER_S, format_percent, plural

IdleLine = tuple[str, Colour]

STATES = {
    FlowState.ONE_EXCHANGE: "one exchange (a request and its reply)",
    FlowState.STREAM: "a stream (traffic both ways for 3 s)",
}
SPEAKERS = {Direction.CLIENT: "the client speaks first", Direction.POD: "the pod speaks first"}

MARKS = {Standing.KEPT: "#", Standing.MIXED: "+", Standing.LOST: ".", Standing.UNKNOWN: "?"}
LEGEND = "# kept, + some lost, . lost, ? unknown"

UNUSABLE = {
    Fate.PATH_SILENT: "met a silent path",
    Fate.NOT_STARTED: "were never answered",
    Fate.LATE: "were sent late by this machine",
    Fate.NOT_DELAYED: "got no delayed reply from the server (it needs the client's --key)",
}

_AMBIGUOUS = "lost the probe after the silence, and their flow may have expired between that and the next one"

UNANSWERED = (
    "nothing was answered: check the address, that UDP gets there, and that the server has the same --key;"
    " `affinity-tester client` with the same target says what comes back"
)


def silence_text(ns: int) -> str:
    """Return `28.4 s`, `123 s`, `10 min`: steps are 5 % apart, so none is rounded to minutes."""
    minutes, rest_ns = divmod(ns, NS_PER_MIN)
    return f"{minutes} min" if minutes > 1 and not rest_ns else f"{ns / NS_PER_S:g} s"


def idle_lines(result: IdleResult) -> Iterator[IdleLine]:
    """Yield the answer: a paragraph for each direction and state, then the keep-alive to choose."""
    if not result.results:
        yield "no sample has ended: let it run longer, or give a shorter --longest", Colour.DOUBTFUL
        return
    for curve in result.curves:
        yield f"after {_flows_text(curve)}:", Colour.STATISTICS
        for text, colour in _curve_lines(curve, result):
            yield f"  {text}", colour
    yield from _advice(result)
    yield from _doubts(result)


def _curve_lines(curve: Curve, result: IdleResult) -> Iterator[IdleLine]:
    flow = curve.estimate(Property.FLOW)
    if not flow.is_known:
        yield blind_text(curve, result), Colour.DOUBTFUL
    elif flow.lost_ns is None and curve.steps[-1].step.silence_ns == flow.kept_ns:
        yield f"longer than {silence_text(flow.kept_ns)}", Colour.GOOD
    elif flow.kept_ns is None:
        yield "not kept over any silence that was tried", Colour.CHANGE

    for step in curve.steps:
        if flow.is_known and step.step.silence_ns in (flow.kept_ns, flow.lost_ns):
            colour = Colour.STATISTICS if step.step.silence_ns == flow.kept_ns else Colour.CHANGE
            yield step_text(step, Property.FLOW), colour
    for name, text in _other_properties(curve):
        yield f"{name}: {text}", Colour.STATISTICS
    if flow.is_known and result.view.hides and curve.direction is Direction.CLIENT:
        yield "as far as can be seen: no address is translated, and one pod answers", Colour.QUIET
    for known in matching(curve, result.known):
        yield f"matches {known.name}: {silence_text(known.timeout_ns)}", Colour.CLUSTER
    if flow.odd_ns:
        odd = ", ".join(silence_text(each) for each in flow.odd_ns)
        yield f"{odd}: not kept, though longer silences were: something else happened there", Colour.WARNING
    yield curve_text(curve), Colour.QUIET


def blind_text(curve: Curve, result: IdleResult) -> str:
    """Return why a curve says nothing of its flows."""
    if not any(step.usable for step in curve.steps):
        causes = Counter[str]()
        for step in curve.steps:
            causes += Counter({f"the samples {UNUSABLE[fate]}": count for fate, count in step.unusable})
            causes += Counter({"the pool kept changing": step.void, "the pods kept restarting": step.restarted})
            causes += Counter({f"the samples {_AMBIGUOUS}": step.ambiguous})
        return f"nothing is known: {causes.most_common(1)[0][0]}"
    if all(step.usable < FEWEST for step in curve.steps):
        return f"nothing is known: no silence has {FEWEST} samples that count"
    view = result.view
    how = "policy Local" if view.is_local else f"via {view.via}" if view.via else "addresses are not translated"
    why = "ClientIP" if view.affinity == "ClientIP" else plural(view.pods, "pod")
    other = "" if curve.direction is Direction.POD else "; --direction pod (with --key) shows it"
    return f"cannot be seen from here: {how} with {why}: an entry made anew looks alike{other}"


def step_text(step: StepSummary, wanted: Property) -> str:
    """Return `silent for 28.4 s: 20 of 20 kept (at most 14 % lost, 95 %)`, or what became of those that were not."""
    count = step.count(wanted)
    what = f"silent for {silence_text(step.step.silence_ns)}: {count.kept} of {count.of} kept"
    if count.kept == count.of:
        return f"{what} (at most {format_percent(count.most_lost)} lost, 95 %)"
    parts = [
        f"{name} {number}"
        for name, number in (
            ("new pod", step.new_pod),
            ("new node", step.new_node if not step.new_pod else 0),
            ("new port", step.new_port),
            ("new address", step.new_address),
            ("unanswered", step.dead),
            ("not heard", step.unheard),
        )
        if number
    ]
    return f"{what} ({', '.join(parts)}{_by_chance(count)})"


def _by_chance(count: KeptCount) -> str:
    """Return what is to be said of flows that met their old pod again by chance."""
    if not count.alike:
        return ""
    again = f"1 in {round(1 / count.alike)} expired flows meets its old pod again"
    return f"; {again}, so about {format_percent(count.expired)} expired"


def _other_properties(curve: Curve) -> Iterator[tuple[str, str]]:
    """Yield how long pod, port and address are kept, where that differs from the flow as a whole."""
    flow = curve.estimate(Property.FLOW)
    for wanted in (Property.POD, Property.PORT, Property.ADDRESS):
        each = curve.estimate(wanted)
        if not each.is_known or (each.kept_ns, each.lost_ns) == (flow.kept_ns, flow.lost_ns):
            continue
        kept = "not kept" if each.kept_ns is None else f"kept up to {silence_text(each.kept_ns)}"
        yield (
            wanted,
            kept if each.lost_ns is None or each.kept_ns is None else f"{kept}, not at {silence_text(each.lost_ns)}",
        )


def curve_text(curve: Curve) -> str:
    """Return all steps as one mark each: `1 s ######....  10 min (# kept, ...)`."""
    marks = "".join(MARKS[step.count(Property.FLOW).standing] for step in curve.steps)
    first, last = curve.steps[0].step.silence_ns, curve.steps[-1].step.silence_ns
    return f"{silence_text(first)} {marks} {silence_text(last)} ({LEGEND})"


def _advice(result: IdleResult) -> Iterator[IdleLine]:
    """Yield the keep-alive to choose, and for which flows that is not known."""
    yield from _keep_alive(result)
    if result.keep_alive_ns is not None:
        for curve in result.curves:
            if not curve.estimate(Property.FLOW).is_known:
                flows = f"after {STATES[curve.state]}, where {SPEAKERS[curve.direction]} after the silence"
                yield f"not known: whether that suffices {flows}", Colour.DOUBTFUL


def _flows_text(curve: Curve) -> str:
    """Return which flows a curve is of."""
    return f"{STATES[curve.state]}, {SPEAKERS[curve.direction]} after the silence"


def _keep_alive(result: IdleResult) -> Iterator[IdleLine]:
    interval_ns = result.keep_alive_ns
    if interval_ns is None:
        if result.is_conclusive:
            yield (
                "keep-alive: none is safe, some flows were lost after the shortest silence that was tried",
                Colour.DOUBTFUL,
            )
        return
    if result.is_unbroken:
        whole = "tried" if longest_kept_ns(result.curves) == result.longest_ns else "kept"
        longer = "" if interval_ns >= ICE_INTERVAL_NS else "; a longer --longest may allow more"
        yield (
            f"keep-alive: every {silence_text(interval_ns)} is safe, half of the longest silence {whole}{longer}",
            Colour.GOOD,
        )
        return
    kept_ns = longest_kept_ns(result.curves)
    assert kept_ns is not None, "half of it is the interval"
    if interval_ns >= ICE_INTERVAL_NS:
        ice = "is often enough"
    else:
        ice = "is often enough, unless one is lost" if kept_ns >= ICE_INTERVAL_NS else "is too seldom"
    yield (
        f"keep-alive: every {silence_text(interval_ns)} or more often, half of the longest silence kept, so that one may be"
        f" lost; ICE's {silence_text(ICE_INTERVAL_NS)} (RFC 8445 section 11) {ice}",
        Colour.GOOD,
    )


def _doubts(result: IdleResult) -> Iterator[IdleLine]:
    """Yield what the samples could not say, and why."""
    if result.void:
        again = f"; {plural(result.repeated, 'sample')} repeated" if result.repeated else ""
        yield f"{plural(result.void, 'sample')} void: the pool changed near them{again}", Colour.WARNING
    for fate, text in UNUSABLE.items():
        if count := result.fates[fate]:
            yield f"{plural(count, 'sample')} {text}", Colour.WARNING
    steps = [step for curve in result.curves for step in curve.steps]
    if restarted := sum(step.restarted for step in steps):
        yield f"{plural(restarted, 'sample')} met a pod that was restarted meanwhile", Colour.WARNING
    if ambiguous := sum(step.ambiguous for step in steps):
        yield f"{plural(ambiguous, 'sample')} {_AMBIGUOUS}", Colour.WARNING
    if result.is_unanswered:
        yield UNANSWERED, Colour.DOUBTFUL
    cut = result.planned - len(result.results)
    if cut:
        yield f"{plural(cut, 'sample')} cut off by the end", Colour.WARNING
