"""Each action on the lab's cluster: another process, with controllers, kubelets and proxies that take their time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from affinity_tester.app.manifests import read_settings, render
from affinity_tester.clock import now_ns
from affinity_tester.cluster.actions.base import Action, ActionContext, ActionOptions, Step, StepState
from affinity_tester.cluster.actions.lease import ExperimentLease
from affinity_tester.cluster.actions.matrix_services import MatrixServices
from affinity_tester.cluster.actions.mend import mend
from affinity_tester.cluster.actions.mend import rights as mend_rights
from affinity_tester.cluster.actions.originals import ANNOTATION, MADE
from affinity_tester.cluster.actions.rights import check_rights
from affinity_tester.cluster.actions.select import action_of
from affinity_tester.cluster.api import list_all
from affinity_tester.cluster.connect import Cluster, ClusterOptions, connect
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.ran_on import read_ran_on
from affinity_tester.errors import UserError

pytestmark = pytest.mark.xdist_group("in_the_lab")  # its module's fixture is made once

Json = dict[str, Any]
LIMIT_S = 30
COLLECTIONS = ("/apis/apps/v1/deployments", "/api/v1/services", "/api/v1/nodes")


def objects_of(name: str, **settings: str) -> list[Json]:
    return [yaml.safe_load(text) for text in render(name, read_settings(name, settings), lambda: b"")]


@contextmanager
def lab_cluster(command: Path, folder: Path, *options: str) -> Iterator[Path]:
    """Run the installed command, which ends with the other end of its standard input."""
    kubeconfig = folder / "kubeconfig"
    process = subprocess.Popen(
        [command, "lab-cluster", "--kubeconfig", kubeconfig, "--with-parent", "--pod-drain", "300ms", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        yield kubeconfig
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


@asynccontextmanager
async def world(kubeconfig: Path, **more: Any) -> AsyncIterator[tuple[ActionContext, list[Step]]]:
    cluster = await connect(ClusterOptions(kubeconfig=str(kubeconfig)), timeout_s=20)
    steps: list[Step] = []
    fields: dict[str, Any] = {
        "cluster": cluster,
        "namespace": cluster.namespace,
        "services": (ServiceRef(cluster.namespace, "affinity-tester"),),
        "emit_step": steps.append,
        "now_ns": now_ns,
        "kubeconfig": str(kubeconfig),
    }
    try:
        yield ActionContext(**{**fields, **more}), steps
    finally:
        await cluster.close()


async def state(cluster: Cluster) -> dict[str, Json]:
    """What users set: labels, annotations, and specs."""
    found = {}
    for path in COLLECTIONS:
        for obj in await list_all(cluster.api, path):
            assert isinstance(obj, dict)
            metadata = obj["metadata"]
            kept = {name: metadata.get(name) or {} for name in ("labels", "annotations")}
            found[f"{path}/{metadata.get('namespace')}/{metadata['name']}"] = {**kept, "spec": obj["spec"]}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lab(affinity_tester: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with lab_cluster(affinity_tester, tmp_path_factory.mktemp("lab")) as kubeconfig:
        yield kubeconfig


async def whole(action: Action, context: ActionContext) -> None:
    await action.prepare()
    await check_rights(context.api, action.rights())
    await action.act()
    await action.wait_settled(LIMIT_S)
    await action.undo()
    await action.wait_undone(LIMIT_S)


async def test_a_node_is_added(affinity_tester: Path, tmp_path: Path) -> None:
    """While each node has an echo server: the pods of the dummy have no room beside one."""
    with lab_cluster(affinity_tester, tmp_path, "--autoscale") as kubeconfig:
        async with world(kubeconfig) as (context, _):
            (dummy,) = objects_of("node-scaleup", CPU="3")
            action = action_of("node-scaleup", context, ActionOptions(node_scaleup=dummy))
            before = set(await state(context.cluster))
            await whole(action, context)
            left = set(await state(context.cluster)) - before
            assert {path for path in left if not path.startswith("/api/v1/nodes")} == set()


@pytest.mark.parametrize(
    "name",
    [
        "baseline",
        "pod-delete",
        "pod-kill",
        "not-ready",
        "scale-up",
        "scale-down",
        "policy-flip",
        "idle",
        "proxy-restart",
        "node-drain",
        "rollout",
    ],
)
async def test_each_action(name: str, lab: Path) -> None:
    async with world(lab) as (context, steps):
        before = await state(context.cluster)
        action = action_of(name, context, ActionOptions())
        await whole(action, context)
        after = await state(context.cluster)
        if name == "rollout":  # its annotation stays, as after `kubectl rollout restart`
            (path,) = [path for path in after if after[path] != before[path]]
            assert path.endswith("/affinity-tester")
        else:
            assert after == before
        assert [step for step in steps if step.state is StepState.FAILED] == []


async def test_a_command(lab: Path) -> None:
    async with world(lab) as (context, steps):
        check = "sh -c 'test -f $KUBECONFIG && echo $CONTEXT $NAMESPACE'"
        async with ExperimentLease(context, print):
            await whole(action_of("command", context, ActionOptions(do=check, undo="true")), context)
        assert f"{context.cluster.context} {context.namespace}" in [step.reason for step in steps]


async def test_a_matrix_and_all_its_policies_flipped(lab: Path) -> None:
    async with world(lab) as (context, _):
        before = await state(context.cluster)

        def service(policy: str, affinity: str) -> Json:
            return objects_of("service", POLICY=policy, AFFINITY=affinity)[0]

        made = MatrixServices(context, service)
        await made.prepare()
        await check_rights(context.api, made.rights())
        await made.act()
        await made.wait_settled(LIMIT_S)
        cells = tuple(cell.ref for cell in made.cells)
        async with world(lab, services=cells) as (inner, _):
            await whole(action_of("policy-flip", inner, ActionOptions()), inner)
            await whole(action_of("pod-delete", inner, ActionOptions()), inner)
        await made.undo()
        await made.wait_undone(LIMIT_S)
        assert await state(context.cluster) == before


async def test_what_a_killed_run_left_is_mended(lab: Path) -> None:
    """Each in a process of its own, that ends in the middle."""
    async with world(lab) as (context, _):
        before = await state(context.cluster)
    script = (
        "import asyncio, os, sys, pathlib\n"
        "sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from test_in_the_lab import *\n"
        "async def main():\n"
        "    async with world(pathlib.Path(sys.argv[3])) as (context, _):\n"
        "        await ExperimentLease(context, print).__aenter__()\n"
        "        names = ('scale-up', 'policy-flip', 'node-drain')\n"
        "        actions = [action_of(name, context, ActionOptions()) for name in names]\n"
        "        for action in actions: await action.prepare()\n"
        "        for action in actions: await action.act()\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", script, here, here.parent.parent, lab]
    done = await asyncio.to_thread(subprocess.run, arguments, check=False)
    assert done.returncode == -9
    async with world(lab) as (context, _):
        assert await state(context.cluster) != before
        lease = ExperimentLease(context, print)
        await check_rights(context.api, (*lease.rights(), *mend_rights(context)))
        async with lease:
            assert lease.took_over
            assert await mend(context)
            assert await mend(context) == ()
        after = await state(context.cluster)
        assert after == before
        assert ANNOTATION not in str(after)
        assert MADE not in str(after)


async def test_what_it_ran_on(lab: Path) -> None:
    async with world(lab) as (context, _):
        found = await read_ran_on(context.cluster, context.services, "node-port")
        assert found.missing == ()
        assert found.kubernetes.startswith("v1.")
        assert found.proxy.startswith("kube-proxy")


async def test_missing_rights_are_found_before(affinity_tester: Path, tmp_path: Path) -> None:
    with lab_cluster(affinity_tester, tmp_path, "--deny", "delete:pods", "--static-proxies") as kubeconfig:
        async with world(kubeconfig) as (context, _):
            action = action_of("pod-delete", context, ActionOptions())
            await action.prepare()
            with pytest.raises(UserError, match=r"does not allow what the experiment needs \(delete pods in default\)"):
                await check_rights(context.api, action.rights())
            with pytest.raises(UserError, match="are static"):
                await action_of("proxy-restart", context, ActionOptions()).prepare()
