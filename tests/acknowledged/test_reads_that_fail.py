"""A read that fails forgets nothing: it is tried again, and mail without a hint is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from engine import World, until

from perdure import App, Client, workflow
from perdure.client.gateway import StoreGateway
from perdure.errors import StoreError, StoreFormat, StoreUnavailable
from perdure.ports.store import Hint, InboxPart, Loaded
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore


class Failing(MemoryStore):
    """Refuses so many reads, and says nothing of mail if it is `silent`."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.error: StoreError = StoreUnavailable("connection reset")
        self.silent = False

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        self._fail()
        return await super().load(units)

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        self._fail()
        return await super().inbox(unit, after, limit)

    def hints(self) -> AsyncIterator[Hint]:
        return _nothing() if self.silent else super().hints()


async def _nothing() -> AsyncIterator[Hint]:
    await asyncio.Event().wait()
    yield ""


@pytest.fixture
async def failing() -> AsyncIterator[Failing]:
    async with Failing() as store:
        yield store


async def test_at_the_deadline_of_an_instance_on_disk(failing: Failing, app: App) -> None:
    @app.workflow
    async def sleeping() -> str:
        await asyncio.sleep(60)
        return "woken"

    @app.workflow
    async def nothing() -> None: ...

    world = World(failing)
    clock = world.stop_time()
    async with world.node(app, residents=1) as node:
        handle = node.client.workflow(sleeping, id="s")
        await handle.start()
        await node.client.workflow(nothing, id="n").run()
        await until(lambda: node.residents <= 1, "it has left memory")
        failing.failures = 2
        clock.advance(61_000)
        assert await handle.result(timeout=30) == "woken"
        assert failing.failures == 0


async def test_for_a_message_to_an_instance_on_disk(failing: Failing, app: App) -> None:
    @app.workflow
    async def reader() -> str:
        return await workflow.receive("word", str)

    @app.workflow
    async def writer() -> None:
        workflow.send("r", "word", "hello")

    world = World(failing)
    async with world.node(app) as node:
        await node.client.workflow(reader, id="r").start()
    async with world.node(app) as node:
        failing.failures = 2
        await node.client.workflow(writer, id="w").run()
        assert await node.client.workflow(reader, id="r").result(timeout=30) == "hello"


async def test_for_mail_of_another_process(failing: Failing, app: App) -> None:
    @app.workflow
    async def reader() -> str:
        return await workflow.receive("word", str)

    async with World(failing).node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        failing.failures = 2
        await Client(StoreGateway(failing)).get("r").send("word", "hello")
        assert await handle.result(timeout=30) == "hello"


async def test_for_mail_that_cannot_be_read_while_an_activity_runs(
    failing: Failing, app: App
) -> None:
    """The instance leaves memory, its activity goes on, and its senders are told."""
    began: list[int] = []
    gate = asyncio.Event()

    @app.activity
    async def slow() -> int:
        began.append(1)
        await gate.wait()
        return 5

    @app.workflow
    async def calls() -> list[int]:
        return [await slow(), await workflow.receive("number", int)]

    async with World(failing).node(app) as node:
        handle = node.client.workflow(calls, id="c")
        await handle.start()
        await until(lambda: began, "the activity")
        failing.error = StoreFormat("a column cannot be read")
        failing.failures = 1
        await Client(StoreGateway(failing)).get("c").send("number", 7)  # its mail is looked at
        await until(lambda: not failing.failures, "the read that fails")
        await until(lambda: not node.residents, "the instance has left memory")
        failing.failures = 1
        with pytest.raises(StoreUnavailable, match="'c' cannot be loaded: a column"):
            await handle.send("other", 1)
        assert await handle.status() == "running"
        await handle.raise_event("news")  # it can be read again
        gate.set()
        assert await handle.result(timeout=30) == [5, 7]
    assert began == [1], "the attempt that ran was not begun a second time"


async def test_a_sender_is_told_when_the_store_stays_away(failing: Failing, app: App) -> None:
    """What only this process has is given back. What is stored waits for the store."""

    @app.workflow
    async def reader() -> str:
        return await workflow.receive("word", str)

    world = World(failing)
    async with world.node(app) as node:
        await node.client.workflow(reader, id="r").start()
    async with world.node(app, store_retry_ms=100) as node:
        handle = node.client.workflow(reader, id="r")
        failing.failures = 1_000_000
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(handle.send("word", "lost"), 30)
        failing.failures = 0
        await handle.send("word", "hello")
        assert await handle.result(timeout=30) == "hello", "the message that was refused never came"


async def test_without_any_hint(failing: Failing, app: App) -> None:
    @app.workflow
    async def reader() -> str:
        return await workflow.receive("word", str)

    failing.silent = True
    async with World(failing).node(app, rescan_ms=20) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        outside = Client(StoreGateway(failing))
        await outside.get("r").send("word", "hello")
        assert await handle.result(timeout=30) == "hello"
        await outside.workflow(reader, id="posted").start()
        await outside.get("posted").send("word", "found")
        assert await node.client.workflow(reader, id="posted").result(timeout=30) == "found"


async def test_without_the_socket_of_the_owner(tmp_path: Path, app: App) -> None:
    """A folder stands where the socket should be."""

    @app.workflow
    async def nothing() -> str:
        return "ran"

    (tmp_path / "x.db.sock" / "in the way").mkdir(parents=True)
    async with World(f"sqlite:///{tmp_path}/x.db").node(app, rescan_ms=20) as node:
        async with SQLiteStore(str(tmp_path / "x.db")) as store:
            await Client(StoreGateway(store)).workflow(nothing, id="n").start()
        assert await node.client.workflow(nothing, id="n").result(timeout=30) == "ran"
