"""The workflow's event loop: asyncio without time, I/O or chance.

A workflow is ordinary asyncio code that runs on this loop and on nothing else. The loop has a list
of ready callbacks, first in, first out, and a clock that only deliveries move. It is never "run". A
turn enters it (`entered.py`), drains the ready callbacks until there are none, and leaves it again,
all within one synchronous call. So the code sees a running loop, and between two turns it is
nothing but suspended coroutines.

Besides the order of the ready list, these things make it deterministic:

- Tasks and futures hash by creation number. Otherwise a set of tasks iterates by memory address.
  The numbers of each instance begin elsewhere, because asyncio's registries are process-wide.
- asyncio and anyio get an insertion-ordered set while a workflow runs (`ordered.py`).
- Tasks are named by number and run in copies of one empty context, so nothing leaks in from the
  node.
- Async generators are held until the run ends. Otherwise the garbage collector would decide when
  their `finally` runs.
- Whatever else a loop could do (sockets, threads, signals, processes) is refused with the remedy
  (`refused.py`).

The loop reports its timers to the execution that owns it. Calls of activities and the like are
futures of the loop (`call.py`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import events as _events
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from perdure.errors import UsageError, WorkflowViolation
from perdure.kernel.execution.deadline import LATEST_MS
from perdure.kernel.loop.refused import refuse_methods

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

# These are the functions of asyncio itself, because each turn calls them.
running_loop: Callable[[], asyncio.AbstractEventLoop | None] = _events._get_running_loop
"""The event loop that runs in the calling thread, whatever its kind. None: none does."""

set_running_loop: Callable[[asyncio.AbstractEventLoop | None], None] = _events._set_running_loop
"""Make this the loop that runs in the calling thread."""

CALLBACKS_MAX = 1_000_000
"""Callbacks that one delivery may cause. After more of them the workflow never becomes idle."""

RETRY_PASSES = 50
"""Passes of one drain after which anyio's repeated cancellations are put off."""

_ANYIO_RETRY = "_deliver_cancellation"
_INFINITY = float("inf")

logger = logging.getLogger("perdure.workflow")


class Timers(Protocol):
    """The keeper of a loop's timers. It is the execution, which journals them."""

    def start_timer(self, timer: Timer) -> None:
        """Journal and arm a new timer."""
        ...

    def cancel_timer(self, timer: Timer) -> None:
        """Journal that the timer is not wanted any more."""
        ...


class NeverIdle(WorkflowViolation):
    """The workflow keeps itself busy without waiting for anything.

    Let it await something that takes time.
    """


class ReachedFromOutside(WorkflowViolation, NotImplementedError):
    """Code outside of a workflow tried to schedule work in it. Send it a message instead.

    It is a NotImplementedError, too, because libraries look for that when they ask whether a loop
    can be reached from other threads.
    """


# A list is the cheapest object that code in C can make and that has room for `cancel`.
class Handle(list[Any]):
    """A ready callback: [callback, arguments, context]."""

    __slots__ = ()

    def cancel(self) -> None:
        """Do not run it."""
        self[0] = None

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self[0] is None


class Timer:
    """A callback that waits for the journal's clock. `seq` is 0 for a timer that never fires."""

    __slots__ = ("_args", "_callback", "_context", "_loop", "_when", "fire_at", "name", "seq")

    def __init__(
        self,
        loop: WorkflowLoop,
        when: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: Context | None,
        name: str | None = None,
    ) -> None:
        """A timer for loop time `when`, in seconds since the execution began."""
        self._loop = loop
        self._when = when
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._context = context
        self.name = name
        self.seq = 0
        self.fire_at = 0

    def arm(self, seq: int, fire_at: int) -> None:
        """The journal has the timer as command `seq`, due at `fire_at` (ms)."""
        self.seq = seq
        self.fire_at = fire_at

    def fire(self) -> None:
        """Make the callback ready. Only the run calls this."""
        callback = self._callback
        if callback is not None:
            self._callback = None
            self._loop.call_soon(callback, *self._args, context=self._context)

    def cancel(self) -> None:
        """Forget the timer."""
        if self._callback is not None:
            self._callback = None
            self._args = ()
            if self.seq:
                self._loop.timers.cancel_timer(self)

    def cancelled(self) -> bool:
        """Whether it was cancelled or has fired."""
        return self._callback is None

    def when(self) -> float:
        """Loop time at which it fires."""
        return self._when


class Task(asyncio.Task[Any]):
    """A task that hashes by creation number."""

    __slots__ = ("number",)

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, **options: Any) -> None:
        """A task of the loop that `options` name."""
        # First of all, because Python 3.11 hashes a task while it registers it.
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        """The creation number."""
        return self.number


class Future(asyncio.Future[Any]):
    """A future that hashes by creation number."""

    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        """The creation number."""
        return self.number


class Nobody:
    """A keeper of no timers, for a loop that was disposed of.

    It takes the place of the execution, so that the loop and the execution do not keep each other
    alive.
    """

    def start_timer(self, timer: Timer) -> None:
        """Nothing: the loop is dead."""

    def cancel_timer(self, timer: Timer) -> None:
        """Nothing: the loop is dead."""


_NO_BATCH: list[Handle] = []
"""Stands in while nothing runs. It is never added to."""


class WorkflowLoop(asyncio.AbstractEventLoop):
    """The loop of one execution. See the module's docstring."""

    __slots__ = (
        "batch",
        "context",
        "dead",
        "generators",
        "now_ms",
        "number",
        "parked",
        "ready",
        "start_ms",
        "tasks",
        "timers",
        "turning",
    )

    def __init__(self, timers: Timers) -> None:
        """A loop at time 0 with nothing to do."""
        self.timers = timers
        self.number = 0
        self.ready: list[Handle] = []
        self.batch = _NO_BATCH
        self.parked: list[Handle] | None = None
        self.tasks: list[Task] = []
        self.generators: list[AsyncGenerator[Any, Any]] | None = None
        self.start_ms = 0
        self.now_ms = 0
        self.context = Context()
        self.dead = False
        self.turning = False

    # ------------------------------------------------------------ the interface of asyncio

    # asyncio's debug mode is the node's business. The constructor of each future and each task
    # asks, so this answers False without a frame of Python's: `bool()`.
    get_debug = staticmethod(bool)  # pyright: ignore[reportAssignmentType]

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        """Run `callback` in this turn, behind the callbacks that are ready already."""
        if context is None:
            context = self.context
        handle = Handle((callback, args, context))
        self.ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        """Like `call_soon`. It is refused from outside the workflow."""
        # Code on this loop's own thread may call it, and libraries do.
        if running_loop() is not self:
            msg = (
                "call_soon_threadsafe() reached into a workflow from outside: nothing outside may "
                "schedule work in it; send it a message instead (`handle.send`)"
            )
            raise ReachedFromOutside(msg)
        return self.call_soon(callback, *args, context=context)

    def time(self) -> float:
        """Seconds since the execution began, on the journal's clock."""
        return (self.now_ms - self.start_ms) / 1000

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> Timer | Handle:
        """Run `callback` when `delay` seconds have passed: a durable timer."""
        try:
            when = self.time() + delay
        except OverflowError:  # an int beyond all floats
            when = sys.float_info.max
        return self.call_at(when, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
        name: str | None = None,
    ) -> Timer | Handle:
        """Run `callback` at loop time `when`: a durable timer.

        Raises:
            UsageError: `when` is no number, or after the year 9999.
        """
        if when != when:  # noqa: PLR0124  # only NaN differs from itself
            msg = "a timer needs a time: the delay or the timeout is NaN"
            raise UsageError(msg)
        if when <= self.time():
            return self.call_soon(callback, *args, context=context)
        timer = Timer(self, when, callback, args, context, name)
        # A timer that never fires is no command: nothing would answer it.
        if when != _INFINITY and not self.dead:
            timer.arm(0, self._fire_at_ms(when))
            self.timers.start_timer(timer)
        return timer

    def _fire_at_ms(self, when: float) -> int:
        """The store time of a loop time, rounded up.

        All times that are too far away become one time, which the execution refuses.
        """
        if when > LATEST_MS / 1000:
            return LATEST_MS + 1
        return self.start_ms - int(-when * 1000 // 1)

    def create_future(self) -> Future:
        """A future of this loop."""
        future = Future(loop=self)
        # Written here, and not in an `__init__` of Python's, because this is the hot path.
        self.number = future.number = self.number + 1
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> Task:
        """A task of this loop, named by number."""
        number = self.next_number()
        if self.dead:
            # It has not started, so no line of it runs.
            coro.close()
        task = Task(
            coro,
            number,
            loop=self,
            name=name or f"task-{number & 0xFFFFF}",
            context=context,
            **options,
        )
        self.tasks.append(task)
        # Once for 256 tasks, so that a run that makes many of them in turn holds few.
        if len(self.tasks) & 0xFF == 0:
            self.tasks = [t for t in self.tasks if not t.done()]
        return task

    def is_running(self) -> bool:
        """True within a turn."""
        return self.turning

    def is_closed(self) -> bool:
        """True once the execution was disposed of."""
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log a report of asyncio: an error that was never awaited, or a callback that raised."""
        # A dead loop reports what disposal has broken off, which is no news.
        if self.dead:
            return
        about = ""
        error = context.get("exception")
        if error is not None:
            about = f": {error!r}"
        logger.warning("in a workflow: %s%s", context.get("message"), about)

    def get_task_factory(self) -> None:
        """There is none."""
        return

    # ------------------------------------------------------------ turns

    def drain(self, at: int = 0) -> None:
        """Run ready callbacks until there are none, or until the loop is dead.

        Time goes on to `at` (ms) before. It never goes back, whatever a clock showed.

        Raises:
            NeverIdle: after `CALLBACKS_MAX` of them.
        """
        if at > self.now_ms:  # noqa: PLR1730  # each event comes by, and a call costs more
            self.now_ms = at
        count = 0
        passes = 0
        if self.parked is not None:
            self.ready = self.parked + self.ready
            self.parked = None
        while self.ready and not self.dead:
            batch = self.ready
            self.ready = []
            count += len(batch)
            passes += 1
            if passes > RETRY_PASSES:
                batch = self._park(batch)
            if count > CALLBACKS_MAX:
                msg = f"the workflow ran {count} callbacks in one turn without becoming idle"
                raise NeverIdle(msg)
            self.batch = batch
            for callback, args, context in batch:
                if callback is not None:
                    try:
                        context.run(callback, *args)
                    except SystemExit:
                        # A task that raises it re-raises it here, too. The run's outcome has it.
                        continue
                    # As asyncio does: it is reported, and the loop goes on.
                    except Exception as error:
                        self.call_exception_handler(
                            {"message": "a callback raised", "exception": error}
                        )
            self.batch = _NO_BATCH

    def _park(self, batch: list[Handle]) -> list[Handle]:
        """Put anyio's repeated cancellations off until the next delivery. Returns the others."""
        # A cancel scope of anyio cancels its tasks again in each pass of the loop until they have
        # ended. While one of them awaits its cleanup this would never end here, because a turn
        # lasts until nothing is ready.
        kept: list[Handle] = []
        if self.parked is None:
            self.parked = []
        for handle in batch:
            if getattr(handle[0], "__name__", "") == _ANYIO_RETRY:
                self.parked.append(handle)
            else:
                kept.append(handle)
        return kept

    def begin(self, number: int, at: int) -> None:
        """The execution begins: numbers go on from `number`, and the clock shows `at` (ms)."""
        self.number = number
        self.start_ms = self.now_ms = at

    def next_number(self) -> int:
        """The creation number of the next task, future or call."""
        self.number = number = self.number + 1
        return number

    def pass_to(self, at: int) -> None:
        """Time goes on to `at` (ms). It never goes back, whatever a clock showed."""
        if at > self.now_ms:  # noqa: PLR1730  # each event comes by, and a call costs more
            self.now_ms = at

    def die(self) -> None:
        """Make the loop dead. Whatever the code still does has no effect."""
        self.dead = True
        self.ready = []

    def abandon(self) -> None:
        """Begin no more callbacks of this loop.

        The turn was interrupted, and code that swallows the interruption must not go on.
        """
        self.die()
        # `drain` goes through its batch in place, so it ends when the batch is empty.
        self.batch.clear()

    def empty(self) -> None:
        """Die, and let go of all that was ready."""
        self.die()
        self.parked = None
        self.batch = _NO_BATCH

    def forget_tasks(self) -> None:
        """Let go of all tasks and generators."""
        self.tasks = []
        self.generators = None
        self.ready = []

    def hold_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Hold a generator until the run ends. The collector would decide when it is closed."""
        if self.generators is None:
            self.generators = []
        self.generators.append(generator)

    def keep_generators(self, generators: list[AsyncGenerator[Any, Any]]) -> None:
        """Hold these until the loop is disposed of."""
        self.generators = generators

    def detach(self) -> None:
        """Forget the run, so that the two do not keep each other alive."""
        self.timers = Nobody()


def current_loop() -> WorkflowLoop | None:
    """The workflow loop that the calling code runs on. None outside of workflows."""
    loop = running_loop()
    if type(loop) is WorkflowLoop:
        return loop
    return None


refuse_methods(WorkflowLoop)
