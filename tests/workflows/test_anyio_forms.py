"""anyio is durable as well: groups, scopes, streams, events, mixed with asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from engine import World

from perdure import Activity, App

Body = Callable[[Activity[[int], int]], Awaitable[Any]]
bodies: dict[str, tuple[Body, Any]] = {}


def form(expected: Any) -> Callable[[Body], Body]:
    """A body with the value that it must give."""

    def add(body: Body) -> Body:
        bodies[body.__name__] = (body, expected)
        return body

    return add


@form([2, 4, 6])
async def task_group(double: Activity[[int], int]) -> list[int]:
    got: list[int] = []

    async def one(i: int) -> None:
        await anyio.sleep(i / 1000)
        got.append(await double(i))

    async with anyio.create_task_group() as group:
        for i in (3, 1, 2):
            group.start_soon(one, i)
    return got


@form(["ValueError", "cancelled"])
async def task_group_that_fails(double: Activity[[int], int]) -> list[str]:
    seen: list[str] = []

    async def sibling() -> None:
        try:
            await anyio.sleep(3600)
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(sibling)
            group.start_soon(double, -1)
    except* Exception as errors:
        seen.insert(0, errors.exceptions[0].failure.type)
    return seen


@form("late")
async def fail_after(double: Activity[[int], int]) -> str:
    try:
        with anyio.fail_after(0.01):
            await anyio.sleep(3600)
    except TimeoutError:
        return "late"
    return "in time"


@form([True, 2])
async def move_on_after_around_an_activity(double: Activity[[int], int]) -> list[Any]:
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    return [scope.cancelled_caught, await double(1)]


@form([0, 2, 4])
async def streams(double: Activity[[int], int]) -> list[int]:
    send, receive = anyio.create_memory_object_stream[int](0)

    async def produce() -> None:
        async with send:
            for i in range(3):
                await send.send(await double(i))

    async with anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        return [i async for i in receive]


@form(["set"])
async def event(double: Activity[[int], int]) -> list[str]:
    ready, seen = anyio.Event(), []

    async def wait() -> None:
        await ready.wait()
        seen.append("set")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await double(1)
        ready.set()
    return seen


@form([2, 2])
async def limiter(double: Activity[[int], int]) -> list[int]:
    limit, inside, most = anyio.CapacityLimiter(2), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with limit:
            inside += 1
            most = max(most, inside)
            await double(1)
            inside -= 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(enter)
    return [most, int(limit.total_tokens)]


@form(["started", 2])
async def start_and_shielded_cleanup(double: Activity[[int], int]) -> list[Any]:
    seen: list[Any] = []

    async def service(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        task_status.started("started")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                seen.append(await double(1))

    async with anyio.create_task_group() as group:
        seen.append(await group.start(service))
        group.cancel_scope.cancel()
    return seen


@form([2, "cancelled"])
async def mixed_with_asyncio(double: Activity[[int], int]) -> list[Any]:
    seen: list[Any] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with anyio.move_on_after(0.5):
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())
            seen.append(await double(1))
    return seen


@pytest.mark.parametrize("form", bodies)
async def test_it_is_durable(world: World, app: App, form: str) -> None:
    body, expected = bodies[form]

    @app.activity
    async def double(i: int) -> int:
        if i < 0:
            raise ValueError(i)
        return 2 * i

    assert await world.replayed(app, lambda: body(double)) == expected
