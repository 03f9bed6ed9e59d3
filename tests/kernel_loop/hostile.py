"""Workflows that would do harm if their frames died like others: what runs after the first wait is written to `LOG`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import anyio
from scene import act

LOG: list[str] = []
HOSTILE: list[Callable[[], Coroutine[Any, Any, None]]] = []


def hostile(fn: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    HOSTILE.append(fn)
    return fn


class Manager:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        LOG.append("aexit")
        await act("aexit")


@contextlib.asynccontextmanager
async def managed() -> AsyncIterator[None]:
    try:
        yield
    finally:
        LOG.append("managed")
        await act("managed")


@hostile
async def cleans_up() -> None:
    try:
        await act("x")
    finally:
        LOG.append("finally")
        await act("finally")


@hostile
async def swallows_everything() -> None:
    while True:
        try:
            await act("x")
        except BaseException:
            LOG.append("swallowed")


@hostile
async def works_on_generator_exit() -> None:
    try:
        await act("x")
    except GeneratorExit:
        LOG.append("GeneratorExit")
        await act("y")


@hostile
async def catches_exceptions() -> None:
    try:
        await act("x")
    except Exception:
        LOG.append("Exception")


@hostile
async def in_a_manager() -> None:
    async with Manager():
        await act("x")


@hostile
async def in_a_generator_manager() -> None:
    async with managed():
        await act("x")


@hostile
async def in_groups() -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cleans_up())
            tasks.create_task(in_a_manager())
            try:
                async with asyncio.timeout(50):
                    await act("x")
            finally:
                LOG.append("inner")
    except BaseException as error:
        LOG.append(type(error).__name__)


@hostile
async def in_a_gather() -> None:
    try:
        await asyncio.gather(cleans_up(), cleans_up())
    finally:
        LOG.append("gathered")


@hostile
async def starts_tasks_on_the_way_out() -> None:
    try:
        await act("x")
    finally:
        LOG.append("spawns")
        await asyncio.gather(asyncio.create_task(cleans_up()))


@hostile
async def in_a_generator() -> None:
    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await act("x")
            yield 2
        finally:
            LOG.append("generator")
            await act("generator")

    async for _ in items():
        continue


@hostile
async def leaves_a_generator_behind() -> None:
    async def items() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            LOG.append("left behind")
            await act("left behind")

    generator = items()
    await anext(generator)
    await act("x")


@hostile
async def in_wait_for() -> None:
    try:
        await asyncio.wait_for(cleans_up(), 60)
    finally:
        LOG.append("waited")


@hostile
async def deep() -> None:
    async def down(depth: int) -> None:
        try:
            if depth:
                await down(depth - 1)
            else:
                await act("x")
        finally:
            LOG.append(str(depth))

    await down(20)


@hostile
async def in_anyio() -> None:
    try:
        with anyio.move_on_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cleans_up)
                await anyio.sleep(30)
    finally:
        LOG.append("anyio")


@hostile
async def with_callbacks() -> None:
    task = asyncio.create_task(cleans_up())
    task.add_done_callback(lambda t: LOG.append("callback"))
    call = asyncio.ensure_future(act("x"))
    call.add_done_callback(lambda c: LOG.append("callback"))
    await asyncio.wait([task])


@contextlib.contextmanager
def managed_plainly() -> Iterator[None]:
    try:
        yield
    finally:
        LOG.append("managed plainly")


def items_plainly() -> Iterator[int]:
    try:
        yield 1
        yield 2
    finally:
        LOG.append("items plainly")


@hostile
async def in_a_plain_generator_manager() -> None:
    with managed_plainly():
        await act("x")


@hostile
async def in_a_loop_over_a_generator() -> None:
    for _ in items_plainly():
        await act("x")


@hostile
async def in_an_exit_stack() -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(managed_plainly())
        await stack.enter_async_context(managed())
        stack.callback(LOG.append, "stack")
        await act("x")


@hostile
async def in_a_manager_of_anyio() -> None:
    with anyio.fail_after(5):
        await act("x")


@hostile
async def holds_a_coroutine_for_later() -> None:
    later = cleans_up()
    more = [cleans_up(), cleans_up()]
    await act("x")
    await later
    await asyncio.gather(*more)


@hostile
async def holds_a_generator_of_a_generator() -> None:
    def outer() -> Iterator[int]:
        with managed_plainly():
            yield from items_plainly()

    generators = {"one": outer()}
    next(generators["one"])
    await act("x")
