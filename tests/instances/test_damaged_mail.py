"""A message that cannot be decoded suspends its instance and is kept; nobody else is kept out of memory by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, Client, Node, NotFound, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.message import Body, Message
from perdure.store.memory import MemoryStore

FIRST = "unit = 'broken' AND position = (SELECT min(position) FROM inbox WHERE unit = 'broken')"


class FromTheFuture(Body, tag=99):
    """A body that only a newer release knows."""

    text: str


def make() -> App:
    app = App("test")

    @app.workflow
    async def work() -> list[int]:
        return [await workflow.receive("n", int) for _ in range(3)]

    return app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def replace(file: Path, statement: str, *values: Any) -> list[Any]:
    """What a broken disk, or a newer release, did to the file."""
    connection = apsw.Connection(str(file))
    try:
        return list(connection.execute(statement, values))
    finally:
        connection.close()


async def started(world: World, names: Sequence[str]) -> None:
    """Instances that have one message and stand in the file, with two more in their inbox."""
    async with world.node(make()) as node:
        for name in names:
            await node.client.workflow("work", id=name).start()
            await node.client.get(name).send("n", 1)
    async with Client.open(world.store) as client:
        for name in names:
            await client.get(name).send("n", 2)
            await client.get(name).send("n", 3)


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"garbage", b"\x92\x63\xa1x"])
async def test_it_waits_with_the_damaged_message_and_goes_on_when_that_is_mended(
    file: Path, damage: bytes
) -> None:
    world = World(f"sqlite:///{file}")
    names = ["broken", *(f"fine-{i}" for i in range(5))]
    await started(world, names)
    [(old,)] = replace(file, f"SELECT body FROM inbox WHERE {FIRST}")
    replace(file, f"UPDATE inbox SET body = ? WHERE {FIRST}", damage)
    async with world.node(make()) as node:
        for name in names[1:]:
            assert await node.client.get(name).result(timeout=PATIENCE_S) == [1, 2, 3]
        handle = node.client.get("broken")
        await waits_for(handle, "undecodable")
        failure = (await handle.describe()).failure
        assert failure is not None
        assert "in the inbox of 'broken' cannot be read" in failure.message
        assert (await node.client.counts())["inbox"] == 2, "nothing is thrown away"
    replace(file, f"UPDATE inbox SET body = ? WHERE {FIRST}", old)
    async with world.node(make()) as node:
        assert await node.client.get("broken").result(timeout=PATIENCE_S) == [1, 2, 3], (
            "and the order is kept"
        )


@pytest.mark.parametrize("how", ["terminate", "cancel", "delete"])
async def test_one_in_memory_is_suspended_as_well_and_can_be_ended(file: Path, how: str) -> None:
    world = World(f"sqlite:///{file}")
    async with world.node(make()) as node:
        handle = node.client.workflow("work", id="w")
        await handle.start()
        newer: Any = FromTheFuture("hello")
        await node.store.post(
            [Message(os.urandom(16), "w", newer, node.clock.now_ms(), scope="default/0")]
        )
        await waits_for(handle, "undecodable")
        await handle.send("n", 1)
        assert (await handle.describe()).history_events == 2, "what came later waits behind it"
        if how == "delete":
            assert await handle.delete(force=True) == 1
            with pytest.raises(NotFound):
                await handle.describe()
        else:
            await getattr(handle, how)("beyond repair")
            assert (await handle.wait(timeout=PATIENCE_S)).status == "cancelled"
        assert (await node.client.counts())["inbox"] == 0


async def test_a_start_that_cannot_be_read_waits_and_stops_nobody(file: Path) -> None:
    world = World(f"sqlite:///{file}")
    async with Client.open(world.store) as client:
        for name in ("broken", "fine"):
            await client.workflow("work", id=name).start()
            for n in (1, 2, 3):
                await client.get(name).send("n", n)
    [(old,)] = replace(file, f"SELECT body FROM inbox WHERE {FIRST}")
    replace(file, f"UPDATE inbox SET body = x'c1' WHERE {FIRST}")
    async with world.node(make()) as node:
        assert await node.client.get("fine").result(timeout=PATIENCE_S) == [1, 2, 3]
        with pytest.raises(NotFound):
            await node.client.get("broken").describe()
    replace(file, f"UPDATE inbox SET body = ? WHERE {FIRST}", old)
    async with world.node(make()) as node:
        assert await node.client.get("broken").result(timeout=PATIENCE_S) == [1, 2, 3]


class Damaged(MemoryStore):
    """Cannot load one of its units, and refuses commits of another as invalid."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: str | None = None
        self.invalid: str | None = None
        self.invalid_times = 0

    async def load(self, units: Sequence[str]) -> Any:
        if self.unreadable in units:
            raise ValueError("a column cannot be read")
        return await super().load(units)

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for commit in batch:
            if commit.unit == self.invalid and self.invalid_times:
                self.invalid_times -= 1
                verdicts.append("invalid")
            else:
                verdicts += await super().commit([commit])
        return verdicts


@pytest.fixture
async def damaged() -> AsyncIterator[Damaged]:
    async with Damaged() as store:
        yield store


async def test_a_row_that_cannot_be_read_keeps_no_other_out_of_memory(damaged: Damaged) -> None:
    await started(World(damaged), ["broken", *(f"fine-{i}" for i in range(5))])
    damaged.unreadable = "broken"
    async with World(damaged).node(make()) as node:
        for i in range(5):
            assert await node.client.get(f"fine-{i}").result(timeout=PATIENCE_S) == [1, 2, 3]
        with pytest.raises(
            StoreUnavailable, match="'broken' cannot be loaded: a column cannot be read"
        ):
            await node.client.get("broken").send("n", 4)
        damaged.unreadable = None
        await node.client.get("broken").pause()
        await node.client.get("broken").resume()
        assert await node.client.get("broken").result(timeout=PATIENCE_S) == [1, 2, 3]


@pytest.mark.parametrize(("times", "suspended"), [(1, False), (3, True)])
async def test_a_commit_that_is_refused_as_invalid_is_tried_again_and_then_sets_its_instance_aside(
    damaged: Damaged, times: int, suspended: bool
) -> None:
    async with World(damaged).node(make(), turn_failures=3) as node:
        handles = {name: node.client.workflow("work", id=name) for name in ("bad", "good")}
        for handle in handles.values():
            await handle.start()
        damaged.invalid, damaged.invalid_times = "bad", times
        await handles["bad"].send("n", 1)
        await _finish(node, "good")
        if suspended:
            await waits_for(handles["bad"], "poison")
            description = await handles["bad"].describe()
            assert description.failure is not None
            assert "the store refused its commit as invalid" in description.failure.message
            assert (description.id, description.execution) == ("bad", 1)
            await handles["bad"].retry()
        await until(lambda: _is(node, "bad", "running"), "it goes on")
        await handles["bad"].send("n", 2)
        await handles["bad"].send("n", 3)
        assert await handles["bad"].result(timeout=PATIENCE_S) == [1, 2, 3]


async def test_one_whose_every_commit_is_refused_leaves_memory_and_says_so(
    damaged: Damaged,
) -> None:
    async with World(damaged).node(make(), turn_failures=2) as node:
        handle = node.client.workflow("work", id="bad")
        await handle.start()
        damaged.invalid, damaged.invalid_times = "bad", 1_000
        with pytest.raises(StoreUnavailable, match="the store refused the commit as invalid"):
            await handle.send("n", 1)
        assert damaged.invalid_times == 1_000 - 3
        await _finish(node, "good", start=True)


async def _finish(node: Node, name: str, *, start: bool = False) -> None:
    handle = node.client.workflow("work", id=name)
    if start:
        await handle.start()
    await asyncio.gather(*(handle.send("n", n) for n in (1, 2, 3)))
    assert await handle.result(timeout=PATIENCE_S) == [1, 2, 3]


async def _is(node: Node, name: str, status: str) -> bool:
    found: str = await node.client.get(name).status()
    return found == status
