"""The owner: gains scopes and gives them up while the node runs.

A cluster says which scopes this node should own. The store says which it does own: a claim fences
the owner before, and a commit that is fenced tells that another node has claimed the scope since.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable
from perdure.node.ownership.backlog import Backlog
from perdure.node.ownership.suspects import Suspects
from perdure.ports.cluster import Assignment
from perdure.ports.store import Scopes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from perdure.node.background import Background
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.ownership.scope import Scope
    from perdure.ports.clock import Clock

logger = logging.getLogger("perdure.node")

_CLAIMED = 1_000
"""Scopes that are asked for, or claimed, at once."""

_LOOK_S = 0.05
"""How often to look whether another node has released its scopes."""

_RELEASED = 64
"""Scopes that are given up at once. The next owner need not wait for the others."""

_NAMED = 5
"""Scopes that a log record names."""

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
        gained: Callable[[], None],
    ) -> None:
        """Nothing is served yet. `gained` is called when scopes have come to a node of several."""
        self._turns = turns
        self._ownership = ownership
        self._clock = clock
        self._options = options
        self._background = background
        self._gained = gained
        self._backlog = Backlog(turns, ownership, clock, options, background.spawn)
        self._suspects: dict[Scope, Suspects] = {}
        self._searches: dict[Suspects, asyncio.Task[None]] = {}
        self._trial = asyncio.Lock()
        self._changing = asyncio.Lock()
        # None: the cluster has not said anything yet, or there is none.
        self._assignment: Assignment | None = None
        self._news = asyncio.Event()
        # The scopes that this node should own and does not, and since when.
        self._missing_since_s: dict[str, float] = {}

    # ------------------------------------------------------------ assignments of a cluster

    async def follow(self, assignments: AsyncIterator[Assignment]) -> None:
        """Own the scopes that the cluster assigns to this node, at each of its assignments."""
        self._background.spawn(self._settle(), "perdure-settle")
        async for assignment in assignments:
            self._assignment = assignment
            self._news.set()

    async def _settle(self) -> None:
        """Own what is assigned, however long that takes. The cluster does not repeat itself."""
        while True:
            await self._news.wait()
            self._news.clear()
            pause_s: float | None = 0.0
            while pause_s is not None and not self._news.is_set():
                pause_s = await self._settle_some()
                if pause_s is not None:
                    await self._pause(pause_s)

    async def _settle_some(self) -> float | None:
        """Own of the assigned scopes those that can be had. Return when to look again (s)."""
        assert self._assignment is not None, "there is news only of an assignment"
        try:
            if await self.own(self._assignment):
                return None
        except StoreUnavailable as error:
            ids = {"node": self._turns.node_name}
            text = "the scopes of node %s cannot be changed now, and are soon: %s"
            logger.warning(text, self._turns.node_name, error, extra=ids)
            return _RETRY_S
        return _LOOK_S

    async def _pause(self, seconds: float) -> None:
        """Wait. Another assignment ends it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def own(self, assignment: Assignment) -> bool:
        """Gain the scopes that are assigned, and give up the others. Return whether that is done.

        The scopes of other living nodes are left for a while: they are about to release them. A
        scope that is claimed before its release counts as crashed.

        Raises:
            StoreUnavailable: the store could not be asked. The changes that were made by then stay.
        """
        wanted = assignment.scopes
        # A stop waits for a change that has begun.
        async with self._changing:
            # A scope whose release has failed is not served any more, also if it is wanted again.
            unwanted = [
                scope
                for scope in self._ownership.all()
                if scope.name not in wanted or scope.state == "draining"
            ]
            await self._give_up(unwanted)
            missing = sorted(name for name in wanted if self._ownership.find(name) is None)
            free = await self._free(missing, assignment.living)
            for start in range(0, len(free), _CLAIMED):
                self.serve(await self._ownership.claim(free[start : start + _CLAIMED]))
            for name in free:
                del self._missing_since_s[name]  # if it is lost, another wait begins
            return len(free) == len(missing)

    def why_unsettled(self) -> list[str]:
        """Why this node does not serve all that it should, for people. Empty: it does."""
        if self._ownership.is_alone:
            return []
        if self._assignment is None:
            return ["the cluster has not assigned any scopes to it yet"]
        wanted = self._assignment.scopes
        served = wanted.intersection(self._ownership.names())
        if len(served) == len(wanted):
            return []
        return [f"it serves {len(served)} of the {len(wanted)} scopes that fall to it"]

    async def _free(self, missing: Sequence[str], living: Collection[str] | None) -> list[str]:
        """Those of these scopes that may be claimed: no living node owns them, or for too long."""
        # The event loop's time, in which the pauses are, too.
        now_s = asyncio.get_running_loop().time()
        # A wait goes on when the cluster says the same again, as it does with each renewal of the
        # lease. Its owner may never release the scope: one that has claimed it late, with an older
        # view, does not release it before it has counted the crash that it takes that for.
        before = self._missing_since_s
        self._missing_since_s = {name: before.get(name, now_s) for name in missing}
        if not missing or living is None:
            return list(missing)
        begun_s = now_s - self._options.handover_ms / 1000
        waiting = [name for name, since_s in self._missing_since_s.items() if since_s > begun_s]
        held = set(waiting) - set(await self._released(waiting, living))
        return [name for name in missing if name not in held]

    async def _released(self, names: Sequence[str], living: Collection[str]) -> list[str]:
        """Those of these scopes that no living node owns."""
        held: set[str] = set()
        after: str | None = None
        while names:
            query = Scopes(scopes=tuple(names), after=after, limit=_CLAIMED)
            page = await self._turns.store.query(query)
            for view in page.items:
                if view.owner is not None and view.owner.id in living:
                    held.add(view.scope)
            after = page.next
            if after is None:
                break
        return [name for name in names if name not in held]

    # ------------------------------------------------------------ gaining

    def serve(self, scopes: Sequence[Scope]) -> None:
        """Take up the work of scopes that were claimed together."""
        suspects = Suspects(self._turns, scopes, self._clock, self._options, self._trial)
        for scope in scopes:
            self._suspects[scope] = suspects
            scope.serve(suspects, self._backlog, self._clock.boot_ms())
            if self._ownership.is_frozen:
                scope.freeze()
        self._background.spawn(self._take_up(suspects), "perdure-scan")

    async def _take_up(self, suspects: Suspects) -> None:
        """Take up the instances that are due or have messages. Turns go on meanwhile."""
        await self._backlog.scan([scope.name for scope in suspects.scopes], suspects)
        crashed = False
        # Those that have gone while the answers were on their way are not in it any more.
        for scope in suspects.scopes:
            scope.has_been_scanned()
            crashed = crashed or not scope.is_counted
        if not self._ownership.is_alone:
            # Their last owner may have had other code. A node alone tries them at its start.
            self._gained()
        if crashed:
            self._searches[suspects] = self._background.begin(suspects.run(), "perdure-trials")

    # ------------------------------------------------------------ giving up

    async def _give_up(self, scopes: Sequence[Scope]) -> None:
        """Finish the work under way in these scopes, and release them."""
        for scope in scopes:
            if scope.state != "draining":  # a release that failed is tried again
                scope.drain()
        # Only when all of them drain: the first could wait long for its turns to end.
        for start in range(0, len(scopes), _RELEASED):
            part = scopes[start : start + _RELEASED]
            for scope in part:
                await self._empty(scope)
            await self._ownership.release(part)

    async def hand_over(self, busy: Collection[str]) -> None:
        """The node leaves: give up all scopes but those of the units that are `busy`.

        Other nodes go on with them at once, while this one finishes what it cannot hand over. What
        is not given up in time is left to the stop, and other nodes would claim it by then.
        """
        residents = self._turns.memory.residents
        kept = {resident.scope for unit in busy if (resident := residents.get(unit)) is not None}
        leaving = [scope for scope in self._ownership.all() if scope not in kept]
        try:
            async with asyncio.timeout(self._options.handover_ms / 1000), self._changing:
                await self._give_up(leaving)
        except (StoreUnavailable, TimeoutError) as error:
            text = "node %s hands its scopes over at its end, because it cannot do so now: %r"
            ids = {"node": self._turns.node_name}
            logger.warning(text, self._turns.node_name, error, extra=ids)

    async def drop_lost(self) -> None:
        """Drop all units of each scope that is lost. Such a scope is not this node's to release."""
        while True:
            scopes = await self._ownership.next_lost()
            ids = {"node": self._turns.node_name}
            text = "other nodes own %d scopes of this one now: %s"
            logger.warning(text, len(scopes), _names(scopes), extra=ids)
            for scope in scopes:
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


def _names(scopes: Sequence[Scope]) -> str:
    """The first few names, for people."""
    named = ", ".join(scope.name for scope in scopes[:_NAMED])
    if len(scopes) > _NAMED:
        named += ", ..."
    return named
