"""What one run of many came to."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.events import Diagnosis


@dataclass(frozen=True, slots=True)
class Result:
    """One run of a shipped plan."""

    plan: str
    seed: int
    control: bool
    """Nothing in it may be called a violation."""
    names: tuple[str, ...]
    """What the plan's last fault was named first, each once: `likely flow-wipe`."""
    right: Diagnosis | None
    """The right diagnosis of that fault, with its evidence."""
    violations: int
    problems: tuple[str, ...]
    """What is not as declared."""
    repeated: int = 0
    """Runs before this one that proved nothing, since the machine was too busy for the client to send on time."""
