"""A flood of messages for one instance is digested in several turns, in order, and the others get theirs in between."""

from __future__ import annotations

import asyncio

from engine import World

from perdure import App, Limits, workflow


async def test_more_messages_than_a_turn_takes(world: World, app: App) -> None:
    @app.workflow
    async def collect(count: int) -> list[int]:
        return [await workflow.receive("n", int) for _ in range(count)]

    async with world.node(app, limits=Limits(turn_messages=7)) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start(100)
        await asyncio.gather(*(handle.send("n", i) for i in range(100)))
        assert await handle.result(timeout=30) == list(range(100))


async def test_a_flood_of_mail_that_waited_in_the_store(world: World, app: App) -> None:
    @app.workflow
    async def collect(count: int) -> list[int]:
        await workflow.receive("go", bool)
        return [await workflow.receive("n", int) for _ in range(count)]

    async with world.node(app, limits=Limits(turn_messages=7)) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start(100)
        await asyncio.gather(*(handle.send("n", i) for i in range(100)))
    async with world.node(app, limits=Limits(turn_messages=7)) as node:
        await node.client.get("c").send("go", True)
        assert await node.client.get("c").result(timeout=30) == list(range(100))


async def test_two_instances_with_activities_messages_and_timers_do_not_mix(
    world: World, app: App
) -> None:
    @app.activity
    async def tag(text: str) -> str:
        return f"<{text}>"

    @app.workflow
    async def mixed(name: str) -> list[object]:
        async with asyncio.TaskGroup() as group:
            activity = group.create_task(tag(name))
            message = group.create_task(workflow.receive("n", str))
            event = group.create_task(workflow.wait_event("e", str))
            group.create_task(asyncio.sleep(0.002))
        return [activity.result(), message.result(), event.result()]

    async with world.node(app) as node:
        handles = [node.client.workflow(mixed, id=name) for name in "abcdef"]
        for handle in handles:
            await handle.start(handle.id)
        for handle in reversed(handles):
            await handle.send("n", f"n-{handle.id}")
            await handle.raise_event("e", f"e-{handle.id}")
        for handle in handles:
            assert await handle.result(timeout=30) == [
                f"<{handle.id}>",
                f"n-{handle.id}",
                f"e-{handle.id}",
            ]
