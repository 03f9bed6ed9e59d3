"""The envelopes that wait to be written: one batch for each turn of the event loop, with bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

from perdure.ports.transport import Envelope, TransportOptions
from perdure.transport.frame import BATCH_BYTES, size_of


class Pipe(Protocol):
    """What an adapter gives an exchange: the way to the peer.

    It calls `Exchange.pause` when it has taken more than the peer has, and then `resume`.
    """

    def write(self, batch: Sequence[Envelope]) -> None:
        """Send envelopes, in order."""
        ...

    def unsent_bytes(self) -> int:
        """What was written, and not taken yet."""
        ...

    def taken_bytes(self) -> int:
        """What the system or the peer has taken since the beginning."""
        ...

    def close(self) -> None:
        """Send what was written, and hang up."""
        ...

    def abort(self) -> None:
        """Hang up now."""
        ...


class Outgoing:
    """A queue to one peer. After each turn of the event loop it is empty, unless it is paused."""

    def __init__(
        self,
        pipe: Pipe,
        options: TransportOptions,
        refresh: Callable[[Envelope], Envelope | None],
    ) -> None:
        """Write to `pipe`. A call that has waited goes through `refresh` (None: do not send it)."""
        self._pipe = pipe
        self._messages_max = options.queue_messages
        self._bytes_max = options.queue_bytes
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._queue: list[Envelope] = []
        self._bytes = 0
        self._is_paused = False
        self._is_flushing = False
        self._has_waited = False
        self.written = 0

    def has_room(self, body_bytes: int, times: int = 1) -> bool:
        """Whether a further body keeps the queue within so many times its bounds."""
        # An empty queue takes each body, also with a bound that is below the size of a frame.
        if not self._queue:
            return True
        if len(self._queue) >= times * self._messages_max:
            return False
        return self._bytes + body_bytes <= times * self._bytes_max

    def put(self, envelope: Envelope) -> None:
        """Write it at the end of this turn of the event loop, or when the peer reads again."""
        self._queue.append(envelope)
        self._bytes += size_of(envelope)
        if self._is_paused:
            return
        if self._bytes >= BATCH_BYTES:
            # Much is said in one turn. The system takes it from here, until it pauses the queue.
            self.flush()
        elif not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_later)

    @contextmanager
    def gathering(self) -> Generator[None]:
        """Write what is put meanwhile at the end, and not in a further turn of the event loop."""
        if self._is_flushing:
            yield
            return
        self._is_flushing = True
        try:
            yield
        finally:
            self._flush_later()

    def _flush_later(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Write what waits, until the peer does not take more."""
        while self._queue and not self._is_paused:
            batch = self._cut()
            if self._has_waited:
                batch = [fresh for waited in batch if (fresh := self._refresh(waited)) is not None]
                self._has_waited = bool(self._queue)
            self.written += len(batch)
            if batch:
                self._pipe.write(batch)

    def _cut(self) -> list[Envelope]:
        """Take out one batch. A large queue is written in parts, each of which may pause it."""
        queue = self._queue
        if self._bytes <= BATCH_BYTES:
            self._queue = []
            self._bytes = 0
            return queue
        taken = 0
        count = 0
        while count < len(queue) and taken < BATCH_BYTES:
            taken += size_of(queue[count])
            count += 1
        self._queue = queue[count:]
        self._bytes -= taken
        return queue[:count]

    def pause(self) -> None:
        """Keep what comes, because the peer does not take it."""
        self._is_paused = True
        self._has_waited = True

    def resume(self) -> None:
        """Write again."""
        self._is_paused = False
        self._has_waited = True
        self.flush()

    def unsent(self) -> list[Envelope]:
        """Take out what was never written."""
        queue = self._queue
        self._queue = []
        self._bytes = 0
        return queue
