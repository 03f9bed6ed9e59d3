"""A turn has a limit: the watchdog interrupts a turn that exceeds it.

The node's supervisor runs each turn under the watchdog (`node/loop/supervisor.py`). A turn runs
user code synchronously on the loop thread, so nothing on that thread can notice that the turn does
not end. A second thread looks at the running turn once in each tick. If the turn began longer ago
than the limit, the thread has the interpreter raise `TurnTooLong` in the loop thread, between two
bytecodes of whatever runs there.

The exception must never reach code outside the turn, although the turn may end at the very moment
in which it is sent:

- The watchdog says that it aims (`_aiming`), then looks whether the turn is still the same, and
  only then injects.
- The loop thread does it the other way round. It ends the turn (`_turn = 0`, one store), then looks
  whether the watchdog aims, waits until it does not, and takes back what has not landed yet.

So either the watchdog sees the turn ended and injects nothing, or the loop thread sees it aim and
absorbs the exception.

The exception may land anywhere in the loop thread, also between a lock that was taken and the
`with` that would give it back. So the loop thread takes no lock here. Each fact is one attribute
that one thread writes. Whatever the turn may have left half done (the running loop, the current
task, the collector) is put back from a copy.

`TurnTooLong` derives from `KeyboardInterrupt`, because a C `Task` keeps any other exception to
itself. User code may still swallow it. Where it lands, the workflow's loop is abandoned: code that
swallowed it and awaits again is not stepped again. Code that never awaits is interrupted again at
its second limit, and from then on each time that it has swallowed the exception (`insistence.py`
has the means). Code that holds the interpreter's lock in C (a regular expression, a huge integer)
can only be interrupted and reported when it ends. A turn that ends with it counts as done.

A turn that is looked at in a debugger is left alone.

While the node is idle the thread is parked on a lock: no ticks, no wake-ups. The first turn
afterwards wakes it.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic, process_time
from types import FrameType
from typing import TypeVar

from perdure.guard.insistence import Handlers, may_insist
from perdure.kernel.loop.entered import Outside, current_task
from perdure.kernel.loop.loop import current_loop, running_loop

T = TypeVar("T")

logger = logging.getLogger("perdure.node")

COMPLAINT_EVERY = 30
"""A turn that cannot be interrupted is reported at its second limit, and after so many more."""
QUIET_TICKS = 10
"""After so many ticks without a turn the watchdog parks."""
STACK_FRAMES = 50
_LATE_TICKS = 3
"""A look that comes later than so many ticks after the last one is late."""
_NEVER_S = float("inf")
_DEBUGGERS = frozenset({"bdb", "pdb", "pydevd", "_pydevd_bundle"})

# A prototype of our own: to set `argtypes` on `ctypes.pythonapi` would change it for every library
# in the process.
_set_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)

_interrupting: dict[int, Watchdog] = {}
"""By thread: the watchdog whose turn was interrupted there, until that turn ends."""


class TurnTooLong(KeyboardInterrupt):
    """Raised inside a turn that exceeds its limit.

    Do not catch it, because the turn is lost. Find the code that blocks.
    """

    def __init__(self, *args: object) -> None:
        """The interpreter raises it without arguments, in the thread where it lands."""
        if not args:
            args = ("the turn exceeded its limit: move long computations into an activity",)
        super().__init__(*args)
        watchdog = _interrupting.get(threading.get_ident())
        if watchdog is not None:
            # No call may follow. The interpreter raises an injected exception at the next call, and
            # that must be the handler's. To consume an iterator of C functions injects without one.
            again = watchdog.landed()
            _ = [*again]


@dataclass
class StuckTurn:
    """A turn that was interrupted: its unit, how long it ran, and where it stood at its limit.

    `stack` has lines "file:line function", innermost last.
    """

    unit: str
    elapsed_ms: int
    stack: list[str]


class Standstills:
    """Times in which the process did not run, which are no turn's fault.

    The process was stopped, its machine slept, or other processes had the processors. The look of
    the watchdog is late then, and the process has used no processor meanwhile. A call in C that
    keeps the interpreter's lock makes the look late as well, but uses a processor.
    """

    __slots__ = ("_late_s", "_looked_s", "_used_s")

    def __init__(self, tick_s: float) -> None:
        """A look is expected every `tick_s`."""
        self._late_s = _LATE_TICKS * tick_s
        self._looked_s = monotonic()
        self._used_s = process_time()

    def look(self, began_s: float) -> float:
        """How long (s) the process did not run since the last look, from `began_s` on."""
        now_s = monotonic()
        used_s = process_time()
        late_s = now_s - max(self._looked_s, began_s) - self._late_s
        lost_s = late_s - (used_s - self._used_s)
        self._looked_s = now_s
        self._used_s = used_s
        return max(lost_s, 0.0)


class Watchdog:
    """The watchdog of one thread: the one that enters first, or that calls `bind`.

    `run` wraps a turn. A caller that needs other code around it calls `enter` and `exit` as `run`
    does.
    """

    __slots__ = (
        "_aiming",
        "_closed",
        "_handlers",
        "_landings",
        "_limit_s",
        "_loop",
        "_report",
        "_thread",
        "_thread_id",
        "_tick_s",
        "_turn",
        "_turns",
        "_unheard",
        "_unit",
        "_wake",
        "began_s",
        "fired",
        "parked",
        "ticks",
    )

    def __init__(self, limit_ms: int, tick_ms: int | None = None) -> None:
        """A turn is interrupted at its limit, or up to two ticks later.

        `tick_ms` is a 20th of the limit by default.

        Raises:
            ValueError: one of the two is not positive.
        """
        if limit_ms <= 0 or (tick_ms is not None and tick_ms <= 0):
            raise ValueError(f"limit_ms={limit_ms} and tick_ms={tick_ms} must be positive")
        if tick_ms is None:
            tick_ms = max(1, limit_ms // 20)
        self._limit_s = limit_ms / 1000
        self._tick_s = tick_ms / 1000
        self._unit = ""
        # The number of the running turn, 0 between turns. Only the loop thread writes it.
        self._turn = 0
        self._turns = 0
        self._report: StuckTurn | None = None
        # Only the watchdog's thread writes it.
        self._aiming = False
        self._handlers = Handlers(TurnTooLong)
        # How often an interruption has arrived in the running turn, and how many were sent since.
        self._landings = 0
        self._unheard = 0
        # Held, but for the moment between a call of `_ring` and the thread's waking.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._loop: AbstractEventLoop | None = None
        self._closed = False
        self.began_s = 0.0
        """When the running turn began, on the monotonic clock."""
        self.fired = False
        """Whether the running turn was interrupted."""
        self.parked = True
        """Whether the thread sleeps without ticking (or has not been started)."""
        self.ticks = 0
        """How often the thread has looked. It stands still while the node is idle."""

    def run(self, unit: str, turn: Callable[[], T]) -> T | StuckTurn:
        """Run one turn, and give what it returns, or the report if it was interrupted.

        Any other exception of the turn passes through.
        """
        # Before the turn counts, because the locks of a start must not be left held.
        if self._thread is None and not self._closed:
            self._start()
        loop = self._loop
        task = None
        if loop is not None:
            task = current_task(loop)
        outside = Outside(loop, task)
        try:
            try:
                self.enter(unit)
                result = turn()
            finally:
                # Before the call, whose first instruction the exception may hit. Nothing is
                # injected after this store.
                self._turn = 0
                self.exit()
        except TurnTooLong:
            # Again, in case the exception landed on the way into or out of the first call.
            self.exit()
            outside.restore()
            assert self._report is not None
            return self._report
        if self._report is not None:
            outside.restore()
            return self._report
        return result

    def bind(self) -> None:
        """Watch the calling thread from now on. Call it between turns."""
        self._thread_id = threading.get_ident()
        self._loop = running_loop()

    def enter(self, unit: str) -> None:
        """Announce a turn of `unit`. Call it inside the `try` whose `finally` calls `exit`."""
        if self._thread is None and not self._closed:
            self._start()
        self._unit = unit
        self._report = None
        self.began_s = monotonic()
        self._turns = self._turn = self._turns + 1
        if self.parked:
            self.parked = False
            self._ring()

    def exit(self) -> StuckTurn | None:
        """End the turn, absorb an interruption under way, and return the report if there was one.

        It may be called again, with the same answer until the next `enter`. A handler of
        `TurnTooLong` should, because the exception can land in the first instruction of this call.
        """
        while True:
            try:
                self._turn = 0
                # In this order: once the watchdog does not aim, `fired` says what it did.
                if self._aiming or self.fired:
                    self._absorb()
                return self._report
            except TurnTooLong:
                # It landed in these lines. The turn has ended, so no other one follows.
                continue

    def close(self) -> None:
        """Stop the thread. Turns that follow are not watched."""
        self._closed = True
        # So that `enter` does not ring.
        self.parked = False
        self._ring()
        # A node whose loop was closed is stopped by the interpreter's end, when threads are gone.
        if self._thread is None or sys.is_finalizing():
            return
        if self._thread is not threading.current_thread():
            self._thread.join()

    def landed(self) -> Iterator[int]:
        """The exception has arrived in the turn, whose loop goes no further.

        To consume the iterator interrupts the turn again, if it must be.
        """
        self._landings += 1
        self._unheard = 0
        loop = current_loop()
        if loop is not None:
            loop.abandon()
        turn = Watchdog.run.__code__
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        # The code may clean up after the first exception. Once it has swallowed that and gone on
        # for another limit, there is always a next one.
        stubborn = self._turn != 0 and self._landings > 1 and may_insist(frame, turn)
        # Not by both ways: the next exception would land in the callback of our own handlers.
        if stubborn and self._handlers.begin(frame, turn):
            stubborn = False
        threads: list[int] = []
        if stubborn:
            threads.append(self._thread_id)
        return map(_set_async_exc, threads, [id(TurnTooLong)])

    def _absorb(self) -> None:
        """Wait until nothing is injected any more. It may be interrupted, and begun again."""
        # For a few instructions of the other thread. A lock could be left held.
        while self._aiming:
            pass
        _set_async_exc(self._thread_id, None)
        self._handlers.end()
        _interrupting.pop(self._thread_id, None)
        self.fired = False
        if self._report is not None:
            self._report.elapsed_ms = self._elapsed_ms()

    def _start(self) -> None:
        if not self._thread_id:
            self.bind()
        thread = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
        thread.start()
        # Only now, because a thread that could not be started cannot be joined either.
        self._thread = thread

    def _ring(self) -> None:
        try:
            self._wake.release()
        # It was rung already.
        except RuntimeError:
            return

    def _watch(self) -> None:
        seen = 0  # the turn that was looked at last
        turns = 0  # how many had begun by then
        quiet = 0  # ticks since without a turn
        due_s = 0.0
        standstills = Standstills(self._tick_s)
        while True:
            timeout_s = self._tick_s
            if self.parked:
                timeout_s = -1.0  # for ever
            if self._wake.acquire(timeout=timeout_s):
                quiet = 0
            if self._closed:
                return
            if self.parked:
                continue
            self.ticks += 1
            turn = self._turn
            lost_s = standstills.look(self.began_s)
            if not turn:
                # Many short turns may begin and end between two looks.
                if turns == self._turns:
                    quiet += 1
                else:
                    quiet = 0
                turns = self._turns
                if quiet > QUIET_TICKS:
                    self._park()
                continue
            if turn != seen:
                seen = turn
                due_s = self.began_s + self._limit_s
                self._landings = 0
                self._unheard = 0
            due_s += lost_s
            if monotonic() >= due_s:
                due_s = self._at_limit(turn)

    def _at_limit(self, turn: int) -> float:
        """Interrupt the turn. Returns when to look at it again, on the monotonic clock."""
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        if _is_debugged(frames.get(self._thread_id)):
            return _NEVER_S
        self._interrupt(turn)
        if self._unheard == 2 or (self._unheard and self._unheard % COMPLAINT_EVERY == 0):
            self._complain()
        return monotonic() + self._limit_s

    def _complain(self) -> None:
        """Log that the turn did not react to the exception, because it is in a call that waits."""
        # The loop thread cannot say so itself.
        place = "an unknown line"
        for line in self._stack():
            place = line
        logger.critical(
            "the turn of %r runs since %d ms and cannot be interrupted, at %s: it blocks in a call "
            "that waits for another thread. All instances of this node wait. End the process, mend "
            "the workflow (blocking calls belong into activities) and start it again",
            self._unit,
            self._elapsed_ms(),
            place,
            extra={"instance": self._unit},
        )

    def _park(self) -> None:
        self.parked = True
        # A turn that began before it could see this will not wake the thread.
        if self._turn:
            self.parked = False

    def _interrupt(self, turn: int) -> None:
        # Both before it aims, because the loop thread may be waiting from then on.
        unit = self._unit
        stack = self._stack()
        self._aiming = True
        try:
            if self._turn != turn:
                return
            self.fired = True
            # The first place is the one to report. Later ones are handlers that swallowed.
            if self._report is None:
                self._report = StuckTurn(unit, self._elapsed_ms(), stack)
            self._unheard += 1
            _interrupting[self._thread_id] = self
            _set_async_exc(self._thread_id, id(TurnTooLong))
        finally:
            # Whatever happens, because the loop thread waits for it.
            self._aiming = False

    def _elapsed_ms(self) -> int:
        return round((monotonic() - self.began_s) * 1000)

    def _stack(self) -> list[str]:
        frame = sys._current_frames().get(self._thread_id)  # pyright: ignore[reportPrivateUsage]
        lines: list[str] = []
        while frame is not None and len(lines) < STACK_FRAMES:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}")
            frame = frame.f_back
        return lines[::-1]


def _is_debugged(frame: FrameType | None) -> bool:
    """Whether a debugger stands in this thread, at a prompt or between two steps."""
    if sys.version_info >= (3, 12):
        if sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID) is not None:
            return True
    # Further out than the turn a debugger may have left its traces.
    while frame is not None and frame.f_code is not Watchdog.run.__code__:
        tracer = getattr(frame.f_trace, "__self__", None)
        for module in (frame.f_globals.get("__name__"), type(tracer).__module__):
            if str(module).partition(".")[0] in _DEBUGGERS:
                return True
        frame = frame.f_back
    return False
