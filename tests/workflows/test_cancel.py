"""Cancel is a `CancelledError` where the workflow waits: it can be caught, and cleanup may run activities."""

from __future__ import annotations

import asyncio

import pytest
from engine import World, until, waits_for

from perdure import App, NotFound, WorkflowCancelled, workflow


async def test_the_outcome_is_cancelled_with_the_reason(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", int)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.cancel("not wanted")
        with pytest.raises(WorkflowCancelled, match="'w' was cancelled: not wanted") as caught:
            await handle.result(timeout=30)
        assert caught.value.failure.category == "cancelled"
        assert await handle.status() == "cancelled"


async def test_cleanup_runs_activities_sleeps_and_receives(world: World, app: App) -> None:
    done: list[str] = []

    @app.activity
    async def refund(order: str) -> str:
        done.append(order)
        return f"refunded {order}"

    @app.workflow
    async def order() -> None:
        try:
            await workflow.receive("never", int)
        finally:
            workflow.kv.set("refund", await refund("order-1"))
            await asyncio.sleep(0.002)
            workflow.kv.set("confirmed", await workflow.receive("confirm", str))

    async with world.node(app) as node:
        handle = node.client.workflow(order, id="o")
        await handle.start()
        await handle.cancel()
        await waits_for(handle, "message confirm")
    async with world.node(app) as node:
        handle = node.client.workflow(order, id="o")
        assert await handle.status() == "running"
        await handle.send("confirm", "yes")
        assert (await handle.wait(timeout=30)).status == "cancelled"
        assert await handle.kv() == {"refund": "refunded order-1", "confirmed": "yes"}
    assert done == ["order-1"]


async def test_a_caught_cancel_with_a_result_counts_as_completed(world: World, app: App) -> None:
    @app.workflow
    async def stubborn() -> str:
        try:
            await workflow.receive("never", int)
        except asyncio.CancelledError:
            return "half done"
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(stubborn, id="s")
        await handle.start()
        await handle.cancel()
        assert await handle.result(timeout=30) == "half done"
        assert await handle.status() == "completed"


async def test_an_error_during_cleanup_is_a_failure(world: World, app: App) -> None:
    @app.workflow
    async def clumsy() -> None:
        try:
            await workflow.receive("never", int)
        finally:
            raise ValueError("oh")

    async with world.node(app) as node:
        handle = node.client.workflow(clumsy, id="c")
        await handle.start()
        await handle.cancel()
        ended = await handle.wait(timeout=30)
        assert ended.status == "failed"
        assert ended.failure is not None
        assert (ended.failure.type, ended.failure.message) == ("ValueError", "oh")


async def test_cancel_is_idempotent_and_the_first_reason_counts(world: World, app: App) -> None:
    seen: list[int] = []

    @app.workflow
    async def counting() -> None:
        try:
            await workflow.receive("never", int)
        finally:
            seen.append(1)
            await workflow.receive("go", bool)

    async with world.node(app) as node:
        handle = node.client.workflow(counting, id="c")
        await handle.start()
        await handle.cancel("first")
        await handle.cancel("second")
        await asyncio.gather(handle.cancel("third"), handle.cancel("fourth"))
        await handle.send("go", True)
        with pytest.raises(WorkflowCancelled, match="first"):
            await handle.result(timeout=30)
        requests = [
            e for e in await handle.history() if type(e.event).__name__ == "CancelRequested"
        ]
        assert len(requests) == 1
    assert seen == [1]


async def test_cancel_of_an_ended_one_changes_nothing(world: World, app: App) -> None:
    @app.workflow
    async def quick() -> int:
        return 1

    async with world.node(app) as node:
        handle = node.client.workflow(quick, id="q")
        await handle.run()
        before = await handle.history()
        await handle.cancel()
        await handle.terminate()
        await handle.pause()
        await handle.resume()
        assert await handle.status() == "completed"
        assert await handle.result() == 1
        assert await handle.history() == before


async def test_cancel_before_the_first_turn(world: World, app: App) -> None:
    ran: list[int] = []

    @app.workflow
    async def late() -> None:
        ran.append(1)

    async with world.node(app) as node:
        handle = node.client.workflow(late, id="l", delay=3600)
        await handle.start()
        assert await handle.status() == "pending"
        await handle.cancel("never mind")
        with pytest.raises(WorkflowCancelled, match="never mind"):
            await handle.result(timeout=30)
    assert ran == []


async def test_cancel_in_the_turn_of_the_start(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", int)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await asyncio.gather(handle.start(), handle.cancel("at once"))
        assert (await handle.wait(timeout=30)).status == "cancelled"


async def test_cancel_of_nobody_is_an_error_and_wedges_nothing(world: World, app: App) -> None:
    @app.workflow
    async def quick() -> int:
        return 1

    async with world.node(app) as node:
        for verb in ("cancel", "terminate", "pause", "resume", "retry"):
            with pytest.raises(NotFound, match="nobody"):
                await getattr(node.client.get("nobody"), verb)()
        assert await node.client.workflow(quick, id="nobody").run() == 1
        assert await node.client.workflow(quick, id="other").run() == 1


async def test_a_cancel_with_a_running_activity_reaches_it(world: World, app: App) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.workflow
    async def waiting() -> None:
        await slow()

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        await asyncio.wait_for(stopped.wait(), 30)


async def test_a_cancel_survives_the_node(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", int)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
    async with world.node(App("another"), loads=1) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.cancel("nobody has the code")
        assert await handle.status() == "suspended"
    async with world.node(app) as node:
        with pytest.raises(WorkflowCancelled, match="nobody has the code"):
            await node.client.get("w").result(timeout=30)


async def test_a_workflow_cancels_another_and_itself(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def killer() -> str:
        workflow.cancel("w", "by the killer")
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await node.client.workflow(killer, id="k").run()
        with pytest.raises(WorkflowCancelled, match="by the killer"):
            await handle.result(timeout=30)


async def test_a_workflow_may_end_as_cancelled_by_itself(world: World, app: App) -> None:
    @app.workflow
    async def tired() -> None:
        raise asyncio.CancelledError

    async with world.node(app) as node:
        with pytest.raises(WorkflowCancelled, match="cancelled itself"):
            await node.client.workflow(tired, id="t").run()


async def test_one_that_ignores_cancel_can_be_terminated(world: World, app: App) -> None:
    @app.workflow
    async def deaf() -> None:
        while True:
            try:
                await workflow.receive("never", int)
            except asyncio.CancelledError:
                workflow.set_status("no")

    async with world.node(app) as node:
        handle = node.client.workflow(deaf, id="d")
        await handle.start()
        await handle.cancel()

        async def heard() -> bool:
            return (await handle.describe()).custom_status(str) == "no"

        await until(heard, "the cancel was seen")
        assert await handle.status() == "running"
        await handle.terminate("enough")
        assert (await handle.wait(timeout=30)).status == "cancelled"


async def test_a_workflow_cancels_itself_by_its_id(world: World, app: App) -> None:
    @app.workflow
    async def tired() -> None:
        workflow.cancel(workflow.info().id, "tired")
        await workflow.receive("never", int)

    async with world.node(app) as node:
        with pytest.raises(WorkflowCancelled, match="tired"):
            await asyncio.wait_for(node.client.workflow(tired, id="t").run(), 30)
