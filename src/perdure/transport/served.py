"""The calls that a peer has made on a link, and that run here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from perdure.ports.transport import Handler, HandlerFailed, Request

GAPS_MAX = 1_024
"""Calls that may overtake an earlier one. A call that comes later still counts as lost."""

# Called with the number of a call and its answer or error.
Answer = Callable[[int, "bytes | BaseException"], None]


class Seen:
    """The numbers of calls that have come, so that a call which comes twice runs once."""

    __slots__ = ("_above", "_up_to")

    def __init__(self) -> None:
        """None has come."""
        # Numbers count up, so that the numbers up to one and a few above it say it all.
        self._up_to = 0
        self._above: set[int] = set()

    def is_new(self, number: int) -> bool:
        """Note a number. False: it has come before, or far too late."""
        if number == self._up_to + 1 and not self._above:
            self._up_to = number
            return True
        if number <= self._up_to or number in self._above:
            return False
        self._above.add(number)
        # Calls that were lost leave gaps, which must not stay for ever.
        if len(self._above) > GAPS_MAX:
            self._up_to = min(self._above) - 1
        while self._up_to + 1 in self._above:
            self._up_to += 1
            self._above.remove(self._up_to)
        return True


class Served:
    """Runs the calls of one peer."""

    def __init__(self, handler: Handler, calls_max: int, answer: Answer) -> None:
        """Run them by `handler`, so many at a time at most."""
        self._handler = handler
        self._calls_max = calls_max
        self._answer = answer
        self._seen = Seen()
        self._open: dict[int, asyncio.Future[bytes]] = {}

    @property
    def is_full(self) -> bool:
        """Whether as many calls run as may."""
        return len(self._open) >= self._calls_max

    def is_new(self, number: int) -> bool:
        """Note that a call has come. False: it came before."""
        return self._seen.is_new(number)

    def run(self, number: int, request: Request) -> None:
        """Run a call. Its answer may come at once."""
        try:
            answer = self._handler.call(request)
            if isinstance(answer, bytes):
                self._answer(number, answer)
                return
            running = asyncio.ensure_future(answer)
        except Exception as error:
            self._answer(number, error)
            return
        self._open[number] = running
        running.add_done_callback(partial(self._ended, number))

    def cancel(self, number: int) -> None:
        """The caller waits no more."""
        running = self._open.pop(number, None)
        if running is not None:
            running.cancel()

    def close(self) -> None:
        """Nobody waits any more."""
        for number in list(self._open):
            self.cancel(number)

    def _ended(self, number: int, running: asyncio.Future[bytes]) -> None:
        if self._open.pop(number, None) is None:
            # Given up meanwhile. The error is taken, or asyncio would log it as forgotten.
            if not running.cancelled():
                running.exception()
            return
        if running.cancelled():
            self._answer(number, HandlerFailed("the handler was cancelled", "CancelledError"))
            return
        error = running.exception()
        if error is not None:
            self._answer(number, error)
            return
        # The type is checked by checkers only, and handlers are written by others, too.
        answer = cast("object", running.result())
        if isinstance(answer, bytes):
            self._answer(number, answer)
        else:
            self._answer(number, TypeError(f"a handler answers with bytes, got {answer!r:.60}"))
