"""An instance that is asked for at the very moment at which the last loaders finish is loaded as well."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest

from perdure import App, Client, NodeOptions, workflow
from perdure.codec import encode
from perdure.kernel.data.message import Message, Send
from perdure.node.ownership import arrivals
from perdure.ports.store import Hint, Loaded
from perdure.store.memory import MemoryStore


class Hasty(MemoryStore):
    """After a load something happens between the loader's last step and the moment at which it is seen to be done."""

    then: Callable[[], None] | None = None

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        found = await super().load(units)
        if self.then is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self.then)
            self.then = None
        return found


async def test_a_request_between_two_loaders_lives() -> None:
    app = App("hasty")

    @app.workflow
    async def waiting() -> int:
        return await workflow.receive("n", int)

    begun: list[Coroutine[Any, Any, Any]] = []
    async with Hasty() as store, app.node(store, options=NodeOptions(residents=1, loads=1)) as node:
        handles = [node.client.workflow(waiting, id=f"w-{i}") for i in range(4)]
        for handle in handles:
            await handle.start()

        def ask() -> None:
            """Deliver a message for an instance on disk, without the detour of a task."""
            message = Message(os.urandom(16), "w-2", Send("n", encode(2)), node.clock.now_ms())
            begun.append(node.gateway.send(message))
            begun[0].send(None)

        store.then = ask
        await asyncio.gather(
            handles[0].send("n", 0), handles[1].send("n", 1)
        )  # two loaders in step
        assert await handles[2].result(timeout=30) == 2
        begun[0].close()


async def test_a_node_that_has_had_too_many_in_memory_gets_rid_of_them() -> None:
    """While they work none of them can leave. Afterwards several go for each that comes."""
    app = App("many")
    gate = asyncio.Event()

    @app.activity
    async def slow() -> None:
        await gate.wait()

    @app.workflow
    async def works() -> None:
        await slow()
        await workflow.receive("never", int)

    async with MemoryStore() as store:
        async with app.node(store, options=NodeOptions(residents=4)) as node:
            for n in range(40):
                await node.client.workflow(works, id=f"w{n}").start()
            assert node.residents == 40
            gate.set()
            while node.metrics.running or node.metrics.turns < 80:
                await asyncio.sleep(0)
            for n in range(12):
                await node.client.workflow(works, id=f"more{n}").start()
            assert node.residents <= 10


async def test_one_look_finds_all_that_has_come_without_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is more than one question brings."""
    monkeypatch.setattr(arrivals, "_PAGE", 2)
    app = App("many")

    @app.workflow
    async def waiting() -> int:
        return await workflow.receive("n", int)

    class Silent(MemoryStore):
        async def hints(self) -> AsyncIterator[Hint]:
            await asyncio.Event().wait()
            yield Hint("", "")

    options = NodeOptions(rescan_ms=600_000)
    async with Silent() as store, app.node(store, options=options) as node:
        handles = [node.client.workflow(waiting, id=f"w{n}") for n in range(5)]
        for handle in handles:
            await handle.start()
        async with Client.open(store) as outside:
            for n in range(5):
                await outside.get(f"w{n}").send("n", n)
        assert node._life is not None
        await node._life.arrivals.look()
        results = [await handle.result(timeout=10) for handle in handles]
        assert results == list(range(5))
