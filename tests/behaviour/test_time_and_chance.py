"""Time, ids and chance in workflow code: used like any value, the same in each life, and no event of the journal."""

from __future__ import annotations

import asyncio
from typing import Any

from engine import PATIENCE_S, World, waits_for

from perdure import App, workflow
from perdure.kernel.data import events as ev


async def test_they_are_arguments_of_activities_like_any_value(file_world: World, app: App) -> None:
    """A replay makes the same calls; another id or time would be another call, and a mismatch."""

    @app.activity
    async def book(key: str, at: str) -> str:
        return f"{key} at {at}"

    @app.workflow
    async def booking() -> list[str]:
        key, at = str(workflow.uuid4()), workflow.now().isoformat()
        first = await book(key, at)
        await workflow.receive("next", bool)
        return [
            f"{key} at {at}",
            first,
            await book(str(workflow.uuid4()), workflow.now().isoformat()),
        ]

    async with file_world.node(app) as node:
        handle = node.client.workflow(booking, id="b")
        await handle.start()
        await waits_for(handle, "message next")
    async with file_world.node(app) as node:
        handle = node.client.workflow(booking, id="b")
        await handle.send("next", True)
        again, first, second = await handle.result(timeout=PATIENCE_S)
        assert again == first != second


async def test_many_of_a_kind_between_races_and_joins(world: World, app: App) -> None:
    @app.activity
    async def echo(text: str) -> str:
        return text

    async def branch() -> str:
        before = str(workflow.uuid4())
        return before + await echo(str(workflow.uuid4()))

    async def body() -> list[Any]:
        ids = [str(workflow.uuid4()) for _ in range(5)]
        ids += await asyncio.gather(*(branch() for _ in range(3)))
        won = await workflow.select(branch(), workflow.receive("never", bool))
        times = [workflow.now().timestamp() for _ in range(3)]
        return [
            ids,
            won[1],
            str(workflow.uuid4()),
            len(set(times)),
            workflow.random().sample(range(100), 5),
        ]

    ids, won, last, times, sample = await world.replayed(app, body)
    assert len({*ids, won, last}) == 10
    assert times == 1
    assert len(set(sample)) == 5


async def test_they_cost_no_event(world: World, app: App) -> None:
    @app.workflow
    async def drawing() -> int:
        for _ in range(100):
            workflow.uuid4()
            workflow.now()
            workflow.random().random()
        return 100

    async with world.node(app) as node:
        handle = node.client.workflow(drawing, id="d")
        assert await handle.run() == 100
        assert [type(e.event) for e in await handle.history()] == [ev.Started, ev.Completed]
