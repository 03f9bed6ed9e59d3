"""Clusters: who is alive. Adapters of the port in `perdure.ports.cluster`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.ports.cluster import Cluster
    from perdure.ports.store import MeetingPlace


def cluster_at(place: MeetingPlace, *, creates: bool = True) -> Cluster:
    """The cluster of all nodes that share a store. With `creates` False it is only looked at."""
    # Imported only when it is needed, because the driver is an extra.
    from perdure.cluster.postgres import PostgresCluster

    return PostgresCluster(place.dsn, place.schema, has_session=place.has_session, creates=creates)
