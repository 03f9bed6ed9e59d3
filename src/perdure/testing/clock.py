"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count


class ManualAlarm:
    """A call that waits for the clock."""

    __slots__ = ("at_ms", "callback")

    def __init__(self, at_ms: int, callback: Callable[[], None]) -> None:
        """Made by `ManualClock.call_at`."""
        self.at_ms = at_ms
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None

    def ring(self) -> None:
        """Call it, once."""
        callback = self.callback
        self.callback = None
        if callback is not None:
            callback()


class ManualClock:
    """Time for tests: `Node(app, store, clock=ManualClock())`.

    Only `advance` moves it, so a test decides what is late.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        """Begin at `now_ms`, milliseconds since 1970."""
        self._now_ms = now_ms
        self._alarms: list[tuple[int, int, ManualAlarm]] = []
        self._numbers = count()
        self._armed = asyncio.Event()

    def now_ms(self) -> int:
        """The present, in milliseconds since 1970."""
        return self._now_ms

    def boot_ms(self) -> int:
        """The same: nobody sets this clock."""
        return self._now_ms

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` when `advance` reaches `at_ms`. Soon, if that is not in the future."""
        alarm = ManualAlarm(at_ms, callback)
        if at_ms <= self._now_ms:
            # Never at once: the caller has not got the alarm yet, and may want to cancel it.
            asyncio.get_running_loop().call_soon(alarm.ring)
        else:
            # The number keeps alarms of one moment in the order in which they were set.
            heapq.heappush(self._alarms, (at_ms, next(self._numbers), alarm))
            self._armed.set()
        return alarm

    def call_after(self, ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` when `advance` has gone on by `ms`."""
        return self.call_at(self._now_ms + ms, callback)

    def advance(self, ms: int) -> None:
        """Go on by `ms` milliseconds and make the calls that come due on the way, earliest first.

        Call it on the event loop of the node.

        Raises:
            ValueError: time does not go back.
        """
        if ms < 0:
            msg = f"a clock does not go back: advance({ms})"
            raise ValueError(msg)
        until_ms = self._now_ms + ms
        while self._alarms and self._alarms[0][0] <= until_ms:
            at_ms, _, alarm = heapq.heappop(self._alarms)
            # Each call sees its own time, and may set alarms that come due on the way, too.
            self._now_ms = max(self._now_ms, at_ms)
            alarm.ring()
        self._now_ms = until_ms

    async def until_armed(self, within_ms: int) -> int:
        """Wait until an alarm is set for at most `within_ms` from now.

        Returns its distance in ms.
        """
        while True:
            # A cancelled alarm stays in the heap until it is its turn.
            while self._alarms and self._alarms[0][2].callback is None:
                heapq.heappop(self._alarms)
            if self._alarms and self._alarms[0][0] <= self._now_ms + within_ms:
                return self._alarms[0][0] - self._now_ms
            self._armed.clear()
            await self._armed.wait()
