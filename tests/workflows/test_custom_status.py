"""The custom status: the last one of a turn is seen, its version goes up, and clients can wait for the next."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, Limits, WorkflowFailed, workflow
from perdure.errors import LimitExceeded


@dataclass
class Progress:
    done: int
    of: int


async def test_the_last_write_of_a_turn_is_seen_and_counts_once(world: World, app: App) -> None:
    @app.workflow
    async def working() -> None:
        workflow.set_status("one")
        workflow.set_status("two")
        await workflow.receive("go", bool)
        workflow.set_status("three")
        await workflow.receive("go", bool)
        await workflow.receive("go", bool)
        workflow.set_status(None)

    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.start()
        assert await handle.custom_status(str) == ("two", 1)
        await handle.send("go", True)
        assert await handle.custom_status(str, after_version=1, timeout=30) == ("three", 2)
        await handle.send("go", True)
        await waits_for(handle, "message go")
        assert await handle.custom_status(str) == ("three", 2)
    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        assert await handle.custom_status(str) == ("three", 2)
        await handle.send("go", True)
        await handle.wait(timeout=30)
        assert await handle.custom_status(str) == (None, 3)


async def test_there_is_none_if_none_was_set(world: World, app: App) -> None:
    @app.workflow
    async def working() -> None:
        pass

    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.run()
        assert await handle.custom_status(str) == (None, 0)
        assert (await handle.describe()).custom_status() is None


async def test_a_client_waits_for_the_next_version(world: World, app: App) -> None:
    @app.workflow
    async def working() -> None:
        for i in range(3):
            await workflow.receive("tick", bool)
            workflow.set_status(Progress(i + 1, 3))

    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.start()
        version, seen = 0, []
        for _ in range(3):
            waiting = asyncio.create_task(
                handle.custom_status(Progress, after_version=version, timeout=30)
            )
            await asyncio.sleep(0)
            assert not waiting.done()
            await handle.send("tick", True)
            status, version = await waiting
            seen.append(status)
        assert seen == [Progress(1, 3), Progress(2, 3), Progress(3, 3)]


async def test_waiting_ends_with_the_instance_and_with_the_timeout(world: World, app: App) -> None:
    @app.workflow
    async def working() -> None:
        workflow.set_status("only")
        await workflow.receive("go", bool)

    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.start()
        assert await handle.custom_status(str, after_version=1, timeout=0.01) == ("only", 1)
        waiting = asyncio.create_task(handle.custom_status(str, after_version=1, timeout=3600))
        await handle.send("go", True)
        assert await asyncio.wait_for(waiting, 5) == ("only", 1)


async def test_it_is_kept_by_failure_and_by_continue_as_new(world: World, app: App) -> None:
    @app.workflow
    async def working(i: int) -> None:
        if i == 0:
            workflow.set_status("before")
            workflow.continue_as_new(working, 1)
        assert workflow.status(str) == "before"
        await workflow.receive("go", bool)
        raise ValueError

    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.start(0)
        await waits_for(handle, "message go")
    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.send("go", True)
        ended = await handle.wait(timeout=30)
        assert ended.failure is not None
        assert ended.failure.type == "ValueError"
        assert ended.custom_status(str) == "before"


async def test_the_workflow_reads_its_own_status_in_replay_as_well(world: World, app: App) -> None:
    async def body() -> list[Any]:
        seen = [workflow.status(str)]
        workflow.set_status("a")
        seen.append(workflow.status(str))
        await asyncio.sleep(0.001)
        seen.append(workflow.status(str))
        workflow.set_status(None)
        seen.append(workflow.status(str))
        return seen

    assert await world.replayed(app, body) == [None, "a", "a", None]


@pytest.mark.parametrize("over", [False, True])
async def test_its_size_is_limited(world: World, app: App, over: bool) -> None:
    limits = Limits(status_bytes=100)

    @app.workflow
    async def working(text: str) -> str:
        workflow.set_status(text)
        return "fits"

    async with world.node(app, limits=limits) as node:
        handle = node.client.workflow(working, id="w")
        text = "x" * (
            98 if over else 97
        )  # an encoded text of this length has a header of three bytes
        if over:
            with pytest.raises(
                WorkflowFailed, match=r"LimitExceeded.*101 bytes.*100.*Limits\.status_bytes"
            ):
                await handle.run(text)
            assert (await handle.describe()).custom_status() is None
        else:
            assert await handle.run(text) == "fits"


async def test_one_that_was_refused_is_refused_in_replay_and_takes_no_others_place(
    world: World, app: App
) -> None:
    @app.workflow
    async def working() -> str:
        refused = ""
        for size in (100, 1, 100, 2):
            try:
                workflow.set_status("x" * size)
            except LimitExceeded as error:
                refused += f"{error} "
        await workflow.receive("end", bool)
        return refused

    async with world.node(app, limits=Limits(status_bytes=50)) as node:
        await node.client.workflow(working, id="w").start()
    async with world.node(app, limits=Limits(status_bytes=50)) as node:
        handle = node.client.get("w")
        await handle.send("end", True)
        assert str(await handle.result(timeout=30)).count("Limits.status_bytes") == 2
        assert await handle.custom_status(str) == ("xx", 1)
