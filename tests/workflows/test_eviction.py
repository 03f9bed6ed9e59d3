"""An instance that leaves memory, because others need the room, does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from engine import World, until, waits_for

from perdure import App, workflow


async def test_many_instances_share_one_place_in_memory(world: World, app: App) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def steps(i: int) -> list[int]:
        seen = []
        for _ in range(3):
            seen.append(await double(i) + await workflow.receive("add", int))
            workflow.kv.set("last", seen[-1])
            workflow.set_status(len(seen))
        return seen

    async with world.node(app, residents=1) as node:
        handles = [node.client.workflow(steps, id=f"s{i}") for i in range(6)]
        for i, handle in enumerate(handles):
            await handle.start(i)
        for n in range(3):
            for handle in handles:
                await handle.send("add", n)
        for i, handle in enumerate(handles):
            assert await handle.result(timeout=30) == [2 * i, 2 * i + 1, 2 * i + 2]
            assert await handle.kv() == {"last": 2 * i + 2}
            assert await handle.custom_status(int) == (3, 3)


async def test_it_leaves_memory_and_no_line_of_code_runs(world: World, app: App) -> None:
    ran: list[str] = []
    played: list[int] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ran.append("generator closed")

    @app.workflow
    async def waiting(i: int) -> str:
        played.append(i)
        try:
            async for _ in generator():
                try:
                    async with asyncio.timeout(3600):
                        return await workflow.receive("go", str)
                except BaseException as error:
                    ran.append(type(error).__name__)
                    raise
                finally:
                    ran.append(f"finally {i}")
        finally:
            ran.append(f"outer {i}")
        return ""

    async with world.node(app, residents=1) as node:
        first = node.client.workflow(waiting, id="w1")
        await first.start(1)
        await node.client.workflow(waiting, id="w2").start(2)
        await node.client.workflow(waiting, id="w3").start(3)
        await until(lambda: node.residents == 1, "two have left memory")
        assert ran == []
        await first.send("go", "alive")
        assert await first.result(timeout=30) == "alive"
        assert played == [1, 2, 3, 1], "the first one had left memory, and was replayed"
        assert ran == ["finally 1", "outer 1", "generator closed"]
    assert ran == ["finally 1", "outer 1", "generator closed"]


async def test_the_one_that_has_rested_longest_leaves_first(world: World, app: App) -> None:
    played: list[str] = []

    @app.workflow
    async def waiting(name: str) -> list[int]:
        played.append(name)
        return [await workflow.receive("n", int) for _ in range(2)]

    async with world.node(app, residents=2) as node:
        one, two, three = (node.client.workflow(waiting, id=name) for name in ("1", "2", "3"))
        await one.start("1")
        await two.start("2")
        await one.send("n", 1)
        await three.start("3")
        await until(lambda: node.residents == 2, "one has left memory")
        await one.send("n", 2)
        assert await one.result(timeout=30) == [1, 2]
        assert played == ["1", "2", "3"], "the second one has rested longest"


async def test_one_whose_activity_runs_stays(world: World, app: App) -> None:
    played: list[str] = []
    began, goes_on = asyncio.Event(), asyncio.Event()

    @app.activity
    async def work() -> int:
        began.set()
        await goes_on.wait()
        return 1

    @app.workflow
    async def working(name: str) -> int:
        played.append(name)
        await workflow.receive("go", bool)
        return await work()

    async with world.node(app, residents=1) as node:
        first = node.client.workflow(working, id="1")
        await first.start("1")
        await first.send("go", True)
        await began.wait()
        for name in ("2", "3"):
            await node.client.workflow(working, id=name).start(name)
        goes_on.set()
        assert await first.result(timeout=30) == 1
        assert played == ["1", "2", "3"], "it has never left memory"


async def test_timers_of_evicted_instances_fire(world: World, app: App) -> None:
    @app.workflow
    async def nap(i: int) -> int:
        await asyncio.sleep(0.03)
        return i

    async with world.node(app, residents=1) as node:
        handles = [node.client.workflow(nap, id=f"n{i}") for i in range(5)]
        for i, handle in enumerate(handles):
            await handle.start(i)
        assert [await h.result(timeout=30) for h in handles] == list(range(5))


async def test_buffered_messages_of_evicted_instances_are_kept(world: World, app: App) -> None:
    @app.workflow
    async def late() -> list[int]:
        await workflow.receive("go", bool)
        return [await workflow.receive("n", int) for _ in range(4)]

    async with world.node(app, residents=1) as node:
        handles: list[Any] = [node.client.workflow(late, id=f"l{i}") for i in range(3)]
        for handle in handles:
            await handle.start()
        for n in range(4):
            for handle in handles:
                await handle.send("n", n)
        for handle in handles:
            await handle.send("go", True)
        for handle in handles:
            assert await handle.result(timeout=30) == [0, 1, 2, 3]


async def test_an_evicted_one_can_be_cancelled(world: World, app: App) -> None:
    cleaned: list[int] = []

    @app.activity
    async def clean(i: int) -> None:
        cleaned.append(i)

    @app.workflow
    async def waiting(i: int) -> None:
        try:
            await workflow.receive("never", int)
        finally:
            await clean(i)

    async with world.node(app, residents=1) as node:
        handles = [node.client.workflow(waiting, id=f"w{i}") for i in range(3)]
        for i, handle in enumerate(handles):
            await handle.start(i)
            await waits_for(handle, "message never")
        for handle in handles:
            await handle.cancel()
        for handle in handles:
            assert (await handle.wait(timeout=30)).status == "cancelled"
    assert sorted(cleaned) == [0, 1, 2]


async def test_children_and_their_parents_need_no_common_memory(world: World, app: App) -> None:
    @app.workflow
    async def child(i: int) -> int:
        await asyncio.sleep(0.001)
        return i

    @app.workflow
    async def parent() -> int:
        return sum(await asyncio.gather(*(child(i) for i in range(5))))

    async with world.node(app, residents=1) as node:
        assert await asyncio.wait_for(node.client.workflow(parent, id="p").run(), 30) == 10
