"""What a node removes by age: instances whose retention is over, and rows that nobody needs any more."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable
from perdure.kernel.commit import CLOSED
from perdure.kernel.message import Delete, Message
from perdure.ports.store import Units

if TYPE_CHECKING:
    from perdure.kernel.commit import Fence
    from perdure.kernel.turn import Outcome
    from perdure.node.options import NodeOptions
    from perdure.node.turns import Turns
    from perdure.ports.clock import Clock

logger = logging.getLogger("perdure.node")

_BATCH = 500
"""Rows at once: few enough that other commits are not held up for long."""


class Sweeper:
    """Sweeps every `sweep_ms`, for as long as its node runs."""

    def __init__(self, turns: Turns, clock: Clock, options: NodeOptions, fences: list[Fence]) -> None:
        """Remove in the scopes of these fences."""
        self._turns = turns
        self._clock = clock
        self._options = options
        self._fences = fences

    async def run(self) -> None:
        """Sweep again and again, the first time one interval from now.

        The pace is that of the wall, not of the node's clock: a test that moves its clock by a year wants no half
        million sweeps. What is old enough is a question for the clock.
        """
        while True:
            await asyncio.sleep(self._options.sweep_ms / 1000)
            try:
                await self.sweep()
            except StoreUnavailable as error:
                ids = {"node": self._turns.node_name}
                logger.warning(
                    "sweeping failed and is tried again in %d ms: %s", self._options.sweep_ms, error, extra=ids
                )

    async def sweep(self) -> None:
        """Remove all that is due now."""
        removed = _BATCH
        while removed >= _BATCH:
            removed = await self._turns.store.sweep(self._fences, self._clock.now_ms(), _BATCH)
        if self._options.retention_ms:
            await self._delete_ended(self._clock.now_ms() - self._options.retention_ms)

    async def _delete_ended(self, before_ms: int) -> None:
        deleted = 0
        # What ended before was created before, which an index tells: the store need not read all that has ended.
        statuses = tuple(sorted(CLOSED))
        ended = Units(statuses=statuses, closed_before=before_ms, created_before=before_ms, limit=_BATCH)
        while page := (await self._turns.store.query(ended)).items:
            outcomes = await asyncio.gather(*(self._delete(view.row.id) for view in page))
            deleted += outcomes.count("ok")
            if "ok" not in outcomes:
                break  # they all changed meanwhile: the next sweep sees to them
        if deleted:
            age_ms, ids = self._options.retention_ms, {"node": self._turns.node_name}
            logger.info("deleted %d instances that ended more than %d ms ago", deleted, age_ms, extra=ids)

    def _delete(self, unit: str) -> asyncio.Future[Outcome]:
        ack: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        message = Message(os.urandom(16), unit, Delete(cascade=False), self._clock.now_ms())
        self._turns.deliver(message, ack)
        return ack
