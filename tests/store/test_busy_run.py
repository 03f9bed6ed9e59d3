"""Commits of a busy node, replayed from their bytes onto empty stores, give the same rows: apply is a function."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from perdure import App, RetryPolicy, workflow
from perdure.kernel.data.commit import Commit, Fence, Verdict, decode_commit, encode_commit
from perdure.kernel.data.message import Message
from perdure.ports.store import Claim, Incarnation, Posted
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.database import MEMORY, Options

app = App("busy")
numbers = workflow.Channel[int]("numbers")


@app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
async def echo(text: str) -> str:
    if text.endswith("3") and len(text) % 2:
        raise ConnectionError(text)
    return text


@app.workflow
async def child(text: str) -> str:
    workflow.kv.set("text", text)
    return await echo(text)


@app.workflow
async def parent(n: int, round_: int = 0) -> int:
    workflow.set_status({"round": round_})
    results = await workflow.join(*(child(f"{n}-{i}") for i in range(3)))
    total = sum(isinstance(r, str) for r in results)
    async with asyncio.timeout(60):
        total += await numbers.receive()
    child.detach(f"detached-{n}-{round_}")
    await asyncio.sleep(0.001)
    if round_ < 1:
        workflow.continue_as_new(parent, n, round_ + 1)
    return total


class Recording(MemoryStore):
    """A memory store that writes down every operation as bytes, in the order in which they took effect."""

    log: list[tuple[str, Any]]

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        self.log.append(("claim", (list(scopes), owner)))
        return await super().claim(scopes, owner)

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        self.log.append(("release", fences))
        return await super().release(fences)

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        self.log.append(("commit", [encode_commit(c) for c in batch]))
        return await super().commit(batch)

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        self.log.append(("post", [msgspec.msgpack.encode(m) for m in batch]))
        return await super().post(batch)


async def run(store: Recording) -> None:
    async with app.node(store) as node:
        handles = [node.client.workflow(parent, id=f"p-{n}") for n in range(12)]
        await asyncio.gather(*(h.start(n) for n, h in enumerate(handles)))
        await asyncio.gather(*(h.send(numbers, i) for h in handles for i in range(3)))
        await handles[0].cancel("enough")
        await handles[1].terminate("enough")
        await asyncio.gather(*(h.wait(timeout=20) for h in handles))
        assert await handles[5].status() in ("completed", "failed")


async def replay(log: list[tuple[str, Any]], store: MemoryStore | SQLiteStore) -> object:
    async with store:
        for operation, what in log:
            if operation == "claim":
                await store.claim(*what)
            elif operation == "release":
                await store.release(what)
            elif operation == "commit":
                await store.commit([decode_commit(blob) for blob in what])
            else:
                await store.post([msgspec.msgpack.decode(blob, type=Message) for blob in what])
        return await store.dump()


async def test_the_log_of_a_node_gives_the_same_rows_in_empty_stores() -> None:
    store = Recording(shards=3)
    store.log = []
    async with store:
        await run(store)
        lived = await store.dump()
    commits = sum(len(what) for operation, what in store.log if operation == "commit")
    assert commits > 100, "it was busy"
    assert await replay(store.log, MemoryStore(shards=3)) == lived
    assert await replay(store.log, SQLiteStore(MEMORY, options=Options(shards=3))) == lived
