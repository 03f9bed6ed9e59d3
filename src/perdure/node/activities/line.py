"""The line between the node and a process of its pool: the messages, and the end at the process.

The node sends a request and waits for its outcome. Meanwhile heartbeats come from the process, and
a cancel may go to it. The end at the node is in pool.py.
"""

from __future__ import annotations

import contextlib
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from perdure.activity import ActivityInfo
from perdure.node.activities.outcome import Outcome

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Request(msgspec.Struct, array_like=True, tag=True):
    """An attempt: the place of its function, its encoded arguments, and the limits of its outcome.

    `final` names the errors that are not retried. `payload_bytes` is the largest outcome.
    """

    module: str
    name: str
    data: bytes
    final: tuple[str, ...]
    payload_bytes: int
    info: ActivityInfo


class Cancel(msgspec.Struct, array_like=True, tag=True):
    """The result of a request is not wanted any more. Both sides count the requests."""

    number: int


class Beat(msgspec.Struct, array_like=True, tag=True):
    """A heartbeat of the running attempt, with its encoded details."""

    details: bytes | None


class Ended(msgspec.Struct, array_like=True, tag=True):
    """The outcome of the request."""

    outcome: Outcome


class Line:
    """The pipe to the node, as the process sees it.

    A function may use several threads, and leave some behind. So an attempt has a number here, by
    which it is known whether it is the one that runs.
    """

    def __init__(self, pipe: Connection) -> None:
        """No attempt has begun."""
        self._pipe = pipe
        self._lock = Lock()
        self._decode = msgspec.msgpack.Decoder(Request | Cancel).decode
        self._requests = 0
        self._running = 0  # the number of the attempt that runs, or 0
        self._is_cancelled = False

    def next(self) -> tuple[int, Request] | None:
        """Wait for the next request. None: the node wants no more."""
        while True:
            try:
                message = self._decode(self._pipe.recv_bytes())
            except EOFError:
                return None
            if isinstance(message, Request):  # otherwise it is a cancel that comes late
                break
        self._requests += 1
        with self._lock:
            self._running = self._requests
            self._is_cancelled = False
        return self._requests, message

    def answer(self, outcome: Outcome) -> None:
        """Send the outcome of the attempt that runs. It has ended then."""
        with self._lock:
            self._running = 0
            self._pipe.send_bytes(msgspec.msgpack.encode(Ended(outcome)))

    def beat(self, number: int, details: bytes | None) -> None:
        """Send a heartbeat, if the attempt still runs."""
        with self._lock:
            if self._running == number:
                # The pipe is broken if the node has ended, and then this process is about to end.
                with contextlib.suppress(OSError):
                    self._pipe.send_bytes(msgspec.msgpack.encode(Beat(details)))

    def is_cancelled(self, number: int) -> bool:
        """Whether the result of an attempt is not wanted any more."""
        with self._lock:
            if self._running != number:
                return True
            try:
                # The node sends nothing but cancels to a process that works.
                while not self._is_cancelled and self._pipe.poll():
                    message = self._decode(self._pipe.recv_bytes())
                    self._is_cancelled = isinstance(message, Cancel) and message.number == number
            except (EOFError, OSError):  # the node has ended
                self._is_cancelled = True
            return self._is_cancelled
