"""Answers are kept for messages of clients, and for nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from perdure import App
from perdure.store.sqlite import SQLiteStore

app = App("answers")


@app.workflow
async def child(n: int) -> int:
    return n


@app.workflow
async def parent(count: int) -> int:
    return sum(await asyncio.gather(*(child(n) for n in range(count))))


async def test_messages_between_units_leave_no_answers(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "a.db"))
    async with store, app.node(store) as node:
        assert await node.client.workflow(parent, id="p").run(20) == 190
        assert await store.inspect("SELECT count(*) FROM answers") == [(0,)]
