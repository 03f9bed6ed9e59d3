"""Terminate ends an instance at once and does not ask its code."""

from __future__ import annotations

import asyncio

import pytest
from engine import World, waits_for

from perdure import App, WorkflowCancelled, WorkflowTerminated, workflow


async def test_it_ends_without_cleanup_and_reaches_activities(world: World, app: App) -> None:
    cleaned: list[str] = []
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.workflow
    async def waiting() -> None:
        try:
            await slow()
        finally:
            cleaned.append("cleaned")

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await asyncio.wait_for(began.wait(), 30)
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminated, match="'w' was terminated: enough") as caught:
            await handle.result(timeout=30)
        assert (
            isinstance(caught.value, WorkflowCancelled)
            or caught.value.failure.category == "cancelled"
        )
        await asyncio.wait_for(stopped.wait(), 30)
        assert type((await handle.history())[-1].event).__name__ == "Terminated"
    assert cleaned == []


async def test_before_the_first_turn(world: World, app: App) -> None:
    @app.workflow
    async def late() -> None:
        pass

    async with world.node(app) as node:
        handle = node.client.workflow(late, id="l", delay=3600)
        await handle.start()
        await handle.terminate("never mind")
        with pytest.raises(WorkflowTerminated, match="never mind"):
            await handle.result(timeout=30)


async def test_while_paused_and_while_the_code_is_missing(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", int)

    async with world.node(app) as node:
        for key in ("paused", "lost"):
            await node.client.workflow(waiting, id=key).start()
        await node.client.get("paused").pause()
        await node.client.get("paused").terminate("paused")
        with pytest.raises(WorkflowTerminated, match="paused"):
            await node.client.get("paused").result(timeout=30)
    async with world.node(App("another")) as node:
        await node.client.get("lost").terminate("lost")
        with pytest.raises(WorkflowTerminated, match="lost"):
            await node.client.get("lost").result(timeout=30)


async def test_it_stays_so_after_a_restart(world: World, app: App) -> None:
    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", int)

    async with world.node(app) as node:
        handle = node.client.workflow(waiting, id="w")
        await handle.start()
        await waits_for(handle, "message never")
        await handle.terminate()
        await handle.wait(timeout=30)
    async with world.node(app) as node:
        with pytest.raises(WorkflowTerminated):
            await node.client.get("w").result(timeout=30)
