"""Timers are durable: they keep their time over a restart, fire once, and can carry a name."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, workflow
from perdure.errors import DefinitionError


async def test_a_timer_fires_at_its_time(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def nap() -> float:
        before = workflow.now()
        await asyncio.sleep(10)
        return (workflow.now() - before).total_seconds()

    async with world.node(app) as node:
        handle = node.client.workflow(nap, id="n")
        await handle.start()
        assert await clock.until_armed(10_000) == 10_000
        clock.advance(9_999)
        assert await handle.status() == "running"
        clock.advance(1)
        assert await handle.result(timeout=30) == 10


async def test_timers_fire_in_the_order_of_their_times(world: World, app: App) -> None:
    clock = world.stop_time()
    seen: list[int] = []

    @app.workflow
    async def naps() -> list[int]:
        order = []

        async def nap(seconds: int) -> None:
            await asyncio.sleep(seconds)
            order.append(seconds)

        await asyncio.gather(nap(3), nap(1), nap(2))
        return order

    async with world.node(app) as node:
        handle = node.client.workflow(naps, id="n")
        await handle.start()
        await clock.until_armed(1_000)
        clock.advance(3_000)
        assert await handle.result(timeout=30) == [1, 2, 3]
    assert seen == []


async def test_a_timer_of_zero_passes_at_once(world: World, app: App) -> None:
    world.stop_time()

    async def body() -> bool:
        await asyncio.sleep(0)
        await workflow.sleep(0)
        await workflow.sleep(timedelta(0))
        return True

    assert await world.replayed(app, body)


@pytest.mark.parametrize("past", [-1, -0.5, timedelta(hours=-1), float("-inf")])
async def test_a_sleep_until_the_past_returns_at_once(
    world: World, app: App, past: float | timedelta
) -> None:
    world.stop_time()
    order: list[str] = []

    async def other() -> None:
        order.append("another task")

    async def body() -> bool:
        task = asyncio.create_task(other())
        await workflow.sleep(past, name="due")
        order.append("slept")
        await task
        return True

    assert await world.replayed(app, body)
    assert order == ["another task", "slept"] * 2


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), "-1", False])
async def test_a_sleep_that_is_no_duration_is_refused(world: World, app: App, delay: Any) -> None:
    async def body() -> None:
        with pytest.raises(DefinitionError, match=r"the delay of workflow\.sleep\(\) must be"):
            await workflow.sleep(delay)

    await world.replayed(app, body)


async def test_a_timer_keeps_its_time_over_a_restart(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def nap() -> str:
        await workflow.sleep(timedelta(hours=2))
        return "rested"

    async with world.node(app) as node:
        await node.client.workflow(nap, id="n").start()
        await clock.until_armed(2 * 3_600_000)
    clock.advance(3_600_000)
    async with world.node(app) as node:
        handle = node.client.workflow(nap, id="n")
        await clock.until_armed(3_600_000)
        clock.advance(3_599_999)
        assert await handle.status() == "running"
        clock.advance(1)
        assert await handle.result(timeout=30) == "rested"


async def test_a_timer_that_came_due_while_no_node_ran_fires_at_the_start_of_the_next(
    world: World, app: App
) -> None:
    clock = world.stop_time()

    @app.workflow
    async def naps() -> list[int]:
        order = []

        async def nap(seconds: int) -> None:
            await asyncio.sleep(seconds)
            order.append(seconds)

        await asyncio.gather(nap(30), nap(10), nap(20))
        return order

    async with world.node(app) as node:
        await node.client.workflow(naps, id="n").start()
    clock.advance(60_000)
    async with world.node(app) as node:
        assert await node.client.get("n").result(timeout=30) == [10, 20, 30]


async def test_a_timer_after_a_timer_counts_from_the_first_ones_time(
    world: World, app: App
) -> None:
    clock = world.stop_time()

    @app.workflow
    async def naps() -> None:
        await asyncio.sleep(10)
        workflow.set_status("first")
        await asyncio.sleep(10)

    async with world.node(app) as node:
        handle = node.client.workflow(naps, id="n")
        await handle.start()
        await clock.until_armed(10_000)
        clock.advance(10_000)
        await until(lambda: _status_is(handle, "first"), "the first timer")
        assert await clock.until_armed(10_000) == 10_000
        clock.advance(10_000)
        await handle.result(timeout=30)


async def _status_is(handle: object, wanted: str) -> bool:
    return (await handle.describe()).custom_status(str) == wanted  # type: ignore[attr-defined]


async def test_a_named_sleep_shows_its_name(world: World, app: App) -> None:
    @app.workflow
    async def patient() -> None:
        await workflow.sleep(3600, name="cooling-off")

    async with world.node(app) as node:
        handle = node.client.workflow(patient, id="p")
        await handle.start()
        await waits_for(handle, "timer cooling-off")
        started = [
            e.event for e in await handle.history() if type(e.event).__name__ == "TimerStarted"
        ]
        assert [e.name for e in started] == ["cooling-off"]


async def test_a_changed_delay_is_no_mismatch_and_the_recorded_time_counts(world: World) -> None:
    clock = world.stop_time()

    def make(seconds: int) -> App:
        app = App("test")

        @app.workflow
        async def nap() -> str:
            await asyncio.sleep(seconds)
            return f"code says {seconds}"

        return app

    async with world.node(make(10)) as node:
        await node.client.workflow("nap", id="n").start()
    async with world.node(make(1_000)) as node:
        await clock.until_armed(10_000)
        clock.advance(10_000)
        assert await node.client.get("n").result(timeout=30) == "code says 1000"


async def test_an_abandoned_timer_does_not_keep_the_instance(world: World, app: App) -> None:
    world.stop_time()

    @app.workflow
    async def quick() -> str:
        task = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        return "done" if not task.done() else "?"

    async with world.node(app) as node:
        assert await node.client.workflow(quick, id="q").run() == "done"


async def test_a_timer_beside_a_running_activity_fires(world: World, app: App) -> None:
    @app.activity
    async def slow() -> None:
        await asyncio.sleep(3600)

    @app.workflow
    async def impatient() -> str:
        try:
            async with asyncio.timeout(0.01):
                await slow()
        except TimeoutError:
            return "late"
        return "in time"

    async with world.node(app) as node:
        assert await node.client.workflow(impatient, id="i").run() == "late"
