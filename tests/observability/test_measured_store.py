"""A measured store is the same store; its failures are counted, who gives up waiting is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from engine import until
from meters import Meters

from perdure import App, Node
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.ports.store import Page, Query, Store, Units
from perdure.store.limits import StoreLimits
from perdure.store.measured import MeasuredStore
from perdure.store.memory import MemoryStore
from perdure.testing.conformance import StoreFactory, StoreSuite


class Fails(MemoryStore):
    """The next commits fail, so does each query."""

    failures = 0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("busy")
        return await super().commit(batch)


async def test_failures_of_the_store(app: App, meters: Meters) -> None:
    @app.workflow
    async def nothing() -> None: ...

    async with Fails() as store, Node(app, store, meter_provider=meters) as node:
        store.failures = 2
        await node.client.workflow(nothing, id="x").run()
    assert meters.total("perdure.store.errors", operation="commit", error="StoreUnavailable") == 2
    assert meters.total("perdure.store.errors") == 2
    assert len(meters.values("perdure.store.duration", operation="commit")) == 3
    assert meters.values("perdure.commit.batch") == [1], "a batch that failed made nothing durable"
    assert meters.total("perdure.workflow.starts") == 1


async def test_gauges_of_a_store_that_cannot_be_read_are_absent(app: App, meters: Meters) -> None:
    class Unreadable(MemoryStore):
        broken = False

        async def query(self, query: Query[Any]) -> Page[Any]:
            if self.broken:
                raise StoreUnavailable("gone")
            return await super().query(query)

    async with Unreadable() as store, Node(app, store, meter_provider=meters):
        assert meters.gauge("perdure.inbox.depth") == {("test",): 0}
        store.broken = True
        assert meters.gauge("perdure.instances") != {}
        await until(lambda: meters.gauge("perdure.inbox.depth") == {}, "the number is unknown")
        store.broken = False
        assert meters.gauge("perdure.instances") == {}
        await until(lambda: meters.gauge("perdure.inbox.depth") != {}, "the number is known again")


async def test_who_gives_up_is_no_error(meters: Meters) -> None:
    recorded: list[tuple[str, Exception | None]] = []

    class Slow(MemoryStore):
        async def query(self, query: Query[Any]) -> Page[Any]:
            await asyncio.Event().wait()
            raise AssertionError

    async with Slow() as store:
        measured = MeasuredStore(
            store, lambda operation, _size, _seconds, error: recorded.append((operation, error))
        )
        asking = asyncio.ensure_future(measured.query(Units()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert recorded == [("query", None)]


class TestSuite(StoreSuite):
    """What every store does, a measured one does."""

    @pytest.fixture
    def store_factory(self) -> StoreFactory:
        def make(shards: int, limits: StoreLimits) -> Store:
            return MeasuredStore(MemoryStore(shards=shards, limits=limits), lambda *_: None)

        return make
