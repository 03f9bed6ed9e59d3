"""An activity sees the context variables that the node was started with, not those of whoever woke it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from engine import World

from perdure import App, workflow

tenant = ContextVar("tenant", default="none")


async def test_callers_do_not_leak_into_activities(world: World, app: App) -> None:
    @app.activity
    async def look() -> str:
        return tenant.get()

    @app.activity
    def look_on_a_thread() -> str:
        return tenant.get()

    @app.workflow
    async def looking() -> list[str]:
        step = await workflow.checkpoint("here", tenant.get)
        return [await look(), await look_on_a_thread(), step, tenant.get()]

    tenant.set("of the node")
    async with world.node(app) as node:

        async def call(i: int) -> list[str]:
            tenant.set(f"of caller {i}")
            return await node.client.workflow(looking, id=f"w-{i}").run()

        results = await asyncio.gather(*(asyncio.create_task(call(i)) for i in range(3)))
    assert results == [["of the node"] * 3 + ["none"]] * 3, (
        "a workflow sees none at all: its context is empty"
    )
