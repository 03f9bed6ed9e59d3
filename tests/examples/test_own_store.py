"""The store of examples/own_store.py passes the suite that is published for stores of one's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest

from perdure.kernel.data.message import Message, Send
from perdure.ports.store import Store
from perdure.store.limits import StoreLimits
from perdure.testing.conformance import DurableSuite, StoreFactory, StoreSuite


@pytest.fixture
def own_store(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("own_store")


class TestOwnStore(StoreSuite):
    @pytest.fixture
    def store_factory(self, own_store: ModuleType, tmp_path: Path) -> StoreFactory:
        numbers = count()

        def make(shards: int, limits: StoreLimits) -> Store:
            return own_store.LogStore(
                tmp_path / f"store-{next(numbers)}.log", shards=shards, limits=limits
            )

        return make


class TestOwnStoreAfterReopening(DurableSuite):
    @pytest.fixture
    def store_factory(self, own_store: ModuleType, tmp_path: Path) -> StoreFactory:
        def make(shards: int, limits: StoreLimits) -> Store:
            return own_store.LogStore(tmp_path / "store.log", shards=shards, limits=limits)

        return make


async def test_what_a_crash_left_half_written_is_cut_off(
    own_store: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "store.log"
    async with own_store.LogStore(path) as store:
        await store.post(
            [Message(b"m" * 16, "order-1", Send("channel", b"\x01\x01"), 1, scope="default/0")]
        )
        kept = await store.dump()
    with path.open("ab") as file:
        file.write(b"\x00\x00\x10\x00half")
    async with own_store.LogStore(path) as store:
        assert await store.dump() == kept
