"""The freezer: what a node does while its store does not answer.

Nothing is done and nothing is forgotten. Senders whose messages only this process has are told that
nothing was done. Senders whose messages are in a commit that was not answered are told that nobody
knows. New messages of clients are refused. Results of activities wait in memory.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.node.loop.memory import Memory
    from perdure.node.ownership.ownership import Ownership

logger = logging.getLogger("perdure.node")


class Freezer:
    """Freezes and thaws the scopes of a node."""

    def __init__(self, ownership: Ownership, memory: Memory, node_name: str, retry_ms: int) -> None:
        """Nothing is frozen. `retry_ms` is how long an answer may take before it is late."""
        self._ownership = ownership
        self._memory = memory
        self._node_name = node_name
        self._retry_ms = retry_ms

    def freeze(self, error: StoreUnavailable) -> None:
        """A commit is late. It may be called again for what has come since."""
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
                # Its start said that the unit is new, and is gone. The store says what is true.
                self._memory.reload(resident)

    def thaw(self) -> bool:
        """The store has answered. False: nothing was frozen."""
        if not self._ownership.is_frozen:
            return False
        text = "node %s goes on: the store answers again"
        logger.warning(text, self._node_name, extra={"node": self._node_name})
        self._ownership.thaw()
        return True

    def error(self) -> StoreUnavailable:
        """What the sender of a message is told that is not taken."""
        return StoreUnavailable(
            f"node {self._node_name!r} cannot reach its store and takes no messages; nothing was"
            " done, so send it again when the store answers"
        )
