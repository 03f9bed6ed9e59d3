"""Continue-as-new: the same instance begins again with a new input and an empty history."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, WorkflowCancelled, workflow
from perdure.errors import UsageError


async def test_the_result_follows_the_chain_and_each_history_is_kept(
    world: World, app: App
) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def grow(i: int) -> int:
        i = await double(i)
        if i < 8:
            workflow.continue_as_new(grow, i)
        return i

    async with world.node(app) as node:
        handle = node.client.workflow(grow, id="g")
        await handle.start(1)
        assert await handle.result(timeout=30) == 8
        assert await handle.executions() == [1, 2, 3]
        assert (await handle.describe()).execution == 3
        for execution, end in ((1, "ContinuedAsNew"), (2, "ContinuedAsNew"), (3, "Completed")):
            events = await handle.history(execution)
            assert [e.number for e in events] == list(range(1, len(events) + 1))
            assert type(events[0].event).__name__ == "Started"
            assert type(events[-1].event).__name__ == end
            assert events[0].event.execution == execution  # type: ignore[attr-defined]
        assert await handle.history() == await handle.history(3)


async def test_it_beats_a_returned_output(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> str:
        try:
            if i < 2:
                workflow.continue_as_new(loop, i + 1)
        except BaseException:
            return "swallowed"
        return "the end"

    async with world.node(app) as node:
        assert await node.client.workflow(loop, id="l").run(0) == "the end"


async def test_except_exception_does_not_catch_it(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        try:
            if i < 2:
                workflow.continue_as_new(loop, i + 1)
        except Exception:
            return -1
        return i

    async with world.node(app) as node:
        assert await node.client.workflow(loop, id="l").run(0) == 2


async def test_it_works_from_a_helper_and_from_a_task(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        async def helper() -> None:
            await asyncio.sleep(0)
            workflow.continue_as_new(loop, i + 1)

        if i < 2:
            await helper()
        return i

    async with world.node(app) as node:
        assert await node.client.workflow(loop, id="l").run(0) == 2


async def test_it_loses_to_cancel(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        try:
            await workflow.receive("never", int)
        except asyncio.CancelledError:
            workflow.continue_as_new(loop, i + 1)
        return i

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(0)
        await waits_for(handle, "message never")
        await handle.cancel("stop")
        with pytest.raises(WorkflowCancelled, match="stop"):
            await handle.result(timeout=30)
        assert (await handle.describe()).execution == 1


async def test_the_newest_execution_is_cancelled(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        if i < 3:
            workflow.continue_as_new(loop, i + 1)
        await workflow.receive("never", int)
        return i

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(0)
        await waits_for(handle, "message never")
        await handle.cancel("stop")
        with pytest.raises(WorkflowCancelled, match="stop"):
            await handle.result(timeout=30)
        assert (await handle.describe()).execution == 4


async def test_open_work_of_the_old_execution_is_cancelled_and_its_result_ignored(
    world: World, app: App
) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> int:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()
        return 1

    @app.workflow
    async def child() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def loop(again: bool) -> str:
        if again:
            slow()  # perdure: ignore[PD303]
            workflow.child(child, id="child")()  # perdure: ignore[PD303]
            await workflow.receive("next", bool)
            workflow.continue_as_new(loop, False)
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(True)
        await asyncio.wait_for(began.wait(), 30)
        await until(lambda: _there(node.client.get("child")), "the child")
        await handle.send("next", True)
        assert await handle.result(timeout=30) == "done"
        await asyncio.wait_for(stopped.wait(), 30)
        assert (await node.client.get("child").wait(timeout=30)).status == "cancelled"


async def test_a_child_that_loses_a_race_in_the_last_turn_is_cancelled(
    world: World, app: App
) -> None:
    @app.workflow
    async def child() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def loop(again: bool) -> str:
        if again:
            await workflow.select(
                workflow.child(child, id="child")(), workflow.receive("next", bool)
            )
            workflow.continue_as_new(loop, False)
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(True)
        await until(lambda: _there(node.client.get("child")), "the child")
        await handle.send("next", True)
        assert await handle.result(timeout=30) == "done"
        assert (await node.client.get("child").wait(timeout=30)).status == "cancelled"


async def test_status_and_kv_are_kept(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> list[Any]:
        workflow.kv.set(f"k{i}", i)
        if i == 0:
            workflow.set_status("from the first")
        if i < 2:
            workflow.continue_as_new(loop, i + 1)
        await workflow.receive("end", bool)
        return [workflow.status(str), workflow.kv.keys()]

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(0)
        await waits_for(handle, "message end")
    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.send("end", True)
        assert await handle.result(timeout=30) == ["from the first", ["k0", "k1", "k2"]]
        assert await handle.kv() == {"k0": 0, "k1": 1, "k2": 2}


async def test_another_workflow_is_refused(world: World, app: App) -> None:
    @app.workflow
    async def other() -> None:
        pass

    async def body() -> str:
        try:
            workflow.continue_as_new(other)
        except UsageError as error:
            return str(error)

    assert "can only continue as that" in await world.replayed(app, body)


async def test_hundreds_of_executions(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        if i < 300:
            workflow.continue_as_new(loop, i + 1)
        return i

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        assert await handle.run(0) == 300
        assert await handle.executions() == list(range(1, 302))


async def test_a_restart_between_two_executions(world: World, app: App) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        await workflow.receive("tick", int)
        if i < 4:
            workflow.continue_as_new(loop, i + 1)
        return i

    for i in range(5):
        async with world.node(app) as node:
            handle = node.client.workflow(loop, id="l")
            await handle.start(0)
            await handle.send("tick", i)
    async with world.node(app) as node:
        assert await node.client.get("l").result(timeout=30) == 4


async def _there(handle: Any) -> bool:
    from perdure import NotFound

    try:
        return bool((await handle.describe()).started_at)
    except NotFound:
        return False
