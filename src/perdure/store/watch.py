"""Waiting for a unit's next version, without polling.

Waiters may live on several event loops. A store that commits in a thread of its own takes the
waiters of changed units and wakes each loop once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

Waiter = asyncio.Future[int]


def answer(waiter: asyncio.Future[int], version: int) -> None:
    """Resolve a waiter that may have given up meanwhile."""
    if not waiter.done():
        waiter.set_result(version)


def _fail(waiter: Waiter, error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)


class Watchers:
    """The waiters of each unit."""

    def __init__(self) -> None:
        """Start with none."""
        self._waiters: dict[str, list[Waiter]] = {}
        self._lock = Lock()

    def __bool__(self) -> bool:
        """Whether there are waiters."""
        return bool(self._waiters)

    @contextmanager
    def watch(self, unit: str) -> Generator[Waiter]:
        """A future of the running loop that gets the unit's version at its next commit."""
        waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiters.setdefault(unit, []).append(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                # A commit has taken the list, unless the waiter gave up before.
                waiters = self._waiters.get(unit, [])
                if waiter in waiters:
                    waiters.remove(waiter)
                if not waiters:
                    self._waiters.pop(unit, None)

    def take(self, changes: Iterable[tuple[str, int]]) -> list[tuple[Waiter, int]]:
        """The waiters of changed units, with the version that each will get."""
        # Looked at without the lock, because it is asked after each commit. A waiter that comes in
        # this moment looks at the version itself after it was added.
        if not self._waiters:
            return []
        taken: list[tuple[Waiter, int]] = []
        with self._lock:
            for unit, version in changes:
                waiters = self._waiters.pop(unit, ())
                taken += [(waiter, version) for waiter in waiters]
        return taken

    def fail(self, error: Exception) -> None:
        """Tell all waiters that there is nothing to wait for any more."""
        for waiter, _ in self.take_all():
            # Its loop may be closed. Then it waits no more.
            with suppress(RuntimeError):
                waiter.get_loop().call_soon_threadsafe(_fail, waiter, error)

    def take_all(self, version: int = 0) -> list[tuple[Waiter, int]]:
        """All waiters, because no changes will be reported any more."""
        with self._lock:
            units = list(self._waiters)
        return self.take([(unit, version) for unit in units])


async def wait_for_change(waiter: Waiter, timeout_ms: int) -> int | None:
    """The version that a waiter was told, or None when the time is up."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            return await waiter
    except TimeoutError:
        return None
