"""An instance whose scope nobody owns stops no other."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from engine import World

from perdure import App, workflow
from perdure.errors import StoreUnavailable


async def test_an_instance_of_a_scope_that_nobody_owns_stops_no_other(
    tmp_path: Path, app: App
) -> None:
    @app.workflow
    async def waits() -> int:
        return await workflow.receive("word", int)

    world = World(f"sqlite:///{tmp_path}/x.db")
    async with world.node(app) as node:
        for name in ("bad", "good"):
            await node.client.workflow(waits, id=name).start()
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("UPDATE units SET scope = 'zzz' WHERE id = 'bad'")
        connection.commit()
    async with world.node(app) as node:
        with pytest.raises(StoreUnavailable, match="does not own its scope 'zzz'"):
            await node.client.get("bad").send("word", 1)
        await node.client.get("good").send("word", 2)
        assert await node.client.get("good").result(timeout=30) == 2
