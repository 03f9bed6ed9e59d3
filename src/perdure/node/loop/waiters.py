"""Callers in this process that wait for the end of a run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.node.ownership.scope import Moved

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.data.commit import UnitRow


class Waiters:
    """Futures for the rows of runs that end, by unit and run: an id may have many lives, and each caller waits for
    one of them. The commit that ends a run wakes its futures; nothing polls.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._futures: dict[tuple[str, bytes], list[asyncio.Future[UnitRow]]] = {}

    def add(self, unit: str, run: bytes) -> asyncio.Future[UnitRow]:
        """A future for the row of the run when it ends. The caller looks afterwards whether it has ended already."""
        future: asyncio.Future[UnitRow] = asyncio.get_running_loop().create_future()
        self._futures.setdefault((unit, run), []).append(future)
        return future

    def remove(self, unit: str, run: bytes, future: asyncio.Future[UnitRow]) -> None:
        """The caller waits no longer."""
        futures = self._futures.get((unit, run))
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[unit, run]
        elif not future.cancelled():
            future.exception()  # a caller that got another error first must not leave this one unseen

    def ended(self, row: UnitRow) -> None:
        """The run of this row has ended, also by being replaced or deleted."""
        for future in self._futures.pop((row.id, row.run), ()):
            if not future.done():
                future.set_result(row)

    def redirect(self, is_ours: Callable[[str], bool]) -> None:
        """The ends of units that are not ours any more will be seen in the store only."""
        for unit, run in list(self._futures):
            if not is_ours(unit):
                for future in self._futures.pop((unit, run)):
                    if not future.done():
                        future.set_exception(Moved())

    def fail(self, error: Exception) -> None:
        """Nobody will learn of an end here any more."""
        for future in [f for futures in self._futures.values() for f in futures]:
            if not future.done():
                future.set_exception(error)
        self._futures.clear()
