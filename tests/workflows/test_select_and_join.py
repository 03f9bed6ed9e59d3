"""`select` takes the first and cancels the rest; `join` waits for all and keeps errors as values."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, workflow


async def never() -> Any:
    return await workflow.receive("never", int)


async def late(value: Any, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return value


async def test_the_first_of_several_wins_with_its_index(world: World, app: App) -> None:
    @app.activity
    async def quick(i: int) -> int:
        return i

    async def body() -> list[Any]:
        first = await workflow.select(
            never(), quick(7), workflow.receive("never", str), late("x", 3600), never()
        )
        return list(first)

    assert await world.replayed(app, body) == [1, 7]


async def test_of_those_that_are_done_the_first_argument_wins(world: World, app: App) -> None:
    async def at_once(value: str) -> str:
        return value

    async def body() -> list[Any]:
        return list(await workflow.select(at_once("a"), at_once("b")))

    assert await world.replayed(app, body) == [0, "a"]


async def test_a_bare_activity_that_loses_is_cancelled(world: World, app: App) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.workflow
    async def race() -> int:
        index, _ = await workflow.select(slow(), workflow.receive("go", int))
        return index

    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.send("go", 1)
        assert await handle.result(timeout=30) == 1
        await asyncio.wait_for(stopped.wait(), 30)


async def test_the_error_of_the_winner_is_raised(world: World, app: App) -> None:
    async def bad() -> None:
        raise ValueError("no")

    async def body() -> str:
        try:
            await workflow.select(never(), bad())
        except ValueError as error:
            return str(error)
        return "nothing"

    assert await world.replayed(app, body) == "no"


async def test_cancelling_a_select_cancels_all_its_arguments(world: World, app: App) -> None:
    seen: list[int] = []

    async def waiting(i: int) -> None:
        try:
            await never()
        finally:
            seen.append(i)

    async def body() -> list[int]:
        seen.clear()
        with contextlib.suppress(TimeoutError):  # the timeout is only the way to cancel it
            async with asyncio.timeout(0.005):
                await workflow.select(waiting(1), waiting(2), waiting(3))
        return seen

    assert await world.replayed(app, body) == [1, 2, 3]


async def test_select_of_nothing_is_refused(world: World, app: App) -> None:
    async def body() -> str:
        try:
            await workflow.select()
        except Exception as error:
            return type(error).__name__
        return ""

    assert await world.replayed(app, body) == "UsageError"


@pytest.mark.parametrize(
    ("order", "expected"), [("argument", ["a", "b", "c"]), ("history", ["b", "c", "a"])]
)
async def test_join_in_both_orders(world: World, app: App, order: Any, expected: list[str]) -> None:
    async def body() -> list[Any]:
        return await workflow.join(late("a", 0.03), late("b", 0.01), late("c", 0.02), order=order)

    assert await world.replayed(app, body) == expected


async def test_join_of_bare_activities_keeps_errors_as_values(world: World, app: App) -> None:
    @app.activity
    async def half(i: int) -> int:
        if i % 2:
            raise ValueError(f"{i} is odd")
        return i // 2

    async def body() -> list[Any]:
        outcomes = await workflow.join(half(2), half(3), half(4))
        return [o.failure.message if isinstance(o, Exception) else o for o in outcomes]

    assert await world.replayed(app, body) == [1, "3 is odd", 2]


async def test_an_unknown_order_is_refused(world: World, app: App) -> None:
    async def body() -> str:
        try:
            await workflow.join(order="random")  # type: ignore[call-overload]
        except Exception as error:
            return str(error)
        return ""

    assert "'argument' or 'history'" in await world.replayed(app, body)


async def test_select_over_channels_takes_only_from_the_winner(world: World, app: App) -> None:
    @app.workflow
    async def twice() -> list[Any]:
        first = await workflow.select(workflow.receive("a", int), workflow.receive("b", int))
        second = await workflow.select(workflow.receive("a", int), workflow.receive("b", int))
        return [*first, *second]

    async with world.node(app) as node:
        handle = node.client.workflow(twice, id="t")
        await handle.start()
        await waits_for(handle, "message a")
        await handle.send("b", 1)
        await until(lambda: True, "")
        await handle.send("a", 2)
        assert await handle.result(timeout=30) == [1, 1, 0, 2]


async def test_losers_are_cancelled_and_their_cleanup_is_awaited(world: World, app: App) -> None:
    stopped = asyncio.Event()

    @app.activity
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.activity
    async def note(what: str) -> str:
        return what

    seen: list[str] = []

    async def loser() -> None:
        try:
            await slow()
        finally:
            seen.append(await note("cleaned up"))

    async def body() -> list[Any]:
        seen.clear()
        index, value = await workflow.select(loser(), late("won", 0.01))
        return [index, value, *seen]

    assert await world.replayed(app, body) == [1, "won", "cleaned up"]
    await asyncio.wait_for(stopped.wait(), 30)
