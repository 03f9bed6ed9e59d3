"""What a URL names, and what is said of it when it is wrong."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from postgres_proxy import Proxy, listening, redirected
from postgres_server import server_url
from postgres_stores import (
    FreshStore,
    Schemas,
    administrator,
    store_at,
)

from perdure.errors import StoreError, StoreFormat, StoreUnavailable, UsageError
from perdure.kernel.data.commit import Fence
from perdure.store import open_store
from perdure.testing.conformance.scenario import Scenario, chunk


async def refusal(url: str) -> str:
    with pytest.raises(StoreError) as caught:
        async with open_store(url):
            pass
    assert "secret" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


async def test_what_is_wrong_with_a_server_is_said() -> None:
    url = server_url()
    assert "nowhere" in await refusal(url.replace("/postgres", "/nowhere"))
    assert "user" in await refusal(url.replace("perdure@", "stranger:secret@"))
    proxy = Proxy(url)
    proxy.refuses = True
    async with listening(proxy.serve) as port:
        assert "StoreUnavailable" in await refusal(redirected(url, port))
    assert "did not answer" in await refusal(redirected(url, port))


@pytest.mark.parametrize("schema", ['Über "uns"; DROP', "a.b", "UPPER", "select", "x" * 63])
async def test_a_schema_may_have_any_name(schema: str) -> None:
    url = f"{server_url()}?schema={quote(schema)}&shards=1"
    try:
        async with open_store(url) as store:
            scenario = Scenario(store)
            await scenario.claim()
            await scenario.applied("order", journal=[chunk(1)])
            await scenario.accepted(scenario.message("order"))
        async with open_store(url) as store:
            assert (await Scenario(store).load("order")).version == 1
    finally:
        async with administrator("public") as connection:
            quoted = schema.replace('"', '""')
            await connection.execute(f'DROP SCHEMA "{quoted}" CASCADE')


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("schema=", "schema"),
        ("schema=pg_mine", "pg_"),
        (f"schema={'x' * 64}", "63"),
        ("shards=0", "shard"),
        ("readers=0", "readers"),
        ("nonsense=1", "nonsense"),
        ("lock_ms=x", "lock_ms"),
    ],
)
def test_a_wrong_option_is_refused(options: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        open_store(f"postgresql://me:secret@localhost/db?{options}")
    assert "secret" not in str(caught.value)


async def test_a_schema_with_other_tables_is_no_store(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_foreign"
    async with administrator(schema) as connection:
        await connection.execute(f'CREATE SCHEMA "{schema}"; CREATE TABLE customers (id int)')
        try:
            text = await refusal(f"{server_url()}?schema={schema}")
            assert "StoreFormat" in text
            assert "customers" in text
        finally:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_another_format_or_shard_count_is_refused(schema: str) -> None:
    async with FreshStore(schema, 2), administrator(schema) as connection:
        url = f"{server_url()}?schema={schema}"
        assert "2 shards" in await refusal(f"{url}&shards=3")
        await connection.execute("UPDATE meta SET value = '9' WHERE key IN ('format', 'prepared')")
        assert "upgrade perdure" in await refusal(url)
        await connection.execute("UPDATE meta SET value = 'x' WHERE key = 'format'")
        assert "StoreFormat" in await refusal(url)
        await connection.execute("UPDATE meta SET value = '1' WHERE key IN ('format', 'prepared')")


async def test_tables_that_were_removed_are_a_format_error(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_gone"
    async with store_at(server_url(), schema, shards=1) as store:
        scenario = Scenario(store)
        await scenario.claim()
        async with administrator(schema) as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
        with pytest.raises(StoreFormat, match="tables"):
            await store.load(["order"])
        with pytest.raises(StoreUnavailable) as caught:
            await store.commit([scenario.commit("order")])
        assert caught.value.is_permanent


async def test_a_user_without_rights_is_told_so(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_mine"
    async with administrator("public") as connection:
        await connection.execute("CREATE ROLE poor LOGIN")
        try:
            url = server_url().replace("perdure@", "poor@")
            assert "right" in await refusal(f"{url}?schema={schema}")
            async with store_at(server_url(), schema, shards=1):
                assert "right" in await refusal(f"{url}?schema={schema}")
        finally:
            await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE; DROP ROLE poor')


async def test_a_database_that_acknowledges_early_is_told_to_wait(schema: str) -> None:
    async with FreshStore(schema, 1) as store, administrator(schema) as connection:
        await connection.execute(
            "CREATE TABLE seen (how text);"
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;"
            "CREATE TRIGGER looking BEFORE INSERT OR UPDATE ON scopes"
            " FOR EACH ROW EXECUTE FUNCTION look();"
            "CREATE TRIGGER looking BEFORE INSERT ON units FOR EACH ROW EXECUTE FUNCTION look();"
            "CREATE TRIGGER looking BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION look()"
        )
        try:
            assert await connection.fetchval("SHOW synchronous_commit") == "off"
            scenario = Scenario(store)
            await scenario.claim()
            await scenario.applied("order")
            await scenario.accepted(scenario.message("order"))
            ways = await connection.fetch("SELECT DISTINCT how FROM seen")
            assert [way for (way,) in ways] == ["on"]
        finally:
            await connection.execute("DROP FUNCTION look CASCADE; DROP TABLE seen")


async def test_the_time_is_that_of_the_server(schema: str) -> None:
    async with FreshStore(schema, 1) as store:
        assert abs(await store.now() - time.time() * 1000) < 5_000


async def test_fences_of_a_strange_incarnation_are_no_match(schema: str) -> None:
    async with FreshStore(schema, 1) as store:
        scenario = Scenario(store)
        await scenario.claim()
        strange = Fence("default/0", 1, "'; DROP TABLE units; --")
        assert await scenario.apply(scenario.commit("order", fence=strange)) == ["fenced"]
