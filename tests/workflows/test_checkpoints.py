"""Checkpoints run once and are recorded; values and variables keep what they were given."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from engine import World

from perdure import App, ApplicationError, workflow


@dataclass
class Point:
    x: int
    y: int


async def test_a_step_runs_once_and_its_outcome_is_kept(world: World, app: App) -> None:
    ran: list[str] = []

    def plain() -> int:
        ran.append("plain")
        return 1

    async def coroutine() -> int:
        await asyncio.sleep(0.001)
        ran.append("coroutine")
        return 2

    async def body() -> list[int]:
        return [await workflow.checkpoint("a", plain), await workflow.checkpoint("b", coroutine)]

    assert await world.replayed(app, body) == [1, 2]
    assert ran == ["plain", "coroutine"]


async def test_a_name_may_be_used_again_and_each_occurrence_counts(world: World, app: App) -> None:
    ran: list[int] = []

    async def body() -> list[int]:
        def note(i: int) -> int:
            ran.append(i)
            return i * 10

        return [await workflow.checkpoint("step", lambda i=i: note(i)) for i in range(3)]

    assert await world.replayed(app, body) == [0, 10, 20]
    assert ran == [0, 1, 2]


async def test_steps_run_side_by_side(world: World, app: App) -> None:
    async def body() -> list[int]:
        gate = asyncio.Event()

        async def first() -> int:
            return 1

        return await asyncio.gather(
            *(workflow.checkpoint(f"s{i}", first) for i in range(3)), _one(gate)
        )

    async def _one(gate: asyncio.Event) -> int:
        gate.set()
        return 9

    assert await world.replayed(app, body) == [1, 1, 1, 9]


async def test_a_step_that_fails_raises_in_the_workflow_also_in_replay(
    world: World, app: App
) -> None:
    ran: list[int] = []

    def bad() -> None:
        ran.append(1)
        raise ValueError("no luck")

    async def body() -> list[str]:
        try:
            await workflow.checkpoint("bad", bad)
        except ApplicationError as error:
            return [error.type, str(error)]
        return []

    kind, text = await world.replayed(app, body)
    assert kind == "ValueError"
    assert "'bad'" in text
    assert "no luck" in text
    assert ran == [1]


async def test_a_typed_step(world: World, app: App) -> None:
    async def body() -> str:
        point = await workflow.checkpoint("point", lambda: Point(1, 2), type=Point)
        return f"{type(point).__name__} {point.x + point.y}"

    assert await world.replayed(app, body) == "Point 3"


async def test_a_step_that_was_interrupted_runs_again(world: World, app: App) -> None:
    began = asyncio.Event()
    gate = asyncio.Event()

    async def slow() -> str:
        began.set()
        await gate.wait()
        return "done"

    @app.workflow
    async def stepping() -> str:
        return await workflow.checkpoint("slow", slow)

    async with world.node(app) as node:
        await node.client.workflow(stepping, id="s").start()
        await asyncio.wait_for(began.wait(), 30)
    gate.set()
    async with world.node(app) as node:
        assert await node.client.get("s").result(timeout=30) == "done"


async def test_a_step_may_do_what_a_workflow_may_not(world: World, app: App, tmp_path: Any) -> None:
    file = tmp_path / "note.txt"

    async def body() -> str:
        return await workflow.checkpoint("write", lambda: str(file.write_text("hello")))

    assert await world.replayed(app, body) == "5"
    assert file.read_text() == "hello"


async def test_a_variable_keeps_each_of_its_values(world: World, app: App) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    async def body() -> list[int]:
        count, seen = workflow.variable("count", 1), []
        for _ in range(3):
            count.set(await double(count.get()))
            seen.append(count.update(lambda n: n + 1))
        return seen

    assert await world.replayed(app, body) == [3, 7, 15]


async def test_a_value_keeps_what_was_recorded(world: World, app: App) -> None:
    given = iter(range(100))

    async def body() -> list[Any]:
        return [
            workflow.value("n", next(given)),
            workflow.value("n", next(given)),
            workflow.value("m", None),
        ]

    assert await world.replayed(app, body) == [0, 1, None]
    assert next(given) > 2, "the replay computed the values again, and they did not count"
