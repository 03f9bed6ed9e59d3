"""Arrivals: messages of which no hint has reached the node.

Hints from other processes may be lost: a socket cannot be made, or a client is killed. So the node
asks the store now and then for units to which messages have come since it asked last. The cost is
that of the messages that have come, not of those that wait.

A node without work finds out here that its store is gone for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership

logger = logging.getLogger("perdure.node")

_PAGE = 500
"""Units that one question brings."""


class Arrivals:
    """Looks for messages every `rescan_ms`, for as long as its node runs."""

    def __init__(
        self,
        turns: Turns,
        options: NodeOptions,
        ownership: Ownership,
        failed: Callable[[Exception], None],
    ) -> None:
        """Look in the scopes that the node owns at the time. `failed` stops the node."""
        self._turns = turns
        self._options = options
        self._ownership = ownership
        self._failed = failed
        self._place: str | None = None

    async def begin(self) -> None:
        """Note the place up to which messages have come. Call it before a scope is served.

        For a scope that is gained later the place is older than needed. That misses nothing.
        """
        scopes = self._ownership.names()
        self._place = (await self._turns.store.arrivals(scopes, None, 1)).next

    async def run(self) -> None:
        """Look again and again.

        The pace is that of the wall, and not of the node's clock: so is the pace of the others.
        """
        patience_s = self._options.store_retry_ms / 1000
        away_since_s: float | None = None
        while True:
            await asyncio.sleep(self._options.rescan_ms / 1000)
            try:
                await self.look()
                away_since_s = None
            except StoreUnavailable as error:
                now_s = asyncio.get_running_loop().time()
                if away_since_s is None:  # once for each time that the store is away
                    away_since_s = now_s
                    self._say_away(error)
                # A file may be put back. So this waits as long as a commit would.
                elif error.is_permanent and now_s - away_since_s >= patience_s:
                    self._failed(error)
                    return

    def _say_away(self, error: StoreUnavailable) -> None:
        ids = {"node": self._turns.node_name}
        text = (
            "messages of other processes may be found late: the store cannot be read"
            " (%s). It is asked again"
        )
        logger.warning(text, error, extra=ids)

    async def look(self) -> None:
        """Have the inboxes read to which messages have come since the last time."""
        more = True
        while more:
            scopes = self._ownership.names()
            page = await self._turns.store.arrivals(scopes, self._place, _PAGE)
            for unit in page.items:
                self._turns.memory.read_inbox(unit)
            # Behind them: a question that fails is asked again from the place before.
            self._place = page.next
            more = len(page.items) == _PAGE
