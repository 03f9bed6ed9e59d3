"""Suspects: instances whose open work may have killed the node.

When a node starts and finds that the last owner did not release its scopes, every instance with open work is a
suspect: that is counted in its row before it runs again, and any progress of it clears the count. Once an instance
has been there at `crash_failures` crashes in a row it runs on trial: alone among its like, and with a mark in its
row. If that mark stands at the next unclean start, it was the one, and it is set aside. So one bad instance cannot
fell the nodes one after the other.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

from perdure.errors import Failure
from perdure.kernel.commit import CLOSED, Commit
from perdure.kernel.held import POISONED
from perdure.kernel.lifecycle import pending_row
from perdure.kernel.message import Start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perdure.kernel.commit import Fence, UnitRow
    from perdure.node.turns import Turns
    from perdure.ports.clock import Clock
    from perdure.ports.store import Loaded

ON_TRIAL = 1_000
"""Added to the count while the instance is on trial."""

TRIAL_MS = 10_000
"""An instance that has not crashed the node after this time on trial is let go on with the others."""


class Suspects:
    """Takes up suspects after an unclean start."""

    def __init__(self, turns: Turns, fences: Mapping[str, Fence], clock: Clock, crash_failures: int) -> None:
        """Works through `turns`."""
        self._turns = turns
        self._fences = fences
        self._clock = clock
        self._limit = crash_failures
        self._trials: list[str] = []
        self._seen: set[str] = set()

    async def take_up(self, units: Sequence[str]) -> None:
        """Count the crash in the rows of these units, wake those that are under the limit, put the rest on the list
        of trials.
        """
        turns = self._turns
        units = [u for u in units if u not in self._seen]  # one that is due and has mail may stand on two pages
        self._seen.update(units)
        counted: dict[str, int] = {}
        commits: list[Commit] = []
        for loaded in await turns.store.load(units):
            row = loaded.row if loaded.row is not None else self._row_of_start(loaded)
            if row is None or row.status in CLOSED or row.reason == "poison":
                continue
            counted[loaded.id] = row.suspect + 1
            commits.append(
                self._count(loaded.id, loaded.version, msgspec.structs.replace(row, suspect=row.suspect + 1))
            )
        if commits:
            await turns.store.commit(commits)
        for unit in units:
            count = counted.get(unit, 0)
            if count > ON_TRIAL:
                turns.set_aside(unit, _poisoned(unit, count - ON_TRIAL))
            elif count >= self._limit:
                self._trials.append(unit)
            else:
                turns.wake(unit)

    def _row_of_start(self, loaded: Loaded) -> UnitRow | None:
        """An instance whose start was posted and whose first turn may have killed the node has no row yet."""
        for message in loaded.inbox:
            if isinstance(message.body, Start):
                return pending_row(loaded.id, message, message.body, self._turns.store.info.shards)
        return None

    def _count(self, unit: str, version: int, row: UnitRow) -> Commit:
        return Commit(os.urandom(16), self._fences[row.scope], self._clock.now_ms(), unit, version, row)

    async def run_trials(self) -> None:
        """One after the other: mark it, run it, wait for its progress."""
        for unit in self._trials:
            await self._mark(unit, ON_TRIAL)
            self._turns.wake(unit)
            await self._progress(unit)
        self._trials.clear()

    async def _mark(self, unit: str, by: int) -> None:
        loaded = (await self._turns.store.load([unit]))[0]
        if loaded.row is not None and loaded.row.status not in CLOSED:
            row = msgspec.structs.replace(loaded.row, suspect=loaded.row.suspect + by)
            await self._turns.store.commit([self._count(unit, loaded.version, row)])

    async def _progress(self, unit: str) -> None:
        """Wait until the unit has committed, or its trial is over."""
        loaded = (await self._turns.store.load([unit]))[0]
        changed = asyncio.ensure_future(self._turns.store.wait_change(unit, loaded.version, TRIAL_MS))
        over = asyncio.Event()
        alarm = self._clock.call_at(self._clock.now_ms() + TRIAL_MS, over.set)
        waiting = asyncio.ensure_future(over.wait())
        try:
            await asyncio.wait([changed, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            changed.cancel()
            waiting.cancel()
        self._turns.clear_suspicion(unit)


def _poisoned(unit: str, crashes: int) -> Failure:
    return Failure(
        POISONED,
        f"{unit!r} was running alone when the node died, after {crashes} crashes with it among the running ones. "
        "Mend the code (look for what ends the process), deploy it, and release the instance with retry().",
        "poison",
        retryable=False,
    )
