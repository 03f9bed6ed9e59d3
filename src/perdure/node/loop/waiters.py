"""Callers in this process that wait until a run has ended, or is held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.node.ownership.scope import Moved

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.data.commit import UnitRow


class Waiters:
    """Futures for the rows of runs that end, by unit and run.

    An id may have many lives, and each caller waits for one of them. The commit that ends a run
    wakes its futures. Nothing polls.
    """

    def __init__(self) -> None:
        """No caller waits."""
        self._futures: dict[tuple[str, bytes], list[asyncio.Future[UnitRow]]] = {}
        # The futures of callers that wait through a suspension.
        self._patient: set[asyncio.Future[UnitRow]] = set()

    def add(
        self, unit: str, run: bytes, *, through_suspension: bool = False
    ) -> asyncio.Future[UnitRow]:
        """A future for the row of the run when it ends, or is held.

        `through_suspension`: only when it ends.

        The caller looks afterwards whether the run has ended already. In this order no end is
        missed.
        """
        future: asyncio.Future[UnitRow] = asyncio.get_running_loop().create_future()
        self._futures.setdefault((unit, run), []).append(future)
        if through_suspension:
            self._patient.add(future)
        return future

    def remove(self, unit: str, run: bytes, future: asyncio.Future[UnitRow]) -> None:
        """The caller waits no longer."""
        self._patient.discard(future)
        futures = self._futures.get((unit, run))
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[unit, run]
        elif not future.cancelled():
            # The caller may have got another error first. asyncio complains of errors that are
            # never looked at.
            future.exception()

    def ended(self, row: UnitRow) -> None:
        """The run of this row has ended, also by being replaced or deleted."""
        for future in self._futures.pop((row.id, row.run), ()):
            if not future.done():
                future.set_result(row)

    def held(self, row: UnitRow) -> None:
        """The run of this row does not go on until people act."""
        waiting = self._futures.get((row.id, row.run))
        if waiting is None:
            return
        for future in [future for future in waiting if future not in self._patient]:
            waiting.remove(future)
            if not future.done():
                future.set_result(row)
        if not waiting:
            del self._futures[row.id, row.run]

    def redirect(self, is_ours: Callable[[str], bool]) -> None:
        """The ends of units that this node has given up will be seen in the store only."""
        for unit, run in list(self._futures):
            if not is_ours(unit):
                # Each caller then waits by the store, with the same run.
                for future in self._futures.pop((unit, run)):
                    if not future.done():
                        future.set_exception(Moved())

    def moved(self, row: UnitRow) -> None:
        """The unit of this row has gone to another scope."""
        for future in self._futures.pop((row.id, row.run), ()):
            if not future.done():
                future.set_exception(Moved())

    def fail(self, error: Exception) -> None:
        """No end will be seen here any more."""
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        self._futures.clear()
