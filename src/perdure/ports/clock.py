"""Time as a dependency."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Milliseconds since the epoch, for what is stored, and a monotonic count for deadlines."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds."""
        ...

    def monotonic_ms(self) -> float:
        """Milliseconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's clock; wall-clock time never goes back within one process."""

    def __init__(self) -> None:
        """Start at the present."""
        self._last = 0

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds, monotonic within this object."""
        now = time.time_ns() // 1_000_000
        if now < self._last:
            return self._last
        self._last = now
        return now

    def monotonic_ms(self) -> float:
        """Milliseconds since an arbitrary point."""
        return time.monotonic_ns() / 1e6
