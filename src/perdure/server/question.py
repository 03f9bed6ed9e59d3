"""Questions to the event loop of a node, asked from the thread of a server.

A question that waits for its answer is not asked twice: all who ask meanwhile get the same answer.
So a thousand requests are one read of the store, and a loop that stands still does not find a
thousand questions when it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LoopEnded(Exception):
    """The event loop of the node has been closed, and nobody has stopped the node."""


class Question(Generic[T]):
    """One question. It belongs to the event loop of the server."""

    def __init__(
        self, home: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> None:
        """`work` finds the answer on the node's event loop, `home`."""
        self._home = home
        self._work = work
        self._asked: asyncio.Future[T] | None = None
        self._asked_s = 0.0

    @property
    def waits_s(self) -> float:
        """For how long the question waits for its answer now."""
        if self._asked is None or self._asked.done():
            return 0.0
        return monotonic() - self._asked_s

    async def answer(self, within_s: float) -> T:
        """The answer.

        Raises:
            TimeoutError: it did not come in time. The next call goes on waiting for it.
            LoopEnded: it cannot come any more.
        """
        if self._asked is None or self._asked.done():
            self._asked = self._ask()
            self._asked_s = monotonic()
        async with asyncio.timeout(within_s):
            # Others wait for it, too.
            return await asyncio.shield(self._asked)

    def _ask(self) -> asyncio.Future[T]:
        work = self._work()
        try:
            asked = asyncio.run_coroutine_threadsafe(work, self._home)
        except RuntimeError:
            work.close()
            raise LoopEnded from None
        future = asyncio.wrap_future(asked)
        # Perhaps nobody waits any more when it fails.
        future.add_done_callback(_note)
        return future


def _note(future: asyncio.Future[Any]) -> None:
    """Take note of an error, which asyncio would otherwise report as lost."""
    if not future.cancelled():
        future.exception()
