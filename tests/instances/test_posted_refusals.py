"""A start that was posted and is refused when the node takes it: its caller gets a typed error, no other's result."""

from __future__ import annotations

import pytest
from engine import World

from perdure import AlreadyStarted, App, Client, workflow


@pytest.mark.parametrize("if_exists", ["join", "reject"])
async def test_a_posted_start_that_comes_second(world: World, app: App, if_exists: str) -> None:
    @app.workflow
    async def echo(text: str) -> str:
        await workflow.receive("go", bool)
        return text

    async with Client.open(world.store) as outside:
        first = outside.workflow(echo, id="x", if_exists="reject")
        second = outside.workflow(echo, id="x", if_exists=if_exists)  # type: ignore[call-overload]
        await first.start("first")
        await second.start("second")
        await second.cancel("it was never mine")
        async with world.node(app) as node:
            with pytest.raises(AlreadyStarted, match="'x' belongs to another run"):
                await second.result(timeout=30)
            await node.client.get("x").send("go", True)
            assert await first.result(timeout=30) == "first"
