"""Waiting for a unit's next version, without polling.

Waiters may live on several event loops; a store that commits in a thread of its own asks for the changed ones and
wakes each loop once.
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
    """Who waits for which unit."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._waiters: dict[str, list[Waiter]] = {}
        self._lock = Lock()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
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
                waiters = self._waiters.get(unit, [])
                if waiter in waiters:
                    waiters.remove(waiter)
                if not waiters:
                    self._waiters.pop(unit, None)

    def take(self, changes: Iterable[tuple[str, int]]) -> list[tuple[Waiter, int]]:
        """The waiters of changed units, with the version that each will get."""
        if not self._waiters:
            return []
        with self._lock:
            return [
                (waiter, version)
                for unit, version in changes
                for waiter in self._waiters.pop(unit, ())
            ]

    def fail(self, error: Exception) -> None:
        """Tell all waiters that there is nothing to wait for any more."""
        for waiter, _ in self.take_all():
            with suppress(RuntimeError):  # its loop is closed: nobody waits
                waiter.get_loop().call_soon_threadsafe(_fail, waiter, error)

    def take_all(self, version: int = 0) -> list[tuple[Waiter, int]]:
        """All waiters: whoever told them of changes is gone."""
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
