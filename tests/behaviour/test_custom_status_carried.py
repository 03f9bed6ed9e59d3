"""The custom status over executions: cleared, set anew, and how its version goes on."""

from __future__ import annotations

from typing import Any

from engine import PATIENCE_S, World, waits_for

from perdure import App, workflow


async def test_it_is_cleared_in_the_next_execution(file_world: World, app: App) -> None:
    @app.workflow
    async def loop(execution: int) -> list[Any]:
        seen = [workflow.status(str)]
        if execution == 1:
            workflow.set_status("first")
        elif execution == 2:
            workflow.set_status(None)
        seen.append(workflow.status(str))
        await workflow.receive("next", bool)
        if execution < 3:
            workflow.continue_as_new(loop, execution + 1)
        return seen

    expected = [("first", 1), (None, 2), (None, 2)]
    for status in expected:
        async with file_world.node(app) as node:
            handle = node.client.workflow(loop, id="l")
            await handle.start(1)
            await waits_for(handle, "message next")
            assert await handle.custom_status(str, timeout=PATIENCE_S) == status
            await handle.send("next", True)
    async with file_world.node(app) as node:
        assert await node.client.get("l").result(timeout=PATIENCE_S) == [None, None]


async def test_its_version_goes_on_over_executions(world: World, app: App) -> None:
    @app.workflow
    async def loop(execution: int) -> None:
        workflow.set_status(f"execution {execution}")
        if execution < 5:
            workflow.continue_as_new(loop, execution + 1)

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.run(1)
        assert await handle.custom_status(str) == ("execution 5", 5)
