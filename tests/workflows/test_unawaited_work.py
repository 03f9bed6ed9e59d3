"""Work that nobody awaits is cancelled when its workflow ends; tasks that are left may clean up first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from engine import World

from perdure import App, workflow


@pytest.mark.parametrize("fails", [False, True])
async def test_an_activity_that_nobody_awaits_is_cancelled_at_the_end(
    world: World, app: App, fails: bool
) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.workflow
    async def careless() -> str:
        slow()  # perdure: ignore[PD303]
        await workflow.receive("go", bool)
        if fails:
            raise ValueError("oh")
        return "done"

    async with world.node(app) as node:
        handle = node.client.workflow(careless, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.send("go", True)
        ended = await handle.wait(timeout=30)
        assert ended.status == ("failed" if fails else "completed")
        await asyncio.wait_for(stopped.wait(), 30)
        events = [type(e.event).__name__ for e in await handle.history()]
        assert events[-2:] == ["CommandCancelled", "Failed" if fails else "Completed"]


async def test_one_that_was_scheduled_and_given_up_in_one_turn_never_runs(
    world: World, app: App
) -> None:
    ran: list[str] = []

    @app.activity
    async def note(what: str) -> None:
        ran.append(what)

    @app.workflow
    async def hasty() -> str:
        note("unawaited at the end")  # perdure: ignore[PD303]
        asyncio.ensure_future(note("cancelled")).cancel()
        return "done"

    async with world.node(app) as node:
        assert await node.client.workflow(hasty, id="h").run() == "done"
        await node.client.workflow(hasty, id="h2").run()
    assert ran == []


async def test_the_workflow_does_not_wait_for_what_nobody_awaits(world: World, app: App) -> None:
    @app.workflow
    async def child() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def careless() -> str:
        child()  # perdure: ignore[PD303]
        workflow.receive("never", int).close()
        return "done"

    async with world.node(app) as node:
        assert await node.client.workflow(careless, id="c").run() == "done"


async def test_tasks_that_are_left_clean_up_in_the_order_of_their_creation(
    world: World, app: App
) -> None:
    cleaned: list[int] = []

    @app.activity
    async def clean(i: int) -> int:
        cleaned.append(i)
        return i

    async def service(i: int) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await clean(i)

    @app.workflow
    async def careless() -> str:
        tasks = [asyncio.create_task(service(i)) for i in range(3)]
        await asyncio.sleep(0)
        return f"{len(tasks)} left"

    async with world.node(app) as node:
        assert await node.client.workflow(careless, id="c").run() == "3 left"
    assert cleaned == [0, 1, 2]


async def test_open_generators_are_closed(world: World, app: App) -> None:
    closed: list[int] = []

    @app.activity
    async def note(i: int) -> int:
        closed.append(i)
        return i

    async def numbers(i: int) -> AsyncIterator[int]:
        try:
            while True:
                yield i
        finally:
            await note(i)

    @app.workflow
    async def careless() -> int:
        total = 0
        for i in (1, 2):
            async for n in numbers(i):
                total += n
                break
        return total

    async with world.node(app) as node:
        assert await node.client.workflow(careless, id="c").run() == 3
    assert closed == [1, 2]


async def test_a_result_that_comes_after_the_end_adds_nothing(world: World, app: App) -> None:
    gate, finished = asyncio.Event(), asyncio.Event()
    began = asyncio.Event()

    @app.activity
    async def deaf() -> int:
        began.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):  # it is deaf on purpose
                await gate.wait()
        finished.set()
        return 1

    @app.workflow
    async def careless() -> str:
        deaf()  # perdure: ignore[PD303]
        await workflow.receive("go", bool)
        return "done"

    @app.workflow
    async def later() -> str:
        await asyncio.sleep(0.001)
        return "later"

    async with world.node(app) as node:
        handle = node.client.workflow(careless, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.send("go", True)
        assert await handle.result(timeout=30) == "done"
        before = await handle.history()
        gate.set()
        await asyncio.wait_for(finished.wait(), 30)
        assert await node.client.workflow(later, id="later").run() == "later", (
            "whatever came before it is recorded now"
        )
        assert await handle.history() == before
