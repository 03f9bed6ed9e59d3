"""A journal that cannot be decoded suspends its instance, says so, and stops nothing else; mended, it goes on."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from engine import World, waits_for

from perdure import App, workflow


def make() -> App:
    app = App("test")

    @app.workflow
    async def work() -> int:
        return await workflow.receive("n", int) + await workflow.receive("n", int)

    return app


def replace_chunk(path: Path, unit: str, new: bytes | str) -> bytes:
    """Put other bytes into the first chunk of a journal; the old ones."""
    connection = apsw.Connection(str(path))
    try:
        where = "WHERE unit = ? AND first = 1"
        old: bytes = connection.execute(f"SELECT events FROM journal {where}", (unit,)).fetchall()[
            0
        ][0]
        connection.execute(f"UPDATE journal SET events = ? {where}", (new, unit))
        return old
    finally:
        connection.close()


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x93\x01", b"garbage" * 10, "a text"])
async def test_it_is_suspended_and_goes_on_when_it_is_mended(
    tmp_path: Path, damage: bytes | str
) -> None:
    path = tmp_path / "x.db"
    world = World(f"sqlite:///{path}")
    async with world.node(make()) as node:
        for name in ("broken", "fine"):
            await node.client.workflow("work", id=name).start()
            await node.client.get(name).send("n", 1)
    old = replace_chunk(path, "broken", damage)
    async with world.node(make()) as node:
        handle = node.client.get("broken")
        await handle.send("n", 2)
        await waits_for(handle, "undecodable")
        description = await handle.describe()
        assert description.status == "suspended"
        assert description.failure is not None
        assert "'broken'" in description.failure.message
        await node.client.get("fine").send("n", 2)
        assert await node.client.get("fine").result(timeout=30) == 3
    replace_chunk(path, "broken", old)
    async with world.node(make()) as node:
        assert await node.client.get("broken").result(timeout=30) == 3


async def test_it_can_be_terminated(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    world = World(f"sqlite:///{path}")
    async with world.node(make()) as node:
        await node.client.workflow("work", id="broken").start()
    replace_chunk(path, "broken", b"\xc1")
    async with world.node(make()) as node:
        handle = node.client.get("broken")
        await handle.terminate("beyond repair")
        assert (await handle.wait(timeout=30)).status == "cancelled"
