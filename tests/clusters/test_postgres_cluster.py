"""A cluster in a PostgreSQL database: sessions, rights, and changes that overlap."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest
from engine import until
from postgres_server import server_url

from perdure.cluster.postgres import PostgresCluster
from perdure.errors import StoreUnavailable
from perdure.ports.cluster import View
from perdure.testing.conformance.clusters import A, B, member, members


@pytest.fixture
def schema() -> str:
    return f"members_{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def administrator() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server_url())
    try:
        yield connection
    finally:
        await connection.close()


def connected(view: View) -> dict[str, bool | None]:
    return {seen.member.incarnation.node: seen.is_connected for seen in view.members}


async def test_the_end_of_a_session_is_seen_at_once(schema: str) -> None:
    async with PostgresCluster(server_url(), schema) as watching:
        async with PostgresCluster(server_url(), schema) as ending:
            await ending.join(A)
            await watching.join(B)
            seen = {one.member.incarnation.node: one for one in (await watching.view()).members}
            assert seen["a"].is_connected
            assert seen["b"].is_connected

        async def ended() -> bool:
            (a, b) = (await watching.view()).members
            return a.is_connected is False and b.is_connected is True

        await until(ended, "the end of the session")


async def test_a_connection_that_is_cut_is_made_again_with_its_lock(schema: str) -> None:
    async with (
        PostgresCluster(server_url(), schema) as one,
        PostgresCluster(server_url(), schema) as two,
    ):
        await one.join(A)
        await two.join(B)
        cutter = await asyncpg.connect(server_url())
        await cutter.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        )
        await cutter.close()

        async def again() -> bool:
            with suppress(StoreUnavailable):
                await one.renew(A)
                await two.renew(B)
            with suppress(StoreUnavailable):
                view = await two.view()
                return [seen.is_connected for seen in view.members] == [True, True]
            return False

        await until(again, "both are connected again")


async def test_a_database_that_is_not_there_is_an_error() -> None:
    url = server_url().rpartition("/")[0] + "/nowhere"
    with pytest.raises(StoreUnavailable, match="nowhere"):
        async with PostgresCluster(url):
            pass


async def test_each_of_two_clusters_in_one_database_has_its_own_sessions(schema: str) -> None:
    other = f"{schema}_other"
    async with PostgresCluster(server_url(), schema) as watching:
        async with PostgresCluster(server_url(), other) as elsewhere:
            await elsewhere.join(A)
            async with PostgresCluster(server_url(), schema) as ending:
                await ending.join(B)
                await watching.join(member("w"))
                assert connected(await watching.view()) == {"b": True, "w": True}

            async def ended() -> bool:
                return connected(await watching.view()) == {"b": False, "w": True}

            await until(ended, "the end of the session, beside one of the other cluster")
        assert connected(await watching.view()) == {"b": False, "w": True}


async def test_nothing_is_told_of_a_member_behind_a_pooler(schema: str) -> None:
    # It lives without a session. The others would take it for dead every two seconds.
    async with (
        PostgresCluster(server_url(), schema) as direct,
        PostgresCluster(server_url(), schema, has_session=False) as pooled,
    ):
        await direct.join(A)
        await pooled.join(B)
        for end in (direct, pooled):
            assert connected(await end.view()) == {"a": True, "b": None}


async def test_a_lock_that_a_dead_session_still_holds_is_taken_when_it_is_free(schema: str) -> None:
    async with (
        administrator() as holder,
        PostgresCluster(server_url(), schema) as one,
        PostgresCluster(server_url(), schema) as two,
    ):
        revision = (await one.join(A)).revision
        found = "SELECT classid::int, objid::int, pid FROM pg_locks WHERE locktype = 'advisory'"
        (key, number, pid) = await holder.fetchrow(found)
        # The next one in the queue has it, as a session whose end the server has not seen would.
        lock = asyncio.ensure_future(holder.execute(f"SELECT pg_advisory_lock({key}, {number})"))
        async with administrator() as cutter:
            while not await cutter.fetchval("SELECT 1 FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.005)
            await cutter.execute(f"SELECT pg_terminate_backend({pid})")
        await lock
        waiting = asyncio.ensure_future(one.changed(revision, 30_000))

        async def is_again() -> bool:
            return connected(await two.view()) == {"a": True}

        with suppress(StoreUnavailable):
            await one.view()
        await holder.execute(f"SELECT pg_advisory_unlock({key}, {number})")
        await until(is_again, "the member holds its lock, and only waits for changes")
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_renewal_tells_no_revision_whose_members_it_has_not_seen(schema: str) -> None:
    moved = msgspec.structs.replace(A, address="host:1")
    async with (
        administrator() as other,
        PostgresCluster(server_url(), schema) as one,
        PostgresCluster(server_url(), schema) as two,
    ):
        await one.join(A)
        # Another member is in the middle of its join.
        joining = other.transaction()
        await joining.start()
        await other.execute(
            f"INSERT INTO {schema}.members VALUES ('b-1', 'b', 1, NULL, $1)",
            msgspec.json.encode(B),
        )
        await other.execute(f"UPDATE {schema}.member_revisions SET revision = revision + 1")
        renewing = asyncio.ensure_future(one.renew(moved))
        async with administrator() as watching:
            while not await watching.fetchval("SELECT 1 FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.005)
        await joining.commit()
        renewed = await renewing
        assert renewed is not None
        assert members(renewed) == [moved, B]
        assert renewed.revision == (await two.view()).revision


async def test_a_role_that_may_create_nothing_can_use_the_tables(schema: str) -> None:
    role = f"role_{schema}"
    async with PostgresCluster(server_url(), schema), administrator() as administers:
        await administers.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        await administers.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        for kind in ("TABLES", "SEQUENCES"):
            await administers.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA {schema} TO {role}")
        netloc = urlsplit(server_url()).netloc
        url = server_url().replace(netloc, f"{role}:secret@{netloc.rpartition('@')[2]}")
        try:
            async with PostgresCluster(url, schema) as cluster:
                assert members(await cluster.join(A)) == [A]
        finally:
            await administers.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
