"""Brings back what an earlier experiment left, which was killed: whatever has an experiment's annotation.

Call it only while holding the Lease: what another experiment is about to bring back looks the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from affinity_tester.cluster.actions.base import OWN_LABEL, ActionContext, Step, StepState
from affinity_tester.cluster.actions.calls import Right
from affinity_tester.cluster.actions.changes import restore_all
from affinity_tester.cluster.actions.lease import LEASE, UNDO_NOTE, lease_path, note_undo
from affinity_tester.cluster.actions.nodes import NODE_SCALEUP
from affinity_tester.cluster.actions.originals import ANNOTATION, MADE, metadata_of, remove_made, restore
from affinity_tester.cluster.actions.own_pool import deployment_path, name_of, pod_path, selector_text, service_path
from affinity_tester.cluster.api import FORBIDDEN, NOT_FOUND, ApiError, Json, pages
from affinity_tester.cluster.neighbour_watch import MetadataApi
from affinity_tester.cluster.response_errors import one_line

NODES = "/api/v1/nodes"


class Leftover(NamedTuple):
    """An object that an experiment changed or made."""

    path: str
    what: str
    made: bool

    @classmethod
    def of(cls, obj: Json, path: str, what: str) -> Leftover | None:
        """Return what is to be brought back of an object; None if nothing is."""
        annotations = metadata_of(obj).get("annotations") or {}
        return cls(path, what, MADE in annotations) if {MADE, ANNOTATION} & annotations.keys() else None


def rights(context: ActionContext) -> tuple[Right, ...]:
    """Return what RBAC must allow to find what was left in the namespace; nodes are looked at where that is allowed."""
    get = (Right("get", "apps", "deployments", "", context.namespace, name) for name in _deployments(context))
    lease = (Right(verb, "coordination.k8s.io", "leases", "", context.namespace, LEASE) for verb in ("get", "patch"))
    lists = (Right("list", "", resource, "", context.namespace) for resource in ("pods", "services"))
    return (*get, *lists, *lease)


async def mend(context: ActionContext) -> tuple[Step, ...]:
    """Bring back what was left, and return the steps, which the context is told too. Raises `ApiError` for what failed."""
    steps: list[Step] = []

    def emit(step: Step) -> None:
        steps.append(step)
        context.emit_step(step)

    own = replace(context, emit_step=emit)

    async def bring_back(each: Leftover) -> None:
        await (remove_made if each.made else restore)(own, each.path, each.what)

    await restore_all(bring_back, await find_leftovers(context))
    await _tell_command(own)
    return tuple(steps)


async def _tell_command(context: ActionContext) -> None:
    """Tell of a user's command that a killed run did not undo. It is not run from here: anybody may have written it."""
    try:
        lease = await context.api.get(lease_path(context.namespace))
    except ApiError as error:
        if error.status == NOT_FOUND:
            return
        raise
    command = (metadata_of(lease).get("annotations") or {}).get(UNDO_NOTE)
    if command is None:
        return
    text = "undo the command of an experiment that was killed"
    why = f"not done, since it is yours to run: {one_line(str(command))}"
    context.emit_step(Step(StepState.FAILED, text, undo=True, reason=why))
    await note_undo(context.namespace, None).send(context.api)


async def find_leftovers(context: ActionContext) -> list[Leftover]:
    """Return all objects that have an experiment's annotation. Raises `ApiError`."""
    namespace = context.namespace
    found = []
    for name in _deployments(context):
        path = deployment_path(namespace, name)
        try:
            found.append(Leftover.of(await context.api.get(path), path, f"Deployment {namespace}/{name}"))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    for kind, path_of in (("pod", pod_path), ("Service", service_path)):
        for obj in await _listed(context, path_of(namespace), labels=selector_text(dict([OWN_LABEL]))):
            name = name_of(obj)
            found.append(Leftover.of(obj, path_of(namespace, name), f"{kind} {namespace}/{name}"))
    try:
        nodes = await _listed(context, NODES)
    except ApiError as error:
        if error.status != FORBIDDEN:  # who may not list nodes has drained none
            raise
        nodes = []
    found += [Leftover.of(node, f"{NODES}/{name_of(node)}", f"node {name_of(node)}") for node in nodes]
    return [each for each in found if each is not None]


def _deployments(context: ActionContext) -> tuple[str, str]:
    return context.deployment, NODE_SCALEUP


async def _listed(context: ActionContext, path: str, labels: str = "") -> list[Json]:
    """Return the metadata of objects."""
    params = (("labelSelector", labels),) if labels else ()
    found = pages(MetadataApi(context.api), path, params, limit=200)
    return [obj async for page in found for obj in page.items if isinstance(obj, dict)]
