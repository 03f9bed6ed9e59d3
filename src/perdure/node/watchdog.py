"""A turn has a limit: the watchdog interrupts the one that exceeds it.

Theory of operation. A turn runs user code synchronously on the loop thread, so nothing on that thread can notice that
the turn does not end. A second thread looks at the running turn once per tick. If that began longer ago than the
limit,
it has the interpreter raise `TurnTooLong` in the loop thread, between two bytecodes of whatever runs there.

The exception must never reach code outside the turn, although the turn may end at the very moment it is sent:

- The watchdog announces, then looks whether the turn is still the same, and only then injects, all under a lock.
- The loop thread does it the other way round: it ends the turn (`_turn = 0`, one store, which nothing can interrupt),
  then looks for an announcement. If there is one, it takes the lock, which waits for an injection under way, and takes
  back what has not landed yet.

So either the watchdog sees the turn ended and injects nothing, or the loop thread sees the announcement and absorbs
it.

`TurnTooLong` derives from `KeyboardInterrupt` because a C `Task` keeps any other exception to itself. User code may
still swallow it: it is sent again after each further limit, and the drain checks `fired` between two callbacks. Code
that holds the interpreter's lock in C (a regular expression, a huge integer) can only be interrupted and reported when
it ends; a turn that ends with it counts as done.

While the node is idle the thread is parked on an event: no ticks, no wake-ups. The first turn afterwards wakes it.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

logger = logging.getLogger("perdure.node")

COMPLAINT_EVERY = 30
"""A turn that cannot be interrupted is reported at its second limit, and again after so many more."""
QUIET_TICKS = 10
"""After so many ticks without a turn the watchdog parks."""
STACK_FRAMES = 50

# A prototype of our own: setting `argtypes` on `ctypes.pythonapi` would change it for every library in the process.
_set_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class TurnTooLong(KeyboardInterrupt):
    """Raised inside a turn that exceeds its limit. Do not catch it: find the code that blocks, the turn is lost."""

    def __init__(self, *args: object) -> None:
        """The interpreter raises it without arguments."""
        super().__init__(*(args or ("the turn exceeded its limit: move long computations into an activity",)))


@dataclass
class StuckTurn:
    """A turn that was interrupted: whose it was, how long it ran, and where it stood when its limit passed.

    `stack` has lines "file:line function", innermost last.
    """

    unit: str
    elapsed_ms: int
    stack: list[str]


class Watchdog:
    """Watches the turns of one thread: the one that enters first, or that calls `bind`.

    `run` wraps a turn. A caller that needs other code around it calls `enter` and `exit` as `run` does.
    """

    __slots__ = (
        "_announced",
        "_began_s",
        "_closed",
        "_limit_s",
        "_lock",
        "_report",
        "_thread",
        "_thread_id",
        "_tick_s",
        "_turn",
        "_turns",
        "_unit",
        "_wake",
        "fired",
        "parked",
        "ticks",
    )

    def __init__(self, limit_ms: int, tick_ms: int | None = None) -> None:
        """A turn is interrupted between `limit_ms` and `limit_ms` + 2 * `tick_ms` (default: a 20th) after it began."""
        if limit_ms <= 0 or (tick_ms is not None and tick_ms <= 0):
            raise ValueError(f"limit_ms={limit_ms} and tick_ms={tick_ms} must be positive")
        self._limit_s = limit_ms / 1000
        self._tick_s = (tick_ms or max(1, limit_ms // 20)) / 1000
        self._unit = ""
        self._turn = 0  # the number of the running turn, 0 between turns; written by the loop thread only
        self._turns = 0
        self._began_s = 0.0
        self._report: StuckTurn | None = None
        self._announced = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._closed = False
        self.fired = False
        """Whether the running turn was interrupted. The drain checks it: user code may swallow the exception."""
        self.parked = True
        """Whether the thread sleeps without ticking (or has not been started)."""
        self.ticks = 0
        """How often the thread has looked; it stands still while the node is idle."""

    def run(self, unit: str, turn: Callable[[], object]) -> StuckTurn | None:
        """Run one turn. Returns the report if it was interrupted; any other exception of the turn passes through."""
        try:
            try:
                self.enter(unit)
                turn()
            finally:
                # Before the call, whose first instruction the exception may hit: nothing is injected after this store.
                self._turn = 0
                self.exit()
        except TurnTooLong:
            self.exit()  # again, in case the exception landed on the way into or out of the first
        return self._report

    def bind(self) -> None:
        """Watch the calling thread from now on. Call it between turns."""
        self._thread_id = threading.get_ident()

    def enter(self, unit: str) -> None:
        """Announce a turn of `unit`. Call it inside the `try` whose `finally` calls `exit`."""
        self._unit = unit
        self._report = None
        self._began_s = monotonic()
        self._turns = self._turn = self._turns + 1
        if self.parked:
            self._unpark()

    def exit(self) -> StuckTurn | None:
        """End the turn, absorb an interruption under way, and return the report if there was one.

        It may be called again, with the same answer until the next `enter`: a handler of `TurnTooLong` should, because
        the exception can land in the first instruction of this call.
        """
        while True:
            try:
                self._turn = 0
                if self._announced:
                    self._absorb()
                return self._report
            except TurnTooLong:  # landed in these lines; the turn has ended, so there is no other one
                continue

    def close(self) -> None:
        """Stop the thread. Turns that follow are not watched."""
        self._closed = True
        self.parked = False  # so that `enter` does not start it again
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _absorb(self) -> None:
        with self._lock:
            _set_async_exc(self._thread_id, None)
            self._announced = self.fired = False
            if self._report is not None:
                self._report.elapsed_ms = self._elapsed_ms()

    def _unpark(self) -> None:
        self.parked = False
        if self._thread is None:
            if not self._thread_id:
                self.bind()
            self._thread = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
            self._thread.start()
        self._wake.set()

    def _watch(self) -> None:
        seen = turns = quiet = interrupted = blocked = 0
        due_s = 0.0
        while True:
            if self._wake.wait(None if self.parked else self._tick_s):
                self._wake.clear()
                quiet = 0
            if self._closed:
                return
            if self.parked:
                continue
            self.ticks += 1
            turn = self._turn
            if not turn:
                quiet = quiet + 1 if turns == self._turns else 0
                turns = self._turns
                if quiet > QUIET_TICKS:
                    self._park()
                continue
            if turn != seen:
                seen, due_s = turn, self._began_s + self._limit_s
            if monotonic() >= due_s:
                self._interrupt(turn)
                due_s = monotonic() + self._limit_s
                interrupted = interrupted + 1 if turn == blocked else 1
                blocked = turn
                if interrupted == 2 or interrupted % COMPLAINT_EVERY == 0:
                    self._complain()

    def _complain(self) -> None:
        """The turn did not react to the exception: it is in a call that waits, and the loop thread cannot say so
        itself.
        """
        stack = self._stack()
        logger.critical(
            "the turn of %r runs since %d ms and cannot be interrupted, at %s: it blocks in a call that waits for "
            "another thread. All instances of this node wait. End the process, mend the workflow (blocking calls "
            "belong into activities) and start it again",
            self._unit,
            self._elapsed_ms(),
            stack[-1] if stack else "an unknown line",
            extra={"instance": self._unit},
        )

    def _park(self) -> None:
        self.parked = True
        if self._turn:  # it began before it could see that we parked, so nobody will wake us
            self.parked = False

    def _interrupt(self, turn: int) -> None:
        unit, stack = self._unit, self._stack()
        with self._lock:
            self._announced = True
            if self._turn != turn:
                self._announced = False
                return
            self.fired = True
            if self._report is None:  # the first place is the one to report; later ones are handlers that swallowed
                self._report = StuckTurn(unit, self._elapsed_ms(), stack)
            _set_async_exc(self._thread_id, id(TurnTooLong))

    def _elapsed_ms(self) -> int:
        return round((monotonic() - self._began_s) * 1000)

    def _stack(self) -> list[str]:
        frame = sys._current_frames().get(self._thread_id)  # pyright: ignore[reportPrivateUsage]
        lines: list[str] = []
        while frame is not None and len(lines) < STACK_FRAMES:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}")
            frame = frame.f_back
        return lines[::-1]
