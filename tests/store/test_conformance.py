"""Our own stores pass the suite that is published for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.ports.store import Store
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.database import MEMORY, Options
from perdure.testing.conformance import DurableSuite, StoreFactory, StoreSuite


class TestMemory(StoreSuite):
    @pytest.fixture
    def store_factory(self) -> StoreFactory:
        def make(shards: int, limits: StoreLimits) -> Store:
            return MemoryStore(shards=shards, limits=limits)

        return make


class TestSQLiteInMemory(StoreSuite):
    @pytest.fixture
    def store_factory(self) -> StoreFactory:
        def make(shards: int, limits: StoreLimits) -> Store:
            return SQLiteStore(MEMORY, options=Options(shards=shards), limits=limits)

        return make


class TestSQLiteFile(StoreSuite, DurableSuite):
    @pytest.fixture
    def store_factory(self, tmp_path: Path) -> StoreFactory:
        def make(shards: int, limits: StoreLimits) -> Store:
            return SQLiteStore(
                str(tmp_path / "store.db"), options=Options(shards=shards), limits=limits
            )

        return make
