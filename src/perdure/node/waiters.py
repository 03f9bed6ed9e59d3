"""Who waits for the end of an instance in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.kernel.commit import UnitRow


class Waiters:
    """Futures for the rows of instances that end. They are woken by the commit that ends the instance; nothing
    polls.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._futures: dict[str, list[asyncio.Future[UnitRow]]] = {}

    def add(self, unit: str) -> asyncio.Future[UnitRow]:
        """A future for the unit's row when it ends. The caller looks at the store first if it may have ended
        already.
        """
        future: asyncio.Future[UnitRow] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(unit, []).append(future)
        return future

    def remove(self, unit: str, future: asyncio.Future[UnitRow]) -> None:
        """The caller waits no longer."""
        futures = self._futures.get(unit)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[unit]
        elif not future.cancelled():
            future.exception()  # a caller that got another error first must not leave this one unseen

    def ended(self, row: UnitRow) -> None:
        """The instance has ended."""
        for future in self._futures.pop(row.id, ()):
            if not future.done():
                future.set_result(row)

    def fail(self, error: Exception) -> None:
        """Nobody will learn of an end here any more."""
        for future in [f for futures in self._futures.values() for f in futures]:
            if not future.done():
                future.set_exception(error)
        self._futures.clear()
