"""A turn that does not end is interrupted; after a few the instance is set aside until `retry`; the others go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, workflow


def make(kind: str) -> App:
    app = App("test")

    @app.workflow
    async def work() -> str:
        if await workflow.receive("go", bool):
            if kind == "spins":
                while True:
                    pass
            if kind == "swallows":
                try:
                    while True:
                        pass
                except BaseException:
                    workflow.set_status("swallowed")
                await workflow.receive("never", bool)
            while kind == "swallows for ever":
                try:
                    while True:
                        pass
                except BaseException:
                    continue
            while kind == "swallows and awaits":
                try:
                    await asyncio.sleep(0)
                    while True:
                        pass
                except BaseException:
                    continue
        return "mended"

    @app.workflow
    async def other(i: int) -> int:
        await workflow.sleep(0.001)
        return i

    return app


OPTIONS: dict[str, Any] = {"turn_limit_ms": 50, "turn_failures": 2}


@pytest.mark.parametrize("kind", ["spins", "swallows", "swallows for ever", "swallows and awaits"])
async def test_it_is_set_aside_and_released(world: World, kind: str) -> None:
    async with world.node(make(kind), **OPTIONS) as node:
        handle = node.client.workflow("work", id="w")
        await handle.start()
        before = await handle.history()
        await handle.send("go", True)
        await waits_for(handle, "poison")
        description = await handle.describe()
        assert description.status == "suspended"
        assert description.failure is not None
        assert description.failure.category == "poison"
        assert "2 turns of 'w' in a row were stopped" in description.failure.message
        assert "retry()" in description.failure.message
        assert await handle.history() == before
        assert description.custom_status() is None
        assert [await node.client.workflow("other", id=f"o{i}").run(i) for i in range(3)] == [
            0,
            1,
            2,
        ]
        assert [d.id for d in await node.client.list(reason="poison")] == ["w"]
    async with world.node(make("mended"), **OPTIONS) as node:
        handle = node.client.get("w")
        assert (await handle.describe()).reason == "poison", "a restart alone does not try it again"
        await handle.retry()
        assert await handle.result(timeout=30) == "mended"


async def test_the_report_names_the_line(world: World) -> None:
    async with world.node(make("spins"), **OPTIONS) as node:
        handle = node.client.workflow("work", id="w")
        await handle.start()
        await handle.send("go", True)
        await waits_for(handle, "poison")
        failure = (await handle.describe()).failure
        assert failure is not None
        assert "test_turns_that_never_end.py" in failure.message
        assert "longer than 50 ms" in failure.message


async def test_one_in_the_first_turn(world: World, app: App) -> None:
    spinning = True

    @app.workflow
    async def work() -> str:
        while spinning:
            pass
        return "mended"

    async with world.node(app, **OPTIONS) as node:
        handle = node.client.workflow(work, id="w")
        await handle.start()
        await waits_for(handle, "poison")
        spinning = False
        await handle.retry()
        assert await handle.result(timeout=30) == "mended"


async def test_mail_for_one_that_was_set_aside_is_kept(world: World) -> None:
    async with world.node(make("spins"), **OPTIONS) as node:
        handle = node.client.workflow("work", id="w")
        await handle.start()
        await handle.send("go", True)
        await waits_for(handle, "poison")
        await handle.send("more", 1)
        await handle.terminate("no use")
        assert (await handle.wait(timeout=30)).status == "cancelled"


@pytest.mark.parametrize("world", ["memory"], indirect=True)
async def test_one_that_keeps_itself_busy_without_waiting_for_anything(
    world: World, app: App
) -> None:
    @app.workflow
    async def busy() -> None:
        while True:
            await asyncio.sleep(0)

    async with world.node(app, turn_limit_ms=30_000, turn_failures=1) as node:
        handle = node.client.workflow(busy, id="b")
        await handle.start()
        await waits_for(handle, "poison")
        failure = (await handle.describe()).failure
        assert failure is not None
        assert "callbacks" in failure.message
