"""Every cluster passes the same suite."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from postgres_server import server_url

from perdure.cluster.local import LocalCluster
from perdure.cluster.postgres import PostgresCluster
from perdure.cluster.sqlite import SQLiteCluster
from perdure.errors import StoreUnavailable
from perdure.ports.clock import SystemClock
from perdure.testing.conformance.clusters import A, ClusterConformance, ClusterFactory


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


async def test_a_local_cluster_that_is_away_answers_nothing() -> None:
    cluster = LocalCluster(SystemClock())
    await cluster.join(A)
    cluster.is_away = True
    for asked in (
        cluster.join(A),
        cluster.renew(A),
        cluster.leave(A.incarnation),
        cluster.remove(A.incarnation, 1),
        cluster.view(),
        cluster.standings(),
        cluster.changed(0, 10),
    ):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await asked
