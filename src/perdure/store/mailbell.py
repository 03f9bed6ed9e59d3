"""The mail bell: tells those who listen which units got mail.

An id waits once for each listener, however often it was rung. So what waits for a slow listener
never exceeds the ids that have mail, and no id has to be dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Lock

IDS_AT_A_TIME = 256
"""Ids after which a listener lets others have the event loop: what has gathered may take it long to follow up."""


class _Listener:
    """The ids that wait for one listener, on the event loop that it listens on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._ids: dict[str, None] = {}
        self._rung = asyncio.Event()
        self._closed = False

    def ring(self, unit: str) -> None:
        """Add an id. Any thread may call it."""
        with self._lock:
            was_empty = not self._ids
            self._ids[unit] = None
        if was_empty:
            self._wake()

    def close(self) -> None:
        """Let it end when it has everything."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # its loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._rung.set)

    async def take(self) -> list[str]:
        """What has gathered, in the order of the first rings; nothing when the bell is closed."""
        while not self._ids and not self._closed:
            await self._rung.wait()
            self._rung.clear()
        with self._lock:
            ids, self._ids = self._ids, {}
        return list(ids)


class MailBell:
    """Rings for units that got mail."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._listeners: set[_Listener] = set()

    def ring(self, unit: str) -> None:
        """Tell all listeners."""
        for listener in list(self._listeners):
            listener.ring(unit)

    def close(self) -> None:
        """End all listening."""
        for listener in list(self._listeners):
            listener.close()

    def listen(self) -> AsyncIterator[str]:
        """Ids, as they come from this call on, until the bell is closed."""
        listener = _Listener()
        self._listeners.add(listener)
        return self._ids(listener)

    async def _ids(self, listener: _Listener) -> AsyncIterator[str]:
        try:
            while ids := await listener.take():
                for number, unit in enumerate(ids, 1):
                    yield unit
                    if number % IDS_AT_A_TIME == 0:
                        await asyncio.sleep(0)
        finally:
            self._listeners.discard(listener)
