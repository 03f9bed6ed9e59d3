"""The freezer: how a node waits while its store does not answer, or its lease is over.

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
    from perdure.node.loop.residents import Resident
    from perdure.node.ownership.ownership import Cause
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
        self._ids = {"node": given.node_name}
        self._retry_ms = given.options.store_retry_ms

    def store_is_late(self, error: StoreUnavailable) -> None:
        """A commit is late. Call it for each late try: more may have come in since the last one."""
        if not self._ownership.is_frozen_by("store"):
            text = (
                "node %s is frozen: the store has not answered for %d ms, so nothing is done until"
                " it does: %s"
            )
            logger.error(text, self._node_name, self._retry_ms, error, extra=self._ids)
        self._ownership.freeze("store")
        unknown = StoreUnavailable(f"{error}. It may be recorded when the store answers", "unknown")
        for resident in self._memory.residents.all():
            resident.refuse_taken(unknown)
            self._refuse_unstored(resident)

    def lease_is_over(self) -> None:
        """The lease could not be renewed in time: another node may take the scopes over."""
        if self._ownership.is_frozen_by("lease"):
            return
        text = "node %s is frozen: its lease is over, so nothing is done until it is renewed"
        logger.error(text, self._node_name, extra=self._ids)
        self._ownership.freeze("lease")
        for resident in self._memory.residents.all():
            self._refuse_unstored(resident)

    def _refuse_unstored(self, resident: Resident) -> None:
        resident.refuse_unstored(self.error())
        if resident.state == "ready" and resident.unit.row is None:
            # Its start, which made the unit a new one, has just been given up. Only the store
            # knows now whether there is such a unit.
            self._memory.reload(resident)

    def store_answers(self) -> None:
        """The store has answered a commit."""
        self._end("store", "node %s goes on: the store answers again")

    def lease_is_renewed(self) -> None:
        """The lease has been renewed, and no other node has taken it for over."""
        self._end("lease", "node %s goes on: its lease is renewed")

    def _end(self, cause: Cause, text: str) -> None:
        if not self._ownership.is_frozen_by(cause):
            return
        logger.warning(text, self._node_name, extra=self._ids)
        if self._ownership.thaw(cause):
            # The round of turns that came due while nothing was done has ended without a turn.
            self._ready.schedule()

    def error(self) -> StoreUnavailable:
        """The answer to the sender of a message that is not taken."""
        return StoreUnavailable(
            f"node {self._node_name!r} cannot reach its store and takes no messages; nothing was"
            " done, so send it again when the store answers"
        )
