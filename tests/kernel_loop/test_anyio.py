"""anyio on the workflow's loop: groups, scopes, streams and locks, alone and mixed with asyncio."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from scene import act, cancelled, played, result

# Evicted in the middle, a workflow cannot close its streams; it opens the same ones again when it comes back.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


def test_groups_and_scopes() -> None:
    async def groups() -> list[Any]:
        log: list[Any] = []

        async def child(name: str) -> None:
            with anyio.CancelScope():
                log.append(await act(name))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child, "a")
            tasks.start_soon(child, "b")
            tasks.start_soon(act, "direct")
        with anyio.move_on_after(5) as scope:
            await anyio.sleep(50)
        log.append([scope.cancelled_caught, anyio.current_time()])
        try:
            with anyio.fail_after(1):
                await anyio.sleep_forever()
        except TimeoutError:
            log.append("late")
        return log

    assert result(groups) == ["A", "B", [True, 5.0], "late"]


def test_streams_and_locks() -> None:
    async def streams() -> list[str]:
        log: list[str] = []
        writer, reader = anyio.create_memory_object_stream[str](1)

        async def produce() -> None:
            async with writer:
                for i in range(3):
                    await writer.send(await act(f"m{i}"))

        async with anyio.create_task_group() as tasks, reader:
            tasks.start_soon(produce)
            async for item in reader:
                log.append(item)
        event = anyio.Event()
        event.set()
        await event.wait()
        async with anyio.Lock(), anyio.Semaphore(1), anyio.CapacityLimiter(1):
            await anyio.lowlevel.checkpoint()
        return log

    assert result(streams) == ["M0", "M1", "M2"]


def test_shielded_cleanup_runs_activities() -> None:
    async def cleans_up() -> list[str]:
        log: list[str] = []

        async def child() -> None:
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    log.append(await act("cleanup"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await act("x")
            tasks.cancel_scope.cancel()
        return log

    assert result(cleans_up) == ["CLEANUP"]


def test_unshielded_cleanup_is_cancelled_again() -> None:
    async def stubborn() -> list[str]:
        log: list[str] = []
        with anyio.move_on_after(1):
            try:
                await anyio.sleep(100)
            except asyncio.CancelledError:
                try:
                    log.append(await act("cleanup"))
                except asyncio.CancelledError:
                    log.append("again")
                    raise
        return log

    drive = played(stubborn)
    assert result(stubborn) == ["again"]
    assert cancelled(drive.events()) == 2, "the long sleep and the activity"


def test_a_scope_waits_for_cleanup_of_asyncio_tasks() -> None:
    """anyio cancels its tasks again in each pass of the loop, until they have ended: the turn must end all the same."""

    async def mixed() -> list[str]:
        log: list[str] = []

        async def child() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                log.append(await act("first"))
                log.append(await act("second"))

        with anyio.move_on_after(1):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(child())
        log.append(await act("after"))
        return log

    assert result(mixed) == ["FIRST", "SECOND", "AFTER"]


def test_an_asyncio_timeout_around_an_anyio_group() -> None:
    async def mixed() -> list[Any]:
        log: list[Any] = []
        try:
            async with asyncio.timeout(2), anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 100)
                with anyio.move_on_after(1):
                    await asyncio.gather(act("a"), asyncio.sleep(50))
                log.append(asyncio.get_running_loop().time())
        except TimeoutError:
            log.append(asyncio.get_running_loop().time())
        return log

    assert result(mixed) == [1.0, 2.0]


def test_threads_are_refused() -> None:
    async def threaded() -> str:
        try:
            await asyncio.to_thread(len, "x")
        except RuntimeError as error:
            return str(error)
        return "it ran"

    assert "def` activities run on a thread" in result(threaded)
