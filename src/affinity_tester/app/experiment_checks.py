"""What is checked before an experiment touches anything, and what a dry run shows instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from affinity_tester.app.experiment_file import Planned
from affinity_tester.cluster.actions.base import Action
from affinity_tester.cluster.actions.calls import Call, Right
from affinity_tester.cluster.actions.rights import check_rights
from affinity_tester.cluster.api import WritableApi
from affinity_tester.core.experiment.catalogue import EXPERIMENTS, ActionKind
from affinity_tester.errors import UserError


def check_context(experiments: Iterable[Planned], context: str, confirmed: str | None) -> None:
    """Raise `UserError` unless the context's name was repeated where more than the tool's own objects is touched."""
    foreign = [each.name for each in experiments if not EXPERIMENTS[each.name].own_objects]
    if foreign and confirmed != context:
        raise UserError(
            f"{foreign[0]} touches more than this tool's own objects: if you mean the cluster of context {context},"
            f" say so once more: --confirm-context {context}"
        )


async def check_actions(
    api: WritableApi, actions: Sequence[Action], rights: Iterable[Right], note: Callable[[str], None]
) -> None:
    """Raise `UserError` for rights that are missing, to these and to the actions; else tell what one should know of them.

    What cannot be prepared is told when its turn comes: an earlier experiment that was killed may be why.
    """
    rights = list(rights)
    prepared = []
    for action in actions:
        try:
            await action.prepare()
        except UserError:
            continue
        rights += action.rights()
        prepared.append(action)
    await check_rights(api, rights)
    for text in dict.fromkeys(text for action in prepared for text in action.notes):
        note(text)


async def show_plan(actions: Sequence[Action], lease: tuple[Call, Call], note: Callable[[str], None]) -> None:
    """Show what each action would call, and what its undo would. Raises `ApiError`.

    `lease` are the requests that take the Lease, and give it back.
    """
    taken, given_back = lease
    note(f"lease: keep a second experiment out ({ActionKind.UNDONE.value})")
    note(f"    {taken}")
    note(f"    undo: {given_back}")
    for action in actions:
        try:
            await action.prepare()
        except UserError as error:
            note(f"{action.name}: cannot be done now: {error}")
            continue
        note(f"{action.name}: {action.text} ({action.kind.value})")
        for text in action.notes:
            note(f"    note: {text}")
        for call in action.calls():
            note(f"    {call}")
        for call in action.undo_calls():
            note(f"    undo: {call}")
