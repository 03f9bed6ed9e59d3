"""Any node serves any client of it: requests for instances of another node go to that node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from engine import until
from nodes import Fleet, fleet_of

from perdure import AlreadyStarted, App, NotFound, workflow
from perdure.kernel.data.message import Message, Start
from perdure.ports.store import Hint, Posted
from perdure.store.memory import MemoryStore

NAMES = ("a", "b")


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """All messages that were posted to a store."""
    found: list[Message] = []
    post = MemoryStore.post

    async def noting(store: MemoryStore, batch: Sequence[Message]) -> list[Posted]:
        found.extend(batch)
        return await post(store, batch)

    monkeypatch.setattr(MemoryStore, "post", noting)
    return found


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens is told: nothing is found by looking, and the store tells nobody."""
    for gateway in ("perdure.node.gateway", "perdure.client.gateway"):
        monkeypatch.setattr(f"{gateway}._ROUND_MS", 3_600_000)
    monkeypatch.setattr("perdure.client.gateway._FIRST_ROUND_MS", 3_600_000)

    async def silent(_: MemoryStore) -> AsyncIterator[Hint]:
        await asyncio.Event().wait()
        yield Hint("", "")  # pragma: no cover

    monkeypatch.setattr(MemoryStore, "hints", silent)


@pytest.fixture
def no_late_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts may begin at once also where a scope has just come."""
    monkeypatch.setattr("perdure.node.front.listening.LINK_MS", -1_000_000)


@pytest.fixture
def app() -> App:
    app = App("front")

    @app.activity
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def once(n: int) -> int:
        return await double(n)

    @app.workflow
    async def adds(count: int) -> int:
        return sum([await workflow.receive("n", int) for _ in range(count)])

    @app.workflow
    async def calls(other: str, n: int) -> int:
        return int(await workflow.child(once, id=other)(n)) + 1

    @app.workflow
    async def tells(other: str) -> str:
        workflow.send(other, "n", 5)
        return "told"

    return app


async def test_a_start_goes_to_the_owner_and_not_by_the_store(
    app: App, posted: list[Message], no_late_starts: None
) -> None:
    async with fleet_of(app, *NAMES) as fleet:
        unit = fleet.id_at("b", "far")
        handle = fleet.nodes["a"].client.workflow("once", id=unit)
        assert await handle.run(4) == 8
        assert posted == []
        assert fleet.nodes["a"].metrics.turns == 0
        assert fleet.nodes["b"].metrics.turns > 0


async def test_each_verb_works_by_another_node(app: App) -> None:
    async with fleet_of(app, *NAMES) as fleet:
        unit = fleet.id_at("b", "far")
        handle = fleet.nodes["a"].client.workflow("adds", id=unit)
        await handle.start(2)
        waiting = asyncio.ensure_future(handle.result(timeout=30))
        by_id = asyncio.ensure_future(fleet.nodes["a"].client.get(unit).result(timeout=30))
        await handle.send("n", 1)
        await handle.pause()
        await until(lambda: _status(fleet, "a", unit, "suspended"), "the pause")
        await handle.resume()
        await handle.send("n", 2, key="once")
        await handle.send("n", 2, key="once")
        assert await waiting == 3
        assert await by_id == 3
        assert await handle.result(timeout=30) == 3
        with pytest.raises(AlreadyStarted):
            await fleet.nodes["a"].client.workflow("adds", id=unit, if_exists="reject").start(2)
        joined = fleet.nodes["a"].client.workflow("adds", id=unit)
        assert await joined.run(2) == 3
        replaced = fleet.nodes["a"].client.workflow("once", id=unit, if_exists="replace")
        assert await replaced.run(3) == 6
        assert await replaced.delete() == 1
        await until(lambda: _is_gone(fleet, "b", unit), "the deletion")


async def _status(fleet: Fleet, name: str, unit: str, status: str) -> bool:
    return await fleet.nodes[name].client.get(unit).status() == status


async def _is_gone(fleet: Fleet, name: str, unit: str) -> bool:
    try:
        await fleet.nodes[name].client.get(unit).describe()
    except NotFound:
        return True
    return False


async def test_instances_of_two_nodes_call_and_tell_each_other(app: App) -> None:
    async with fleet_of(app, *NAMES) as fleet:
        here, there = fleet.id_at("a", "here"), fleet.id_at("b", "there")
        client = fleet.nodes["a"].client
        assert await client.workflow("calls", id=here).run(there, 4) == 9
        listener = client.workflow("adds", id=fleet.id_at("b", "listens"))
        await listener.start(1)
        assert await client.workflow("tells", id=fleet.id_at("a", "tells")).run(listener.id) == (
            "told"
        )
        assert await listener.result(timeout=30) == 5


async def test_who_waits_is_told_by_the_store_when_the_owner_dies(app: App) -> None:
    async with fleet_of(app, *NAMES, lease_ms=600) as fleet:
        unit = fleet.id_at("b", "moves")
        handle = fleet.nodes["a"].client.workflow("adds", id=unit)
        await handle.start(1)
        waiting = asyncio.ensure_future(handle.result(timeout=60))
        await until(lambda: _is_asked(fleet, "b"), "the wait at the owner")
        fleet.network.partition({"b"})
        fleet.cluster.silence(fleet.nodes["b"].incarnation)
        await until(lambda: len(fleet.nodes["a"].scopes) == 8, "the takeover")
        await handle.send("n", 7)
        assert await waiting == 7


def _is_asked(fleet: Fleet, name: str) -> bool:
    life = fleet.nodes[name]._life
    assert life is not None
    return bool(life.turns.waiters._futures)


async def test_without_a_link_requests_go_by_the_store(app: App, posted: list[Message]) -> None:
    async with fleet_of(app, *NAMES, rescan_ms=50) as fleet:
        fleet.network.partition({"b"})
        unit = fleet.id_at("b", "far")
        handle = fleet.nodes["a"].client.workflow("once", id=unit)
        await handle.start(4)
        assert await handle.result(timeout=30) == 8
        assert [type(message.body) for message in posted] == [Start]


async def test_a_node_that_does_not_listen_is_reached_by_the_store(app: App) -> None:
    async with fleet_of(app, "a", rescan_ms=50) as fleet:
        async with fleet.make("b", listens=False, rescan_ms=50) as deaf:
            await until(lambda: deaf.scopes and len(fleet.nodes["a"].scopes) < 8, "the scopes")
            assert deaf.address is None
            unit = fleet.id_at("b", "far")
            handle = fleet.nodes["a"].client.workflow("once", id=unit)
            assert await handle.run(4) == 8


async def test_a_start_that_was_refused_ends_the_wait_of_who_posted_it(app: App) -> None:
    """It was posted while another node owned the id, which came to this node meanwhile."""
    async with fleet_of(app, "a") as fleet:
        client = fleet.nodes["a"].client
        await client.workflow("adds", id="taken").start(1)
        gateway = fleet.nodes["a"].gateway
        start = client.workflow("once", id="taken")._message((1,), {})
        start.body.if_exists = "reject"  # type: ignore[union-attr]
        from perdure.client.gateway import Begun

        begun = Begun(start.id, may_be_refused=True)
        with pytest.raises(AlreadyStarted):
            await asyncio.wait_for(gateway.closed("taken", begun), 10)
