"""The built-in experiments: what is done, who undoes it, what must hold, and where that is said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BASELINE = "baseline"
"""The experiment that does nothing: what it finds is there without any action."""


class ActionKind(StrEnum):
    """Who brings the cluster back to what it was."""

    NOTHING = "nothing to undo"
    """Nothing is changed."""
    UNDONE = "undone by us"
    """The original value is written back."""
    HEALED = "healed by its controller"
    """A controller makes anew what was taken away; it is waited for."""
    NOT_UNDOABLE = "not undoable"
    """It stays as the action left it."""


class MayMove(StrEnum):
    """The sessions that an action moves at the least; all others must stay."""

    NONE = "no session"
    REMOVED_PODS = "the sessions of the pods that it removes"
    NOT_SERVING = "no session while its pod's endpoint serves"
    """The sessions of pods that are told to end, once their endpoint serves no more."""
    REMOVED_INGRESS = "the sessions that came in through a node that it takes out of the balancer"
    REMOVED_NODES = "the sessions of the pods that it evicts and of the node that it removes"
    NOT_KNOWN = "not known: what the command takes away is seen by the watch alone"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A built-in experiment."""

    name: str
    does: str
    """What is done to the cluster, in a few words."""
    kind: ActionKind
    may_move: MayMove
    requirement: str
    """What must hold, as a sentence without its full stop."""
    source: str
    """Where that is said: an RFC, a KEP, the documentation, or an issue."""
    own_objects: bool = True
    """True if it touches only objects of this tool's label; else it wants the context's name repeated."""


_KEEPS_FLOWS = "Kubernetes docs, Virtual IPs and Service Proxies; kubernetes/kubernetes#122740"
_PROXY_KEEPS = "kubernetes/kubernetes#120076, kubernetes/kubernetes#113859"
_TERMINATING = "KEP-1672; kubernetes/kubernetes#137986: flows stay at an endpoint that serves while it terminates"
_CLEANED = "kubernetes/kubernetes#105657, kubernetes/kubernetes#139628"

EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment(
            BASELINE,
            "nothing",
            ActionKind.NOTHING,
            MayMove.NONE,
            "while nothing changes, every session keeps its pod and its address",
            _KEEPS_FLOWS,
        ),
        Experiment(
            "pod-delete",
            "delete a pod, gracefully",
            ActionKind.HEALED,
            MayMove.REMOVED_PODS,
            "only the deleted pod's sessions move, each once, and none stays silent",
            _CLEANED,
        ),
        Experiment(
            "pod-kill",
            "delete a pod with no grace",
            ActionKind.HEALED,
            MayMove.REMOVED_PODS,
            "only the deleted pod's sessions move, each once, and none stays silent",
            _CLEANED,
        ),
        Experiment(
            "scale-up",
            "add a pod",
            ActionKind.UNDONE,
            MayMove.NONE,
            "no session moves to the pod that joins, nor elsewhere",
            _KEEPS_FLOWS,
        ),
        Experiment(
            "scale-down",
            "remove a pod by its Deployment",
            ActionKind.UNDONE,
            MayMove.REMOVED_PODS,
            "only the removed pod's sessions move, each once, and none stays silent",
            _CLEANED,
        ),
        Experiment(
            "rollout",
            "replace every pod",
            ActionKind.HEALED,
            MayMove.REMOVED_PODS,
            "each session moves when its pod is replaced, and at no other time; none stays silent",
            _CLEANED,
        ),
        Experiment(
            "not-ready",
            "tell a pod to end: its endpoint serves and is not ready",
            ActionKind.HEALED,
            MayMove.NOT_SERVING,
            "no session leaves an endpoint that serves, though it is not ready",
            _TERMINATING,
        ),
        Experiment(
            "policy-flip",
            "change externalTrafficPolicy to the other value",
            ActionKind.UNDONE,
            MayMove.REMOVED_INGRESS,
            "a new policy is for new flows: no session moves but those of nodes that the balancer leaves out",
            _KEEPS_FLOWS,
        ),
        Experiment(
            "idle",
            "let flows be silent for 15 s",
            ActionKind.NOTHING,
            MayMove.NONE,
            "a flow that is silent for ICE's keepalive interval keeps its pod and its address",
            "RFC 8445 section 11; RFC 4787 REQ-5",
        ),
        Experiment(
            "proxy-restart",
            "delete the proxy's pods, on one node and then on all",
            ActionKind.HEALED,
            MayMove.NONE,
            "a proxy that restarts moves no session",
            _PROXY_KEEPS,
            own_objects=False,
        ),
        Experiment(
            "node-scaleup",
            "make the cluster add a node",
            ActionKind.UNDONE,
            MayMove.NONE,
            "a node that joins moves no session",
            "Azure/AKS#5888; docs/failure-modes.md, node-rehash",
            own_objects=False,
        ),
        Experiment(
            "node-drain",
            "cordon a node and evict its pods",
            ActionKind.UNDONE,
            MayMove.REMOVED_NODES,
            "only the evicted pods' sessions move, and those that came in through the node where the balancer leaves it out",
            _CLEANED,
            own_objects=False,
        ),
        Experiment(
            "command",
            "run a command of yours",
            ActionKind.NOT_UNDOABLE,
            MayMove.NOT_KNOWN,
            "no session moves but those whose pod or ingress node left",
            _KEEPS_FLOWS,
            own_objects=False,
        ),
    )
}
"""By name, in the order in which `all` runs those that touch only this tool's own objects."""

ALL = tuple(name for name, each in EXPERIMENTS.items() if each.own_objects)
"""What `all` means."""
