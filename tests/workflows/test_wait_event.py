"""Positional events: the n-th wait that is active takes the n-th event raised after it; nothing is buffered."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from engine import World, waits_for

from perdure import App, NotFound, workflow
from perdure.errors import NotRunning


async def test_an_event_reaches_the_code_that_waits_for_it(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> str:
        return await workflow.wait_event("news", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await waits_for(handle, "event news")
        await handle.raise_event("news", "rain")
        assert await handle.result(timeout=30) == "rain"


async def test_an_event_before_the_wait_is_only_recorded(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> str:
        await workflow.receive("go", bool)
        return await workflow.wait_event("news", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await waits_for(handle, "message go")
        await handle.raise_event("news", "early")
        assert "EventRaised" in [type(e.event).__name__ for e in await handle.history()]
        await handle.send("go", True)
        await waits_for(handle, "event news")
        await handle.raise_event("news", "late")
        assert await handle.result(timeout=30) == "late"


async def test_waits_take_events_in_the_order_in_which_they_began(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> list[str]:
        return await asyncio.gather(*(workflow.wait_event("news", str) for _ in range(3)))

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        for i in "abc":
            await handle.raise_event("news", i)
        assert await handle.result(timeout=30) == ["a", "b", "c"]


async def test_a_cancelled_wait_does_not_steal_the_next_event(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> str:
        with contextlib.suppress(TimeoutError):  # the timeout is only the way to cancel it
            async with asyncio.timeout(0.005):
                await workflow.wait_event("news", str)
        workflow.set_status("second")
        return await workflow.wait_event("news", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.custom_status(str, after_version=0, timeout=30)
        await handle.raise_event("news", "for the second")
        assert await handle.result(timeout=30) == "for the second"


async def test_equal_events_are_all_delivered(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> list[str]:
        return [await workflow.wait_event("news", str), await workflow.wait_event("news", str)]

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.raise_event("news", "same")
        await handle.raise_event("news", "same")
        assert await handle.result(timeout=30) == ["same", "same"]


async def test_events_are_not_carried_over_continue_as_new(world: World, app: App) -> None:
    @app.workflow
    async def waiting(again: bool = True) -> str:
        await workflow.receive("go", bool)
        if again:
            workflow.continue_as_new(waiting, False)
        return await workflow.wait_event("news", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.raise_event("news", "lost")
        await handle.send("go", True)
        await handle.send("go", True)
        await waits_for(handle, "event news")
        await handle.raise_event("news", "found")
        assert await handle.result(timeout=30) == "found"


async def test_events_and_messages_of_one_name_are_apart(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> list[str]:
        return await asyncio.gather(workflow.receive("x", str), workflow.wait_event("x", str))

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.raise_event("x", "event")
        await handle.send("x", "message")
        assert await handle.result(timeout=30) == ["message", "event"]


async def test_the_winner_of_two_events_is_the_first_delivered_also_in_replay(
    world: World, app: App
) -> None:
    @app.workflow
    async def race() -> list[object]:
        index, value = await workflow.select(
            workflow.wait_event("a", str), workflow.wait_event("b", str)
        )
        await workflow.receive("end", bool)
        return [index, value]

    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.start()
        await handle.raise_event("b", "first")
        await handle.raise_event("a", "second")
        await waits_for(handle, "message end")
    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.send("end", True)
        assert await handle.result(timeout=30) == [1, "first"]


async def test_an_event_for_an_unknown_or_ended_instance_is_refused_and_harms_nobody(
    world: World, app: App
) -> None:
    @app.workflow
    async def quick() -> int:
        return 1

    async with world.node(app) as node:
        with pytest.raises(NotFound, match="nobody"):
            await node.client.get("nobody").raise_event("news", "x")
        with pytest.raises(NotFound, match="nobody"):
            await node.client.get("nobody").cancel()
        handle = node.client.workflow(quick, id="q")
        assert await handle.run() == 1
        events = len(await handle.history())
        with pytest.raises(NotRunning):
            await handle.raise_event("news", "x")
        assert len(await handle.history()) == events
