"""A flood of messages for one instance is digested in several turns, in order, and the others get theirs in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from engine import World, waits_for

from perdure import App, Limits, NodeOptions, workflow
from perdure.kernel.data import events as ev
from perdure.ports.store import Commit, Verdict
from perdure.store.memory import MemoryStore

TURN_MESSAGES = 7


class Counting(MemoryStore):
    """Notes how many messages each turn has received, and whether a start was among them."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[int] = []

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        for commit in batch:
            events = [event for chunk in commit.journal for event in ev.decode_events(chunk.events)]
            counted = (ev.Received, ev.Started)
            self.turns.append(sum(isinstance(event, counted) for event in events))
        return await super().commit(batch)


@pytest.mark.parametrize("when", ["at once", "behind the start", "while it is paused"])
async def test_no_turn_takes_more_than_its_budget(app: App, when: str) -> None:
    @app.workflow
    async def collect(count: int) -> list[int]:
        return [await workflow.receive("n", int) for _ in range(count)]

    options = NodeOptions(limits=Limits(turn_messages=TURN_MESSAGES))
    async with Counting() as store, app.node(store, options=options) as node:
        handle = node.client.workflow(collect, id="c")
        sends = [handle.send("n", i) for i in range(50)]
        if when == "behind the start":
            await asyncio.gather(handle.start(50), *sends)
        else:
            await handle.start(50)
            await waits_for(handle, "message n")
            if when == "while it is paused":
                await handle.pause()
            await asyncio.gather(*sends)
            await handle.resume()
        assert await handle.result(timeout=30) == list(range(50))
    assert max(store.turns) == TURN_MESSAGES


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
