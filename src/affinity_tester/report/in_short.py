"""An incident in one sentence of plain language, which stands before its evidence."""

from __future__ import annotations

from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis, Incident, Judgement
from affinity_tester.units import plural

_HOW_SURE = {Certainty.LIKELY: "most likely", Certainty.POSSIBLE: "perhaps"}


def is_silence(incident: Incident) -> bool:
    """True if every session of the run was unanswered and none changed, which is worth knowing and accuses nobody."""
    return incident.bursts > 0 and not incident.changes and incident.sessions >= incident.total_sessions


def in_short(incident: Incident) -> str | None:
    """Return what most likely happened, in words that need no glossary; None while nothing is judged yet.

    It says no more than the diagnosis is sure of.
    """
    judged = {judgement for judgement, count in incident.judgements if count}
    if (sentence := in_short_of(incident.diagnoses)) is not None:
        is_doubtful = Judgement.UNKNOWN in judged and Judgement.VIOLATION not in judged
        return f"{sentence}; whether that is a violation cannot be judged" if is_doubtful else sentence

    if Judgement.VIOLATION in judged:
        return "sessions broke, nothing that the pool did excuses it, and what was seen does not tell what broke them"
    if Judgement.UNKNOWN in judged:
        return "sessions moved or paused, and it cannot be judged whether the cluster broke them"
    if Judgement.POD_SILENT in judged:
        return "a pod that is in the pool answered nobody, and its sessions were silent"
    if Judgement.CLIENT in judged:
        return "this client's own machine is a cause, and nothing of it speaks against the network"
    if judged and incident.avoidable:
        followed = f"{plural(incident.avoidable, 'change')} of sessions followed that a sound proxy avoids"
        return f"the pool changed, and {followed}: the old pod was still ready"
    if judged:
        return "sessions moved or paused, and nothing of it speaks against the network"
    if is_silence(incident):
        return "nobody was answered for a time, so look for what all sessions share: the client's link, the way in, the pods"
    if incident.lost and not (incident.changes or incident.outages or incident.strays):
        return "probes were lost, without a change of pod or address; what was seen does not tell what lost them"
    return None


def in_short_of(diagnoses: tuple[Diagnosis, ...]) -> str | None:
    """Return the catalogue's sentence of the likeliest diagnosis, which is the first; None where none is sure enough."""
    first = diagnoses[0] if diagnoses else None
    if first is None or first.certainty not in _HOW_SURE or first.name not in CATALOGUE:
        return None
    return f"{_HOW_SURE[first.certainty]}, {CATALOGUE[first.name].what}"
