"""An activity that the node's app does not have leaves the instance waiting for a deploy, and stops nothing else."""

from __future__ import annotations

import pytest
from engine import World, waits_for

from perdure import App, RetryPolicy


def make() -> tuple[App, App]:
    """An app with the workflow, and one with the activity that it calls."""
    app, parts = App("test"), App("parts")

    @parts.activity(retry=RetryPolicy(3, 0.001))
    async def charge() -> str:
        return "charged"

    @app.workflow
    async def pay() -> str:
        return await charge()

    @app.workflow
    async def other() -> str:
        return "other"

    return app, parts


@pytest.mark.parametrize("how", ["in the running node", "by a restart"])
async def test_it_goes_on_when_the_activity_is_there(world: World, how: str) -> None:
    app, parts = make()
    async with world.node(app) as node:
        handle = node.client.workflow("pay", id="p")
        await handle.start()
        await waits_for(handle, "not_registered")
        description = await handle.describe()
        assert description.status == "suspended"
        assert description.failure is not None
        assert "activity 'charge'" in description.failure.message
        assert await node.client.workflow("other", id="o").run() == "other"
        if how == "in the running node":
            app.include(parts)
            assert await handle.result(timeout=30) == "charged"
    if how == "by a restart":
        app, parts = make()
        app.include(parts)
        async with world.node(app) as node:
            assert await node.client.get("p").result(timeout=30) == "charged"


async def test_one_that_was_called_before_it_went_missing(world: World) -> None:
    whole, parts = make()
    whole.include(parts)
    async with world.node(whole) as node:
        assert await node.client.workflow("pay", id="p").run() == "charged"

    app, _ = make()
    async with world.node(app) as node:
        assert await node.client.get("p").result(timeout=30) == "charged"
