"""Multi-step coroutines are joined and raced like single calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World

from perdure import Activity, App, workflow


@pytest.fixture
def step(app: App) -> Activity[[str], str]:
    """An activity that counts as one step."""

    @app.activity
    async def step(text: str) -> str:
        return f"{text}!"

    return step


@pytest.fixture
def ran() -> list[str]:
    """What activities of a losing branch note."""
    return []


async def test_blocks_with_branches_and_loops_are_joined(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    async def branching() -> str:
        first = await step("a")
        return await step("yes") if first == "a!" else await step("no")

    async def looping() -> list[str]:
        return [await step(str(i)) for i in range(3)]

    async def failing() -> None:
        await step("b")
        raise ValueError("half way")

    async def body() -> list[Any]:
        outcomes = await workflow.join(branching(), looping(), failing())
        return [str(o) if isinstance(o, BaseException) else o for o in outcomes]

    assert await world.replayed(app, body) == ["yes!", ["0!", "1!", "2!"], "half way"]


async def test_many_blocks_are_joined_in_the_order_of_the_arguments(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    async def block(i: int) -> str:
        for _ in range(5 - i):
            await step("x")
        return await step(str(i))

    async def body() -> list[str]:
        return await asyncio.gather(*(block(i) for i in range(5)))

    assert await world.replayed(app, body) == ["0!", "1!", "2!", "3!", "4!"]


async def test_blocks_one_after_the_other(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    async def twice(text: str) -> str:
        return await step(await step(text))

    async def body() -> str:
        first = await twice("a")
        return await twice(first)

    assert await world.replayed(app, body) == "a!!!!"


async def test_the_losing_block_takes_no_further_step(
    world: World, app: App, step: Activity[[str], str], ran: list[str]
) -> None:
    @app.activity
    async def note(text: str) -> None:
        ran.append(text)

    async def slow() -> str:
        await workflow.receive("never", bool)
        await note("the loser went on")
        return "slow"

    async def quick() -> str:
        return await step(await step("quick"))

    async def body() -> list[Any]:
        return list(await workflow.select(slow(), quick()))

    assert await world.replayed(app, body) == [1, "quick!!"]
    assert ran == []


async def test_a_block_races_a_bare_activity(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    async def block() -> str:
        await step("one")
        await workflow.receive("never", bool)
        return "block"

    async def body() -> list[Any]:
        return list(await workflow.select(block(), step("bare")))

    assert await world.replayed(app, body) == [1, "bare!"]


async def test_three_blocks_with_timers(world: World, app: App, step: Activity[[str], str]) -> None:
    async def after(seconds: float, text: str) -> str:
        await asyncio.sleep(seconds)
        return await step(text)

    async def body() -> list[Any]:
        return list(await workflow.select(after(3600, "a"), after(0.002, "b"), after(7200, "c")))

    assert await world.replayed(app, body) == [1, "b!"]


async def test_a_join_inside_a_race(world: World, app: App, step: Activity[[str], str]) -> None:
    async def pair() -> list[str]:
        return await asyncio.gather(step("a"), step("b"))

    async def never() -> None:
        await asyncio.gather(workflow.receive("x", bool), step("c"))

    async def body() -> list[Any]:
        return list(await workflow.select(never(), pair()))

    assert await world.replayed(app, body) == [1, ["a!", "b!"]]


async def test_a_child_in_a_block_wins_a_race(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    @app.workflow
    async def child(text: str) -> str:
        return await step(text)

    async def block() -> str:
        return await step(await child("child"))

    async def body() -> list[Any]:
        return list(await workflow.select(block(), workflow.receive("never", bool)))

    assert await world.replayed(app, body) == [0, "child!!"]


async def test_a_child_in_a_block_loses_against_an_activity(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    @app.workflow
    async def child() -> str:
        return await workflow.receive("never", str)

    async def block() -> str:
        return await workflow.child(child, id="loser")()

    @app.workflow
    async def race() -> list[Any]:
        await step("before")
        return list(await workflow.select(block(), step("won")))

    async with world.node(app) as node:
        assert await node.client.workflow(race, id="r").run() == [1, "won!"]
        assert (await node.client.get("loser").wait(timeout=30)).status == "cancelled"


async def test_children_are_joined(world: World, app: App, step: Activity[[str], str]) -> None:
    @app.workflow
    async def child(text: str) -> str:
        return await step(text)

    async def block(text: str) -> str:
        return await child(await step(text))

    async def body() -> list[str]:
        return await asyncio.gather(*(block(t) for t in "abc"))

    assert await world.replayed(app, body) == ["a!!", "b!!", "c!!"]


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_child_races_a_timeout(
    world: World, app: App, step: Activity[[str], str], in_time: bool
) -> None:
    @app.workflow
    async def child() -> str:
        return await step("done") if in_time else await workflow.receive("never", str)

    async def body() -> str:
        try:
            async with asyncio.timeout(60 if in_time else 0.002):
                return await child()
        except TimeoutError:
            return "late"

    assert await world.replayed(app, body) == ("done!" if in_time else "late")


async def test_a_chain_of_children_inside_a_block(
    world: World, app: App, step: Activity[[str], str]
) -> None:
    @app.workflow
    async def leaf(text: str) -> str:
        return await step(text)

    @app.workflow
    async def middle(text: str) -> str:
        return await step(await leaf(text))

    async def block() -> str:
        return await step(await middle("x"))

    async def body() -> list[Any]:
        return [
            *await asyncio.gather(block(), step("y")),
            *await workflow.select(block(), asyncio.sleep(3600)),
        ]

    assert await world.replayed(app, body) == ["x!!!", "y!", 0, "x!!!"]
