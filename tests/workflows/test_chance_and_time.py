"""Time, chance and logging inside a workflow are the same, or silent, in replay."""

from __future__ import annotations

import logging
from datetime import UTC
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, workflow
from perdure.errors import UsageError


async def test_now_random_and_uuid_are_the_same_after_a_replay(world: World, app: App) -> None:
    lives: list[list[Any]] = []

    @app.activity
    async def echo(text: str) -> str:
        return text

    async def body() -> list[Any]:
        values: list[Any] = [
            workflow.now().isoformat(),
            workflow.random().random(),
            str(workflow.uuid4()),
        ]
        values += [
            await echo(str(workflow.uuid4())),
            workflow.now().isoformat(),
            workflow.random().randrange(10**9),
        ]
        lives.append(values)
        return values

    result = await world.replayed(app, body)
    assert lives == [result, result]
    assert len({v for v in result if isinstance(v, str) and len(v) == 36}) == 2


@pytest.mark.parametrize("added", ["random", "uuid4"])
async def test_a_draw_that_is_added_leaves_those_of_the_other_kind(
    world: World, app: App, added: str
) -> None:
    def deploy(app: App, adds: str) -> Any:
        @app.workflow
        async def draw() -> list[str]:
            if adds == "random":
                workflow.random().random()
            if adds == "uuid4":
                workflow.uuid4()
            drawn = str(workflow.uuid4())
            if added == "uuid4":
                drawn = str(workflow.random().random())
            workflow.set_status(drawn)
            # A command with what was drawn, which replay compares.
            workflow.send("nobody", "drawn", drawn)
            await workflow.receive("go", bool)
            return [drawn]

        return draw

    async with world.node(app) as node:
        handle = node.client.workflow(deploy(app, ""), id="d")
        await handle.start()
        await waits_for(handle, "message go")
    newer = App("newer")
    deploy(newer, added)
    async with world.node(newer) as node:
        again = node.client.get("d")
        before = (await again.describe()).custom_status(str)
        await again.send("go", True)
        assert await again.result(timeout=30) == [before]


async def test_two_instances_and_two_executions_draw_differently(world: World, app: App) -> None:
    @app.workflow
    async def draw(first: str = "") -> list[str]:
        if not first:
            workflow.continue_as_new(draw, str(workflow.uuid4()))
        return [first, str(workflow.uuid4())]

    async with world.node(app) as node:
        a, b = [await node.client.workflow(draw, id=i).run() for i in "ab"]
    assert len({*a, *b}) == 4


async def test_now_is_utc_and_moves_with_the_journal(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def times() -> list[float]:
        first = workflow.now()
        assert first.tzinfo is UTC
        await workflow.receive("go", bool)
        return [first.timestamp(), workflow.now().timestamp()]

    async with world.node(app) as node:
        handle = node.client.workflow(times, id="t")
        began = clock.now_ms() / 1000
        await handle.start()
        clock.advance(5_000)
        await handle.send("go", True)
        assert await handle.result(timeout=30) == [began, began + 5]


async def test_the_logger_is_silent_in_replay(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "perdure.workflow")

    @app.activity
    async def one() -> int:
        return 1

    @app.workflow
    async def talking() -> None:
        workflow.logger.info("first")
        await one()
        workflow.logger.info("second")
        await workflow.receive("go", bool)
        workflow.logger.info("third")

    async with world.node(app) as node:
        handle = node.client.workflow(talking, id="t")
        await handle.start()
        await waits_for(handle, "message go")
    async with world.node(app) as node:
        await node.client.get("t").send("go", True)
        await node.client.get("t").wait(timeout=30)
    records = [r for r in caplog.records if r.name == "perdure.workflow"]
    assert [r.message for r in records] == ["first", "second", "third"]
    assert {(r.instance, r.execution, r.workflow) for r in records} == {("t", 1, "talking")}


async def test_info_says_who_is_running(world: World, app: App) -> None:
    seen: list[bool] = []

    @app.workflow(version="2.1.0")
    async def known(again: bool = True) -> list[Any]:
        info = workflow.info()
        seen.append(info.is_replaying)
        await workflow.receive("go", bool)
        if again:
            workflow.continue_as_new(known, False)
        info = workflow.info()
        return [
            info.id,
            info.workflow,
            info.version,
            info.execution,
            info.parent,
            info.history_events > 0,
        ]

    async with world.node(app) as node:
        handle = node.client.workflow(known, id="k")
        await handle.start()
        await waits_for(handle, "message go")
    async with world.node(app) as node:
        handle = node.client.workflow(known, id="k")
        await handle.send("go", True)
        await handle.send("go", True)
        assert await handle.result(timeout=30) == ["k", "known", "2.1.0", 2, None, True]
    assert seen == [False, True, False]


async def test_outside_of_a_workflow_each_says_so() -> None:
    for call in (workflow.now, workflow.random, workflow.uuid4, workflow.info, workflow.kv.keys):
        with pytest.raises(UsageError, match="for workflow code"):
            call()
    for coroutine in (workflow.sleep(1), workflow.receive("x", int), workflow.wait_event("x", int)):
        with pytest.raises(UsageError, match="for workflow code"):
            await coroutine
