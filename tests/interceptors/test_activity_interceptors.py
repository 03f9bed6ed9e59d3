"""Interceptors around attempts of activities: each attempt is seen, results can be replaced, errors are failures."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from engine import World

from perdure import (
    ActivityError,
    ActivityTimeout,
    App,
    Interceptor,
    Node,
    RetryPolicy,
    WorkflowFailed,
    activity,
)
from perdure.errors import Failure
from perdure.interceptor import ActivityInfo, NextActivity


def pid(_: int) -> int:
    """Runs in a process of a pool, which imports it by name."""
    return os.getpid()


class Recorder(Interceptor):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        self.seen.append(f"{self.name} {call.name} {call.attempt}")
        try:
            result = await next()
        except BaseException as error:
            self.seen.append(f"{self.name} {type(error).__name__}")
            raise
        self.seen.append(f"{self.name} {result}")
        return result


async def run(node: Node, wf: Any, *args: Any) -> Any:
    return await asyncio.wait_for(node.client.workflow(wf, id="x").run(*args), 30)


async def test_the_first_is_the_outermost_and_each_attempt_is_seen(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=0.001))
    async def flaky() -> str:
        if activity.info().attempt < 3:
            raise OSError("down")
        return "up"

    @app.workflow
    async def calls() -> str:
        return await flaky()

    seen: list[str] = []
    async with Node(
        app, world.store, interceptors=[Recorder("a", seen), Recorder("b", seen)]
    ) as node:
        assert await run(node, calls) == "up"
    expected: list[str] = []
    for attempt, outcome in [(1, "OSError"), (2, "OSError"), (3, "up")]:
        expected += [f"a flaky {attempt}", f"b flaky {attempt}", f"b {outcome}", f"a {outcome}"]
    assert seen == expected


async def test_a_replaced_result_is_what_is_recorded(world: World, app: App) -> None:
    class Doubling(Interceptor):
        async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
            result = await next()
            assert isinstance(result, int)
            return result * 2

    @app.activity
    async def one() -> int:
        return 1

    @app.activity
    def two() -> int:
        return 2

    @app.workflow
    async def calls() -> list[int]:
        return [await one(), await two()]

    async with Node(app, world.store, interceptors=[Doubling()]) as node:
        assert await run(node, calls) == [2, 4]
    async with Node(app, world.store) as node:
        assert await node.client.get("x").result() == [2, 4]


async def test_an_interceptor_may_answer_itself(world: World, app: App) -> None:
    class Cached(Interceptor):
        async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
            return "cached"

    @app.activity
    async def never() -> str:
        raise AssertionError("it ran")

    @app.workflow
    async def calls() -> str:
        return await never()

    async with Node(app, world.store, interceptors=[Cached()]) as node:
        assert await run(node, calls) == "cached"


async def test_a_result_of_the_wrong_type_is_a_failure(world: World, app: App) -> None:
    class Wrong(Interceptor):
        async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
            return "not a number"

    @app.activity
    async def number() -> int:
        return 1

    @app.workflow
    async def calls() -> int:
        return await number()

    async with Node(app, world.store, interceptors=[Wrong()]) as node:
        with pytest.raises(WorkflowFailed, match="activity 'number'"):
            await run(node, calls)


async def test_an_error_is_the_failure_of_the_attempt_and_is_retried(
    world: World, app: App
) -> None:
    failures: list[Failure] = []

    class Late(Interceptor):
        async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
            result = await next()
            if call.attempt == 1:
                raise PermissionError("not yet")
            return result

    @app.activity
    async def once() -> int:
        return activity.info().attempt

    @app.workflow
    async def calls() -> int:
        try:
            await once()
        except ActivityError as error:
            failures.append(error.failure)
        again = once.with_options(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
        return await again()

    async with Node(app, world.store, interceptors=[Late()]) as node:
        assert await run(node, calls) == 2
    (failure,) = failures
    assert (failure.type, failure.message) == ("PermissionError", "not yet")
    assert "perdure/interceptor.py" not in failure.traceback, (
        "the frames of the framework are left out"
    )


async def test_it_works_as_inside_the_activity(world: World, app: App) -> None:
    @app.resources
    async def number() -> Any:
        yield 42

    class Asking(Interceptor):
        got: tuple[object, ...] = ()

        async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
            activity.heartbeat("here")
            self.got = (
                activity.info() == call,
                activity.resources(int),
                call.instance,
                call.workflow,
            )
            return await next()

    @app.activity
    async def nothing() -> None: ...

    @app.workflow
    async def calls() -> None:
        await nothing()

    asking = Asking()
    async with Node(app, world.store, interceptors=[asking]) as node:
        await run(node, calls)
    assert asking.got == (True, 42, "x", "calls")


async def test_it_has_the_time_of_the_attempt(world: World, app: App) -> None:
    clock = world.stop_time()
    begun = asyncio.Event()
    seen: list[str] = []

    class Slow(Interceptor):
        async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
            begun.set()
            await asyncio.Event().wait()
            return await next()

    @app.activity(timeout=5)
    async def quick() -> None: ...

    @app.workflow
    async def calls() -> str:
        try:
            await quick()
        except ActivityTimeout as error:
            return str(error)
        return ""

    both = [Recorder("a", seen), Slow()]
    async with Node(app, world.store, clock=clock, interceptors=both) as node:
        handle = node.client.workflow(calls, id="x")
        await handle.start()
        await asyncio.wait_for(begun.wait(), 30)
        clock.advance(5_000)
        assert "the attempt took too long" in await handle.result(timeout=30)
    assert seen == ["a quick 1", "a CancelledError"]


async def test_around_a_process_of_a_pool(world: World, app: App) -> None:
    far = app.activity(executor="process")(pid)

    @app.workflow
    async def calls() -> int:
        return await far(0)

    seen: list[str] = []
    async with Node(app, world.store, interceptors=[Recorder("a", seen)]) as node:
        there = await run(node, calls)
    assert there != os.getpid()
    assert seen == ["a pid 1", f"a {there}"]
