"""Ordinary asyncio is durable: each form gives the same value live and after a replay in the next node."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from engine import World

from perdure import Activity, App, workflow

Body = Callable[[Activity[[int], int]], Awaitable[Any]]
name = contextvars.ContextVar("name", default="nobody")

bodies: dict[str, tuple[Body, Any]] = {}


def form(expected: Any) -> Callable[[Body], Body]:
    """A body with the value that it must give."""

    def add(body: Body) -> Body:
        bodies[body.__name__] = (body, expected)
        return body

    return add


@form(3)
async def awaiting(double: Activity[[int], int]) -> int:
    return await double(1) + 1


@form([2, 4, 6])
async def gathering(double: Activity[[int], int]) -> list[int]:
    return await asyncio.gather(double(1), double(2), double(3))


@form(["ValueError", 4])
async def gathering_errors(double: Activity[[int], int]) -> list[Any]:
    outcomes = await asyncio.gather(double(-1), double(2), return_exceptions=True)
    return [getattr(getattr(o, "failure", None), "type", o) for o in outcomes]


@form([2, 4])
async def scheduled_at_the_call(double: Activity[[int], int]) -> list[int]:
    first, second = double(1), double(2)
    await asyncio.sleep(0.005)
    return [await first, await second]


@form(12)
async def task_group(double: Activity[[int], int]) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(double(i)) for i in (1, 2, 3)]
    return sum(t.result() for t in tasks)


@form(["ValueError", "cancelled"])
async def task_group_that_fails(double: Activity[[int], int]) -> list[str]:
    seen = []

    async def sibling() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            group.create_task(double(-1))
    except* Exception as errors:
        seen.insert(0, errors.exceptions[0].failure.type)
    return seen


@form([1, 2])
async def first_completed(double: Activity[[int], int]) -> list[int]:
    slow = asyncio.create_task(asyncio.sleep(3600))
    done, pending = await asyncio.wait(
        [asyncio.create_task(double(1)), slow], return_when="FIRST_COMPLETED"
    )
    for task in pending:
        task.cancel()
    return [len(done), done.pop().result()]


@form([1, 2])
async def first_completed_of_ensured(double: Activity[[int], int]) -> list[int]:
    slow = asyncio.ensure_future(asyncio.sleep(3600))
    done, pending = await asyncio.wait(
        [asyncio.ensure_future(double(1)), slow], return_when="FIRST_COMPLETED"
    )
    for task in pending:
        task.cancel()
    return [len(done), done.pop().result()]


@form([20, 40, 60])
async def as_completed(double: Activity[[int], int]) -> list[int]:
    async def late(i: int) -> int:
        await asyncio.sleep(i / 1000)
        return await double(i)

    return [await f for f in asyncio.as_completed([late(30), late(10), late(20)])]


@form("late")
async def timeout(double: Activity[[int], int]) -> str:
    try:
        async with asyncio.timeout(0.01):
            await workflow.receive("never", int)
    except TimeoutError:
        return "late"
    return "in time"


@form(2)
async def timeout_in_time(double: Activity[[int], int]) -> int:
    async with asyncio.timeout(3600):
        return await double(1)


@form("late")
async def wait_for(double: Activity[[int], int]) -> str:
    try:
        await asyncio.wait_for(asyncio.sleep(3600), 0.005)
    except TimeoutError:
        return "late"
    return "in time"


@form(True)
async def sleeping(double: Activity[[int], int]) -> bool:
    loop = asyncio.get_running_loop()
    before, at = loop.time(), workflow.now()
    await asyncio.sleep(0.02)
    return loop.time() - before >= 0.02 and (workflow.now() - at).total_seconds() >= 0.02


@form(["set", 2])
async def event(double: Activity[[int], int]) -> list[Any]:
    ready = asyncio.Event()
    values: list[Any] = []

    async def setter() -> None:
        values.append(await double(1))
        ready.set()

    task = asyncio.create_task(setter())
    await ready.wait()
    await task
    return ["set", *values]


@form([0, 2, 4, 6])
async def queue(double: Activity[[int], int]) -> list[int]:
    items: asyncio.Queue[int | None] = asyncio.Queue(maxsize=1)

    async def produce() -> None:
        for i in range(4):
            await items.put(await double(i))
        await items.put(None)

    producer = asyncio.create_task(produce())
    got = []
    while (item := await items.get()) is not None:
        got.append(item)
    await producer
    return got


@form([0, 0, 1, 1, 2, 2])
async def lock(double: Activity[[int], int]) -> list[int]:
    mutex, seen = asyncio.Lock(), []

    async def enter(i: int) -> None:
        async with mutex:
            seen.append(i)
            await double(i)
            seen.append(i)

    await asyncio.gather(*(enter(i) for i in range(3)))
    return seen


@form(2)
async def semaphore(double: Activity[[int], int]) -> int:
    gate, inside, most = asyncio.Semaphore(2), 0, 0

    async def enter(i: int) -> None:
        nonlocal inside, most
        async with gate:
            inside += 1
            most = max(most, inside)
            await double(i)
            inside -= 1

    await asyncio.gather(*(enter(i) for i in range(6)))
    return most


@form([[2, 4], [6, 12]])
async def nested(double: Activity[[int], int]) -> list[list[int]]:
    async def steps(i: int) -> list[int]:
        first = await double(i)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(double(first))
        return [first, second.result()]

    return await asyncio.gather(steps(1), asyncio.wait_for(steps(3), 3600))


@form([2, 4, "closed"])
async def async_generator(double: Activity[[int], int]) -> list[Any]:
    seen: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for i in range(1, 10):
                yield await double(i)
        finally:
            seen.append("closed")

    generator = numbers()
    async for number in generator:
        seen.append(number)
        if number == 4:
            break
    await generator.aclose()
    return seen


@form(["ann", "bob", "nobody"])
async def context_variables(double: Activity[[int], int]) -> list[str]:
    async def called(who: str) -> str:
        name.set(who)
        await double(1)
        return name.get()

    return [*await asyncio.gather(called("ann"), called("bob")), name.get()]


@form(["cancelled", 2])
async def shield(double: Activity[[int], int]) -> list[Any]:
    inner = asyncio.ensure_future(double(1))

    async def waiting() -> None:
        await asyncio.shield(inner)

    outer = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    outer.cancel()
    try:
        await outer
    except asyncio.CancelledError:
        return ["cancelled", await inner]
    return []


@form(["cancelling", 2])
async def cancelling_a_task(double: Activity[[int], int]) -> list[Any]:
    seen: list[Any] = []

    async def worker() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("cancelling")
            seen.append(await double(1))

    task = asyncio.create_task(worker())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return seen


@form([1, 2, 3])
async def condition(double: Activity[[int], int]) -> list[int]:
    changed, values = asyncio.Condition(), []

    async def consumer() -> None:
        async with changed:
            await changed.wait_for(lambda: len(values) == 3)

    task = asyncio.create_task(consumer())
    for i in (1, 2, 3):
        await double(i)
        async with changed:
            values.append(i)
            changed.notify_all()
    await task
    return values


@form(["one", "two"])
async def call_later(double: Activity[[int], int]) -> list[str]:
    loop, seen = asyncio.get_running_loop(), []
    done = loop.create_future()
    loop.call_later(0.01, lambda: (seen.append("two"), done.set_result(None)))
    loop.call_soon(seen.append, "one")
    await done
    return seen


@form([2, 2, 2])
async def awaited_twice(double: Activity[[int], int]) -> list[int]:
    call = double(1)
    return [await call, await call, *await asyncio.gather(call)]


@pytest.mark.parametrize("form", bodies)
async def test_it_is_durable(world: World, app: App, form: str) -> None:
    body, expected = bodies[form]

    @app.activity
    async def double(i: int) -> int:
        if i < 0:
            raise ValueError(i)
        return 2 * i

    assert await world.replayed(app, lambda: body(double)) == expected
