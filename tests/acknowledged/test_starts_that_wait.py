"""A start that waits: whatever closes its instance takes the start with it, and control messages keep their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, Client, workflow
from perdure.client.gateway import StoreGateway
from perdure.errors import NotFound, WorkflowFailed
from perdure.kernel.data.commit import CLOSED, Commit, Verdict
from perdure.ports.store import Inbox, Store
from perdure.store import open_store
from perdure.store.memory import MemoryStore


def make(ran: list[str]) -> tuple[App, Any]:
    app = App("starts")

    @app.workflow
    async def work(key: str) -> str:
        ran.append(key)
        await workflow.receive("go", bool)
        return key

    return app, work


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_a_delayed_start_that_was_stopped_never_runs(world: World, verb: str) -> None:
    ran: list[str] = []
    app, work = make(ran)
    clock = world.stop_time()
    async with world.node(app) as node:
        handle = node.client.workflow(work, id="d", delay=60)
        await handle.start("d")
        await getattr(handle, verb)("not wanted")
        clock.advance(120_000)
        await getattr(handle, verb)("once more")
        assert await handle.status() == "cancelled"
        assert not (await node.store.query(Inbox(unit="d"))).items, "its start has left the inbox"
    async with world.node(app) as node:
        await node.client.workflow(work, id="other").start("other")
        await until(lambda: "other" in ran, "another instance runs")
        assert await node.client.get("d").status() == "cancelled"
    assert ran == ["other"]


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_a_start_without_code_that_was_stopped_does_not_run_after_the_deploy(
    world: World, verb: str
) -> None:
    ran: list[str] = []
    app, work = make(ran)
    async with world.node(App("old")) as node:
        handle = node.client.workflow("work", id="w")
        await handle.start("w")
        await waits_for(handle, "not_registered")
        await getattr(handle, verb)("not wanted")
        assert await handle.status() == "cancelled"
    async with world.node(app) as node:
        await node.client.workflow(work, id="other").start("other")
        await until(lambda: "other" in ran, "another instance runs")
        assert await node.client.get("w").status() == "cancelled"
    assert ran == ["other"]


async def test_an_instance_that_is_poison_before_it_began_can_be_terminated(world: World) -> None:
    app = App("bomb")

    @app.workflow
    async def endless() -> None:
        while True:
            pass

    async with world.node(app, turn_limit_ms=50) as node:
        handle = node.client.workflow(endless, id="e")
        await handle.start()
        await waits_for(handle, "poison")
        failures = node.metrics.turn_failures
        await asyncio.wait_for(handle.terminate("enough"), 30)
        assert await handle.status() == "cancelled"
        assert node.metrics.turn_failures == failures, "its code was not tried again"


@pytest.mark.parametrize("verb", ["cancel", "terminate", "pause", "delete"])
async def test_control_that_follows_a_replacing_start_means_the_new_run(
    tmp_path: Any, verb: str
) -> None:
    """The client has posted both while no node ran. It awaited the start first."""
    ran: list[str] = []
    app, work = make(ran)
    world = World(f"sqlite:///{tmp_path}/x.db")
    async with world.node(app) as node:
        await node.client.workflow(work, id="w").start("first")
    async with Client.open(f"sqlite:///{tmp_path}/x.db") as client:
        await client.workflow(work, id="w", if_exists="replace").start("second")
        handle = client.get("w")
        if verb == "delete":
            await handle.delete(force=True)
        else:
            await getattr(handle, verb)("why")
    async with world.node(app) as node:
        handle = node.client.get("w")
        if verb == "delete":
            await until(lambda: _is_gone(handle), "the instance is deleted")
        elif verb == "pause":
            await waits_for(handle, "paused")
            description = await handle.describe()
            assert description.execution == 2, "the run that the start made"
        else:
            with pytest.raises(WorkflowFailed):
                await handle.result(timeout=30)
            description = await handle.describe()
            assert description.execution == 2, "the run that the start made"


async def _is_gone(handle: Any) -> bool:
    try:
        await handle.status()
    except NotFound:
        return True
    return False


class Announcing(MemoryStore):
    """Has a client post a start while the commit of a deletion is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.during: Callable[[], Awaitable[None]] | None = None

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts = await super().commit(batch)
        if self.during is not None and any(commit.delete is not None for commit in batch):
            during, self.during = self.during, None
            await during()
            await asyncio.sleep(0)  # the hint arrives before the answer
            await asyncio.sleep(0)
        return verdicts


async def test_a_start_that_comes_while_its_id_is_deleted_begins_a_new_life() -> None:
    app = App("again")

    @app.workflow
    async def echo(number: int) -> int:
        return number

    async with Announcing() as store, World(store).node(app) as node:
        outside = Client(StoreGateway(store))
        await node.client.workflow(echo, id="e").run(1)

        async def start_again() -> None:
            await outside.workflow(echo, id="e").start(2)

        store.during = start_again
        await node.client.get("e").delete()
        assert await node.client.workflow(echo, id="e").result(timeout=30) == 2


class Ending(MemoryStore):
    """Has something happen while the commit of an end is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.during: Callable[[], Awaitable[None]] | None = None

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts = await super().commit(batch)
        if self.during is not None and any(commit.row.status in CLOSED for commit in batch):
            during, self.during = self.during, None
            await during()
        return verdicts


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_a_delayed_start_that_follows_an_end_at_once_can_be_stopped(verb: str) -> None:
    """The run that has ended is in memory still when the start comes."""
    ran: list[str] = []
    app, work = make(ran)
    async with Ending() as store, World(store).node(app) as node:
        handle = node.client.workflow(work, id="w")
        await handle.start("first")
        await waits_for(handle, "message go")
        later = node.client.workflow(work, id="w", if_exists="replace", delay=3_600)
        starting: list[asyncio.Task[None]] = []

        async def start_again() -> None:
            starting.append(asyncio.ensure_future(later.start("second")))
            for _ in range(5):
                await asyncio.sleep(0)  # it has reached the mailbox

        store.during = start_again
        await handle.send("go", True)
        await starting[0]
        await getattr(later, verb)("not wanted")
        assert await later.status() == "cancelled"
    assert ran == ["first"]


@pytest.mark.parametrize("verb", ["cancel", "terminate", "pause"])
async def test_what_stops_a_delayed_start_while_no_node_runs_comes_before_its_code(
    world: World, verb: str
) -> None:
    """The start has been taken and is due when the next node finds both."""
    ran: list[str] = []
    app, work = make(ran)
    clock = world.stop_time()
    async with world.node(app) as node:
        await node.client.workflow(work, id="d", delay=60).start("d")
    async with opened(world.store) as store:
        handle = Client(StoreGateway(store, clock)).get("d")
        await getattr(handle, verb)("not wanted")
    clock.advance(120_000)
    async with world.node(app) as node:
        await node.client.workflow(work, id="other").start("other")
        await until(lambda: "other" in ran, "another instance runs")
        handle = node.client.get("d")
        if verb == "pause":
            await waits_for(handle, "paused")
        else:
            assert (await handle.wait(timeout=30)).status == "cancelled"
    assert ran == ["other"]


@asynccontextmanager
async def opened(store: str | Store) -> AsyncIterator[Store]:
    if isinstance(store, str):
        async with open_store(store) as own:
            yield own
    else:
        yield store


async def test_what_follows_a_start_is_kept_when_the_run_before_is_deleted(
    world: World, app: App
) -> None:
    @app.workflow
    async def echo(life: int) -> int:
        return life + await workflow.receive("number", int)

    async with world.node(app) as node:
        await node.client.workflow(echo, id="e").start(100)
    async with opened(world.store) as store:
        outside = Client(StoreGateway(store))
        await outside.get("e").send("number", 1)
        await outside.get("e").delete(force=True)
        again = outside.workflow(echo, id="e", if_exists="replace")
        await again.start(200)
        await again.send("number", 2)
    async with world.node(app) as node:
        assert await node.client.workflow(echo, id="e").run(200) == 202


class Deleting(MemoryStore):
    """Has something happen before the commit of a deletion lands."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], Awaitable[None]] | None = None

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.before is not None and any(commit.delete is not None for commit in batch):
            before, self.before = self.before, None
            await before()
        return await super().commit(batch)


async def test_what_follows_a_start_that_comes_while_its_id_is_deleted_is_kept(app: App) -> None:
    @app.workflow
    async def echo(life: int) -> int:
        return life + await workflow.receive("number", int) if life > 1 else life

    async with Deleting() as store, World(store).node(app) as node:
        outside = Client(StoreGateway(store))
        await node.client.workflow(echo, id="e").run(1)

        async def start_again() -> None:
            again = outside.workflow(echo, id="e", if_exists="replace")
            await again.start(200)
            await again.send("number", 2)

        store.before = start_again
        await node.client.get("e").delete()
        assert await node.client.workflow(echo, id="e").result(timeout=30) == 202


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_a_run_that_is_stopped_and_replaced_in_one_turn_tells_its_callers(
    world: World, verb: str
) -> None:
    """No store ever has its last state."""
    ran: list[str] = []
    app, work = make(ran)
    async with world.node(app) as node:
        first = node.client.workflow(work, id="w", delay=3_600)
        await first.start("first")
        waiting = asyncio.ensure_future(first.wait(timeout=PATIENCE_S))
        await asyncio.sleep(0)
        second = node.client.workflow(work, id="w", if_exists="replace")
        await asyncio.gather(getattr(first, verb)("enough"), second.start("second"))
        assert (await waiting).status == "cancelled"
        await waits_for(second, "message go")
    assert ran == ["second"]


async def test_a_run_without_code_that_is_terminated_and_replaced_in_one_turn(
    world: World, app: App
) -> None:
    @app.workflow
    async def spin(life: int) -> int:
        if life > 1:
            return life
        workflow.continue_as_new(spin, life)

    async with world.node(app) as node:
        first = node.client.workflow(spin, id="s")
        await asyncio.gather(first.start(1), first.pause("between two executions"))
        await waits_for(first, "paused")
        waiting = asyncio.ensure_future(first.wait(timeout=PATIENCE_S))
        await asyncio.sleep(0)
        second = node.client.workflow(spin, id="s", if_exists="replace")
        await asyncio.gather(first.terminate("enough"), second.start(2))
        assert await second.result(timeout=PATIENCE_S) == 2
        assert (await waiting).status == "cancelled"
        assert node.metrics.turn_failures == 0
