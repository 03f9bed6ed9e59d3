"""Deadlines: when which instance wants its next turn. One heap and one alarm for all of them.

Only those of the near future are held in memory. A deadline beyond the horizon stands in its
instance's row, and a scan of the store finds it in time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.ports.clock import Alarm, Clock

_SLICE = 200
"""Deadlines that are met in one go. Then the event loop gets its turn."""
_STALE_MIN = 1_000
"""Fewer entries that stand for nothing any more are not worth a clean-up."""


class Deadlines:
    """Calls `due(unit)` when a deadline has passed.

    A unit has one deadline, and a new one replaces it. A deadline is forgotten when it has passed:
    `due` sets it again if the unit could not be served.
    """

    def __init__(
        self, clock: Clock, due: Callable[[str], None], horizon_ms: int | None = None
    ) -> None:
        """Nothing is armed yet. Deadlines farther away than `horizon_ms` are not held."""
        self._clock = clock
        self._due = due
        self._heap: list[tuple[int, str]] = []
        # The truth. The heap may also have entries that were replaced or cleared since, because
        # nothing can be removed from its middle.
        self._at: dict[str, int] = {}
        # Whether a unit has a deadline here. Each turn asks, so it is the dictionary's own.
        self.holds: Callable[[object], bool] = self._at.__contains__
        self._alarm: Alarm | None = None
        self._alarm_at = 0
        self._horizon_ms = horizon_ms

    def __len__(self) -> int:
        """How many are held in memory."""
        return len(self._at)

    def set(self, unit: str, at: int) -> bool:
        """Call `due(unit)` at store time `at` (ms).

        False: the deadline is beyond the horizon, so it is not held.
        """
        if self._at.get(unit) == at:
            return True
        if self._horizon_ms is not None and at > self._clock.now_ms() + self._horizon_ms:
            self.clear(unit)  # an earlier deadline of the unit must not be met
            return False
        self._at[unit] = at
        heapq.heappush(self._heap, (at, unit))
        self._clean_up()
        if self._alarm is None or at < self._alarm_at:
            self._arm()
        return True

    def find(self, unit: str, at: int) -> bool:
        """As `set`, for a deadline that a scan has found. One that is held and is earlier stays.

        The unit may have taken a turn since the store was asked. To meet a deadline too early costs
        a turn, and to put it off would keep the unit waiting.
        """
        held_at = self._at.get(unit)
        if held_at is not None and held_at <= at:
            return True
        return self.set(unit, at)

    def clear(self, unit: str) -> None:
        """The unit waits for no time any more."""
        if self._at.pop(unit, None) is not None:
            self._clean_up()

    def _clean_up(self) -> None:
        """Drop the entries that stand for nothing, when they are more than the others.

        So a clean-up costs no more than the entries that were made since the last one.
        """
        stale = len(self._heap) - len(self._at)
        if stale > max(len(self._at), _STALE_MIN):
            self._heap = [(at, unit) for unit, at in self._at.items()]
            heapq.heapify(self._heap)

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
        try:
            self._meet(self._clock.now_ms())
        finally:
            # It rings soon again if more are due. An error of `due` must not end all deadlines.
            self._arm()

    def _meet(self, now: int) -> None:
        """Call for those that are due, a slice of them at most."""
        for _ in range(_SLICE):
            if not self._heap or self._heap[0][0] > now:
                return
            at, unit = heapq.heappop(self._heap)
            if self._at.get(unit) == at:
                del self._at[unit]
                self._due(unit)

    def stop(self) -> None:
        """Forget everything."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._heap.clear()
        self._at.clear()
