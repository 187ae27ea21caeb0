"""Changes an object's field so that anybody can change it back: the original value stands on the object, as an annotation.

    read -> annotate with the original value -> change the field      (each with the resourceVersion of the one before)
    undo: read -> the field's original value, and no annotation, in one request

So wherever a run ends between two requests, a later one finds what to bring back (`mend`), and the undo needs nothing but
the object. What somebody else changed meanwhile is left as it is, and only the annotation goes.

A Deployment's controller copies its annotations to its ReplicaSets and leaves them there; `kubectl rollout undo` copies
them back (deployment_util.go, SetDeploymentAnnotationsTo). Such a copy tells of an experiment that had ended: it is known by
the object's generation, which counts changes of its spec: the experiment's, its undo's, and the rollback's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from affinity_tester.cluster.actions.base import ActionContext, told_step
from affinity_tester.cluster.actions.calls import Call, Verb
from affinity_tester.cluster.api import CONFLICT, NOT_FOUND, TOO_MANY_REQUESTS, ApiError, Json
from affinity_tester.cluster.managed_fields import set_by
from affinity_tester.errors import UserError

ANNOTATION = "affinity-tester/experiment-original"
MADE = "affinity-tester/experiment-made"
"""The annotation of an object that an experiment made: its undo deletes it, whatever was changed on it since."""

ATTEMPTS = 6
"""How often a change or an undo reads the object anew, after a conflict or where the API server failed."""

INVALID = 422
FAILED_SERVER = 500

COPIED_BACK = 4
"""A Deployment's generations after which its annotation cannot be a killed run's: the note, the change, their undo, and the
copy that brought the note back. Annotations count (pkg/registry/apps/deployment/strategy.go); pods and Services have none."""


class NoteError(ApiError):
    """An annotation that cannot be read: somebody edited it."""


@dataclass(frozen=True, slots=True)
class Original:
    """What an experiment wrote on an object before it changed it."""

    experiment: str
    field: str
    """The path of what was changed, such as `spec.replicas`."""
    value: Any
    """Before; None if it was absent."""
    changed_to: Any
    """What the experiment sets."""
    also: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields, which the API server changes with it: their values before, by path."""
    holder: str = ""
    at: str = ""
    generation: int = 0
    """The object's, before the change; 0 for a kind that has none."""

    def to_json(self) -> str:
        """Return it as the annotation's text."""
        names = ("experiment", "field", "value", "changed_to", "also", "holder", "at", "generation")
        return json.dumps({name: getattr(self, name) for name in names}, separators=(",", ":"))

    @classmethod
    def on(cls, obj: Json) -> Original | None:
        """Return what stands on an object; None if nothing does. Raises `ApiError` if that cannot be read."""
        text = (metadata_of(obj).get("annotations") or {}).get(ANNOTATION)
        if text is None:
            return None
        try:
            found = json.loads(text)
            return cls(
                experiment=str(found["experiment"]),
                field=str(found["field"]),
                value=found["value"],
                changed_to=found["changed_to"],
                also=dict(found["also"]),
                holder=str(found["holder"]),
                at=str(found["at"]),
                generation=int(found["generation"]),
            )
        except (ValueError, TypeError, LookupError):
            pass
        name = metadata_of(obj).get("name")
        raise NoteError(
            f"the annotation {ANNOTATION} of {name} cannot be read: bring the object back by hand, and remove it"
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One field of one object that an experiment changes."""

    path: str
    """Of the object."""
    what: str
    """For people: `Deployment media/affinity-tester`."""
    field: str
    to: Any
    text: str
    """`scale Deployment media/affinity-tester from 3 to 4 pods`."""
    also: tuple[str, ...] = ()
    """Further fields, which the API server changes with it."""

    def annotate(self, context: ActionContext, experiment: str, obj: Json) -> Call:
        """Return the request that writes the original value on the object as it was read."""
        also = {name: value for name in self.also if (value := value_at(obj, name)) is not None}
        original = Original(
            experiment=experiment,
            field=self.field,
            value=value_at(obj, self.field),
            changed_to=self.to,
            also=also,
            holder=context.holder,
            at=context.wall().isoformat(timespec="seconds"),
            generation=metadata_of(obj).get("generation", 0),
        )
        return Call(Verb.PATCH, self.path, merged(version_of(obj), annotation(original.to_json())))

    def change(self, obj: Json | None = None) -> Call:
        """Return the request that changes it; with `obj` only if that is still as it was read."""
        return Call(Verb.PATCH, self.path, merged(version_of(obj) if obj else {}, nested(self.field, self.to)))

    def restore(self, obj: Json) -> Call:
        """Return the request that undoes it, for an object as it was read before the change."""
        return Call(Verb.PATCH, self.path, merged(annotation(None), nested(self.field, value_at(obj, self.field))))


async def make_change(context: ActionContext, experiment: str, change: Change) -> None:
    """Write the original value on the object, then change it. Raises `ApiError`."""
    for attempt in range(ATTEMPTS):
        # Somebody else changes the object meanwhile: the note alone has a Deployment's controller write its status.
        retried = _is_conflict if attempt < ATTEMPTS - 1 else _is_none
        told = partial(told_step, context.emit_step, retried=retried)
        try:
            obj = await context.api.get(change.path)
            noted = Original.on(obj)
            if noted is not None and (noted.field, noted.changed_to) != (change.field, change.to):
                raise UserError(
                    f"{change.what} still has the note of an experiment that {noted.holder} began at {noted.at}:"
                    " run the experiment again, which first brings it back"
                )
            if noted is None:
                annotate = change.annotate(context, experiment, obj)
                with told(f"note the original value on {change.what}", (annotate,)):
                    obj = await annotate.send(context.api)
            call = change.change(obj)
            with told(change.text, (call,)):
                await call.send(context.api)
            return
        except ApiError as error:
            if not retried(error):
                raise


async def restore(context: ActionContext, path: str, what: str) -> None:
    """Set a field back to what stands on its object, if something does. May be called again and again.

    Raises `ApiError`.
    """
    await _bring_back(context, path, lambda obj, failed: _restoring(obj, path, what, skip_also=failed == INVALID))


async def remove_made(context: ActionContext, path: str, what: str) -> None:
    """Delete an object, if an experiment made it. May be called again and again. Raises `ApiError`."""

    def deletion(obj: Json, _failed: int | None) -> tuple[Call | None, str]:
        metadata = metadata_of(obj)
        if MADE not in (metadata.get("annotations") or {}) or metadata.get("deletionTimestamp"):
            return None, ""
        call = Call(Verb.DELETE, path, {"preconditions": {"uid": metadata.get("uid", "")}})
        return call, f"delete {what}, which the experiment made"

    await _bring_back(context, path, deletion)


async def _bring_back(
    context: ActionContext, path: str, choose: Callable[[Json, int | None], tuple[Call | None, str]]
) -> None:
    """Read an object, and send the request that `choose` returns for it and for the status that the last one failed with.

    Where the API server fails, it is asked again, for a while: what an undo leaves behind costs somebody's evening. Each
    attempt reads the object anew: the one before may have been done.
    """
    delay_s = context.timing.backoff_s
    failed: int | None = None
    for attempt in range(ATTEMPTS):
        retried = partial(_may_pass, before=failed) if attempt < ATTEMPTS - 1 else _is_none
        try:
            call, text = choose(await context.api.get(path), failed)
            if call is not None:
                with told_step(context.emit_step, text, (call,), undo=True, retried=retried):
                    await call.send(context.api)
            return
        except ApiError as error:
            if error.status == NOT_FOUND:  # somebody deleted it
                return
            if not retried(error):
                raise
            failed = error.status if error.status == INVALID else failed
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, context.timing.backoff_max_s)


def made_note(context: ActionContext, experiment: str) -> Json:
    """Return the annotation of an object that an experiment makes."""
    at = context.wall().isoformat(timespec="seconds")
    return {MADE: json.dumps({"experiment": experiment, "holder": context.holder, "at": at}, separators=(",", ":"))}


def _is_none(_error: Exception) -> bool:
    return False


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.status == CONFLICT


def _may_pass(error: Exception, before: int | None) -> bool:
    """True for what another attempt may not meet; `before`: the status of the attempt before that was INVALID, if any."""
    if not isinstance(error, ApiError) or isinstance(error, NoteError):
        return False
    # Such as a port that somebody else got meanwhile.
    return is_passing(error) or (error.status == INVALID and before is None)


def is_passing(error: ApiError) -> bool:
    """True for an error that another attempt may not meet."""
    status = error.status
    return status is None or status in (CONFLICT, TOO_MANY_REQUESTS) or status >= FAILED_SERVER


def _restoring(obj: Json, path: str, what: str, *, skip_also: bool) -> tuple[Call | None, str]:
    """Return the request that brings an object back to what stands on it, and what it does; None if nothing stands there."""
    original = Original.on(obj)
    if original is None:
        return None, ""
    metadata = metadata_of(obj)
    current, before = value_at(obj, original.field), original.value
    is_copy = original.generation > 0 and metadata.get("generation", 0) >= original.generation + COPIED_BACK
    forget = merged(version_of(obj), annotation(None))
    if current == before and not original.also:
        return Call(Verb.PATCH, path, forget), f"remove the note from {what}, which is as it was"
    if is_copy or current not in (original.changed_to, before):
        is_now = f"{original.field} is {json.dumps(current)}{set_by(obj, *_names_in(original.field))}"
        return (
            Call(Verb.PATCH, path, forget),
            f"leave {what} as it is: somebody changed it after the experiment ({is_now})",
        )
    also = [] if skip_also or current == before else [nested(name, value) for name, value in original.also.items()]
    body = merged(forget, nested(original.field, before), *also)
    if before is None:
        return Call(Verb.PATCH, path, body), f"remove {original.field} of {what} again"
    return Call(Verb.PATCH, path, body), f"set {original.field} of {what} back to {json.dumps(before)}"


# --- JSON objects -----------------------------------------------------------------------------------------------------


def metadata_of(obj: Json) -> Json:
    """Return an object's metadata."""
    metadata: Json = obj.get("metadata") or {}
    return metadata


def version_of(obj: Json) -> Json:
    """Return a patch's condition that the object is still in this version."""
    return {"metadata": {"resourceVersion": metadata_of(obj).get("resourceVersion", "")}}


def annotation(text: str | None) -> Json:
    """Return a patch that sets the annotation; None removes it."""
    return {"metadata": {"annotations": {ANNOTATION: text}}}


def annotation_path(name: str) -> str:
    r"""Return the path of an annotation, its dots escaped as in kubectl's JSONPath: metadata.annotations.a\.b/c."""
    return "metadata.annotations." + name.replace(".", r"\.")


def nested(path: str, value: Any) -> Json:
    """Return {"spec": {"replicas": 3}} for spec.replicas and 3."""
    for name in reversed(_names_in(path)):
        value = {name: value}
    found: Json = value
    return found


def value_at(obj: Json, path: str) -> Any:
    """Return the value at a path such as spec.replicas; None if there is none."""
    value: Any = obj
    for name in _names_in(path):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _names_in(path: str) -> list[str]:
    return [name.replace(r"\.", ".") for name in re.split(r"(?<!\\)\.", path)]


def merged(*patches: Json) -> Json:
    """Return patches as one."""
    result: Json = {}
    for patch in patches:
        for name, value in patch.items():
            known = result.get(name)
            result[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result
