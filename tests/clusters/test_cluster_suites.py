"""Every cluster passes the same suite."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import apsw
import asyncpg
import pytest
from engine import until
from postgres_server import server_url

from perdure.cluster.local import LocalCluster
from perdure.cluster.postgres import PostgresCluster
from perdure.cluster.sqlite import SQLiteCluster
from perdure.errors import StoreUnavailable
from perdure.ports.clock import SystemClock
from perdure.testing.conformance.clusters import A, B, ClusterConformance, ClusterFactory, members


class TestLocal(ClusterConformance):
    @pytest.fixture
    def cluster_factory(self) -> ClusterFactory:
        cluster = LocalCluster(SystemClock())
        return lambda: cluster


class TestSQLite(ClusterConformance):
    @pytest.fixture
    def cluster_factory(self, tmp_path: Path) -> ClusterFactory:
        return lambda: SQLiteCluster(str(tmp_path / "cluster.db"))


class TestPostgres(ClusterConformance):
    @pytest.fixture
    def cluster_factory(self) -> ClusterFactory:
        schema = f"it's \"{uuid.uuid4().hex[:12]}"
        return lambda: PostgresCluster(server_url(), schema)


class TestPostgresWithoutASession(ClusterConformance):
    @pytest.fixture
    def cluster_factory(self) -> ClusterFactory:
        schema = f"members {uuid.uuid4().hex[:12]}"
        return lambda: PostgresCluster(server_url(), schema, has_session=False)


async def test_the_end_of_a_session_is_seen_at_once() -> None:
    schema = f"members {uuid.uuid4().hex[:12]}"
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


async def test_a_connection_that_is_cut_is_made_again_with_its_lock() -> None:
    schema = f"members {uuid.uuid4().hex[:12]}"
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


async def test_a_row_that_cannot_be_read_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "cluster.db")
    async with SQLiteCluster(path) as cluster:
        await cluster.join(A)
        await cluster.join(B)
        other = apsw.Connection(path)
        other.execute("UPDATE members SET record = 'garbage' WHERE node = 'a'")
        other.close()
        for _ in range(3):
            assert members(await cluster.view()) == [B]
    assert [record.args for record in caplog.records if "cannot be read" in record.message]
    assert len(caplog.records) == 1


async def test_a_record_of_a_later_release_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "cluster.db")
    async with SQLiteCluster(path) as cluster:
        await cluster.join(A)
        other = apsw.Connection(path)
        later = "json_set(CAST(record AS TEXT), '$.wings', 2)"
        other.execute(f"UPDATE members SET record = CAST({later} AS BLOB)")
        other.close()
        assert members(await cluster.view()) == [A]


async def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable, match=r"cluster\.db does not answer"):
        async with SQLiteCluster(str(path)):
            pass


async def test_a_closed_cluster_says_so(tmp_path: Path) -> None:
    cluster = SQLiteCluster(str(tmp_path / "cluster.db"))
    async with cluster:
        pass
    with pytest.raises(StoreUnavailable, match="not open"):
        await cluster.view()
