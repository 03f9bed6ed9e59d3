"""A bell rings for units that got messages, or for queues, and its listeners hear which ones.

A hint waits once for each listener, however often the bell rang for it. So a slow listener never
has more hints waiting than there are units with messages, and none has to be dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Lock
from typing import Generic, TypeVar

from perdure.ports.store import (
    Hint,
)
from perdure.ports.tasks import TaskHint

H = TypeVar("H", Hint, TaskHint)

HINTS_AT_A_TIME = 256
"""Hints after which a listener lets others have the event loop.

Much may have gathered, and each hint may take long to follow up.
"""


class _Listener(Generic[H]):
    """The hints that wait for one listener, on the event loop that it listens on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._hints: dict[H, None] = {}
        self._rung = asyncio.Event()
        self._closed = False

    def ring(self, hint: H) -> None:
        """Add a hint. Any thread may call it."""
        with self._lock:
            was_empty = not self._hints
            self._hints[hint] = None
        # A listener that has hints was woken for the first of them.
        if was_empty:
            self._wake()

    def close(self) -> None:
        """Let it end when it has heard all hints."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        # Its loop may be closed. Then it listens no more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._rung.set)

    async def take(self) -> list[H]:
        """The hints that have gathered, in the order of the first rings. None: it is closed."""
        while not self._hints and not self._closed:
            await self._rung.wait()
            self._rung.clear()
        with self._lock:
            hints = self._hints
            self._hints = {}
        return list(hints)


class Bell(Generic[H]):
    """Rings for units that got messages, or for queues."""

    def __init__(self) -> None:
        """Start without listeners."""
        # A dict, so that they are told in one order in each run of a simulation.
        self._listeners: dict[_Listener[H], None] = {}

    def ring(self, hint: H) -> None:
        """Tell all listeners."""
        # A copy, because listeners come and go on other threads.
        for listener in list(self._listeners):
            listener.ring(hint)

    def close(self) -> None:
        """End all listening."""
        for listener in list(self._listeners):
            listener.close()

    def listen(self) -> AsyncIterator[H]:
        """Hints, as they come from this call on, until the bell is closed."""
        # Not in the generator, which runs only when its first hint is asked for.
        listener = _Listener[H]()
        self._listeners[listener] = None
        return self._listen_to(listener)

    async def _listen_to(self, listener: _Listener[H]) -> AsyncIterator[H]:
        try:
            while hints := await listener.take():
                for number, hint in enumerate(hints, 1):
                    yield hint
                    if number % HINTS_AT_A_TIME == 0:
                        await asyncio.sleep(0)
        finally:
            self._listeners.pop(listener, None)
