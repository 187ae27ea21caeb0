"""The user's own command: real processes, which are ended with all that they started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from affinity_tester.cluster.actions import command
from affinity_tester.cluster.actions.base import ActionContext, ActionOptions, Step, StepState
from affinity_tester.cluster.actions.command import Command
from affinity_tester.cluster.actions.lease import ExperimentLease
from affinity_tester.cluster.actions.mend import mend
from affinity_tester.core.experiment.catalogue import ActionKind
from affinity_tester.errors import UserError
from fakeapi import until


async def prepared(context: ActionContext, do: str, undo: str = "", limit_s: float = 30) -> Command:
    action = Command(context, ActionOptions(do=do, undo=undo, command_limit_s=limit_s))
    await action.prepare()
    return action


async def test_it_runs_and_tells_its_last_line(make_context: Any, steps: list[Step]) -> None:
    context = make_context(kubeconfig="/tmp/k")
    action = await prepared(context, 'sh -c "echo no; echo $KUBECONFIG $CONTEXT $NAMESPACE; echo"', "echo back")
    assert (action.kind, action.notes) == (ActionKind.UNDONE, ())
    await action.act()
    await action.undo()
    await action.undo()
    noted, forgotten = "note on the Lease the command that undoes this one", "remove the note from the Lease"
    text = "run sh -c 'echo no; echo $KUBECONFIG $CONTEXT $NAMESPACE; echo'"
    assert action.text == text
    # There is no Lease here, which is no failure of the command's.
    assert [step.state for step in steps if step.text in (noted, forgotten)] == [StepState.WILL, StepState.FAILED] * 2
    assert [step for step in steps if step.text not in (noted, forgotten)] == [
        Step(StepState.WILL, text, False),
        Step(StepState.DID, text, False, (), "/tmp/k kind-test media"),
        Step(StepState.WILL, "run echo back", True),
        Step(StepState.DID, "run echo back", True, (), "back"),
    ]


async def test_a_killed_run_leaves_the_command_that_undoes_it(context: ActionContext, steps: list[Step]) -> None:
    """The next one tells it, and does not run it: who may change a Lease may not run commands on this machine."""
    async with ExperimentLease(context, print):
        action = await prepared(context, "true", "echo 'back again'")
        assert [str(call) for call in action.calls()] == [
            "patch leases.coordination.k8s.io/affinity-tester-experiment in media:"
            ' {"metadata":{"annotations":{"affinity-tester/experiment-undo":"echo \'back again\'"}}}'
        ]
        await action.act()
        (told,) = await mend(context)
        assert (told.state, told.undo) == (StepState.FAILED, True)
        assert told.reason == "not done, since it is yours to run: echo 'back again'"
        assert await mend(context) == ()
        await action.act()
        await action.undo()
        assert await mend(context) == ()
    assert [step.text for step in steps][-2:] == ["remove the note from the Lease"] * 2


async def test_without_undo(context: ActionContext) -> None:
    action = await prepared(context, "true")
    assert action.kind is ActionKind.NOT_UNDOABLE
    assert action.notes == ("no --undo is given: what the command does stays",)
    await action.act()
    await action.undo()


async def test_one_that_fails_is_undone(context: ActionContext, steps: list[Step]) -> None:
    action = await prepared(context, "sh -c 'echo why; exit 3'", "true")
    with pytest.raises(UserError, match="sh failed with exit code 3: why"):
        await action.act()
    await action.undo()
    assert [(step.state, step.undo) for step in steps if step.text.startswith("run ")] == [
        (StepState.WILL, False),
        (StepState.FAILED, False),
        (StepState.WILL, True),
        (StepState.DID, True),
    ]


async def test_one_that_never_began_is_not_undone(context: ActionContext, steps: list[Step]) -> None:
    action = await prepared(context, "true", "true")
    await action.undo()
    assert steps == []


@pytest.mark.parametrize(
    ("do", "says"),
    [
        ("", "needs one: --do"),
        ("sh 'a", "--do 'sh 'a' cannot be read"),
    ],
)
async def test_commands_that_cannot_be(do: str, says: str, context: ActionContext) -> None:
    with pytest.raises(UserError, match=says):
        await prepared(context, do)


async def test_a_command_that_is_not_there(context: ActionContext) -> None:
    action = await prepared(context, "/no/such/program")
    with pytest.raises(UserError, match="/no/such/program cannot be run: No such file"):
        await action.act()


def is_there(pid: int) -> bool:
    """False for a process that ended, whether its parent has waited for it or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def started(tmp_path: Path, *, ignore: bool) -> tuple[str, Path]:
    """A command that starts another and writes its pid to a file; both may ignore SIGTERM."""
    script, told = tmp_path / "fork.py", tmp_path / "pid"
    ignored = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignore else "pass"
    script.write_text(
        f"import os, signal, time\n{ignored}\nchild = os.fork()\n"
        f"if child:\n    open({str(told)!r} + '.new', 'w').write(str(child))\n"
        f"    os.rename({str(told)!r} + '.new', {str(told)!r})\n"
        "time.sleep(60)\n"
    )
    return f"{sys.executable} {script}", told


@pytest.mark.parametrize("ignore", [False, True])
async def test_the_whole_group_ends_at_the_limit(
    ignore: bool, context: ActionContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "END_S", 0.2)
    do, told = await started(tmp_path, ignore=ignore)
    action = await prepared(context, do, limit_s=2)
    with pytest.raises(UserError, match="did not end within 2 s, and was ended"):
        await action.act()
    await until(lambda: not is_there(int(told.read_text())))


async def test_the_whole_group_ends_on_cancel(context: ActionContext, tmp_path: Path, steps: list[Step]) -> None:
    do, told = await started(tmp_path, ignore=False)
    action = await prepared(context, do)
    task = asyncio.create_task(action.act())
    await until(told.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not is_there(int(told.read_text())))
    assert steps[-1].reason == "cancelled: it was ended, and may have done a part"


async def test_one_that_leaves_something_behind_does_not_hang(context: ActionContext, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    action = await prepared(context, f"sh -c 'sleep 60 & echo $! > {pid}; echo done'")
    async with asyncio.timeout(10):
        await action.act()
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_one_that_a_signal_ended(context: ActionContext) -> None:
    action = await prepared(context, "sh -c 'kill -9 $$'")
    with pytest.raises(UserError, match="sh was ended by signal 9"):
        await action.act()
