"""Time as a dependency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """Something that will be called; `cancel` prevents it."""

    def cancel(self) -> None:
        """Do not call it."""
        ...


class Clock(Protocol):
    """The present, and being called at a time."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970; never goes back within one process."""
        ...

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` on the running event loop when `now_ms()` has reached `at_ms`."""
        ...


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        """Start at the present."""
        self._last = 0

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds; never goes back within this object."""
        now = time.time_ns() // 1_000_000
        if now < self._last:
            return self._last
        self._last = now
        return now

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` on the running event loop at wall-clock time `at_ms`, or up to a day early when that is far
        away.
        """
        delay_s = max(0.0, at_ms / 1000 - time.time())
        return asyncio.get_running_loop().call_later(min(delay_s, 86_400.0), callback)
