"""Time as a dependency.

The clock of a machine can be set, forward and back, and it stands still for a program while the
machine is suspended. Nothing of that may hold up a timer. So a `SystemClock` adds an offset to the
machine's boot time, which only goes forward and counts the time of a suspended machine:

- a wall clock that is set forward is followed at once. Timers that are due by it ring within a few
  seconds.
- a wall clock that is set back is not followed. Time goes on from where it was, and a tenth slower,
  until the wall clock has caught up. So nothing stalls, nothing happens before its time, and the
  two meet again.

See decision 0038.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

logger = logging.getLogger("perdure.clock")

LOOK_MS = 5_000
"""An alarm looks at the clock this often at least.

The wait of an event loop does not notice a suspended machine.
"""
AHEAD_MAX_MS = 2 * 86_400_000
"""A clock goes on from a time of a former life that is this far ahead of the wall clock at most."""

# Time that is ahead of the wall clock runs slower by one in so many.
_SLOWER_BY = 10
# A step of the wall clock by so much is worth a log record.
_NOTED_NS = 1_000_000_000
# The two sources are read one after the other, so a difference like this says nothing.
_UNEVEN_NS = 10_000_000
_NS = 1_000_000

# macOS has no CLOCK_BOOTTIME. Its CLOCK_MONOTONIC counts the time of a suspended machine.
_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


class Alarm(Protocol):
    """A call at a later time. `cancel` prevents it."""

    def cancel(self) -> None:
        """Do not call it."""
        ...


class Clock(Protocol):
    """The present, and calls at later times."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970. Never goes back within one process."""
        ...

    def boot_ms(self) -> int:
        """Milliseconds since some moment. The time of a suspended machine counts.

        Setting the clock changes nothing. Any thread may ask.
        """
        ...

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` on the running event loop when `now_ms()` has reached `at_ms`."""
        ...

    def call_after(self, ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` on the running event loop when `ms` have passed.

        Setting the clock meanwhile changes nothing.
        """
        ...


def _boot_source() -> Callable[[], int]:
    """A source of nanoseconds since the machine began to run.

    The time of a suspended machine counts, where the system can tell it.
    """
    # Looked up for each clock, because simulations replace the functions of `time`.
    if _BOOT is None:
        return time.monotonic_ns
    return partial(time.clock_gettime_ns, _BOOT)


class SystemClock:
    """The machine's clock, which never goes back and never stands still."""

    def __init__(
        self,
        wall_ns: Callable[[], int] | None = None,
        boot_ns: Callable[[], int] | None = None,
    ) -> None:
        """Start at the present. `wall_ns` and `boot_ns` are the sources of time, in nanoseconds."""
        # Looked up for each clock, because simulations replace the functions of `time`.
        if wall_ns is None:
            wall_ns = time.time_ns
        if boot_ns is None:
            boot_ns = _boot_source()
        self._wall_ns = wall_ns
        self._boot_ns = boot_ns
        self._read_ns = self._boot_ns()
        self._offset_ns = self._wall_ns() - self._read_ns
        self._told_ns = 0

    def now_ns(self) -> int:
        """Time in nanoseconds since 1970. Never goes back within this object."""
        # The wall clock is read first: a pause between the two must not look like a step forward.
        wall = self._wall_ns()
        boot = self._boot_ns()
        passed = boot - self._read_ns
        self._read_ns = boot
        ahead = boot + self._offset_ns - wall
        if ahead < 0:
            self._offset_ns -= ahead
            if ahead < -_NOTED_NS:
                _note_forward(-ahead)
        elif ahead > _UNEVEN_NS:
            # `ahead` shrinks slowly from now on. Only another step back makes it grow again.
            if ahead > self._told_ns + _NOTED_NS:
                _note_back(ahead)
            self._offset_ns -= min(ahead, passed // _SLOWER_BY)
        self._told_ns = max(ahead, 0)
        return boot + self._offset_ns

    def now_ms(self) -> int:
        """The same in milliseconds."""
        # Each message and each turn asks. Clocks that agree are read here, without a call more.
        wall = self._wall_ns()
        boot = self._boot_ns()
        now_ns = boot + self._offset_ns
        if wall <= now_ns <= wall + _UNEVEN_NS:
            self._read_ns, self._told_ns = boot, now_ns - wall
            return now_ns // _NS
        return self.now_ns() // _NS

    def boot_ms(self) -> int:
        """Milliseconds since the machine began to run."""
        return self._boot_ns() // _NS

    def go_on_from(self, at_ms: int) -> None:
        """Go on from `at_ms`, which a row of the store has from a former life.

        A time that is too far ahead is an error of that life. Then the wall clock is right.
        """
        now_ms = self.now_ms()
        ahead_ms = at_ms - now_ms
        if ahead_ms <= 0:
            return
        if ahead_ms > AHEAD_MAX_MS:
            logger.error(
                "the store holds a write that is %.1f days ahead of this machine's clock, which is "
                "too far to be followed. Timers that were set at that time wait so much longer. "
                "Is this machine's clock right?",
                ahead_ms / 86_400_000,
            )
            return
        self._offset_ns += ahead_ms * _NS

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` on the running event loop when `now_ms()` has reached `at_ms`.

        A time that has passed already means soon.
        """
        return _SystemAlarm(self.now_ns, at_ms * _NS, callback)

    def call_after(self, ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` on the running event loop when `ms` of boot time have passed."""
        return _SystemAlarm(self._boot_ns, self._boot_ns() + ms * _NS, callback)


class _SystemAlarm:
    """A call that waits, and looks at its clock now and then."""

    __slots__ = ("_at_ns", "_callback", "_handle", "_loop", "_now_ns")

    def __init__(self, now_ns: Callable[[], int], at_ns: int, callback: Callable[[], None]) -> None:
        self._now_ns = now_ns
        self._at_ns = at_ns
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._wait(now_ns())

    def _wait(self, now_ns: int) -> asyncio.Handle:
        left_ns = self._at_ns - now_ns
        if left_ns <= 0:
            # Never at once: the caller has not got the alarm yet, and may want to cancel it.
            return self._loop.call_soon(self._callback)
        return self._loop.call_later(min(left_ns, LOOK_MS * _NS) / 1e9, self._look)

    def _look(self) -> None:
        now_ns = self._now_ns()
        if now_ns >= self._at_ns:
            self._callback()
        else:
            self._handle = self._wait(now_ns)

    def cancel(self) -> None:
        """Do not call it."""
        self._handle.cancel()


def _note_forward(by_ns: int) -> None:
    logger.warning(
        "the wall clock was set forward by %.1f s. Time follows it: "
        "timers that were due meanwhile fire now",
        by_ns / 1e9,
    )


def _note_back(by_ns: int) -> None:
    logger.warning(
        "the wall clock is %.1f s behind: it was set back. Time goes on from where it was, a tenth "
        "slower, until the wall clock has caught up. No timer is lost or early",
        by_ns / 1e9,
    )
