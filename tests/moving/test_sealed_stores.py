"""A store that moves takes no work, and says where everything is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from moved_stores import Places, furnish
from msgspec.structs import replace

from perdure import App, Client
from perdure.errors import StoreLocked, StoreMoved, UsageError
from perdure.moving import move
from perdure.ports.moving import RowPart, Seal
from perdure.ports.store import DeadLetters, Incarnation
from perdure.store import open_store
from perdure.testing.conformance.scenario import NOW, Scenario, request

KINDS = ("sqlite", "postgres")
SOURCE = Seal(move="0a", role="source", other="sqlite:////there.db", other_id="there")
TARGET = Seal(move="0a", role="target", other="sqlite:////here's.db", other_id="here")


def store_at(url: str) -> Any:
    return open_store(url)


async def refused(call: Awaitable[object]) -> StoreMoved:
    with pytest.raises(StoreMoved) as caught:
        await call
    assert caught.value.is_permanent
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seal", [SOURCE, TARGET], ids=["source", "target"])
async def test_every_write_is_refused(places: Places, kind: str, seal: Seal) -> None:
    url = places.new(kind, 1)
    # The owner and the client opened the store before it was sealed.
    async with store_at(url) as store:
        scenario = Scenario(store)
        if seal is SOURCE:
            await furnish(scenario)
            await scenario.applied("stored")
        await store.hold()
        await store.reseal(None, seal)
        assert await store.seal() == seal
        writes: dict[str, Callable[[], Awaitable[object]]] = {
            "claim": lambda: store.claim(["default/0"], Incarnation("n", "n-1")),
            "first claim": lambda: store.claim(["default/9"], Incarnation("n", "n-1")),
            "post": lambda: store.post([scenario.start("order")]),
        }
        if seal is SOURCE:
            letters = [letter.message for letter in await scenario.all(DeadLetters())]
            writes |= {
                "first commit": lambda: store.commit([scenario.commit("late")]),
                "commit": lambda: store.commit([scenario.commit("stored", 1)]),
                "deletion": lambda: store.commit([scenario.commit("stored", 1, delete=NOW)]),
                "release": lambda: store.release(scenario.fences()),
                "lease": lambda: store.lease(request(at=NOW + 10**6)),
                "drop": lambda: store.drop_letters(letters),
                "sweep": lambda: store.sweep(scenario.fences(), NOW + 10**12, 100),
            }
        for name, write in writes.items():
            error = await refused(write())
            assert error.moved_to == (SOURCE.other if seal is SOURCE else None), name
            assert seal.other in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_opened_target_takes_work(places: Places, kind: str) -> None:
    async with store_at(places.new(kind, 1)) as store:
        await store.hold()
        await store.reseal(None, TARGET)
        await store.reseal(TARGET, replace(TARGET, is_done=True))
        scenario = Scenario(store)
        await furnish(scenario)
        # It may move on to a third store one day.
        await store.reseal(replace(TARGET, is_done=True), SOURCE)
        await refused(store.post([scenario.start("order")]))
        await store.reseal(SOURCE, None)
        await scenario.accepted(scenario.start("order"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_seal_is_changed_only_by_who_knows_it(places: Places, kind: str) -> None:
    async with store_at(places.new(kind, 1)) as store:
        await store.hold()
        await store.reseal(None, SOURCE)
        assert "is being moved to" in str(await refused(store.reseal(None, TARGET)))
        await store.reseal(SOURCE, None)
        assert "given up meanwhile" in str(await refused(store.reseal(SOURCE, None)))
        assert await store.seal() is None


@pytest.mark.parametrize("kind", KINDS)
async def test_a_program_that_stood_still_adds_nothing(places: Places, kind: str) -> None:
    # It has read a message of the source. The target has consumed that message since.
    async with store_at(places.new(kind, 1)) as store:
        await store.hold()
        part = RowPart(("run", "scope", "expires_at"), [(b"run", "default/0", 5)])
        await store.reseal(None, TARGET)
        await store.fill(TARGET, "tombstones", part)
        await store.reseal(TARGET, replace(TARGET, is_done=True))
        late = replace(part, rows=[(b"late", "default/0", 5)])
        await refused(store.fill(TARGET, "tombstones", late))
        assert (await store.rows("tombstones", None)).rows == part.rows


@pytest.mark.parametrize("kind", KINDS)
async def test_only_an_empty_store_becomes_a_target(places: Places, kind: str) -> None:
    async with store_at(places.new(kind, 1)) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await store.hold()
        # An owner of before is fenced for good, also when the store is open again.
        await store.reseal(None, TARGET)
        assert (await store.rows("scopes", None)).rows == []
        await store.reseal(TARGET, None)
        assert await scenario.apply(scenario.commit("order")) == ["fenced"]
        await scenario.accepted(scenario.start("order"))
        with pytest.raises(UsageError, match=r"not empty \(it has rows in inbox\)"):
            await store.reseal(None, TARGET)
        assert await store.seal() is None
        await scenario.accepted(scenario.start("other"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_move_is_refused_at_once(places: Places, kind: str) -> None:
    url = places.new(kind, 1)
    async with store_at(url) as one, store_at(url) as other:
        await one.hold()
        await one.hold()
        with pytest.raises(StoreLocked):
            await other.hold()


@pytest.mark.parametrize("kind", KINDS)
async def test_nodes_and_clients_are_told_at_once(places: Places, kind: str) -> None:
    old, new = places.new(kind, 1), places.new("sqlite", 1)
    async with Client.open(old):
        pass
    await move(old, new)
    for opened in (Client.open(old), App("shop").node(old)):
        with pytest.raises(StoreMoved, match="has moved to sqlite:///") as caught:
            async with opened:
                raise AssertionError
        assert caught.value.moved_to == new.partition("?")[0]
    async with App("shop").node(new):
        pass


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_waits_is_told(places: Places, kind: str) -> None:
    old, new = places.new(kind, 1), places.new("sqlite", 1)
    app = App("shop")

    @app.workflow
    async def order() -> None: ...

    async with Client.open(old) as client:
        handle = client.workflow(order, id="order-1")
        await handle.start()
        waiting = asyncio.create_task(handle.result())
        await move(old, new)
        async with asyncio.timeout(20):
            error = await refused(waiting)
        assert error.moved_to == new.partition("?")[0]


async def test_a_name_with_quotes_is_no_statement(places: Places) -> None:
    url = places.new("sqlite", 1)
    odd = replace(SOURCE, other='sqlite:////it\'s "odd"; -- é.db')
    async with store_at(url) as store:
        await store.hold()
        await store.reseal(None, odd)
        error = await refused(Scenario(store).claim())
        assert error.moved_to == odd.other
