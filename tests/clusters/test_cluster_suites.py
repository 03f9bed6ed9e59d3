"""Every cluster passes the same suite."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from perdure.cluster.local import LocalCluster
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
