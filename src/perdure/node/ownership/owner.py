"""The owner: gains scopes and gives them up while the node runs.

A cluster says which scopes this node should own. The store says which it does own: a claim fences
the owner before, and a commit that is fenced tells that another node has claimed the scope since.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable
from perdure.node.ownership.backlog import Backlog
from perdure.node.ownership.suspects import Suspects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from perdure.node.background import Background
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.ownership.scope import Scope
    from perdure.ports.clock import Clock

logger = logging.getLogger("perdure.node")

_RETRY_S = 1.0
"""After how long a claim or a release that the store could not take is tried again."""


class Owner:
    """Serves the scopes of a node."""

    def __init__(
        self,
        turns: Turns,
        ownership: Ownership,
        clock: Clock,
        options: NodeOptions,
        background: Background,
    ) -> None:
        """Nothing is served yet."""
        self._turns = turns
        self._ownership = ownership
        self._clock = clock
        self._options = options
        self._background = background
        self._backlog = Backlog(turns, ownership, clock, options, background.spawn)
        self._suspects: dict[Scope, Suspects] = {}
        self._searches: dict[Suspects, asyncio.Task[None]] = {}
        self._trial = asyncio.Lock()
        self._changing = asyncio.Lock()

    # ------------------------------------------------------------ assignments of a cluster

    async def follow(self, assignments: AsyncIterator[Collection[str]]) -> None:
        """Own the scopes that the cluster assigns to this node, at each of its assignments."""
        async for wanted in assignments:
            while True:
                try:
                    await self.own(wanted)
                except StoreUnavailable as error:
                    # The cluster does not repeat itself, so this is tried until it is done.
                    ids = {"node": self._turns.node_name}
                    text = "the scopes of node %s cannot be changed now, and are soon: %s"
                    logger.warning(text, self._turns.node_name, error, extra=ids)
                    await asyncio.sleep(_RETRY_S)
                else:
                    break

    async def own(self, wanted: Collection[str]) -> None:
        """Gain the scopes that are wanted, and give up the others.

        Raises:
            StoreUnavailable: the store could not be asked. The changes that were made by then stay.
        """
        async with self._changing:
            # First: a scope that its next owner claims before its release counts as crashed.
            await self._give_up([s for s in self._ownership.all() if s.name not in wanted])
            new = [name for name in wanted if self._ownership.find(name) is None]
            if new:
                self.serve(await self._ownership.claim(sorted(new)))

    # ------------------------------------------------------------ gaining

    def serve(self, scopes: Sequence[Scope]) -> None:
        """Take up the work of scopes that were claimed together."""
        suspects = Suspects(self._turns, scopes, self._clock, self._options, self._trial)
        for scope in scopes:
            self._suspects[scope] = suspects
            scope.serve(suspects, self._backlog)
        self._background.spawn(self._take_up(suspects), "perdure-scan")

    async def _take_up(self, suspects: Suspects) -> None:
        """Take up the instances that are due or have messages. Turns go on meanwhile."""
        await self._backlog.scan([scope.name for scope in suspects.scopes], suspects)
        crashed = False
        # Those that have gone while the answers were on their way are not in it any more.
        for scope in suspects.scopes:
            scope.has_been_scanned()
            crashed = crashed or not scope.is_counted
        if crashed:
            self._searches[suspects] = self._background.begin(suspects.run(), "perdure-trials")

    # ------------------------------------------------------------ giving up

    async def _give_up(self, scopes: Collection[Scope]) -> None:
        """Finish the work under way in these scopes, and release them."""
        for scope in scopes:
            if scope.state != "draining":  # a release that failed is tried again
                scope.drain()
        # Only when all of them drain: the first could wait long for its turns to end.
        for scope in scopes:
            await self._empty(scope)
        await self._ownership.release(scopes)

    async def drop_lost(self) -> None:
        """Drop all units of each scope that is lost. Such a scope is not this node's to release."""
        while True:
            scope = await self._ownership.next_lost()
            ids = {"node": self._turns.node_name}
            logger.warning("another node owns the scope %s now", scope.name, extra=ids)
            await self._empty(scope)

    async def _empty(self, scope: Scope) -> None:
        """Take the units of a scope out of memory, also those that were held back as suspects."""
        suspects = self._suspects.pop(scope, None)
        if suspects is not None:
            self._turns.memory.expel_all(suspects.leave(scope))
            if not suspects.scopes:
                self._end_search(suspects)
        await self._turns.memory.empty(scope)
        # Behind that: a turn that was under way may have ended a run, and its callers know by now.
        self._turns.waiters.redirect(self._turns.memory.owns)

    def _end_search(self, suspects: Suspects) -> None:
        """No scope is left in which the suspects could run."""
        search = self._searches.pop(suspects, None)
        if search is not None:
            search.cancel()

    def stop(self) -> None:
        """Scan no more, and try no suspects."""
        self._backlog.stop()
        for suspects in self._suspects.values():
            suspects.stop()
