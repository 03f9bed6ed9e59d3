"""asyncio as it is: each scenario gives what it gives on any loop, and the same journal after a cold load per turn."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from scene import act, result

SCENARIOS: list[tuple[Callable[[], Coroutine[Any, Any, Any]], object]] = []


def gives(expected: object) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], None]:
    return lambda fn: SCENARIOS.append((fn, expected))


async def two(a: str, b: str) -> str:
    return await act(a) + await act(b)


@gives(["AB", "CD", "E"])
async def gather() -> list[str]:
    return list(await asyncio.gather(two("a", "b"), two("c", "d"), act("e")))


@gives("ABC")
async def task_group() -> str:
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(two("a", "b"))
        second = tasks.create_task(act("c"))
    return first.result() + second.result()


@gives(["cancelled", "cancelled", "x"])
async def nested_groups_fail_as_one() -> list[str]:
    log: list[str] = []

    async def bad() -> None:
        await act("x")
        raise ValueError("x")

    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
            await act("cleanup")
            raise

    try:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(slow())
            async with asyncio.TaskGroup() as inner:
                inner.create_task(bad())
                inner.create_task(slow())
    except* ValueError as group:
        inner_group = group.exceptions[0]
        assert isinstance(inner_group, ExceptionGroup)
        log.append(str(inner_group.exceptions[0]))
    return log


@gives([["C"], 1])
async def wait_for_the_first() -> list[Any]:
    tasks = [asyncio.create_task(two("a", "b")), asyncio.create_task(act("c"))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [[t.result() for t in done], len(pending)]


@gives(["E", "AB", "CD"])
async def as_completed() -> list[str]:
    return [await f for f in asyncio.as_completed([two("a", "b"), two("c", "d"), act("e")])]


@gives(5.0)
async def timeout() -> float:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.sleep(10)
    return asyncio.get_running_loop().time()


@gives(["Z", 3.0])
async def wait_for() -> list[Any]:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 3)
    return [await asyncio.wait_for(act("z"), 3), asyncio.get_running_loop().time()]


@gives(["P0", "P1", "P2"])
async def queue_lock_semaphore() -> list[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(1)
    lock, semaphore, out = asyncio.Lock(), asyncio.Semaphore(2), []

    async def produce() -> None:
        for i in range(3):
            await queue.put(await act(f"p{i}"))

    async def consume() -> None:
        for _ in range(3):
            async with lock, semaphore:
                out.append(await queue.get())

    await asyncio.gather(produce(), consume())
    return out


@gives(["waited", "0", "1"])
async def condition_and_barrier() -> list[str]:
    condition, barrier, log = asyncio.Condition(), asyncio.Barrier(2), []

    async def waits() -> None:
        async with condition:
            await condition.wait()
            log.append("waited")

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    async with condition:
        condition.notify_all()
    await waiting
    numbers = await asyncio.gather(barrier.wait(), barrier.wait())
    return log + sorted(str(n) for n in numbers)


@gives("S")
async def shield() -> str:
    call = asyncio.ensure_future(act("s"))
    task = asyncio.create_task(asyncio.wait_for(asyncio.shield(call), 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return await call


@gives(["G0", "G1", "AFTER"])
async def generator_left_early() -> list[str]:
    log: list[str] = []

    async def items() -> AsyncIterator[str]:
        try:
            for i in range(5):
                yield await act(f"g{i}")
        finally:
            await act("closed")

    async for item in items():
        log.append(item)
        if item == "G1":
            break
    log.append(await act("after"))
    return log


@gives([["one", "two"], ["one", "two"], "one"])
async def context_variables() -> list[Any]:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("one")

    async def child() -> list[str]:
        before = variable.get()
        variable.set("two")
        await act("x")
        return [before, variable.get()]

    return [*await asyncio.gather(child(), child()), variable.get()]


@gives("main")
async def task_names_are_numbers() -> str:
    async def name() -> str:
        return asyncio.current_task().get_name()  # type: ignore[union-attr]

    first, second = await asyncio.create_task(name()), await asyncio.create_task(name())
    assert first.startswith("task-")
    assert int(second.removeprefix("task-")) > int(first.removeprefix("task-"))
    assert await asyncio.create_task(name(), name="mine") == "mine"
    return await name()


@gives([["a", 0], ["b", 0], ["a", 1], ["b", 1], ["a", 2], ["b", 2]])
async def yielding_takes_turns() -> list[Any]:
    log: list[Any] = []

    async def steps(name: str) -> None:
        for i in range(3):
            log.append([name, i])
            await asyncio.sleep(0)

    await asyncio.gather(steps("a"), steps("b"))
    return log


@gives([1, 0, "R"])
async def cancelling_and_uncancelling() -> list[Any]:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    count = 0
    try:
        await act("q")
    except asyncio.CancelledError:
        count = task.cancelling()
        task.uncancel()
    return [count, task.cancelling(), await act("r")]


@gives(["soon", "later", "done"])
async def callbacks_and_timers() -> list[str]:
    loop, log = asyncio.get_running_loop(), []
    done = loop.create_future()
    loop.call_later(2, done.set_result, "done")
    loop.call_later(1, log.append, "later")
    loop.call_later(1, log.append, "never").cancel()
    loop.call_soon(log.append, "soon")
    log.append(await done)
    return log


@gives(["FIRST", "SECOND"])
async def a_callback_that_raises_does_not_stop_the_run() -> list[str]:
    call = asyncio.ensure_future(act("first"))

    def raises(_: object) -> None:
        raise ValueError("in a callback")

    call.add_done_callback(raises)
    return [await call, await act("second")]


@gives("V")
async def a_call_can_be_awaited_twice() -> str:
    call = asyncio.ensure_future(act("v"))
    first = await call
    assert await call == first
    assert await asyncio.create_task(act("other")) == "OTHER"
    return first


@gives("A")
async def a_call_that_ended_makes_a_task() -> str:
    call = act("a")
    await asyncio.ensure_future(call)
    return await asyncio.create_task(call)


@pytest.mark.parametrize(
    ("workflow", "expected"), SCENARIOS, ids=lambda v: getattr(v, "__name__", "")
)
def test_scenario(workflow: Callable[[], Coroutine[Any, Any, Any]], expected: object) -> None:
    assert result(workflow) == expected
