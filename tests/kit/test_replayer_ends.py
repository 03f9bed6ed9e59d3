"""Histories with events that no code gave: pauses, and the end that a limit makes."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from perdure import App, Client, Limits, Node, NodeOptions, WorkflowFailed, workflow
from perdure.client.gateway import StoreGateway
from perdure.store.memory import MemoryStore
from perdure.testing import export_history, replay

app = App("ends")
OPTIONS = NodeOptions(limits=Limits(history_events=20))
letters = workflow.Channel[str]("letters")


@app.activity
async def tell(text: str) -> str:
    return text


@app.workflow
async def stubborn() -> str:
    """It is cancelled again in each pass of the loop, as anyio does it, while it waits for a letter."""

    async def cleanup() -> None:
        letter = asyncio.ensure_future(letters.receive())
        while not letter.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(letter)

    async with anyio.create_task_group() as group:
        group.start_soon(cleanup)
        await asyncio.sleep(0)
        group.cancel_scope.cancel()
    # The name has the creation number, and so how often the loop went round before.
    last = asyncio.create_task(asyncio.sleep(0))
    await last
    return await tell(last.get_name())


@app.workflow
async def endless() -> None:
    while True:
        await tell("again")


async def test_a_pause_lets_no_code_go_on() -> None:
    async with MemoryStore() as store:
        async with Node(app, store) as node:
            handle = node.client.workflow(stubborn, id="s")
            await handle.start()
            await handle.pause("a break")
            await handle.resume()
            await handle.send(letters, "dear")
            await handle.result(timeout=10)
        replayed = replay(app, await export_history(store, "s"))
        assert replayed.status == "completed"


async def test_the_history_of_a_run_that_a_limit_failed_fits_its_code() -> None:
    async with MemoryStore() as store:
        async with Node(app, store, options=OPTIONS) as node:
            with pytest.raises(WorkflowFailed, match="history_events"):
                await node.client.workflow(endless, id="e").run()
        assert (await Client(StoreGateway(store)).get("e").describe()).status == "failed"
        replayed = replay(app, await export_history(store, "e"))
        assert replayed.status == "failed"
        assert replayed.events > 20
