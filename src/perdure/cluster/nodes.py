"""The nodes that run on a store."""

from __future__ import annotations

from perdure.cluster import cluster_at
from perdure.ports.store import SharedStore, Store


async def living_nodes(store: Store) -> list[str]:
    """The names of the nodes that share a store."""
    # A store that one process owns has a lock instead.
    if not isinstance(store, SharedStore):
        return []
    async with cluster_at(store.meeting_place) as cluster:
        members = (await cluster.view()).members
    # A node that was killed is a member until another one notices.
    return [seen.member.incarnation.node for seen in members if seen.is_connected is not False]
