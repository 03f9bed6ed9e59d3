"""Watching an instance until its end, by its row. Each commit wakes the watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from perdure.cli import screen
from perdure.cli.door import find, is_posted, must_find
from perdure.client.description import HistoryEvent, events_of
from perdure.client.gateway import stays_held
from perdure.closing import remedy_of
from perdure.errors import DecodeError, Timeout
from perdure.kernel.data.commit import CLOSED, UnitRow
from perdure.ports.store import ClientStore, Journal, OwnedStore

ROUND_MS = 60_000
"""The length of one wait for a change, which is repeated."""
FIRST_ROUND_MS = 1_000
"""The length of the first wait. Then it is time to say that no node is there."""
_PAGE = 500
"""Rows of a journal that are read at once."""
PAUSE_S = 0.1
"""The pause between two views. Changes that come faster are shown together."""

Change = Callable[[UnitRow, list[HistoryEvent]], None]


class Watch:
    """Follows one instance in a store that is open."""

    def __init__(self, store: ClientStore, id: str) -> None:
        """Nothing is read before `until_end`."""
        self._store = store
        self._id = id
        self._execution = 0
        self._has_looked = False
        self.history: list[HistoryEvent] = []

    async def until_end(
        self, *, timeout_s: float | None = None, change: Change | None = None
    ) -> UnitRow:
        """The row when the instance has ended, or is held, which no waiting cures.

        `change` sees the row and the history, now and after each change.

        Raises:
            NotFound: it was never started.
            Timeout: it has not ended in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._until_end(change)
        except TimeoutError:
            raise Timeout(await self._late(timeout_s or 0)) from None

    async def _until_end(self, change: Change | None) -> UnitRow:
        while True:
            view = await find(self._store, self._id)
            if view is None:
                if await is_posted(self._store, self._id):
                    await self._wait_change(0)
                    continue
                # It may have begun between these two looks. Otherwise this raises.
                view = await must_find(self._store, self._id)
            row = view.row
            if change is not None:
                change(row, await self.read_history())
            if row.status in CLOSED or await stays_held(self._store, row, view.version):
                return row
            # Only for people: a wait without a view ends with the commit.
            if change is not None:
                await asyncio.sleep(PAUSE_S)
            await self._wait_change(view.version)

    async def _wait_change(self, version: int) -> None:
        """Wait for a change. If nothing has changed for a second, say whether a node is there."""
        if not self._has_looked:
            self._has_looked = True
            if await self._store.wait_change(self._id, version, FIRST_ROUND_MS) != version:
                return
            if isinstance(self._store, OwnedStore) and await self._store.owner() is None:
                screen.note(
                    f"{self._id!r} waits for a node: none runs on this store; "
                    "start one with `perdure serve`"
                )
        await self._store.wait_change(self._id, version, ROUND_MS)

    async def read_history(self) -> list[HistoryEvent]:
        """The history of the current execution. Events that were read before are not read again."""
        view = await must_find(self._store, self._id)
        if view.row.execution != self._execution:  # it has continued as new
            self._execution = view.row.execution
            self.history = []
        known = 0
        if self.history:
            known = self.history[-1].number
        async for part in read_parts(self._store, self._id, self._execution, known):
            self.history += part.events
        return self.history

    async def _late(self, timeout_s: float) -> str:
        view = await find(self._store, self._id)
        state = "has not begun: no node has taken it"
        rest = "It goes on: wait again, or cancel it"
        if view is not None:
            rest = remedy_of(view.row)
            state = f"is {view.row.status}"
            if view.row.reason:
                state += f" ({view.row.reason})"
        return f"{self._id!r} has not ended within {timeout_s:g} s; it {state}. {rest}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a history: its events, and a sentence for each row that cannot be read."""

    events: list[HistoryEvent] = field(default_factory=list[HistoryEvent])
    unreadable: list[str] = field(default_factory=list[str])


async def read_parts(
    store: ClientStore, id: str, execution: int, known: int = 0
) -> AsyncGenerator[Part]:
    """The history of an execution, part by part, without the events up to number `known`.

    A damaged row is named and left out: that is when people want to see the rest.
    """
    after: str | None = None
    while True:
        page = await store.query(Journal(unit=id, execution=execution, after=after, limit=_PAGE))
        part = Part()
        for chunk in page.items:
            # A chunk of known events is not decoded again.
            if chunk.first + chunk.count - 1 <= known:
                continue
            try:
                events = events_of(id, execution, chunk)
            except DecodeError as error:
                part.unreadable.append(str(error))
            else:
                part.events.extend(event for event in events if event.number > known)
        yield part
        if page.next is None:
            return
        after = page.next


async def read_history(store: ClientStore, id: str, execution: int) -> Part:
    """The whole history of an execution."""
    whole = Part()
    async for part in read_parts(store, id, execution):
        whole.events.extend(part.events)
        whole.unreadable.extend(part.unreadable)
    return whole
