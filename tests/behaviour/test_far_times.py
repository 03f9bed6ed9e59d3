"""A time that cannot be stored and shown is refused at the line that asks for it, live and in replay."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine import World

from perdure import App, workflow
from perdure.errors import UsageError


async def _within(seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.sleep(0.001)


async def _at(seconds: float) -> None:
    async with asyncio.timeout_at(seconds):
        await asyncio.sleep(0.001)


WAYS: dict[str, Callable[[float], Awaitable[Any]]] = {
    "sleep": asyncio.sleep,
    "workflow.sleep": workflow.sleep,
    "timeout": _within,
    "timeout_at": _at,
    "wait_for": lambda seconds: asyncio.wait_for(
        asyncio.get_running_loop().create_future(), seconds
    ),
    "wait": lambda seconds: asyncio.wait(
        [asyncio.ensure_future(workflow.receive("x", int))], timeout=seconds
    ),
}


@pytest.mark.parametrize("seconds", [9e11, 1e300, sys.float_info.max, sys.maxsize, 10**400])
@pytest.mark.parametrize("way", sorted(WAYS))
async def test_a_time_after_the_year_9999_is_an_error_at_its_line(
    world: World, app: App, way: str, seconds: float
) -> None:
    async def body() -> str:
        try:
            await WAYS[way](seconds)
        except (
            UsageError,
            OverflowError,
        ) as error:  # asyncio adds some delays itself: ints beyond floats
            return str(error)
        return "it was accepted"

    said = await world.replayed(app, body)
    assert said != "it was accepted"
    assert seconds == 10**400 or "9999" in said or "ten years" in said


@pytest.mark.parametrize("way", ["sleep", "workflow.sleep", "timeout", "timeout_at"])
async def test_a_time_that_is_no_number_is_an_error_at_its_line(
    world: World, app: App, way: str
) -> None:
    async def body() -> str:
        try:
            await WAYS[way](float("nan"))
        except (UsageError, ValueError) as error:
            return str(error)
        return "it was accepted"

    assert "nan" in (await world.replayed(app, body)).lower()


@pytest.mark.parametrize("seconds", [-1.0, float("-inf"), 0])
async def test_a_sleep_that_is_over_already_ends_at_once(
    world: World, app: App, seconds: float
) -> None:
    async def body() -> str:
        await asyncio.sleep(seconds)
        return "over"

    assert await world.replayed(app, body) == "over"


async def test_a_timeout_of_infinity_never_fires(world: World, app: App) -> None:
    async def body() -> str:
        async with asyncio.timeout(float("inf")):
            return "in time"

    assert await world.replayed(app, body) == "in time"


async def test_the_list_is_read_after_a_refused_time(world: World, app: App) -> None:
    @app.workflow
    async def far() -> None:
        await asyncio.sleep(9e11)

    async with world.node(app) as node:
        await node.client.workflow(far, id="f").start()
        await node.client.get("f").wait(timeout=30)
        [found] = await node.client.list()
        assert found.failure is not None
        assert found.failure.type == "UsageError"
        assert "in far" in found.failure.traceback
