"""The actions by their names."""

from __future__ import annotations

from affinity_tester.cluster.actions.base import Action, ActionContext, ActionOptions
from affinity_tester.cluster.actions.changes import PolicyFlip, ScaleDown, ScaleUp
from affinity_tester.cluster.actions.command import Command
from affinity_tester.cluster.actions.drain import NodeDrain
from affinity_tester.cluster.actions.nodes import NodeScaleup
from affinity_tester.cluster.actions.pods import NotReady, PodDelete, PodKill, Rollout
from affinity_tester.cluster.actions.proxies import ProxyRestart
from affinity_tester.errors import UserError


class Baseline(Action):
    """Do nothing."""

    name = "baseline"


class Idle(Action):
    """Do nothing to the cluster: the sessions are silent."""

    name = "idle"


ACTIONS: dict[str, type[Action]] = {
    each.name: each
    for each in (
        Baseline,
        PodDelete,
        PodKill,
        ScaleUp,
        ScaleDown,
        Rollout,
        NotReady,
        PolicyFlip,
        Idle,
        ProxyRestart,
        NodeScaleup,
        NodeDrain,
        Command,
    )
}


def action_of(name: str, context: ActionContext, options: ActionOptions) -> Action:
    """Return the action of an experiment. Raises `UserError` if there is none of this name."""
    if name not in ACTIONS:
        raise UserError(f"there is no experiment {name}: {', '.join(ACTIONS)} are")
    return ACTIONS[name](context, options)
