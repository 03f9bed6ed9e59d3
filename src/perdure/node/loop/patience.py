"""Patience: asking a store until it answers, where giving up would lose something.

There is one policy for reads and writes. A question that the store could not answer is asked again,
with pauses that grow. It is asked until there is an answer or the node stops, and nothing is
forgotten meanwhile. Callers that wait for the answer are told after `store_retry_ms`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger("perdure.node")

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_S = 0.05
_LONGEST_S = 1.0
"""How long to wait before the store is asked again: twice as long each time, up to the longest."""

_REPORT_EVERY_S = 30.0
"""How often a store that does not answer is reported."""


def _now_s() -> float:
    # The event loop's time and not the node's clock: a clock that is set must not end an outage.
    return asyncio.get_running_loop().time()


class Stopped(Exception):
    """The node stops, so the answer is not needed any more."""


class Patience:
    """Asks on behalf of a node until the node stops."""

    def __init__(self, node_name: str, late_ms: int) -> None:
        """An answer that takes longer than `late_ms` is late. The name is for log records."""
        self._ids = {"node": node_name}
        self._late_s = late_ms / 1000
        self._over = asyncio.Event()
        self._hurried = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is asked any more."""
        return self._over.is_set()

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()

    def hurry(self) -> None:
        """Ask no more once an answer is late."""
        self._hurried = True

    async def ask(self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask until there is an answer, after any error.

        Raises:
            Stopped: the node stops.
        """
        outage = _Outage(self._ids)
        while not self.is_over:
            try:
                answer = await ask(*args, **kwargs)
            except Exception as error:
                # Also an error that is none of the store's: to give up would lose work of a scope.
                outage.note(error)
            else:
                outage.end()
                return answer
            await self._pause(outage.next_pause_s())
        raise Stopped

    async def insist(
        self,
        ask: Callable[[], Awaitable[T]],
        late: Callable[[StoreUnavailable], None],
        first: StoreUnavailable | None = None,
    ) -> T:
        """Ask while the store is away. `late` is told of each failure that comes late.

        `first` is the failure of a question that has been asked already.

        Raises:
            Stopped: the node stops.
            Exception: the store has given another error, or `late` has.
        """
        outage = _Outage(self._ids)
        if first is not None:
            await self._after(first, outage, late)
        while not self.is_over:
            try:
                answer = await ask()
            except StoreUnavailable as error:
                await self._after(error, outage, late)
            else:
                outage.end()
                return answer
        raise Stopped

    async def _after(
        self, error: StoreUnavailable, outage: _Outage, late: Callable[[StoreUnavailable], None]
    ) -> None:
        outage.note(error)
        if outage.lasts_s >= self._late_s:
            if self._hurried:
                # A node that stops waits so long for its store, and no longer.
                raise Stopped from error
            late(error)
        await self._pause(outage.next_pause_s())

    async def _pause(self, seconds: float) -> None:
        try:
            # A stop must not have to wait for the end of a pause.
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return


class _Outage:
    """The time in which one question has no answer."""

    __slots__ = ("_began_s", "_ids", "_pause_s", "_reported_s")

    def __init__(self, ids: dict[str, str]) -> None:
        self._ids = ids
        self._began_s = _now_s()
        self._reported_s: float | None = None
        self._pause_s = _FIRST_S

    @property
    def lasts_s(self) -> float:
        """How long the question has had no answer.

        The time of the tries counts, too: a try that waits for a lock may take seconds.
        """
        return _now_s() - self._began_s

    def note(self, error: Exception) -> None:
        """The store has not answered again. People are told at first, and then now and then."""
        now_s = _now_s()
        is_first = self._reported_s is None
        if self._reported_s is not None and now_s - self._reported_s < _REPORT_EVERY_S:
            return
        self._reported_s = now_s
        trace: Exception | None = None
        if not isinstance(error, StoreUnavailable):
            trace = error  # no store should raise it, so people need to see where it came from
        if is_first:
            text = "the store does not answer, and is asked again: %s"
            logger.warning(text, error, exc_info=trace, extra=self._ids)
        else:
            text = "the store has not answered for %.1f s, and is asked again: %s"
            logger.warning(text, self.lasts_s, error, exc_info=trace, extra=self._ids)

    def next_pause_s(self) -> float:
        """How long to wait before the next try."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_S)
        return pause_s

    def end(self) -> None:
        """The store has answered. People who were told of the outage are told of its end."""
        if self._reported_s is not None:
            logger.warning("the store answers again after %.1f s", self.lasts_s, extra=self._ids)
