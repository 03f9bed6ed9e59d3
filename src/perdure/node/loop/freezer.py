"""The freezer: how a node waits while its store does not answer.

Nothing is done and nothing is forgotten. Senders whose messages only this process has are told that
nothing was done. Senders whose messages are in a commit that was not answered are told that the
outcome is unknown. New messages of clients are refused. Results of activities wait in memory.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.node.loop.memory import Memory
    from perdure.node.loop.ready import Ready
    from perdure.node.surroundings import Surroundings

logger = logging.getLogger("perdure.node")


class Freezer:
    """Freezes and thaws the scopes of a node."""

    def __init__(self, given: Surroundings, memory: Memory, ready: Ready) -> None:
        """Nothing is frozen. After a thaw the units that are `ready` take their turns."""
        self._ownership = given.ownership
        self._memory = memory
        self._ready = ready
        self._node_name = given.node_name
        self._retry_ms = given.options.store_retry_ms

    def freeze(self, error: StoreUnavailable) -> None:
        """A commit is late. Call it for each late try: more may have come in since the last one."""
        if not self._ownership.is_frozen:
            text = (
                "node %s is frozen: the store has not answered for %d ms, so nothing is done until"
                " it does: %s"
            )
            ids = {"node": self._node_name}
            logger.error(text, self._node_name, self._retry_ms, error, extra=ids)
            self._ownership.freeze()
        unknown = StoreUnavailable(f"{error}. It may be recorded when the store answers", "unknown")
        for resident in self._memory.residents.all():
            resident.refuse_taken(unknown)
            resident.refuse_unstored(self.error())
            if resident.state == "ready" and resident.unit.row is None:
                # Its start, which made the unit a new one, has just been given up. Only the store
                # knows now whether there is such a unit.
                self._memory.reload(resident)

    def thaw(self) -> None:
        """The store has answered."""
        if not self._ownership.is_frozen:
            return
        text = "node %s goes on: the store answers again"
        logger.warning(text, self._node_name, extra={"node": self._node_name})
        self._ownership.thaw()
        # The round of turns that came due while nothing was done has ended without a turn.
        self._ready.schedule()

    def error(self) -> StoreUnavailable:
        """The answer to the sender of a message that is not taken."""
        return StoreUnavailable(
            f"node {self._node_name!r} cannot reach its store and takes no messages; nothing was"
            " done, so send it again when the store answers"
        )
