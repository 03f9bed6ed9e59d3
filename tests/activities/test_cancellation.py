"""A cancel reaches the running activity: `CancelledError` or a token, and a complaint after the grace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any

import pytest
from engine import World, until

from perdure import ActivityError, App, RetryPolicy, activity


def cancelling(app: App, call: Any) -> Any:
    """A workflow that waits for it."""

    @app.workflow(name="cancelling")
    async def cancelling() -> None:
        await call()

    return cancelling


async def test_an_async_one_gets_cancelled_error_and_may_clean_up(world: World, app: App) -> None:
    events: list[str] = []
    began, ended = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events.append(f"cancelled {activity.is_cancelled()}")
            await asyncio.sleep(0)
            events.append("cleaned up")
            raise
        finally:
            ended.set()

    async with world.node(app) as node:
        handle = node.client.workflow(cancelling(app, slow), id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        await asyncio.wait_for(ended.wait(), 30)
    assert events == ["cancelled True", "cleaned up"]


async def test_a_def_sees_the_token(world: World, app: App) -> None:
    began, told = threading.Event(), threading.Event()

    @app.activity
    def slow() -> None:
        began.set()
        pause = threading.Event()
        while not activity.is_cancelled():
            pause.wait(0.001)
        told.set()

    async with world.node(app) as node:
        handle = node.client.workflow(cancelling(app, slow), id="c")
        await handle.start()
        await until(began.is_set, "it runs")
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        await until(told.is_set, "it saw the token")


async def test_cancelled_can_be_awaited_by_a_helper_task(world: World, app: App) -> None:
    told = asyncio.Event()
    began = asyncio.Event()

    @app.activity
    async def slow() -> None:
        async def watch() -> None:
            await activity.cancelled()
            told.set()

        watcher = asyncio.create_task(watch())
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await watcher

    async with world.node(app) as node:
        handle = node.client.workflow(cancelling(app, slow), id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.cancel()
        await asyncio.wait_for(told.wait(), 30)


async def test_one_that_does_not_end_is_complained_about_and_ignored(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    clock = world.stop_time()
    began, gate, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.activity
    async def deaf() -> str:
        began.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):  # it is deaf on purpose
                await gate.wait()
        ended.set()
        return "too late"

    async with world.node(app, grace_ms=500) as node:
        handle = node.client.workflow(cancelling(app, deaf), id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        before = await handle.history()
        clock.advance(499)
        assert "deaf" not in caplog.text
        with caplog.at_level(logging.WARNING, "perdure.activity"):
            clock.advance(1)
        assert (
            "activity deaf of 'c' does not end although it was cancelled 500 ms ago" in caplog.text
        )
        gate.set()
        await asyncio.wait_for(ended.wait(), 30)
        assert await handle.history() == before


async def test_one_that_waits_for_a_slot_never_begins(world: World, app: App) -> None:
    ran: list[str] = []
    began, gate = asyncio.Event(), asyncio.Event()

    @app.activity
    async def blocking() -> None:
        began.set()
        await gate.wait()

    @app.activity
    async def waiting() -> None:
        ran.append("waiting")

    @app.workflow
    async def block() -> None:
        await blocking()

    async with world.node(app, activities=1) as node:
        blocker = node.client.workflow(block, id="b")
        await blocker.start()
        await asyncio.wait_for(began.wait(), 30)
        handle = node.client.workflow(cancelling(app, waiting), id="c")
        await handle.start()
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        gate.set()
        await blocker.result(timeout=30)
    assert ran == []


async def test_one_that_cancels_itself_fails(world: World, app: App) -> None:
    @app.activity
    async def tired() -> None:
        raise asyncio.CancelledError

    async with world.node(app) as node:
        handle = node.client.workflow(cancelling(app, tired), id="c")
        await handle.start()
        ended = await handle.wait(timeout=30)
        assert ended.status == "failed"
        assert ended.failure is not None
        assert "cancelled itself" in ended.failure.message


async def test_the_timeouts_of_one_that_cancelled_itself_are_over(world: World, app: App) -> None:
    """Its end is known a second later, when it is sure that the event loop lives on."""
    failed: list[object] = []

    @app.activity(timeout=0.05, total_timeout=0.1, retry=RetryPolicy(1))
    async def own() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @app.workflow
    async def flow() -> str:
        try:
            await own()
        except ActivityError as error:
            return str(error)
        return "?"

    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    async with world.node(app) as node:
        assert "cancelled itself" in await node.client.workflow(flow, id="f").run()
    assert not failed


async def test_one_that_answers_its_own_cancel_with_an_error_fails_with_that(
    world: World, app: App
) -> None:
    @app.activity
    async def own() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise ConnectionError("the connection was closed") from None

    async with world.node(app) as node:
        handle = node.client.workflow(cancelling(app, own), id="c")
        await handle.start()
        ended = await handle.wait(timeout=30)
        assert ended.failure is not None
        assert "ConnectionError: the connection was closed" in ended.failure.message


async def test_a_node_that_stops_gives_running_ones_their_time_and_then_cancels_them(
    world: World, app: App
) -> None:
    events: list[str] = []
    began = asyncio.Event()
    gate = asyncio.Event()

    @app.activity
    async def slow() -> str:
        began.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        return "done"

    @app.workflow
    async def run() -> str:
        return await slow()

    async with world.node(app, stop_ms=1) as node:
        await node.client.workflow(run, id="r").start()
        await asyncio.wait_for(began.wait(), 30)
    assert events == ["cancelled"]
    gate.set()
    async with world.node(app) as node:
        assert await node.client.get("r").result(timeout=30) == "done"


async def test_a_node_that_stops_waits_for_what_finishes_in_time(world: World, app: App) -> None:
    ran: list[int] = []
    began, gate = asyncio.Event(), asyncio.Event()

    @app.activity
    async def soon() -> str:
        ran.append(1)
        began.set()
        await gate.wait()
        return "done"

    @app.workflow
    async def run() -> str:
        return await soon()

    node = world.node(app)
    await node.start()
    await node.client.workflow(run, id="r").start()
    await asyncio.wait_for(began.wait(), 30)
    stopping = asyncio.create_task(node.stop(grace=5))
    await asyncio.sleep(0)
    gate.set()
    await stopping
    async with world.node(app) as node:
        assert await node.client.get("r").result(timeout=30) == "done"
    assert ran == [1]
