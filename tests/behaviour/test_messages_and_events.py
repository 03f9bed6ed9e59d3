"""Messages of channels beside positional events, over several turns, and what is left when the instance ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import PATIENCE_S, World, waits_for

from perdure import App, workflow


@dataclass
class News:
    title: str
    lines: list[str]


async def test_both_kinds_and_activities_over_several_turns(file_world: World, app: App) -> None:
    @app.activity
    async def upper(text: str) -> str:
        return text.upper()

    @app.workflow
    async def mixing() -> list[Any]:
        seen: list[Any] = [await workflow.receive("q", str)]
        seen.append(await upper(await workflow.wait_event("e", str)))
        index, value = await workflow.select(
            workflow.receive("q", str), workflow.wait_event("e", str)
        )
        seen += [index, await upper(value)]
        seen += await asyncio.gather(workflow.receive("q", str), workflow.wait_event("e", str))
        return seen

    steps = [
        ("message q", "send", "one"),
        ("event e", "event", "two"),
        ("message q", "event", "three"),
    ]
    for reason, kind, value in steps:
        async with file_world.node(app) as node:
            handle = node.client.workflow(mixing, id="m")
            await handle.start()
            await waits_for(handle, reason)
            await (handle.send("q", value) if kind == "send" else handle.raise_event("e", value))
            if value == "three":
                await waits_for(handle, "message q")
                await handle.raise_event("e", "five")
                await handle.send("q", "four")
                assert await handle.result(timeout=PATIENCE_S) == [
                    "one",
                    "TWO",
                    1,
                    "THREE",
                    "four",
                    "five",
                ]


async def test_a_race_and_then_a_join_of_both_kinds(world: World, app: App) -> None:
    """What lost the race has taken nothing: the join gets it."""

    @app.workflow
    async def racing() -> list[Any]:
        won = await workflow.select(workflow.receive("q", str), workflow.wait_event("e", str))
        return [
            *won,
            *await workflow.join(workflow.receive("q", str), workflow.wait_event("e", str)),
        ]

    async with world.node(app) as node:
        handle = node.client.workflow(racing, id="r")
        await handle.start()
        await waits_for(handle, "message q")
        await handle.raise_event("e", "event wins")
        await handle.send("q", "kept")
        await handle.raise_event("e", "second event")
        assert await handle.result(timeout=PATIENCE_S) == [1, "event wins", "kept", "second event"]


async def test_three_queues_are_apart_and_each_is_in_order(world: World, app: App) -> None:
    @app.workflow
    async def receiving() -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}

        async def drain(queue: str) -> None:
            for _ in range(3):
                seen[queue].append(await workflow.receive(queue, int))

        await asyncio.gather(*(drain(q) for q in seen))
        return seen

    async with world.node(app) as node:
        handle = node.client.workflow(receiving, id="r")
        await handle.start()
        for i in range(3):
            for queue in "cab":
                await handle.send(queue, i)
        assert await handle.result(timeout=PATIENCE_S) == {q: [0, 1, 2] for q in "abc"}


async def test_queues_that_are_filled_one_after_the_other(world: World, app: App) -> None:
    """A message of a later queue waits until the code asks for it."""

    @app.workflow
    async def stepwise() -> list[str]:
        return [await workflow.receive(queue, str) for queue in ("first", "second", "third")]

    async with world.node(app) as node:
        handle = node.client.workflow(stepwise, id="s")
        await handle.start()
        for queue in ("third", "second"):
            await handle.send(queue, queue)
        assert await handle.status() == "running"
        await handle.send("first", "first")
        assert await handle.result(timeout=PATIENCE_S) == ["first", "second", "third"]


async def test_of_several_waits_those_that_were_given_up_take_nothing(
    world: World, app: App
) -> None:
    @app.workflow
    async def waiting() -> str:
        given_up = [asyncio.ensure_future(workflow.receive("q", str)) for _ in range(3)]
        await workflow.receive("go", bool)
        for call in given_up:
            call.cancel()
        return await workflow.receive("q", str)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await handle.send("go", True)
        await handle.send("q", "for the one that is left")
        assert await handle.result(timeout=PATIENCE_S) == "for the one that is left"
        kinds = [type(e.event).__name__ for e in await handle.history()]
        assert kinds.count("CommandCancelled") == 3


@pytest.mark.parametrize("kind", ["message", "event"])
async def test_an_open_wait_is_recorded_as_given_up_before_the_end(
    world: World, app: App, kind: str
) -> None:
    @app.workflow
    async def leaving() -> str:
        wait = workflow.receive("x", int) if kind == "message" else workflow.wait_event("x", int)
        task = asyncio.ensure_future(wait)
        await workflow.receive("end", bool)
        return f"left {task.done()}"

    async with world.node(app) as node:
        handle = node.client.workflow(leaving, id="l")
        await handle.start()
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == "left False"
        kinds = [type(e.event).__name__ for e in await handle.history()]
        assert kinds[-2:] == ["CommandCancelled", "Completed"]


async def test_messages_that_nobody_received_do_not_stay_in_the_inbox(
    world: World, app: App
) -> None:
    @app.workflow
    async def leaving() -> str:
        return await workflow.receive("first", str)

    async with world.node(app) as node:
        handle = node.client.workflow(leaving, id="l")
        await handle.start()
        for i in range(3):
            await handle.send("ignored", i)
        assert (await node.client.counts())["inbox"] == 3
        await handle.send("first", "bye")
        assert await handle.result(timeout=PATIENCE_S) == "bye"
        assert (await node.client.counts())["inbox"] == 0


async def test_typed_values_of_both_kinds(world: World, app: App) -> None:
    paper = workflow.Channel[News]("paper")

    @app.workflow
    async def reading() -> list[str]:
        first = await paper.receive()
        second = await workflow.wait_event("paper", News)
        assert isinstance(first, News)
        return [first.title, *second.lines]

    async with world.node(app) as node:
        handle = node.client.workflow(reading, id="r")
        await handle.start()
        await handle.send(paper, News("rain", []))
        await waits_for(handle, "event paper")
        await handle.raise_event("paper", News("sun", ["a", "b"]))
        assert await handle.result(timeout=PATIENCE_S) == ["rain", "a", "b"]
