"""The processes for activities with `executor="process"`.

Each process works on one attempt at a time and has a pipe of its own. So the death of a process (it
ran out of memory, it was killed, the activity ended it) concerns the attempt that it worked on and
no other. A process whose attempt is not wanted any more is killed. A thread cannot be stopped so.

Processes are spawned, not forked: a fork would copy the locks of the node's threads, each in its
state of the moment.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import time
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from perdure.node.activities import process
from perdure.node.activities.line import Beat, Cancel, Ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from perdure.activity import Attempt
    from perdure.node.activities.outcome import Outcome

_END_S = 0.5
"""How long a process that has nothing to do may take to end by itself."""


_news = msgspec.msgpack.Decoder(Beat | Ended)


class ProcessLost(Exception):
    """A process ended while it worked, or could not be started. The text says how."""


class PoolProcess:
    """A process of the pool, seen from the node. Its methods block."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            ProcessLost: it cannot be started.
        """
        # One thread at a time: the system tells only one of them how the process ended.
        self._looking = Lock()
        # Held while something is sent: requests by a worker's thread, cancels by the node's loop.
        self._sending = Lock()
        self._requests = 0
        self._is_working = False
        context = multiprocessing.get_context("spawn")
        try:
            self._pipe: Connection
            self._pipe, theirs = context.Pipe()
            with theirs:
                name = "perdure-activity"
                self._process = context.Process(target=process.serve, args=(theirs,), name=name)
                self._process.start()
        except OSError as error:
            raise ProcessLost(f"it cannot be started: {error}") from error

    @property
    def alive(self) -> bool:
        """Whether it could take an attempt."""
        with self._looking:
            return self._process.is_alive()

    def wait_ready(self) -> None:
        """Wait until it has imported its modules.

        Raises:
            ProcessLost: it ended before.
        """
        self._receive()

    def run(self, request: bytes, attempt: Attempt) -> Outcome:
        """Have it run an attempt, whose heartbeats are noted. Return the outcome.

        Raises:
            ProcessLost: it ended before it answered.
        """
        try:
            with self._sending:
                self._requests += 1
                self._pipe.send_bytes(request)
                self._is_working = True
        except OSError:  # a broken pipe
            raise ProcessLost(self._how_it_ended()) from None
        if attempt.is_cancelled():
            self.cancel()  # before, there was nothing that could be cancelled
        while True:
            news = _news.decode(self._receive())
            if isinstance(news, Ended):
                break
            attempt.beat(news.details)
        with self._sending:
            self._is_working = False
        return news.outcome

    def cancel(self) -> None:
        """Tell the function that its result is not wanted any more. It does not block."""
        # The lock is held if a request is being sent. The cancel follows it then.
        if not self._sending.acquire(blocking=False):
            return
        try:
            if self._is_working:
                # A pipe has room for a few bytes. The process may have ended, which is seen soon.
                with contextlib.suppress(OSError):
                    self._pipe.send_bytes(msgspec.msgpack.encode(Cancel(self._requests)))
        finally:
            self._sending.release()

    def _receive(self) -> bytes:
        try:
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise ProcessLost(self._how_it_ended()) from None

    def _how_it_ended(self) -> str:
        with self._looking:
            self._process.join(_END_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"it was killed by {_name_of(-code)}"
        return f"it ended with exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def leave(self) -> None:
        """Ask it to end as soon as it has nothing to do."""
        self._pipe.close()

    def join(self, seconds: float) -> None:
        """Wait for its end. Kill it if it takes longer."""
        with self._looking:
            self._process.join(seconds)
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join(_END_S)


class Processes:
    """Gives attempts to processes. How many may run at once is decided before (slots.py)."""

    def __init__(self) -> None:
        """There is no process yet."""
        self._lock = Lock()
        # multiprocessing keeps its books without a lock, so processes start one after the other.
        self._starting = Lock()
        self._idle: list[PoolProcess] = []
        self._busy: set[PoolProcess] = set()
        self._closed = False

    @property
    def used(self) -> bool:
        """Whether there are processes."""
        with self._lock:
            return bool(self._idle or self._busy)

    def run(
        self, request: bytes, attempt: Attempt, taken: Callable[[PoolProcess], bool]
    ) -> Outcome | None:
        """Have a process run an attempt, and wait for its outcome.

        It blocks, so it is called on a thread. `taken` is called with the process that is about to
        begin. If it returns False, the attempt is not wanted any more.

        Raises:
            ProcessLost: the process ended meanwhile.
        """
        found = self._take()
        outcome: Outcome | None = None
        try:
            if taken(found):
                outcome = found.run(request, attempt)
        except ProcessLost:
            self._drop(found)
            raise
        self._give_back(found)
        return outcome

    def _take(self) -> PoolProcess:
        with self._lock:
            while self._idle:
                found = self._idle.pop()
                if found.alive:  # it may have been killed while it had nothing to do
                    self._busy.add(found)
                    return found
        with self._starting:
            found = PoolProcess()
        with self._lock:
            if not self._busy and not self._idle:
                atexit.register(self.close)  # a program that never stops its node must end, too
            self._busy.add(found)
            closed = self._closed
        if closed:
            found.kill()  # `close` came while it started, and did not see it
        try:
            found.wait_ready()
        except ProcessLost:
            self._drop(found)
            raise
        return found

    def _give_back(self, found: PoolProcess) -> None:
        with self._lock:
            self._busy.discard(found)
            if not self._closed:
                self._idle.append(found)

    def _drop(self, lost: PoolProcess) -> None:
        with self._lock:
            self._busy.discard(lost)
        lost.leave()

    def close(self) -> None:
        """End all processes: at once those that work, in order those that do not.

        It blocks, but not for long.
        """
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for found in busy:
            found.kill()
        for found in idle:
            found.leave()
        until = time.monotonic() + _END_S
        for found in (*busy, *idle):
            found.join(max(until - time.monotonic(), 0))


def _name_of(number: int) -> str:
    """A signal for people. Most of those for real time have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
