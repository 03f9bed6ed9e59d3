"""Handing units over whose code this node has not got, to a node that has it.

While versions are rolled out, nodes have different code. A unit that is held because its owner
lacks a definition goes to a *pin*: the scope of all units that need this code. A member that has
it owns that scope. While there is none, the unit stays suspended where it is, and is looked at
again when members or their code change.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.client.pins import prepare
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.message import Message, Place
from perdure.kernel.placement.pins import pin_for_code
from perdure.node.loop.patience import Patience, Stopped
from perdure.ports.store import Units

if TYPE_CHECKING:
    from perdure.kernel.unit.kinds import Unit
    from perdure.node.background import Background
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.ports.clock import Clock

logger = logging.getLogger("perdure.node")


_SOUGHT = 500
"""Units whose rows are asked for at once."""


class Handover:
    """Hands units over to nodes that can run them, and finds those that are not at home."""

    def __init__(
        self,
        turns: Turns,
        ownership: Ownership,
        clock: Clock,
        options: NodeOptions,
        background: Background,
    ) -> None:
        """Nothing is handed over."""
        self._turns = turns
        self._ownership = ownership
        self._clock = clock
        self._background = background
        self._patience = Patience(turns.node_name, options.store_retry_ms)
        # The pin to which each unit is to go (an ordered dictionary).
        self._leaving: dict[str, str] = {}
        self._listed: set[str] = set()
        # Units that may be strays (an ordered set).
        self._sought: dict[str, None] = {}
        self._is_looking = False
        self._is_busy = False

    def consider(self, unit: Unit) -> None:
        """The unit is held for the lack of code. Another member may have it."""
        row = unit.row
        if row is None or row.status in CLOSED:
            return
        pin = pin_for_code(row, unit.lacks, self._ownership.members)
        if pin is None or pin.scope == row.scope:
            return
        self._leaving[unit.id] = pin.scope
        if not self._is_busy:
            self._is_busy = True
            self._background.spawn(self._send_away(), "perdure-handover")

    def send_home(self, unit: str) -> None:
        """The unit need not stay in its pin: all members that could own it have its code."""
        self._place(unit, "")

    async def _send_away(self) -> None:
        try:
            # Their rows say that they are due at once, so the next owner considers them.
            with suppress(Stopped):
                while self._leaving:
                    unit, scope = next(iter(self._leaving.items()))
                    if scope not in self._listed:
                        await self._list(scope)
                    del self._leaving[unit]
                    self._place(unit, scope)
                    await asyncio.sleep(0)  # a deploy may send thousands away
        finally:
            self._is_busy = False

    async def _list(self, scope: str) -> None:
        """Have the pin listed before the first unit goes there."""
        await self._patience.ask(prepare, self._turns.store, scope)
        self._listed.add(scope)
        text = "instances that need %s go to a node that has it: this one has not"
        ids = {"node": self._turns.node_name}
        logger.info(text, scope, extra=ids)

    def look_for(self, unit: str) -> None:
        """A message is stored for a unit that may be in a group or a pin of this node.

        The store has told the owner, unless that is this node itself.
        """
        if not self._ownership.has_strays:
            return
        self._sought[unit] = None
        if not self._is_looking:
            self._is_looking = True
            self._background.spawn(self._look(), "perdure-strays")

    async def _look(self) -> None:
        try:
            # Their messages wait, and the next owner finds them.
            with suppress(Stopped):
                while self._sought:
                    await self._look_at(tuple(self._sought)[:_SOUGHT])
        finally:
            self._is_looking = False

    async def _look_at(self, units: tuple[str, ...]) -> None:
        query = Units(ids=units, limit=len(units))
        page = await self._patience.ask(self._turns.store.query, query)
        for unit in units:
            self._sought.pop(unit, None)
        for view in page.items:
            scope = self._ownership.find(view.row.scope)
            if scope is not None and not scope.is_home:
                self._turns.memory.read_inbox(view.row.id)

    def _place(self, unit: str, scope: str) -> None:
        message = Message(os.urandom(16), unit, Place(scope), self._clock.now_ms())
        self._turns.deliver(message)

    def stop(self) -> None:
        """Hand over nothing more."""
        self._patience.stop()
