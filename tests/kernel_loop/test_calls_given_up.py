"""Cancelling what awaits a call records the cancellation at once; what asyncio would not cancel runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from scene import act, cancelled, played, started

from perdure.kernel.data.events import ActivityScheduled, CommandCancelled, TimerStarted

SCENARIOS: list[tuple[Callable[[], Coroutine[Any, Any, None]], int]] = []


def gives_up(calls: int) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """How many activities are cancelled before the workflow's last line."""
    return lambda fn: SCENARIOS.append((fn, calls))


async def raises() -> None:
    raise ValueError


@gives_up(2)
async def a_cancelled_gather() -> None:
    gathered = asyncio.gather(act("a"), act("b"))
    await asyncio.sleep(0)
    gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered


@gives_up(0)
async def a_gather_that_fails_leaves_the_others() -> None:
    call = asyncio.ensure_future(act("a"))
    with pytest.raises(ValueError):
        await asyncio.gather(call, raises())
    await call


@gives_up(1)
async def wait_for() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.gather(act("a"), asyncio.sleep(100)), 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await act("b")


@gives_up(2)
async def a_group_with_calls() -> None:
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(act("a"))
            tasks.create_task(act("b"))
            tasks.create_task(raises())


@gives_up(1)
async def a_task() -> None:
    task = asyncio.create_task(act("a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@gives_up(1)
async def a_task_before_its_first_step() -> None:
    task = asyncio.create_task(act("a"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@gives_up(1)
async def a_chain_of_awaits() -> None:
    async def inner() -> str:
        return await act("a")

    async def outer() -> str:
        return await inner()

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@gives_up(0)
async def a_shield() -> None:
    call = asyncio.ensure_future(act("a"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(call), 0)
    await call


@gives_up(0)
async def wait_leaves_what_is_pending() -> None:
    tasks = [asyncio.create_task(act(n)) for n in "ab"]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=1)
    assert len(pending) == 1
    await asyncio.wait(tasks)


@gives_up(1)
async def the_call_itself() -> None:
    call = asyncio.ensure_future(act("a"))
    assert call.cancel()
    assert not call.cancel()


@gives_up(0)
async def a_call_that_has_its_answer() -> None:
    call = asyncio.ensure_future(act("a"))
    await call
    assert not call.cancel()


@gives_up(1)
async def an_anyio_scope() -> None:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        await act("a")


@gives_up(2)
async def an_anyio_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(act, "a")
        tasks.start_soon(act, "b")
        await anyio.sleep(0)
        await anyio.sleep(0)
        tasks.cancel_scope.cancel()


@gives_up(2)
async def what_nobody_awaits_at_the_end() -> None:
    asyncio.ensure_future(act("a"))
    asyncio.create_task(act("b"))


@pytest.mark.parametrize(("workflow", "calls"), SCENARIOS, ids=lambda v: getattr(v, "__name__", ""))
def test_calls_that_are_given_up(
    workflow: Callable[[], Coroutine[Any, Any, None]], calls: int
) -> None:
    drive = played(workflow)
    assert drive.row.status == "completed", drive.row.failure
    activities = {e.seq for e in drive.events() if isinstance(e, ActivityScheduled)}
    given_up = [
        e.seq for e in drive.events() if isinstance(e, CommandCancelled) and e.seq in activities
    ]
    assert len(given_up) == calls
    assert sorted(set(given_up)) == sorted(given_up), "each once"


def test_the_timer_of_a_timeout_that_was_not_needed_is_given_up() -> None:
    async def in_time() -> None:
        async with asyncio.timeout(60):
            await act("a")

    drive = played(in_time)
    timers = [e.seq for e in drive.events() if isinstance(e, TimerStarted)]
    assert [e.seq for e in drive.events() if isinstance(e, CommandCancelled)] == timers
    assert cancelled(drive.events()) == 1


def test_the_turn_says_which_calls_to_stop() -> None:
    async def race() -> None:
        call = asyncio.ensure_future(act("slow"))
        await asyncio.sleep(1)
        call.cancel()
        await act("next")

    drive = started(race)
    drive.now += 1000
    turn = drive.turn()
    assert [c.describe() for c in turn.cancelled] == ["activity act"]
    assert [c.describe() for c in turn.calls] == ["activity act"]
