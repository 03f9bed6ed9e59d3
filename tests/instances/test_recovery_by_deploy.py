"""What stops an instance for want of the right code stops nothing else, is shown, and is mended by a deploy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, WorkflowFailed, workflow
from perdure.errors import NotRunning


def shop(body: Callable[[Any, Any], Any], **options: Any) -> App:
    """An app whose `order` does `body(charge, ship)` after the first message."""
    app = App("shop")

    @app.activity
    async def charge(cents: int) -> str:
        return f"charged {cents}"

    @app.activity
    async def ship() -> str:
        return "shipped"

    @app.workflow(**options)
    async def order() -> list[str]:
        await workflow.receive("first", bool)
        seen = await body(charge, ship)
        await workflow.receive("last", bool)
        return list(seen)

    @app.workflow
    async def other() -> str:
        return "other"

    return app


async def right(charge: Any, ship: Any) -> list[str]:
    return [await charge(5), await ship()]


async def other_order(charge: Any, ship: Any) -> list[str]:
    return [await ship(), await charge(5)]


async def other_input(charge: Any, ship: Any) -> list[str]:
    return [await charge(6), await ship()]


async def missing(charge: Any, ship: Any) -> list[str]:
    return [await charge(5)]


async def timer_instead(charge: Any, ship: Any) -> list[str]:
    await workflow.sleep(1)
    return [await ship()]


async def nothing(charge: Any, ship: Any) -> list[str]:
    return []


async def failing(charge: Any, ship: Any) -> list[str]:
    raise ValueError("oh")


async def until_the_last_message(world: World, app: App) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow("order", id="o")
        await handle.start()
        await handle.send("first", True)
        await waits_for(handle, "message last")


@pytest.mark.parametrize(
    "wrong", [other_order, other_input, missing, timer_instead, nothing, failing]
)
async def test_code_that_differs_suspends_and_the_right_code_goes_on(
    world: World, wrong: Any
) -> None:
    await until_the_last_message(world, shop(right))
    async with world.node(shop(wrong)) as node:
        handle = node.client.get("o")
        before = await handle.history()
        await handle.send("last", True)
        await waits_for(handle, "nondeterminism")
        description = await handle.describe()
        assert description.status == "suspended"
        failure = description.failure
        assert failure is not None
        assert failure.category == "configuration"
        assert re.search(r"test_recovery_by_deploy\.py:\d+", failure.message), (
            "it names file and line"
        )
        assert "patched" in failure.message
        assert await handle.history() == before, "nothing was changed"
        assert [d.id for d in await node.client.list(status="suspended")] == ["o"]
        assert [d.id for d in await node.client.list(reason="nondeterminism")] == ["o"]
        assert await node.client.workflow("other", id="x").run() == "other"
    async with world.node(shop(right)) as node:
        assert await node.client.get("o").result(timeout=30) == ["charged 5", "shipped"]


async def test_the_report_says_what_the_journal_has_and_what_the_code_did(world: World) -> None:
    await until_the_last_message(world, shop(right))
    async with world.node(shop(other_order)) as node:
        await node.client.get("o").send("last", True)
        await waits_for(node.client.get("o"), "nondeterminism")
        failure = (await node.client.get("o").describe()).failure
        assert failure is not None
        line = other_order.__code__.co_firstlineno + 1
        assert f"test_recovery_by_deploy.py:{line} in other_order" in failure.message
        assert "the journal has a call of activity 'charge'" in failure.message
        assert "the code did a call of activity 'ship'" in failure.message


async def test_the_right_code_goes_on_by_itself(world: World) -> None:
    await until_the_last_message(world, shop(right))
    async with world.node(shop(other_order)) as node:
        await node.client.get("o").send("last", True)
        await waits_for(node.client.get("o"), "nondeterminism")
    async with world.node(shop(right)) as node:
        assert await node.client.get("o").result(timeout=30) == ["charged 5", "shipped"]


async def test_on_mismatch_fail_ends_it(world: World) -> None:
    await until_the_last_message(world, shop(right))
    async with world.node(shop(other_order, on_mismatch="fail")) as node:
        handle = node.client.get("o")
        with pytest.raises(NotRunning):
            await handle.send("last", True)
        with pytest.raises(WorkflowFailed, match="NondeterminismError") as caught:
            await handle.result(timeout=30)
        assert caught.value.failure.category == "configuration"


async def test_a_suspended_one_can_be_terminated(world: World) -> None:
    await until_the_last_message(world, shop(right))
    async with world.node(shop(other_order)) as node:
        handle = node.client.get("o")
        await handle.send("last", True)
        await waits_for(handle, "nondeterminism")
        await handle.terminate("give up")
        assert (await handle.wait(timeout=30)).status == "cancelled"


@pytest.mark.parametrize("how", ["in the running node", "by a restart"])
async def test_a_workflow_that_is_not_registered(world: World, how: str) -> None:
    empty = App("shop")
    async with world.node(empty) as node:
        handle = node.client.workflow("order", id="o")
        await handle.start()
        await handle.send("first", True)
        await waits_for(handle, "not_registered")
        failure = (await handle.describe()).failure
        assert failure is not None
        assert "'order' is not registered" in failure.message
        await handle.send("last", True)
        if how == "in the running node":
            empty.include(shop(right))
            assert await handle.result(timeout=30) == ["charged 5", "shipped"]
    if how == "by a restart":
        async with world.node(shop(right)) as node:
            assert await node.client.get("o").result(timeout=30) == ["charged 5", "shipped"]


@pytest.mark.parametrize("how", ["in the running node", "by a restart"])
async def test_a_workflow_that_went_missing(world: World, how: str) -> None:
    await until_the_last_message(world, shop(right))
    empty = App("shop")
    async with world.node(empty) as node:
        handle = node.client.get("o")
        await handle.send("last", True)
        await waits_for(handle, "not_registered")
        if how == "in the running node":
            empty.include(shop(right))
            assert await handle.result(timeout=30) == ["charged 5", "shipped"]
    if how == "by a restart":
        async with world.node(shop(right)) as node:
            assert await node.client.get("o").result(timeout=30) == ["charged 5", "shipped"]


async def test_a_stuck_one_can_be_cancelled_and_cleans_up(world: World, app: App) -> None:
    cleaned: list[int] = []

    @app.activity
    async def clean() -> None:
        cleaned.append(1)

    @app.workflow
    async def forgetful() -> None:
        import asyncio

        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await clean()

    async with world.node(app) as node:
        handle = node.client.workflow(forgetful, id="f")
        await handle.start()
        await waits_for(handle, "stuck")
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
    assert cleaned == [1]


async def test_one_that_went_missing_while_a_timer_ran(world: World) -> None:
    clock = world.stop_time()

    def make() -> App:
        app = App("test")

        @app.workflow
        async def nap() -> str:
            await workflow.sleep(10)
            return "rested"

        return app

    async with world.node(make()) as node:
        await node.client.workflow("nap", id="n").start()
        await clock.until_armed(10_000)
    clock.advance(20_000)
    async with world.node(App("test")) as node:
        await waits_for(node.client.get("n"), "not_registered")
    async with world.node(make()) as node:
        assert await node.client.get("n").result(timeout=30) == "rested"


async def test_one_that_waits_for_nothing_is_reported_with_its_line(world: World) -> None:
    def make(mended: bool) -> App:
        app = App("test")

        @app.workflow
        async def forgetful() -> str:
            import asyncio

            await workflow.receive("go", bool)
            if not mended:
                await asyncio.get_running_loop().create_future()
            return "mended"

        return app

    async with world.node(make(False)) as node:
        handle = node.client.workflow("forgetful", id="f")
        await handle.start()
        await handle.send("go", True)
        await waits_for(handle, "stuck")
        failure = (await handle.describe()).failure
        assert failure is not None
        assert re.search(r"test_recovery_by_deploy\.py:\d+ in forgetful", failure.message)
    async with world.node(make(True)) as node:
        assert await node.client.get("f").result(timeout=30) == "mended"
