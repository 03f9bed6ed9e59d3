"""What a node removes by age: instances whose retention is over, and rows that nobody needs any more."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.message import Delete, Message
from perdure.node.ownership.scope import Moved
from perdure.ports.store import Units

if TYPE_CHECKING:
    from perdure.kernel.unit.turn import Outcome
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.ports.clock import Clock
    from perdure.ports.store import Swept

logger = logging.getLogger("perdure.node")

_PAGE = 500
"""Instances that are looked for at once."""

_ROWS = 100
_DELETES = 16
"""Rows, and instances, that are removed at once: few enough that other work is hardly held up by them."""

_SHARE = 0.25
"""The part of the time in which a sweep works. It waits for the rest, so that other work has its turn. A busy node
takes longer for each batch, and so rests longer, too.
"""

_NAMED = 5
"""Ids that a log record names of many."""


class Sweeper:
    """Sweeps every `sweep_ms`, for as long as its node runs."""

    def __init__(
        self, turns: Turns, clock: Clock, options: NodeOptions, ownership: Ownership
    ) -> None:
        """Remove in the scopes that the node owns at the time."""
        self._turns = turns
        self._clock = clock
        self._options = options
        self._ownership = ownership

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
                    "sweeping failed and is tried again in %d ms: %s",
                    self._options.sweep_ms,
                    error,
                    extra=ids,
                )

    async def sweep(self) -> None:
        """Remove all that is due now, in small batches with rests between them."""
        await self._remove_expired()
        if self._options.retention_ms:
            await self._delete_ended(self._clock.now_ms() - self._options.retention_ms)

    async def _remove_expired(self) -> None:
        buried: list[str] = []
        while True:
            began = time.perf_counter()
            swept = await self._sweep_some()
            buried += swept.buried
            if swept.removed < _ROWS:
                break
            await _rest(began)
        if buried:
            ids: dict[str, object] = {"node": self._turns.node_name}
            units = list(dict.fromkeys(buried))
            named = ", ".join(map(repr, units[:_NAMED])) + (", ..." if len(units) > _NAMED else "")
            text = (
                "%d messages waited in vain for instances that do not exist, and are dead letters now: %s"
                " (perdure dead-letters lists them)"
            )
            logger.warning(text, len(buried), named, extra=ids)

    async def _sweep_some(self) -> Swept:
        fences, now_ms = self._ownership.fences(), self._clock.now_ms()
        return await self._turns.store.sweep(fences, now_ms, _ROWS)

    async def _delete_ended(self, before_ms: int) -> None:
        deleted = 0
        # What ended before was created before, which an index tells: the store need not read all that has ended.
        statuses = tuple(sorted(CLOSED))
        ended = Units(
            statuses=statuses, closed_before=before_ms, created_before=before_ms, limit=_PAGE
        )
        while page := (await self._turns.store.query(ended)).items:
            rows = [view.row for view in page]
            # Those of other owners are theirs to delete.
            units = [row.id for row in rows if self._ownership.find(row.scope) is not None]
            count = await self._delete_all(units)
            deleted += count
            if not count:
                break  # they all changed meanwhile: the next sweep sees to them
        if deleted:
            age_ms, ids = self._options.retention_ms, {"node": self._turns.node_name}
            logger.info(
                "deleted %d instances that ended more than %d ms ago", deleted, age_ms, extra=ids
            )

    async def _delete_all(self, units: list[str]) -> int:
        deleted = 0
        for first in range(0, len(units), _DELETES):
            began = time.perf_counter()
            outcomes = await asyncio.gather(*map(self._delete, units[first : first + _DELETES]))
            deleted += outcomes.count("ok")
            await _rest(began)
        return deleted

    async def _delete(self, unit: str) -> Outcome | None:
        """Ask for it. None: it has gone to another node, which deletes it then."""
        ack: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        message = Message(os.urandom(16), unit, Delete(cascade=False), self._clock.now_ms())
        self._turns.deliver(message, ack)
        try:
            return await ack
        except Moved:
            return None


async def _rest(began: float) -> None:
    """Leave the time to others, after a batch that began then."""
    await asyncio.sleep((time.perf_counter() - began) * (1 / _SHARE - 1))
