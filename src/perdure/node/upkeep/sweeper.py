"""Removal by age: instances whose retention is over, and rows that are not needed any more."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

import msgspec

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
"""Rows, and instances, that are removed at once: so few that other work is hardly held up."""

_SHARE = 0.25
"""The part of the time in which a sweep works.

It waits for the rest, so that other work has its turn. A busy node takes longer for each batch, and
so rests longer, too.
"""

_NAMED = 5
"""How many ids a log record names."""


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

        The pace is that of the wall, and not of the node's clock: a test that moves its clock by a
        year wants no half million sweeps. The clock decides which rows are old enough.
        """
        while True:
            await asyncio.sleep(self._options.sweep_ms / 1000)
            try:
                await self.sweep()
            except StoreUnavailable as error:
                # The next sweep does the work of this one, so there is no hurry.
                ids = {"node": self._turns.node_name}
                text = "sweeping failed and is tried again in %d ms: %s"
                logger.warning(text, self._options.sweep_ms, error, extra=ids)

    async def sweep(self) -> None:
        """Remove all that is due now, in small batches with rests between them."""
        await self._remove_expired()
        if self._options.retention_ms:
            await self._delete_ended(self._clock.now_ms() - self._options.retention_ms)

    async def _remove_expired(self) -> None:
        """Remove rows that have expired, and report messages that became dead letters."""
        buried: list[str] = []
        while True:
            began = time.perf_counter()
            swept = await self._sweep_some()
            buried += swept.buried
            if swept.removed < _ROWS:
                break
            await _rest(began)
        if not buried:
            return
        units = list(dict.fromkeys(buried))
        named = ", ".join(map(repr, units[:_NAMED]))
        if len(units) > _NAMED:
            named += ", ..."
        text = (
            "%d messages waited in vain for instances that do not exist, and are dead letters now:"
            " %s (perdure letters ls lists them)"
        )
        ids: dict[str, object] = {"node": self._turns.node_name}
        logger.warning(text, len(buried), named, extra=ids)

    async def _sweep_some(self) -> Swept:
        # Asked anew for each batch: a scope may have gone meanwhile.
        fences = self._ownership.fences()
        return await self._turns.store.sweep(fences, self._clock.now_ms(), _ROWS)

    async def _delete_ended(self, before_ms: int) -> None:
        """Delete the instances that ended before this time, without their trees."""
        deleted = 0
        # An instance that ended before was created before. The store has an index for that, and so
        # need not read all instances that have ended.
        ended = Units(
            statuses=tuple(sorted(CLOSED)),
            closed_before=before_ms,
            created_before=before_ms,
            limit=_PAGE,
        )
        # Page by page, each instance once. Those that stay must not be all that is ever looked at:
        # they are other owners' to delete, or cannot be read.
        more = True
        while more:
            page = await self._turns.store.query(ended)
            rows = [view.row for view in page.items]
            units = [row.id for row in rows if self._ownership.find(row.scope) is not None]
            deleted += await self._delete_all(units)
            ended = msgspec.structs.replace(ended, after=page.next)
            more = page.next is not None
        if deleted:
            ids = {"node": self._turns.node_name}
            text = "deleted %d instances that ended more than %d ms ago"
            logger.info(text, deleted, self._options.retention_ms, extra=ids)

    async def _delete_all(self, units: list[str]) -> int:
        deleted = 0
        for first in range(0, len(units), _DELETES):
            began = time.perf_counter()
            # Together, so that their commits share one write to the disk.
            deletions = map(self._delete, units[first : first + _DELETES])
            # With exceptions as results. Otherwise a cancel that comes together with the error of
            # a deletion is lost, and the node's stop would wait for the sweeper for ever.
            outcomes = await asyncio.gather(*deletions, return_exceptions=True)
            for outcome in outcomes:
                if not isinstance(outcome, BaseException):
                    continue
                # One that cannot be loaded stays, and the next sweep tries it again. When the
                # store is away that is so for all of them.
                if not isinstance(outcome, StoreUnavailable) or self._ownership.is_frozen:
                    raise outcome
            deleted += outcomes.count("ok")
            await _rest(began)
        return deleted

    async def _delete(self, unit: str) -> Outcome | None:
        """Ask for its deletion. None: it has gone to another node, which deletes it then."""
        ack: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        # Not with its children: each has a retention of its own.
        message = Message(os.urandom(16), unit, Delete(cascade=False), self._clock.now_ms())
        self._turns.deliver(message, ack)
        try:
            return await ack
        except Moved:
            return None


async def _rest(began: float) -> None:
    """Leave time to other work, after a batch that began at `began`."""
    await asyncio.sleep((time.perf_counter() - began) * (1 / _SHARE - 1))
