"""`Limits.commit_bytes` is what one turn may write: each turn has all of it."""

from __future__ import annotations

from engine import PATIENCE_S, World

from perdure import App, Limits, workflow
from perdure.errors import PayloadTooLarge

LIMIT = 6_000
VALUE = "x" * 1_900


async def test_each_turn_begins_with_the_whole_budget(world: World, app: App) -> None:
    @app.activity
    async def step() -> None:
        pass

    @app.workflow
    async def writes(turns: int) -> list[int]:
        accepted = [0] * turns
        for turn in range(turns):
            for number in range(5):
                try:
                    workflow.value(f"v{turn}.{number}", VALUE)
                except PayloadTooLarge:
                    continue
                accepted[turn] += 1
            await step()
        return accepted

    async with world.node(app, limits=Limits(commit_bytes=LIMIT)) as node:
        handle = node.client.workflow(writes, id="w")
        await handle.start(4)
        assert await handle.result(timeout=PATIENCE_S) == [3, 3, 3, 3]
