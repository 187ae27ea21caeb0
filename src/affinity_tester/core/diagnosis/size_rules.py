"""Whether the size of probes decides, where all of a run have one: small test probes beside the canaries tell.

A canary and a small test probe leave at the same time, from fresh ports, for the same target. That no canary is answered
and every small probe is can be chance only where new flows are dead by their ports: half of them at the best, so that each
such pair has a chance of a quarter at most.
"""

from __future__ import annotations

from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.text import diagnosis, pods, was
from affinity_tester.core.events import Diagnosis
from affinity_tester.units import plural

_MAX_CHANCE = 0.01
"""An accident less probable than this is not believed."""

_PAIR_CHANCE = 0.25
"""The chance of one pair at the most: s (1 - s) for any share s of dead ports."""


def small_ones_pass(history: RunHistory, from_ns: int, to_ns: int) -> Diagnosis | None:
    """Diagnose `mtu`: of the test probes sent within these times small ones are answered and those of full size are not."""
    small = [probe for probe in history.small_probes if from_ns <= probe.sent_ns <= to_ns]
    large = [canary for canary in history.canaries if from_ns <= canary.sent_ns <= to_ns]
    sizes = history.sizes
    if not small or not large or any(canary.identity is not None for canary in large):
        return None
    answered = [probe.identity for probe in small if probe.identity is not None]
    if len(answered) < len(small):
        return None

    names = {who.pod for who in answered if who.pod is not None}
    by = f" by {pods(names)}" if names else ""
    evidence = [
        f"{plural(len(answered), 'test probe')} of {small[0].size:,} bytes {was(len(answered))} answered{by}",
        f"{plural(len(large), 'test probe')} of {', '.join(f'{size:,}' for size in sizes)} bytes, sent at the same times, "
        "got no answer",
    ]
    certain = _PAIR_CHANCE ** min(len(small), len(large)) <= _MAX_CHANCE
    return diagnosis("mtu", evidence, "" if certain else "more such pairs of test probes: a longer run, or --sizes")
