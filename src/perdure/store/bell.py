"""The mail bell: tells those who listen which units got mail.

A unit waits once for each listener, however often it was rung for. So what waits for a slow listener
never exceeds the units that have mail, and none has to be dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Lock

from perdure.ports.store import Hint

HINTS_AT_A_TIME = 256
"""Hints after which a listener lets others have the event loop: what has gathered may take it long to follow up."""


class _Listener:
    """The hints that wait for one listener, on the event loop that it listens on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._hints: dict[str, Hint] = {}
        self._rung = asyncio.Event()
        self._closed = False

    def ring(self, hint: Hint) -> None:
        """Add a hint. Any thread may call it."""
        with self._lock:
            was_empty = not self._hints
            self._hints[hint.unit] = hint
        if was_empty:
            self._wake()

    def close(self) -> None:
        """Let it end when it has everything."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # its loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._rung.set)

    async def take(self) -> list[Hint]:
        """What has gathered, in the order of the first rings; nothing when the bell is closed."""
        while not self._hints and not self._closed:
            await self._rung.wait()
            self._rung.clear()
        with self._lock:
            hints, self._hints = self._hints, {}
        return list(hints.values())


class Bell:
    """Rings for units that got mail."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._listeners: set[_Listener] = set()

    def ring(self, hint: Hint) -> None:
        """Tell all listeners."""
        for listener in list(self._listeners):
            listener.ring(hint)

    def close(self) -> None:
        """End all listening."""
        for listener in list(self._listeners):
            listener.close()

    def listen(self) -> AsyncIterator[Hint]:
        """Hints, as they come from this call on, until the bell is closed."""
        listener = _Listener()
        self._listeners.add(listener)
        return self._listen_to(listener)

    async def _listen_to(self, listener: _Listener) -> AsyncIterator[Hint]:
        try:
            while hints := await listener.take():
                for number, hint in enumerate(hints, 1):
                    yield hint
                    if number % HINTS_AT_A_TIME == 0:
                        await asyncio.sleep(0)
        finally:
            self._listeners.discard(listener)
