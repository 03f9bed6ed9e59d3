"""Pause stops delivery, not recording: what arrives meanwhile is kept and delivered after resume."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, Limits, WorkflowCancelled, workflow


async def test_messages_are_kept(world: World, app: App) -> None:
    @app.workflow
    async def collect() -> list[int]:
        return [await workflow.receive("n", int) for _ in range(4)]

    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start()
        await handle.send("n", 0)
        await handle.pause("for lunch")
        description = await handle.describe()
        assert (description.status, description.reason, description.paused) == (
            "suspended",
            "paused",
            True,
        )
        for i in (1, 2):
            await handle.send("n", i)
    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        assert await handle.status() == "suspended"
        await handle.send("n", 3)
        await handle.resume()
        assert await handle.result(timeout=30) == [0, 1, 2, 3]
        assert [type(e.event).__name__ for e in await handle.history()].count("Paused") == 1


async def test_timers_wait_for_resume(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def nap() -> str:
        await asyncio.sleep(10)
        return "rested"

    async with world.node(app) as node:
        handle = node.client.workflow(nap, id="n")
        await handle.start()
        await clock.until_armed(10_000)
        await handle.pause()
        clock.advance(60_000)
        await handle.send("ping", 1)
        assert await handle.status() == "suspended"
        await handle.resume()
        assert await handle.result(timeout=30) == "rested"


async def test_children_reply_to_a_paused_parent(world: World, app: App) -> None:
    @app.workflow
    async def child() -> int:
        return await workflow.receive("go", int)

    @app.workflow
    async def parent() -> int:
        return await workflow.child(child, id="child")()

    async with world.node(app) as node:
        handle: Any = node.client.workflow(parent, id="p")
        await handle.start()
        await waits_for(handle, "child child")
        await handle.pause()
        await until(lambda: _running(node.client.get("child")), "the child")
        await node.client.get("child").send("go", 3)
        assert await node.client.get("child").result(timeout=30) == 3
        assert await handle.status() == "suspended"
        await handle.resume()
        assert await handle.result(timeout=30) == 3


async def _running(handle: Any) -> bool:
    from perdure import NotFound

    try:
        return await handle.status() == "running"
    except NotFound:
        return False


async def test_cancel_ends_the_pause_so_that_cleanup_can_run(world: World, app: App) -> None:
    cleaned: list[int] = []

    @app.activity
    async def clean() -> None:
        cleaned.append(1)

    @app.workflow
    async def waiting() -> None:
        try:
            await workflow.receive("never", int)
        finally:
            await clean()

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.pause()
        await handle.cancel("while paused")
        with pytest.raises(WorkflowCancelled, match="while paused"):
            await handle.result(timeout=30)
    assert cleaned == [1]


async def test_pause_and_resume_are_idempotent(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> int:
        return await workflow.receive("n", int)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.resume()
        assert await handle.status() == "running"
        await handle.pause()
        await handle.pause()
        await handle.resume()
        await handle.resume()
        assert await handle.status() == "running"
        await handle.send("n", 1)
        assert await handle.result(timeout=30) == 1


async def test_pause_before_a_delayed_beginning(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def work() -> int:
        return 1

    async with world.node(app) as node:
        handle = node.client.workflow(work, id="w", delay=10)
        await handle.start()
        await handle.pause()
        clock.advance(20_000)
        await asyncio.sleep(0)
        assert await handle.status() == "suspended"
        await handle.resume()
        assert await handle.result(timeout=30) == 1


async def test_a_paused_execution_that_continues_as_new_stays_paused(
    world: World, app: App
) -> None:
    @app.workflow
    async def loop(i: int) -> int:
        if i == 0:
            await workflow.receive("go", bool)
            workflow.continue_as_new(loop, 1)
        await workflow.receive("go", bool)
        return i

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(0)
        await asyncio.gather(handle.send("go", True), handle.pause(), handle.send("go", True))
        assert await handle.status() == "suspended"
        await handle.resume()
        assert await handle.result(timeout=30) == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_results_of_activities_are_kept(world: World, app: App, restart: bool) -> None:
    began, gate, ran = asyncio.Event(), asyncio.Event(), []

    @app.activity
    async def work() -> int:
        ran.append(1)
        began.set()
        await gate.wait()
        return 5

    @app.workflow
    async def calling() -> int:
        return await work()

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.pause()
        gate.set()

        async def kept() -> bool:
            return (await node.client.counts())["inbox"] == 1

        await until(kept, "its result is in the inbox")
        assert await handle.status() == "suspended"
        if not restart:
            await handle.resume()
            assert await handle.result(timeout=30) == 5
            assert ran == [1]
    if restart:
        async with world.node(app) as node:
            handle = node.client.workflow(calling, id="c")
            assert await handle.status() == "suspended"
            await handle.resume()
            assert await handle.result(timeout=30) == 5
        assert ran == [1], "its result was kept"


async def test_a_result_behind_more_mail_than_a_turn_takes_is_seen_before_work_is_repeated(
    world: World, app: App
) -> None:
    """After a load the inbox is seen through first: the result may stand at its end."""
    began, gate, ran = asyncio.Event(), asyncio.Event(), []

    @app.activity
    async def work() -> int:
        ran.append(1)
        began.set()
        await gate.wait()
        return 5

    @app.workflow
    async def calling() -> list[int]:
        return [await work(), *[await workflow.receive("n", int) for _ in range(6)]]

    limits = Limits(turn_messages=2)
    async with world.node(app, limits=limits) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.pause()
        for number in range(6):
            await handle.send("n", number)
        gate.set()

        async def kept() -> bool:
            return (await node.client.counts())["inbox"] == 7

        await until(kept, "its result is in the inbox, behind its messages")
    async with world.node(app, limits=limits) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.resume()
        assert await handle.result(timeout=30) == [5, 0, 1, 2, 3, 4, 5]
    assert ran == [1], "its result was kept"


async def test_kept_results_of_an_execution_that_is_over_do_not_stand_for_those_of_the_next(
    world: World, app: App
) -> None:
    """Both executions number their calls alike, so a result names its execution."""
    gate, ran = asyncio.Event(), []

    @app.activity
    async def work(number: int) -> int:
        ran.append(number)
        await gate.wait()
        return number

    @app.workflow
    async def calling(first: int) -> list[int]:
        calls = [asyncio.ensure_future(work(first + i)) for i in range(3)]
        if first:
            return await asyncio.gather(*calls)
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        workflow.continue_as_new(calling, 10)

    async with world.node(app, limits=Limits(turn_messages=1)) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start(0)

        async def all_run() -> bool:
            return sorted(ran) == [0, 1, 2]

        await until(all_run, "its activities run")
        await handle.pause()
        gate.set()

        async def kept() -> bool:
            return (await node.client.counts())["inbox"] == 3

        await until(kept, "their results are in the inbox")
        await handle.resume()
        assert await handle.result(timeout=30) == [10, 11, 12]
    assert sorted(ran) == [0, 1, 2, 10, 11, 12]
