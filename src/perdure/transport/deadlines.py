"""The deadlines of calls: one alarm for all of them.

An alarm for each call would cost more than the call itself. So deadlines are kept in slots of a few
milliseconds, and one alarm waits for the earliest slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from perdure.ports.clock import Alarm, Clock

SLOT_MS = 10
"""A deadline is noticed so much late at most."""


class Deadlines:
    """Numbers with a time each. `on_late` gets those whose time has come."""

    def __init__(self, clock: Clock, on_late: Callable[[Iterable[int]], None]) -> None:
        """Wait for nothing yet."""
        self._clock = clock
        self._on_late = on_late
        # The numbers as the keys of a dict, because calls of one slot end in their order.
        self._slots: dict[int, dict[int, None]] = {}
        self._alarm: Alarm | None = None
        self._armed = 0

    def add(self, number: int, at_ms: int) -> int:
        """Wait for a time. Returns the slot, by which `drop` finds it."""
        # Rounded up: a call must not end before its time.
        slot = at_ms // SLOT_MS + 1
        numbers = self._slots.get(slot)
        if numbers is None:
            numbers = self._slots[slot] = {}
            if self._alarm is None or slot < self._armed:
                self._arm(slot)
        numbers[number] = None
        return slot

    def drop(self, number: int, slot: int) -> None:
        """Wait for this number no more."""
        numbers = self._slots.get(slot)
        if numbers is not None:
            numbers.pop(number, None)
            # The alarm stays: it costs one look, and arming anew would cost as much as the call.
            if not numbers:
                del self._slots[slot]

    def close(self) -> None:
        """Wait for nothing any more."""
        self._slots.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _arm(self, slot: int) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._armed = slot
        left_ms = slot * SLOT_MS - self._clock.now_ms()
        # By the time that passes: setting the machine's clock must not end a call.
        self._alarm = self._clock.call_after(max(1, left_ms), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._clock.now_ms() // SLOT_MS
        # The slot that it was armed for has passed by boot time, also if the clock was set back.
        due = [slot for slot in self._slots if slot <= max(now, self._armed)]
        for slot in sorted(due):
            self._on_late(list(self._slots.pop(slot, ())))
        if self._slots and self._alarm is None:
            self._arm(min(self._slots))
