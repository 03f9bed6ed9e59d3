"""The PostgreSQL store passes the suite that is published for others."""

from __future__ import annotations

import pytest
from postgres_stores import FreshStore, Schemas

from perdure.ports.store import Store
from perdure.store.limits import StoreLimits
from perdure.testing.conformance import DurableSuite, StoreFactory, StoreSuite


class TestPostgres(StoreSuite):
    @pytest.fixture
    def store_factory(self, schemas: Schemas) -> StoreFactory:
        def make(shards: int, limits: StoreLimits) -> Store:
            return FreshStore(schemas.take(), shards, limits)

        return make


class TestPostgresDurable(DurableSuite):
    @pytest.fixture
    def store_factory(self, schemas: Schemas) -> StoreFactory:
        schema = schemas.take()
        opened: list[Store] = []

        def make(shards: int, limits: StoreLimits) -> Store:
            opened.append(FreshStore(schema, shards, limits, is_fresh=not opened))
            return opened[-1]

        return make
