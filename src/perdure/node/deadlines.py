"""Deadlines: when which instance wants its next turn. One heap and one timer for all of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.ports.clock import Alarm, Clock


class Deadlines:
    """Calls `due(unit)` when a deadline has passed. A unit has one deadline; setting it again replaces it."""

    def __init__(self, clock: Clock, due: Callable[[str], None]) -> None:
        """Nothing is armed yet."""
        self._clock = clock
        self._due = due
        self._heap: list[tuple[int, str]] = []
        self._at: dict[str, int] = {}
        self._alarm: Alarm | None = None
        self._alarm_at = 0

    def set(self, unit: str, at: int) -> None:
        """`due(unit)` at store time `at` (ms)."""
        if self._at.get(unit) == at:
            return
        self._at[unit] = at
        heapq.heappush(self._heap, (at, unit))
        if self._alarm is None or at < self._alarm_at:
            self._arm()

    def clear(self, unit: str) -> None:
        """The unit waits for no time any more."""
        self._at.pop(unit, None)

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        heap = self._heap
        while heap and self._at.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        if heap:
            self._alarm_at = heap[0][0]
            self._alarm = self._clock.call_at(self._alarm_at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._clock.now_ms()
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, unit = heapq.heappop(heap)
            if self._at.get(unit) == at:
                del self._at[unit]
                self._due(unit)
        self._arm()

    def stop(self) -> None:
        """Forget everything."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._heap.clear()
        self._at.clear()
