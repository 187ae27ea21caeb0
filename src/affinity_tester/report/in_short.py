"""An incident in one sentence of plain language, which stands before its evidence."""

from __future__ import annotations

from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.events import Certainty, Incident, Judgement

_HOW_SURE = {Certainty.LIKELY: "most likely", Certainty.POSSIBLE: "perhaps"}

_NO_FAULT = {Judgement.EXPLAINED, Judgement.POD_RESTART, Judgement.INFORMATION, Judgement.IDLE}


def is_silence(incident: Incident) -> bool:
    """True if every session of the run was unanswered and none changed, which is worth knowing and accuses nobody."""
    return incident.bursts > 0 and not incident.changes and incident.sessions >= incident.total_sessions


def in_short(incident: Incident) -> str | None:
    """Return what most likely happened, in words that need no glossary; None where the numbers say all there is.

    The first diagnosis is the likeliest: its sentence is the catalogue's. It says no more than the diagnosis is sure of.
    """
    first = incident.diagnoses[0] if incident.diagnoses else None
    if first is not None and first.certainty in _HOW_SURE and first.name in CATALOGUE:
        return f"{_HOW_SURE[first.certainty]}, {CATALOGUE[first.name].what}"

    judged = {judgement for judgement, count in incident.judgements if count}
    if Judgement.VIOLATION in judged:
        return "sessions broke, nothing that the pool did excuses it, and what was seen does not tell what broke them"
    if judged and judged <= _NO_FAULT:
        return "sessions moved or paused, and nothing of it speaks against the network"
    if is_silence(incident):
        return "nobody was answered for a time, so look for what all sessions share: the client's link, the way in, the pods"
    return None
