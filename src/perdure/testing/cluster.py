"""A cluster in memory, for tests: the test says which node should own which scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from perdure.ports.cluster import Assignment
from perdure.ports.store import Incarnation


class MemoryCluster:
    """Assigns scopes to the nodes of one process, as `assign` says.

    It may assign a scope to two nodes at once, as a real cluster does when its nodes disagree. The
    store decides then.
    """

    def __init__(self) -> None:
        """Nothing is assigned."""
        self._assigned: dict[str, Assignment] = {}
        self._followers: dict[str, dict[asyncio.Event, None]] = {}

    def assign(
        self, node: str, scopes: Iterable[str], living: Iterable[Incarnation] | None = None
    ) -> None:
        """From now on the node of this name should own these scopes, and no others.

        With `living` it waits a while until these have released what they own of it.
        """
        ids: frozenset[str] | None = None
        if living is not None:
            ids = frozenset(incarnation.id for incarnation in living)
        self._assigned[node] = Assignment(frozenset(scopes), ids)
        for changed in self._followers.get(node, ()):
            changed.set()

    async def assignments(self, node: Incarnation) -> AsyncIterator[Assignment]:
        """What the node should own, now and after each call of `assign`."""
        changed = asyncio.Event()
        followers = self._followers.setdefault(node.node, {})
        followers[changed] = None
        try:
            while True:
                changed.clear()
                yield self._assigned.get(node.node, Assignment(frozenset()))
                await changed.wait()
        finally:
            followers.pop(changed, None)
