"""The mail bell: tells those who listen which units got mail. Lossy by design."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

WAITING_IDS_MAX = 10_000
"""Ids that one listener may have waiting; further ones are dropped until it catches up."""


class MailBell:
    """Rings for units that got mail."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._listeners: set[asyncio.Queue[str | None]] = set()

    def ring(self, unit: str) -> None:
        """Tell all listeners. Call it on their event loop."""
        for listener in self._listeners:
            if listener.qsize() < WAITING_IDS_MAX:
                listener.put_nowait(unit)

    def close(self) -> None:
        """End all listening."""
        for listener in self._listeners:
            listener.put_nowait(None)

    def listen(self) -> AsyncIterator[str]:
        """Ids, as they come from this call on, until the bell is closed."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(queue)
        return self._ids(queue)

    async def _ids(self, queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        try:
            while (unit := await queue.get()) is not None:
                yield unit
        finally:
            self._listeners.discard(queue)
