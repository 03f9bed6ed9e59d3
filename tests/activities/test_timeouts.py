"""The timeouts of an activity: one attempt, all attempts, the wait for a slot, and silence between heartbeats."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from engine import World, until, waits_for

from perdure import ActivityError, ActivityTimeout, App, RetryPolicy, activity


def calling(app: App, call: Any) -> Any:
    """A workflow that calls it and returns how it failed."""

    @app.workflow(name="calling")
    async def calling() -> list[str]:
        try:
            result = await call()
        except ActivityTimeout as error:
            return ["timeout", str(error)]
        return ["result", str(result)]

    return calling


async def test_an_attempt_that_takes_too_long(world: World, app: App) -> None:
    clock = world.stop_time()
    began, ended = asyncio.Event(), asyncio.Event()

    @app.activity(timeout=5)
    async def slow() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with world.node(app) as node:
        handle = node.client.workflow(calling(app, slow), id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await clock.until_armed(5_000)
        clock.advance(4_999)
        assert await handle.status() == "running"
        clock.advance(1)
        kind, message = await handle.result(timeout=30)
        assert kind == "timeout"
        assert "the attempt took too long (5000 ms)" in message
        await asyncio.wait_for(ended.wait(), 30)


async def test_each_attempt_has_its_own_time(world: World, app: App) -> None:
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(timeout=5, retry=RetryPolicy(2, 0))
    async def slow() -> None:
        attempts.append(activity.info().attempt)
        await asyncio.sleep(3600)

    async with world.node(app) as node:
        handle = node.client.workflow(calling(app, slow), id="c")
        await handle.start()
        for count in (1, 2):
            await until(lambda count=count: len(attempts) == count, f"attempt {count}")
            await clock.until_armed(5_000)
            clock.advance(5_000)
        kind, message = await handle.result(timeout=30)
        assert kind == "timeout"
        assert "after 2 attempts" in message


async def test_all_attempts_together_take_too_long(world: World, app: App) -> None:
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(total_timeout=10, retry=RetryPolicy(None, 1, "fixed"))
    async def slow() -> None:
        attempts.append(activity.info().attempt)
        if len(attempts) == 1:
            raise ValueError("first")
        await asyncio.sleep(3600)

    async with world.node(app) as node:
        handle = node.client.workflow(calling(app, slow), id="c")
        await handle.start()
        await waits_for(handle, "activity slow (attempt 2)")
        clock.advance(1_000)
        await until(lambda: len(attempts) == 2, "attempt 2")
        assert await clock.until_armed(9_000) == 9_000
        clock.advance(9_000)
        kind, message = await handle.result(timeout=30)
        assert kind == "timeout"
        assert "all attempts together took too long (10000 ms)" in message


async def test_no_attempt_begins_after_the_total_time(world: World, app: App) -> None:
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(total_timeout=10, retry=RetryPolicy(None, 6, "fixed"))
    async def bad() -> None:
        attempts.append(1)
        raise ValueError("no")

    @app.workflow
    async def run() -> str:
        try:
            await bad()
        except ActivityError as error:
            return error.failure.type
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(run, id="c")
        await handle.start()
        await waits_for(handle, "activity bad (attempt 2)")
        clock.advance(6_000)
        assert await handle.result(timeout=30) == "ValueError"
    assert attempts == [1, 1]


async def test_no_slot_becomes_free(world: World, app: App) -> None:
    clock = world.stop_time()
    gate = asyncio.Event()
    began = asyncio.Event()

    @app.activity
    async def blocking() -> None:
        began.set()
        await gate.wait()

    @app.activity(start_timeout=5)
    async def waiting() -> str:
        return "ran"

    @app.workflow
    async def block() -> None:
        await blocking()

    async with world.node(app, activities=1) as node:
        blocker = node.client.workflow(block, id="b")
        await blocker.start()
        await asyncio.wait_for(began.wait(), 30)
        handle = node.client.workflow(calling(app, waiting), id="c")
        await handle.start()
        await clock.until_armed(5_000)
        clock.advance(5_000)
        kind, message = await handle.result(timeout=30)
        assert kind == "timeout"
        assert "no slot became free (5000 ms)" in message
        late = node.client.workflow("calling", id="late")
        await late.start()
        gate.set()
        assert await late.result(timeout=30) == ["result", "ran"]


async def test_silence_between_heartbeats(world: World, app: App) -> None:
    clock = world.stop_time()
    beat, beaten = asyncio.Event(), asyncio.Event()

    @app.activity(heartbeat_timeout=10)
    async def beating() -> None:
        while True:
            await beat.wait()
            beat.clear()
            activity.heartbeat()
            beaten.set()

    async with world.node(app) as node:
        handle = node.client.workflow(calling(app, beating), id="c")
        await handle.start()
        for _ in range(3):
            await clock.until_armed(10_000)
            beaten.clear()
            beat.set()
            await asyncio.wait_for(beaten.wait(), 30)
            clock.advance(10_000)
            assert await handle.status() == "running"
        await clock.until_armed(10_000)
        clock.advance(10_000)
        kind, message = await handle.result(timeout=30)
        assert kind == "timeout"
        assert "no heartbeat came (10000 ms)" in message


async def test_the_details_of_a_heartbeat_reach_the_next_attempt(world: World, app: App) -> None:
    seen: list[Any] = []

    @app.activity(retry=RetryPolicy(3, 0.001))
    async def copying() -> int:
        done = activity.info().last_heartbeat(int)
        seen.append(done)
        for i in range(done or 0, 10):
            if i in (3, 6) and done != i:
                raise ConnectionError("broken")
            activity.heartbeat(i + 1)
        return done or 0

    @app.workflow
    async def run() -> int:
        return await copying()

    async with world.node(app) as node:
        assert await node.client.workflow(run, id="r").run() == 6
    assert seen == [None, 3, 6]


async def test_the_details_survive_the_node(world: World, app: App) -> None:
    clock = world.stop_time()
    seen: list[Any] = []

    @app.activity(retry=RetryPolicy(3, 10))
    def copying() -> str:
        seen.append(activity.info().last_heartbeat(dict[str, int]))
        if len(seen) == 1:
            activity.heartbeat({"done": 7})
            raise ConnectionError("broken")
        return "copied"

    @app.workflow
    async def run() -> str:
        return await copying()

    async with world.node(app) as node:
        await node.client.workflow(run, id="r").start()
        await waits_for(node.client.get("r"), "activity copying (attempt 2)")
    clock.advance(10_000)
    async with world.node(app) as node:
        assert await node.client.get("r").result(timeout=30) == "copied"
    assert seen == [None, {"done": 7}]


async def test_a_def_that_is_too_late_sees_its_token(world: World, app: App) -> None:
    clock = world.stop_time()
    began, told = threading.Event(), threading.Event()

    @app.activity(timeout=5)
    def slow() -> None:
        began.set()
        deadline = threading.Event()
        while not activity.is_cancelled():
            deadline.wait(0.001)
        told.set()

    async with world.node(app) as node:
        handle = node.client.workflow(calling(app, slow), id="c")
        await handle.start()
        await until(began.is_set, "it runs")
        await clock.until_armed(5_000)
        clock.advance(5_000)
        assert (await handle.result(timeout=30))[0] == "timeout"
        await until(told.is_set, "it saw the token")


async def test_asyncio_timeout_around_an_activity_cancels_it(world: World, app: App) -> None:
    ended = asyncio.Event()

    @app.activity
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    @app.workflow
    async def run() -> str:
        try:
            async with asyncio.timeout(0.01):
                await slow()
        except TimeoutError:
            return "late"
        return ""

    async with world.node(app) as node:
        assert await asyncio.wait_for(node.client.workflow(run, id="r").run(), 30) == "late"
        await asyncio.wait_for(ended.wait(), 30)


def test_it_is_a_timeout_error_as_well_as_an_activity_error() -> None:
    assert issubclass(ActivityTimeout, TimeoutError)
    assert issubclass(ActivityTimeout, ActivityError)


async def test_time_in_which_the_event_loop_is_blocked_is_not_that_of_one_that_has_not_begun(
    world: World, app: App
) -> None:
    @app.activity
    async def blocks() -> None:
        time.sleep(0.5)  # what no `async def` should do

    @app.activity(timeout=0.3, heartbeat_timeout=0.3)
    def beats() -> str:
        for _ in range(3):
            activity.heartbeat()
            time.sleep(0.05)
        return "alive"

    async def body() -> object:
        return await asyncio.gather(blocks(), beats())

    assert await world.replayed(app, body) == [None, "alive"]
