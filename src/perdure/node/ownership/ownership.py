"""The scopes that a node owns now. Every delivery asks here where its unit belongs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Literal

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Fence
from perdure.kernel.data.placement import Pin, scope_of
from perdure.kernel.placement.pins import able, everyone_fits, pin_for_code
from perdure.node.ownership.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from perdure.kernel.data.commit import UnitRow
    from perdure.node.ownership.scope import Admission, Batch
    from perdure.ports.cluster import Member
    from perdure.ports.store import Incarnation, Store

logger = logging.getLogger("perdure.node")

Cause = Literal["store", "lease"]
"""Why a node is frozen: its store does not answer, or it could not renew its lease."""

_CAUSES: dict[Cause, str] = {
    "lease": "its lease is over, and could not be renewed",
    "store": "its store does not answer",
}


_STRAYS_MAX = 100_000
"""Units of which it is remembered that they are in another scope than that of their id."""


class Ownership:
    """The router of a node: from a unit to the scope that this node owns, or to nothing."""

    def __init__(self, store: Store, incarnation: Incarnation, *, is_alone: bool) -> None:
        """Nothing is owned. `is_alone`: no other node can own a scope of this store."""
        self.is_alone = is_alone
        # An attribute and no property: each message asks.
        self.is_frozen = False
        self._frozen_by: set[Cause] = set()
        # How many claims the store has accepted. Each scope has the number of its own, so that a
        # commit can tell whether a scope has come since the commit was submitted.
        self.claims = 0
        # Another one after the cluster has taken the node for dead.
        self.incarnation = incarnation
        self._store = store
        self._shards = store.info.shards
        self._scopes: dict[str, Scope] = {}
        # Those of its scopes to which no ids lead. Messages to other units ask, so it is kept.
        self._away: set[str] = set()
        # Units of groups and pins, and their scopes. One that is missing here is asked for in the
        # store, so the oldest may be forgotten.
        self._strays: dict[str, str] = {}
        # The members of the cluster, as they were seen last.
        self.members: tuple[Member, ...] = ()
        self._lost: asyncio.Queue[Scope] = asyncio.Queue()

    # ------------------------------------------------------------ asking

    def home_of(self, unit: str, scope: str = "") -> Scope | None:
        """The scope in which a unit is, as far as is known. None: this node does not own it.

        `scope` is where its start wants it to be.
        """
        if not scope or self.is_alone:
            scope = ""
            if self._strays:
                scope = self._strays.get(unit, "")
            if not scope:
                scope = scope_of(unit, self._shards)
        return self._scopes.get(scope)

    def note_stray(self, unit: str, scope: str) -> None:
        """A unit is in another scope than that of its id."""
        self._strays[unit] = scope
        if len(self._strays) > _STRAYS_MAX:
            del self._strays[next(iter(self._strays))]

    def find(self, name: str) -> Scope | None:
        """The scope of this name. None: this node does not own it."""
        return self._scopes.get(name)

    def all(self) -> list[Scope]:
        """All scopes of this node."""
        return list(self._scopes.values())

    def names(self) -> list[str]:
        """The names of the scopes that are served."""
        return [scope.name for scope in self._scopes.values() if scope.takes_messages]

    def fences(self) -> list[Fence]:
        """The fences of the scopes that are served."""
        return [scope.fence for scope in self._scopes.values() if scope.takes_messages]

    @property
    def has_strays(self) -> bool:
        """Whether it owns scopes to which ids do not lead."""
        return bool(self._away)

    def see(self, members: Sequence[Member]) -> bool:
        """Take note of the members. Return whether there is other code among them now."""
        before = {member.code for member in able(self.members)}
        self.members = tuple(members)
        for scope in self._scopes.values():
            self._show_way(scope)
        return before != {member.code for member in able(self.members)}

    def is_elsewhere(self, row: UnitRow, lacks: str) -> bool:
        """Whether another member has the code that a unit lacks here."""
        return pin_for_code(row, lacks, self.members) is not None

    def _show_way(self, scope: Scope) -> None:
        """Tell a pin whether its units can go home."""
        pin = Pin.read(scope.name)
        if pin is not None:
            scope.lead_home(everyone_fits(pin, self.members))

    # ------------------------------------------------------------ gaining and losing

    async def claim(self, names: Sequence[str]) -> list[Scope]:
        """Take scopes over in the store. Older owners can write nothing of them any more.

        Raises:
            StoreError: the store has refused, or cannot be asked.
        """
        claims = await self._store.claim(names, self.incarnation)
        scopes: list[Scope] = []
        self.claims += 1
        for name, claim in claims.items():
            fence = Fence(name, claim.epoch, self.incarnation.id)
            scope = Scope(fence, self.claims, crashed=not claim.clean)
            self._scopes[name] = scope
            if not scope.is_home:
                self._away.add(name)
            self._show_way(scope)
            scopes.append(scope)
        return scopes

    async def release(self, scopes: Collection[Scope]) -> None:
        """Give scopes up in order. The next owner of each knows that nothing has crashed.

        A crash that has not been counted is left to the next owner: a scope that is not released
        is counted again. A scope that is lost belongs to another owner already.

        Raises:
            StoreUnavailable: the store could not take it. It may be tried again.
        """
        ours = [scope for scope in scopes if scope.is_counted and scope.state != "lost"]
        if ours:
            await self._store.release([scope.fence for scope in ours])
        for scope in scopes:
            self.remove(scope)

    async def release_all(self, node: str) -> None:
        """Give all scopes up as the node of this name stops."""
        try:
            await self.release(self.all())
        except StoreUnavailable as error:
            # All that was acknowledged is recorded, so the stop is complete without this.
            text = (
                "node %s has stopped, and its store does not answer: the next node takes over as"
                " after a crash, and nothing that was acknowledged is lost: %s"
            )
            logger.warning(text, node, error, extra={"node": node})

    def remove(self, scope: Scope) -> None:
        """The scope is this node's no longer."""
        # The name may be that of a later claim by now.
        if self._scopes.get(scope.name) is scope:
            del self._scopes[scope.name]
            self._away.discard(scope.name)

    def lose(self, scope: Scope) -> None:
        """Another node owns the scope: nothing of it may be done here any more."""
        if scope.state != "lost":
            scope.lose()
            self.remove(scope)
            self._lost.put_nowait(scope)

    async def next_lost(self) -> list[Scope]:
        """Wait for scopes that are lost. Their units are still in memory."""
        lost = [await self._lost.get()]
        while not self._lost.empty():
            lost.append(self._lost.get_nowait())
        return lost

    def freeze(self, cause: Cause) -> None:
        """Do nothing, and forget nothing, until all causes have ended."""
        self._frozen_by.add(cause)
        # All scopes at once: there is one store, and one commit that is late stands for all.
        self.is_frozen = True
        for scope in self._scopes.values():
            scope.freeze()

    def thaw(self, cause: Cause) -> bool:
        """A cause has ended. Return whether it was the last one."""
        if cause not in self._frozen_by:
            return False
        self._frozen_by.remove(cause)
        if self._frozen_by:
            return False
        self.is_frozen = False
        for scope in self._scopes.values():
            scope.thaw()
        return True

    def is_frozen_by(self, cause: Cause) -> bool:
        """Whether this is one of the causes."""
        return cause in self._frozen_by

    def why_frozen(self) -> list[str]:
        """Why the node does nothing now, for people. Empty: it is not frozen."""
        return [_CAUSES[cause] for cause in sorted(self._frozen_by)]

    def lose_all(self, incarnation: Incarnation) -> None:
        """The cluster has removed this life of the node. It goes on as another incarnation."""
        self.incarnation = incarnation
        for scope in self.all():
            self.lose(scope)

    # ------------------------------------------------------------ between load and turn

    async def admit(self, batch: Batch) -> Batch:
        """The part of a batch that may run now, as the scopes of its units decide."""
        by_admission: dict[Admission, Batch] = {}
        admitted: Batch = []
        for resident, found in batch:
            scope = resident.scope
            if scope is None or scope.admission is None:
                admitted.append((resident, found))  # it is expelled behind its load
            else:
                by_admission.setdefault(scope.admission, []).append((resident, found))
        for admission, part in by_admission.items():
            admitted += await admission.admit(part)
        return admitted
