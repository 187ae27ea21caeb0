"""Loss that is not spread evenly over the sessions: a finding of the whole run, which no single incident shows.

What must be true: some sessions lose probes again and again, in parts of the run that are apart from each other, and the
others do not. Bursts are no evidence of that: what hits many sessions at once, or one for a while, is one accident. So who
loses is learnt from every second part of the run, and tested in the parts between: if the sessions did not differ, those
learnt would be a random draw there, however long bursts are and however many sessions each hits (core.diagnosis.chance).
Parts are separated by a pause, so that a burst that goes on does not count in two.

What excludes other names: losses before the first answer, around changes and in silences do not count; sessions whose
replies went elsewhere, came late or were dropped by this machine are left out.

Where it happens is told by what the sessions share. A pod, a node, an ingress node or a path between two of them explains
the loss if within its sessions the loss is spread evenly; where it is not, in any of them, the source port decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from affinity_tester.core.diagnosis.chance import Draw, chance_of_sum, chance_of_whole_groups
from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.text import diagnosis, listed
from affinity_tester.core.events import Diagnosis
from affinity_tester.core.exact import chance_of_at_most
from affinity_tester.core.identity import Identity
from affinity_tester.units import NS_PER_S, format_percent, plural, quoted

MAX_CHANCE = 0.001
"""Evenly spread loss is called uneven in at most so many runs."""

_MAX_COINCIDENCE = 0.01
"""Lossy sessions that share a place by chance, this probably or less, lose at that place."""

_MOST_PARTS = 8
"""Parts of a run."""

_FEWEST_PARTS = 4
"""Two to learn from, and two to test."""

_PART_NS = 2 * NS_PER_S
"""A part is at least so long, with the pause after it."""

_PART_PROBES = 20
"""A part has at least so many probes of each session."""

_PAUSE_NS = NS_PER_S
"""The pause after each part: bursts are mostly shorter."""

_PAUSE_SHARE = 4
"""The pause is also this fraction of a part."""

_FEWEST_SESSIONS = 4
"""Of fewer sessions nothing can be told apart from chance."""

_SENT_SHARE = 0.9
"""Sessions that sent less than this share of what others sent cannot be compared with them."""

_SILENT_SHARE = 0.1
"""Nor can those that were silent for more than this share of the run: they had less to lose."""

_MIN_SHARE = 0.01
"""Lossy sessions lose at least this share of their probes, or nobody would mind."""

_MIN_RATIO = 3
"""They also lose so many times the others' share."""

_LASTING_SHARE = 0.8
"""The losses of the lossy sessions reach at least this share of the parts that evenly spread ones would."""

_WHOLE_SHARE = 0.75
"""From their first part to their last it is this share of the run, or it is no finding of the whole run."""

_MOST_GROUPS = 200
"""Places that are told apart; beyond, whether a coincidence is random takes too long to compute."""

_Key = Callable[[Identity], str | None]


@dataclass(frozen=True, slots=True)
class _Sample:
    """The sessions that can be compared, with their bursts in each part of the run."""

    names: tuple[str, ...]
    bursts: tuple[tuple[int, ...], ...]
    """For each part, of each session."""

    def totals(self, parts: slice) -> list[int]:
        """Return each session's bursts in these parts."""
        return [sum(each) for each in zip(*self.bursts[parts], strict=True)]

    def chance(self, drawn: frozenset[int], groups: Iterable[Sequence[int]]) -> float:
        """Return how probable it is that these have so many bursts in the tested parts, when drawn within these groups."""
        # The smaller side is the draw, which makes the bound tight: the spared ones have as few as the lossy have many.
        spared = 2 * len(drawn) > len(self.names)
        sign = -1 if spared else 1
        return chance_of_sum(
            [
                Draw(
                    tuple(sign * part[index] for index in group),
                    tuple(sign * part[index] for index in group if (index in drawn) is not spared),
                )
                for part in self.bursts[1::2]
                for group in groups
            ]
        )


def lossy_path(history: RunHistory) -> Diagnosis | None:
    """Diagnose `lossy-path`: the same sessions lose probes again and again, and the others do not."""
    sample = _sample(history)
    if sample is None:
        return None

    learnt = _worse(sample.totals(slice(0, None, 2)))
    everybody = range(len(sample.names))
    if not learnt or sample.chance(learnt, [everybody]) > MAX_CHANCE:
        return None

    lossy = _worse(sample.totals(slice(None)))
    mine = [sample.names[index] for index in sorted(lossy)]
    others = [name for index, name in enumerate(sample.names) if index not in lossy]
    (lost, sent), (lost_else, sent_else) = _lost(history, mine), _lost(history, others)
    share, share_else = lost / max(1, sent), lost_else / max(1, sent_else)
    if share < max(_MIN_SHARE, _MIN_RATIO * share_else) or not _is_lasting(sample, lossy):
        return None

    evidence = [
        f"{len(mine):,} of {plural(len(sample.names), 'session')} lost {format_percent(share)} of their probes "
        f"({lost:,} of {sent:,}), the other {len(others):,} {format_percent(share_else)} ({lost_else:,} of {sent_else:,})",
        f"the same ones again and again, in {plural(len(sample.bursts), 'part')} of the run: by chance in fewer than 1 of "
        f"{round(1 / MAX_CHANCE):,} runs",
        _place_text(history, sample, learnt, lossy),
    ]
    gaps = [gap for gap in history.loss_directions if gap.session in set(mine)]
    if gaps:
        up, down = sum(gap.up for gap in gaps), sum(gap.down for gap in gaps)
        evidence.append(f"{up:,} of those whose way is known were lost towards the pod, {down:,} on the way back")
    return diagnosis("lossy-path", evidence)


def _sample(history: RunHistory) -> _Sample | None:
    """Return the sessions that can be compared; None where they or the run are too few or too short to tell anything."""
    losses, started, stopped_ns = history.losses, history.started, history.stopped_ns
    if started is None or stopped_ns is None:
        return None
    losses.finish()

    lasted_ns = stopped_ns - started.at_ns
    number = min(_MOST_PARTS, lasted_ns // max(_PART_NS, _PART_PROBES * started.interval_ns)) // 2 * 2
    most = max((_sent(history, name) for name in history.sessions), default=0)
    names = tuple(
        name
        for name, session in history.sessions.items()
        if name not in losses.astray
        and session.first is not None
        and _sent(history, name) >= _SENT_SHARE * most
        and (
            (mine := losses.sessions.get(name)) is None
            or (2 * mine.late <= mine.lost and mine.silent_ns <= _SILENT_SHARE * lasted_ns)
        )
    )
    if number < _FEWEST_PARTS or len(names) < _FEWEST_SESSIONS:
        return None

    length_ns = lasted_ns // number
    pause_ns = max(_PAUSE_NS, length_ns // _PAUSE_SHARE)
    spans = [
        slice(-(-part * length_ns // losses.width_ns), ((part + 1) * length_ns - pause_ns) // losses.width_ns)
        for part in range(number)
    ]
    rows = [losses.sessions[name].bursts if name in losses.sessions else () for name in names]
    return _Sample(names, tuple(tuple(sum(row[span]) for row in rows) for span in spans))


def _worse(totals: list[int]) -> frozenset[int]:
    """Return the sessions that lost more, where the gap between the two sides is the widest for their sizes (Otsu 1979)."""
    order = sorted(range(len(totals)), key=totals.__getitem__, reverse=True)
    all_of_them, above = sum(totals), 0
    best, worse = 0.0, 0
    for count, index in enumerate(order[:-1], start=1):
        above += totals[index]
        if totals[index] == totals[order[count]]:
            continue
        rest = len(order) - count
        between = count * rest * (above / count - (all_of_them - above) / rest) ** 2
        if between > best:
            best, worse = between, count
    return frozenset(order[:worse])


def _is_lasting(sample: _Sample, lossy: frozenset[int]) -> bool:
    """True if the lossy sessions lost in as many parts of the run as bursts would hit that are spread evenly over it.

    A session's one bad time may be longer than a part: its bursts then are many, and their parts few. And what does not
    last for most of the run is no finding of the whole run.
    """
    parts = len(sample.bursts)
    hit = expected = reach = 0.0
    for index in lossy:
        row = [part[index] for part in sample.bursts]
        at = [part for part, count in enumerate(row) if count]
        hit += len(at)
        reach += at[-1] - at[0] + 1
        expected += parts * (1 - (1 - 1 / parts) ** sum(row))
    whole = parts * len(lossy)
    return hit >= max(_LASTING_SHARE * expected, whole / 2) and reach >= _WHOLE_SHARE * whole


def _lost(history: RunHistory, names: Iterable[str]) -> tuple[int, int]:
    """Return how many probes these sessions lost after their first answer, and how many they sent."""
    losses, sessions = history.losses.sessions, history.sessions
    lost = sent = 0
    for name in names:
        lost += (losses[name].lost if name in losses else 0) - sessions[name].start_lost
        sent += _sent(history, name) - sessions[name].start_lost
    return lost, sent


def _sent(history: RunHistory, name: str) -> int:
    """Return how many probes a session sent; of one whose end was not told, as many as the sessions did on average."""
    return history.losses.sent.get(name, history.total.sent // max(1, len(history.sessions)))


# --- where -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Places:
    """The sessions by what they share: their pod, say."""

    noun: str
    what: str
    """Stands between `the sessions` and the name of a group."""
    groups: tuple[tuple[str, tuple[int, ...]], ...]

    def contains(self, finer: _Places) -> bool:
        """True if each of the other's groups lies in one of these, which are fewer."""
        return len(self.groups) < len(finer.groups) and all(
            any(set(mine) >= set(theirs) for _, mine in self.groups) for _, theirs in finer.groups
        )

    def all_of(self, lossy: frozenset[int]) -> list[str]:
        """Return the groups that are lossy altogether; none where another one is in part."""
        if any(lossy.isdisjoint(group) is lossy.issuperset(group) for _, group in self.groups):
            return []
        return [name for name, group in self.groups if lossy.issuperset(group)]


def _place_text(history: RunHistory, sample: _Sample, learnt: frozenset[int], lossy: frozenset[int]) -> str:
    """Say what the lossy sessions share and no other one does, or that it is the source port."""
    places, moved = _places(history, sample)
    if moved:
        return "by what cannot be told: sessions changed their pod or address meanwhile"

    rest = [
        each
        for each in places
        if sample.chance(learnt, [group for _, group in each.groups]) > MAX_CHANCE and not _splits(sample, lossy, each)
    ]
    proved = [each for each in rest if each.all_of(lossy) and _coincidence(each, lossy) <= _MAX_COINCIDENCE]
    # The widest place is enough: all the pods of a lossy node are lossy.
    proved = [each for each in proved if not any(wide.contains(each) for wide in proved)]
    if proved:
        return "by place: they are all the sessions " + ", which are all those ".join(
            f"{each.what} {listed(each.all_of(lossy))}" for each in proved
        )

    ports = listed(
        str(local.port) for index in lossy if (local := history.sessions[sample.names[index]].local) is not None
    )
    if not rest:
        beside = "beside each of them others with the same pod, node and ingress are spared"
        return f"by source port ({ports}): {beside}" if places else f"by source port ({ports}), as far as replies tell"
    perhaps = " or ".join(each.noun for each in rest)
    return f"by source port ({ports}), or by {perhaps}: too few sessions share one to tell"


def _splits(sample: _Sample, lossy: frozenset[int], places: _Places) -> bool:
    """True if a place has lossy and spared sessions, and one of these has so few bursts as no lossy one would by chance."""
    totals = sample.totals(slice(None))
    least = min(totals[index] for index in lossy)
    mixed = [group for _, group in places.groups if not lossy.isdisjoint(group) and not lossy.issuperset(group)]
    spared = [totals[index] for group in mixed for index in group if index not in lossy]
    return bool(spared) and chance_of_at_most(min(spared), least) * len(spared) <= MAX_CHANCE


def _places(history: RunHistory, sample: _Sample) -> tuple[list[_Places], bool]:
    """Return the sessions by each thing that they may share, the widest first; and whether many changed it meanwhile."""
    sessions = [history.sessions[name] for name in sample.names]
    if 10 * sum(len(session.identities) > 1 for session in sessions) > len(sessions):
        return [], True

    served = [session.identities[-1][1] for session in sessions]
    nodes = history.node_names or {}

    def ingress(who: Identity) -> str | None:
        if who.reflexive is None:
            return None
        node = nodes.get(who.reflexive.ip)
        return f"{who.reflexive.ip} (node {quoted(node)})" if node else who.reflexive.ip

    def path(who: Identity) -> str | None:
        way = ingress(who)
        return None if way is None or who.node is None else f"{way} to node {quoted(who.node)}"

    keys: tuple[tuple[str, str, list[str | None]], ...] = (
        (
            "target address",
            "to address",
            [None if session.target is None else str(session.target) for session in sessions],
        ),
        ("ingress node", "that came in through", [ingress(who) for who in served]),
        ("node", "served on node", [None if who.node is None else quoted(who.node) for who in served]),
        ("pod", "served by pod", [None if who.pod is None else quoted(who.pod) for who in served]),
        ("path between two nodes", "on the path from", [path(who) for who in served]),
    )

    found = []
    for noun, what, values in keys:
        groups: dict[str | None, list[int]] = {}
        for index, value in enumerate(values):
            groups.setdefault(value, []).append(index)
        if None not in groups and 1 < len(groups) <= _MOST_GROUPS:
            found.append(
                _Places(noun, what, tuple((str(name), tuple(group)) for name, group in sorted(groups.items(), key=str)))
            )
    return sorted(found, key=lambda each: len(each.groups)), False


def _coincidence(places: _Places, lossy: frozenset[int]) -> float:
    """Return the chance that lossy sessions are just whole groups of places that have nothing to do with it."""
    return chance_of_whole_groups([len(group) for _, group in places.groups], len(lossy))
