"""An activity may sleep and poll for days: nothing renews it, nothing takes it away, and it runs once."""

from __future__ import annotations

import asyncio

from engine import PATIENCE_S, World, until

from perdure import App, activity, workflow

DAY_MS = 86_400_000


async def test_it_polls_for_days_and_runs_once(world: World, app: App) -> None:
    clock = world.stop_time()
    began: list[int] = []
    ticks = asyncio.Queue[bool]()

    @app.activity
    async def watch() -> str:
        began.append(activity.info().attempt)
        polls = 1
        while not await ticks.get():
            polls += 1
        return f"ready after {polls} polls"

    @app.workflow
    async def watching() -> str:
        return await watch()

    async with world.node(app) as node:
        handle = node.client.workflow(watching, id="w")
        await handle.start()
        await until(lambda: bool(began), "it watches")
        for _ in range(10):
            clock.advance(DAY_MS)
            await ticks.put(False)
        assert await handle.status() == "running"
        await ticks.put(True)
        assert await handle.result(timeout=PATIENCE_S) == "ready after 11 polls"
    assert began == [1]


async def test_timers_of_other_instances_fire_meanwhile(world: World, app: App) -> None:
    clock = world.stop_time()
    gate, began = asyncio.Event(), asyncio.Event()

    @app.activity
    async def long() -> None:
        began.set()
        await gate.wait()

    @app.workflow
    async def working() -> None:
        await long()

    @app.workflow
    async def sleeping() -> int:
        for _ in range(3):
            await workflow.sleep(86_400)
        return 3

    async with world.node(app) as node:
        busy, calm = (
            node.client.workflow(working, id="busy"),
            node.client.workflow(sleeping, id="calm"),
        )
        await busy.start()
        await calm.start()
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        for _ in range(3):
            await clock.until_armed(DAY_MS)
            clock.advance(DAY_MS)
        assert await calm.result(timeout=PATIENCE_S) == 3
        assert await busy.status() == "running"
        gate.set()
        await busy.result(timeout=PATIENCE_S)


async def test_retries_that_are_written_inside_of_a_step_are_its_own_business(
    world: World, app: App
) -> None:
    """A loop in an activity, or in a checkpoint's function, tries as often as it likes: one call, one result."""
    tries: list[str] = []

    async def connect(who: str) -> int:
        for attempt in range(1, 6):
            tries.append(who)
            if attempt == 4:
                return attempt
            await asyncio.sleep(0)
        raise ConnectionError(who)

    @app.activity
    async def connecting() -> int:
        return await connect("activity")

    async def body() -> list[int]:
        return [
            await connecting(),
            await workflow.checkpoint("connect", lambda: connect("checkpoint")),
        ]

    assert await world.replayed(app, body) == [4, 4]
    assert tries == ["activity"] * 4 + ["checkpoint"] * 4
