"""The pins of the store, as a node knows them: scopes of units that are not at home.

The store lists them. The node asks for that list when members come and go, when it hears of a
message in a pin that it does not know, and now and then, because such news may be lost.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.client.pins import find_scopes
from perdure.errors import StoreUnavailable
from perdure.kernel.data.placement import PIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports.store import Store

logger = logging.getLogger("perdure.node")

_ROUNDS = 3
"""The list is asked for once in so many renewals of the lease, if nothing else asks for it."""


class Pins:
    """Knows the pins of the store."""

    def __init__(self, store: Store) -> None:
        """None is known."""
        self._store = store
        self._names: tuple[str, ...] = ()
        self._is_due = True
        self._rounds = 0
        self._listener: Callable[[], None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that were listed when the node looked last."""
        return self._names

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this when it is time to look."""
        self._listener = listener

    def hear(self, scope: str) -> None:
        """A message has come in a scope that this node does not own."""
        if scope.startswith(PIN) and scope not in self._names:
            self.expect_others()

    def expect_others(self) -> None:
        """There may be others by now."""
        self._is_due = True
        if self._listener is not None:
            self._listener()

    def note_round(self) -> None:
        """The lease was renewed."""
        self._rounds += 1
        if self._rounds % _ROUNDS == 0:
            self._is_due = True

    async def look(self) -> bool:
        """Ask the store for the list, if it is time to. Return whether it has changed."""
        if not self._is_due:
            return False
        self._is_due = False
        try:
            names = tuple(await find_scopes(self._store, PIN))
        except StoreUnavailable as error:
            self._is_due = True  # with the next renewal
            logger.info("the pins of the store cannot be read now, and soon are: %s", error)
            return False
        changed = names != self._names
        self._names = names
        return changed
