"""What an owner that was replaced leaves behind, and who is suspected of its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from engine import until

from perdure import App, Handle, Node, NodeOptions, workflow
from perdure.errors import PerdureError
from perdure.ports.store import Store, Units
from perdure.store.memory import MemoryStore


async def suspicion(store: Store, unit: str) -> int:
    page = await store.query(Units(ids=(unit,), limit=1))
    return page.items[0].row.suspect


async def test_progress_clears_an_instance_of_suspicion(app: App) -> None:
    gate, began = asyncio.Event(), asyncio.Event()

    @app.activity
    async def slow() -> int:
        began.set()
        await gate.wait()
        return 1

    @app.workflow
    async def innocent() -> int:
        await slow()
        return await workflow.receive("go", int)

    async with MemoryStore() as store:
        old, new = (Node(app, store, options=NodeOptions(stop_ms=0)) for _ in range(2))
        await old.start()
        await old.client.workflow(innocent, id="i").start()
        await began.wait()
        await new.start()  # the old one has not released its scopes: for the new one it has crashed

        async def suspected() -> bool:
            return await suspicion(store, "i") > 0

        await until(suspected, "suspicion after an end without a release")
        gate.set()

        async def cleared() -> bool:
            return await suspicion(store, "i") == 0

        await until(cleared, "no suspicion after a result was recorded")
        await new.client.get("i").send("go", 7)
        assert await new.client.get("i").result(timeout=30) == 7
        await new.stop()
        await old.stop()


async def test_an_owner_that_was_replaced_gives_up_its_activities(app: App) -> None:
    began: list[int] = []
    given_up = asyncio.Event()

    @app.activity
    async def endless() -> None:
        began.append(1)
        if len(began) > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    @app.workflow
    async def calls() -> None:
        await endless()

    async with MemoryStore() as store:
        old, new = (Node(app, store, options=NodeOptions(stop_ms=0)) for _ in range(2))
        await old.start()
        stale: Handle[None] = old.client.workflow(calls, id="i")
        await stale.start()
        await until(lambda: began, "the activity of the old owner")
        await new.start()
        with suppress(PerdureError):  # refused: this is how the old owner learns of it
            await stale.send("any", 1)
        async with asyncio.timeout(30):
            await given_up.wait()
        await new.client.get("i").result(timeout=30)
        assert len(began) == 2
        await new.stop()
        await old.stop()
