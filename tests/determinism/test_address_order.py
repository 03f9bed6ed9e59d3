"""Code whose order would follow memory addresses, hash layouts or the garbage collector: one command log in 60 runs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

import anyio
import pytest
from drive import Drive
from random_programs import act, app

from perdure import Workflow
from perdure.kernel.data.events import encode_events

RUNS = 60
RUNS_OF_CROWDS = 12
CASES: list[Workflow[[], None]] = []
Case = Callable[[], Coroutine[Any, Any, None]]


def case(fn: Case) -> None:
    CASES.append(app.workflow(fn))


async def cleaning(i: int) -> None:
    try:
        await asyncio.sleep(100)
    finally:
        await act(f"clean{i}")


async def shielded_cleaning(i: int) -> None:
    with anyio.CancelScope():
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await act(f"clean{i}")


@case
async def group_abort() -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            for i in range(6):
                tasks.create_task(cleaning(i))
            await asyncio.sleep(0)
            raise ValueError
    except* ValueError:
        await act("caught")


@case
async def cancel_what_wait_left() -> None:
    tasks = [asyncio.create_task(cleaning(i)) for i in range(6)]
    _, pending = await asyncio.wait(
        [*tasks, asyncio.create_task(act("first"))], return_when=asyncio.FIRST_COMPLETED
    )
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


@case
async def set_of_tasks() -> None:
    tasks = {asyncio.create_task(cleaning(i)) for i in range(6)}
    await act("x")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@case
async def set_of_calls() -> None:
    calls = {asyncio.ensure_future(act(f"a{i}")) for i in range(6)}
    for call in calls:
        call.cancel()


async def crowded(stride: int) -> None:
    """Tasks whose numbers fall on the same place of a hash table: the rest of the hash decides their order."""
    loop = asyncio.get_running_loop()
    tasks = set()
    for i in range(80):
        tasks.add(asyncio.create_task(cleaning(i)))
        for _ in range(stride - 1):
            loop.create_future()
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@case
async def crowded_set_of_tasks() -> None:
    await crowded(512)


@case
async def crowded_all_tasks() -> None:
    loop = asyncio.get_running_loop()
    for i in range(40):
        asyncio.ensure_future(cleaning(i))
        for _ in range(127):
            loop.create_future()
    await asyncio.sleep(1)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await act("x")


@case
async def all_tasks() -> None:
    tasks = [asyncio.create_task(cleaning(i)) for i in range(6)]
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@case
async def as_completed() -> None:
    for done in asyncio.as_completed([act(f"c{i}") for i in range(6)]):
        await act(f"after {await done}")


class Knot:
    """Refers to itself, so that only the garbage collector can free it."""

    me: Knot
    generator: AsyncIterator[int]


@case
async def generator_in_a_cycle() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await act("closed")

    knot = Knot()
    knot.me, knot.generator = knot, numbers()
    await anext(knot.generator)
    del knot
    for i in range(3):
        await act(f"s{i}")


@case
async def anyio_group_cancel() -> None:
    async with anyio.create_task_group() as tasks:
        for i in range(6):
            tasks.start_soon(shielded_cleaning, i)
        await anyio.sleep(0)
        tasks.cancel_scope.cancel()


@case
async def anyio_nested_scopes() -> None:
    async def child(i: int) -> None:
        with anyio.move_on_after(50 + i):
            await shielded_cleaning(i)

    with anyio.move_on_after(1):
        async with anyio.create_task_group() as tasks:
            for i in range(6):
                tasks.start_soon(child, i)
    await act("end")


@case
async def anyio_stream() -> None:
    writer, reader = anyio.create_memory_object_stream[int]()

    async def take(i: int) -> None:
        async with reader.clone() as own:
            async for item in own:
                await act(f"{i} took {item}")

    async with anyio.create_task_group() as tasks, reader:
        for i in range(4):
            tasks.start_soon(take, i)
        async with writer:
            for i in range(8):
                await writer.send(i)
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()


def noise(random: Random) -> list[object]:
    """Garbage of many sizes, so that the next run finds other addresses."""
    return [
        object() if random.random() < 0.5 else bytearray(random.randrange(1, 4000))
        for _ in range(random.randrange(200))
    ]


@pytest.mark.parametrize("workflow", CASES, ids=lambda w: w.name)
def test_one_command_log(workflow: Workflow[[], None]) -> None:
    random = Random(workflow.name)
    kept: list[object] = []
    logs: set[bytes] = set()
    threshold = gc.get_threshold()
    try:
        for _ in range(RUNS_OF_CROWDS if "crowded" in workflow.name else RUNS):
            kept.append(noise(random))
            if len(kept) > 16:
                kept.pop(random.randrange(16))
            gc.set_threshold(random.choice([50, 100, 700]))
            drive = Drive(app)
            drive.start(workflow.name)
            drive.finish()
            logs.add(encode_events(drive.events()))
            kept.append(drive.unit)  # its tasks stay in asyncio's registries, in everybody's way
            if random.random() < 0.3:
                gc.collect()
    finally:
        gc.set_threshold(*threshold)
    assert len(logs) == 1
