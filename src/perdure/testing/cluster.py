"""A cluster in memory, for tests: the test says which node should own which scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable

from perdure.ports.store import Incarnation


class MemoryCluster:
    """Assigns scopes to the nodes of one process, as `assign` says.

    It may assign a scope to two nodes at once, as a real cluster does when its nodes disagree. The
    store decides then.
    """

    def __init__(self) -> None:
        """Nothing is assigned."""
        self._scopes: dict[str, frozenset[str]] = {}
        self._followers: dict[str, set[asyncio.Event]] = {}

    def assign(self, node: str, scopes: Iterable[str]) -> None:
        """From now on the node of this name should own these scopes, and no others."""
        self._scopes[node] = frozenset(scopes)
        for changed in self._followers.get(node, ()):
            changed.set()

    async def assignments(self, node: Incarnation) -> AsyncIterator[Collection[str]]:
        """What the node should own, now and after each call of `assign`."""
        changed = asyncio.Event()
        followers = self._followers.setdefault(node.node, set())
        followers.add(changed)
        try:
            while True:
                changed.clear()
                yield self._scopes.get(node.node, frozenset())
                await changed.wait()
        finally:
            followers.discard(changed)
