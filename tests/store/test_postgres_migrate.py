"""How a PostgreSQL schema gets its format: halves before and after a deploy, one process at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from postgres_server import server_url
from postgres_stores import Schemas
from typer.testing import CliRunner

from perdure.cli.program import app as program
from perdure.errors import StoreError, StoreFormat, StoreUnavailable
from perdure.store import open_store
from perdure.store.postgres import PostgresStore
from perdure.store.postgres.migrate import Step, steps, upgrade
from perdure.testing.conformance.scenario import Scenario

NEXT = [
    Step(2, "before", "ALTER TABLE units ADD COLUMN extra text"),
    Step(2, "after", "ALTER TABLE units DROP COLUMN reason"),
]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    schemas = Schemas()
    schema = f"{schemas.take()}_migrated"
    yield f"{server_url()}?schema={schema}&shards=1"
    connection = await asyncpg.connect(server_url())
    await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
    await connection.close()
    schemas.give_back()


def store_at(url: str) -> PostgresStore:
    store = open_store(url)
    assert isinstance(store, PostgresStore)
    return store


async def test_a_format_comes_in_two_halves_and_old_nodes_go_on_between(url: str) -> None:
    async with store_at(url) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        known = [*steps(), *NEXT]
        found = await upgrade(store.address, check=True, known=known)
        assert (found.format, found.applied) == (1, [])
        assert found.pending == ["format 2 (before the nodes)", "format 2 (after the nodes)"]
        found = await upgrade(store.address, check=False, known=known)
        assert (found.format, found.applied) == (1, ["format 2 (before the nodes)"])
        await scenario.applied("order", 1)
        async with store_at(url) as another:
            assert (await Scenario(another).load("order")).version == 2
        found = await upgrade(store.address, check=False, finish=True, known=known)
        assert (found.format, found.applied, found.pending) == (
            2,
            ["format 2 (after the nodes)"],
            [],
        )
    with pytest.raises(StoreFormat, match="upgrade perdure"):
        await store_at(url).__aenter__()


async def test_two_that_migrate_at_once_do_it_once(url: str) -> None:
    async with store_at(url) as store:
        known = [*steps(), *NEXT]
        found = await asyncio.gather(
            *[upgrade(store.address, check=False, known=known) for _ in range(3)]
        )
        assert sorted(len(one.applied) for one in found) == [0, 0, 1]


async def test_a_half_that_fails_leaves_nothing(url: str) -> None:
    async with store_at(url) as store:
        bad = Step(2, "before", "CREATE TABLE half (id int); SELECT 1 / 0")
        with pytest.raises(StoreError, match="division"):
            await upgrade(store.address, check=False, known=[*steps(), bad])
        found = await upgrade(store.address, check=True, known=[*steps(), bad])
        assert found.pending == ["format 2 (before the nodes)"]
        connection = await asyncpg.connect(server_url())
        schema = store.address.quoted_schema
        assert await connection.fetchval("SELECT to_regclass($1)", f"{schema}.half") is None
        await connection.close()


async def test_a_store_that_is_only_read_is_not_made(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="no store"):
        await store_at(f"{url}&create=false").__aenter__()


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_folder")
def test_the_commands_know_the_store() -> None:
    schemas = Schemas()
    schema = f"{schemas.take()}_cli"
    url = f"{server_url()}?schema={schema}"
    run = CliRunner().invoke

    async def drop() -> None:
        connection = await asyncpg.connect(server_url())
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
        await connection.close()

    try:
        missing = run(program, ["ls", "--store", url])
        assert missing.exit_code != 0
        started = run(program, ["start", "shop", "--id", "order-1", "--store", url])
        assert started.exit_code == 0, started.output
        listed = run(program, ["migrate", url, "--json"])
        assert listed.exit_code == 0, listed.output
        assert json.loads(listed.stdout)["format"] == 1
        assert run(program, ["stats", "--store", url]).exit_code == 0
    finally:
        asyncio.run(drop())
        schemas.give_back()
