"""Interceptors around turns: order, what they are told, and that a turn they break is taken again or set aside."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, Interceptor, Node, NodeOptions, workflow
from perdure.interceptor import NextTurn, TurnInfo


class Recorder(Interceptor):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        self.seen.append(f"{self.name} {turn.instance}")
        next()
        self.seen.append(f"{self.name} done")


class Notes(Interceptor):
    def __init__(self) -> None:
        self.before: list[TurnInfo] = []
        self.after: list[TurnInfo] = []

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        self.before.append(copy(turn))
        next()
        self.after.append(copy(turn))


class Breaking(Interceptor):
    """Breaks the first so many turns of an instance."""

    def __init__(self, instance: str, times: int, how: Callable[[NextTurn], None]) -> None:
        self.instance, self.times, self.how = instance, times, how

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        if turn.instance != self.instance or self.times == 0:
            next()
            return
        self.times -= 1
        self.how(next)


def raise_before(next: NextTurn) -> None:
    raise RuntimeError("broken on purpose")


def raise_after(next: NextTurn) -> None:
    next()
    raise RuntimeError("broken on purpose")


def not_at_all(next: NextTurn) -> None:
    """Forgets to call it."""


def twice(next: NextTurn) -> None:
    next()
    next()


WAYS = [
    (raise_before, "RuntimeError: broken on purpose"),
    (raise_after, "RuntimeError: broken on purpose"),
    (not_at_all, r"interceptors called next\(\) 0 times"),
    (twice, r"interceptors called next\(\) 2 times"),
]


@pytest.fixture
def greet(app: App) -> Any:
    @app.workflow
    async def greet(name: str) -> str:
        return f"hello {name}"

    return greet


async def test_the_first_is_the_outermost(world: World, app: App, greet: Any) -> None:
    seen: list[str] = []
    async with Node(
        app, world.store, interceptors=[Recorder("a", seen), Recorder("b", seen)]
    ) as node:
        await node.client.workflow(greet, id="x").run("Ada")
    assert seen == ["a x", "b x", "b done", "a done"]


async def test_what_a_turn_is_told(world: World, app: App) -> None:
    numbers = workflow.Channel[int]("numbers")

    @app.workflow
    async def adds() -> int:
        return await numbers.receive() + await numbers.receive()

    notes = Notes()
    async with Node(app, world.store, interceptors=[notes]) as node:
        handle = node.client.workflow(adds, id="x")
        await handle.start()
        await asyncio.gather(handle.send(numbers, 1), handle.send(numbers, 2))
        assert await handle.result(timeout=30) == 3
    assert notes.before == [TurnInfo("x", 1), TurnInfo("x", 2)]
    assert notes.after == [TurnInfo("x", 1, "adds", 1, True), TurnInfo("x", 2, "adds", 1, True)]


@pytest.mark.parametrize(("how", "why"), WAYS, ids=lambda v: getattr(v, "__name__", ""))
async def test_a_broken_turn_is_taken_again(
    world: World, app: App, greet: Any, how: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    breaking = Breaking("x", 1, how)
    async with Node(app, world.store, interceptors=[breaking]) as node:
        assert (
            await asyncio.wait_for(node.client.workflow(greet, id="x").run("Ada"), 30)
            == "hello Ada"
        )
        assert len(await node.client.get("x").history()) > 0
    assert breaking.times == 0
    assert re.search(f"a turn of 'x' was stopped: .*{why}", caplog.text)


@pytest.mark.parametrize(("how", "why"), WAYS, ids=lambda v: getattr(v, "__name__", ""))
async def test_one_that_stays_broken_is_set_aside_alone(
    world: World, app: App, how: Any, why: str
) -> None:
    go = workflow.Channel[str]("go")

    @app.workflow
    async def waits() -> str:
        return await go.receive()

    breaking = Breaking("x", 0, how)
    options = NodeOptions(turn_failures=2)
    async with Node(app, world.store, options=options, interceptors=[breaking]) as node:
        bad, good = node.client.workflow(waits, id="x"), node.client.workflow(waits, id="y")
        await bad.start()
        await good.start()
        breaking.times = 10_000  # an instance that is set aside runs no interceptor
        await bad.send(go, "kept")
        await waits_for(bad, "poison")
        failure = (await bad.describe()).failure
        assert failure is not None
        assert re.match(rf"2 turns of 'x' in a row were stopped: .*{why}", failure.message)
        await good.send(go, "well")
        assert await good.result(timeout=30) == "well"
        breaking.times = 0
        await bad.retry()
        assert await bad.result(timeout=30) == "kept", "what was sent to it has not been lost"
