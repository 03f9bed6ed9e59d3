"""The workflow's event loop: asyncio without time, I/O or chance.

Theory of operation. A workflow is ordinary asyncio code that runs on this loop and on nothing else. The loop has a
first-in-first-out list of ready callbacks and a clock that only deliveries move. It is never "run": a turn enters it,
drains the ready callbacks until there are none, and leaves it again, all within one synchronous call. So the code
sees a running loop, and between two turns it is nothing but suspended coroutines.

What makes it deterministic, beyond the order of the ready list:

- Tasks and futures hash by creation number (plus a salt that differs between instances, because asyncio's registries
  are process-wide): a set of tasks
  iterates by memory address otherwise. asyncio and anyio also get an insertion-ordered set while a workflow runs
  (`ordered`).
- Tasks are named by number and run in copies of one empty context, so nothing leaks in from the node.
- Async generators are held until the run ends, because the garbage collector would otherwise decide when their
  `finally` runs.
- What a loop could do beyond that (sockets, threads, signals, processes) is refused with the remedy.

While a turn runs, the node's own loop and current task are put aside (Python 3.14 refuses to nest them otherwise) and
the garbage collector is off: it could run `finally` blocks of anything in the middle of this workflow.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from asyncio import events as _events
from asyncio import tasks as _tasks
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from perdure.errors import UsageError, WorkflowViolation
from perdure.kernel.execution.deadline import LATEST_MS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

_get_loop: Callable[[], asyncio.AbstractEventLoop | None] = _events._get_running_loop
_set_loop: Callable[[asyncio.AbstractEventLoop | None], None] = _events._set_running_loop
_enter_task: Callable[[asyncio.AbstractEventLoop, Any], None] = _tasks._enter_task
_leave_task: Callable[[asyncio.AbstractEventLoop, Any], None] = _tasks._leave_task
# Each turn asks. The function is in C since Python 3.12. Before, this is the table that it looks into.
current_task: Callable[[asyncio.AbstractEventLoop], Any] = (
    asyncio.current_task if sys.version_info >= (3, 12) else vars(_tasks)["_current_tasks"].get
)
"""The task that runs on a loop. None: none does."""

CALLBACKS_MAX = 1_000_000
"""Callbacks that one delivery may cause before the workflow counts as one that never becomes idle."""

RETRY_PASSES = 50
"""Passes of one drain after which anyio's repeated cancellations are put off."""

_ANYIO_RETRY = "_deliver_cancellation"
_INFINITY = float("inf")

logger = logging.getLogger("perdure.workflow")


class Timers(Protocol):
    """Who keeps the loop's timers: the run, which journals them."""

    def start_timer(self, timer: Timer) -> None:
        """Journal and arm a new timer."""
        ...

    def cancel_timer(self, timer: Timer) -> None:
        """Journal that the timer is not wanted any more."""
        ...


class NeverIdle(WorkflowViolation):
    """The workflow keeps itself busy without waiting for anything; let it await something that takes time."""


class ReachedFromOutside(WorkflowViolation, NotImplementedError):
    """Something outside of a workflow tried to schedule work in it; send it a message instead. Also a
    NotImplementedError: libraries that ask whether a loop can be reached from other threads look for that.
    """


class Handle(list[Any]):
    """A ready callback: [callback, arguments, context]. A list is the cheapest object that C code and `cancel` can
    share.
    """

    __slots__ = ()

    def cancel(self) -> None:
        """Do not run it."""
        self[0] = None

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self[0] is None


class Timer:
    """A callback that waits for the journal's clock. `seq` is 0 for one that never fires."""

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
        """Make the callback ready; only the run calls this."""
        if self._callback is not None:
            callback, self._callback = self._callback, None
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
        """`number` comes first: Python 3.11 hashes a task while it registers it."""
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
    """Keeps no timers: stands in for the run of a loop that was disposed of, so that the two do not keep each other
    alive.
    """

    def start_timer(self, timer: Timer) -> None:
        """Nothing: the loop is dead."""

    def cancel_timer(self, timer: Timer) -> None:
        """Nothing: the loop is dead."""


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

    # ------------------------------------------------------------ what asyncio needs

    # asyncio's debug mode is the node's business. The constructor of each future and each task asks,
    # so this is what answers False without a frame of Python's: `bool()`.
    get_debug = staticmethod(bool)  # pyright: ignore[reportAssignmentType]

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        """Run `callback` in this turn, after what is ready already."""
        handle = Handle((callback, args, context if context is not None else self.context))
        self.ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Handle:
        """Like `call_soon`; refused from outside the workflow."""
        if _get_loop() is not self:
            msg = (
                "call_soon_threadsafe() reached into a workflow from outside: nothing outside may schedule work in it; "
                "send it a message instead (`handle.send`)"
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
        if when != _INFINITY and not self.dead:
            timer.arm(0, self._fire_at_ms(when))
            self.timers.start_timer(timer)
        return timer

    def _fire_at_ms(self, when: float) -> int:
        """Store time of a loop time, rounded up. All that is too far away is one time, which the run refuses."""
        if when > LATEST_MS / 1000:
            return LATEST_MS + 1
        return self.start_ms - int(-when * 1000 // 1)

    def create_future(self) -> Future:
        """A future of this loop."""
        future = Future(loop=self)
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
            coro.close()  # it has not started, so no line of it runs
        task = Task(
            coro,
            number,
            loop=self,
            name=name or f"task-{number & 0xFFFFF}",
            context=context,
            **options,
        )
        self.tasks.append(task)
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
        """asyncio reports here what nobody awaited, and callbacks that raise. It is logged; the run goes on."""
        if not self.dead:
            error = context.get("exception")
            logger.warning(
                "in a workflow: %s%s",
                context.get("message"),
                f": {error!r}" if error is not None else "",
            )

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
        count = passes = 0
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
                    except (
                        SystemExit
                    ):  # a task that raises it also re-raises it here; the run's outcome has it
                        continue
                    except Exception as error:  # as asyncio: it is reported, and the loop goes on
                        self.call_exception_handler(
                            {"message": "a callback raised", "exception": error}
                        )
            self.batch = _NO_BATCH

    def begin(self, number: int, at: int) -> None:
        """The execution begins: numbers go on from `number`, and the clock shows `at` (ms)."""
        self.number = number
        self.start_ms = self.now_ms = at

    def next_number(self) -> int:
        """The creation number of what is made next."""
        self.number = number = self.number + 1
        return number

    def pass_to(self, at: int) -> None:
        """Time goes on to `at` (ms). It never goes back, whatever a clock showed."""
        if at > self.now_ms:  # noqa: PLR1730  # each event comes by, and a call costs more
            self.now_ms = at

    def die(self) -> None:
        """Whatever the code still does has no effect."""
        self.dead = True
        self.ready = []

    def abandon(self) -> None:
        """No callback of this loop begins any more: the turn was interrupted, and code that swallows the interruption
        must not go on. `drain` goes through its batch in place, so emptying that ends it.
        """
        self.die()
        self.batch.clear()

    def empty(self) -> None:
        """Die, and let go of all that was ready."""
        self.die()
        self.parked = None
        self.batch = _NO_BATCH

    def forget_tasks(self) -> None:
        """Let go of what ran on the loop."""
        self.tasks = []
        self.generators = None
        self.ready = []

    def hold_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Hold a generator until the run ends: the collector would decide when it is closed."""
        if self.generators is None:
            self.generators = []
        self.generators.append(generator)

    def keep_generators(self, generators: list[AsyncGenerator[Any, Any]]) -> None:
        """Hold these until the loop is disposed of."""
        self.generators = generators

    def detach(self) -> None:
        """Forget the run, so that the two do not keep each other alive."""
        self.timers = Nobody()

    def _park(self, batch: list[Handle]) -> list[Handle]:
        """Put anyio's repeated cancellations off until the next delivery.

        A cancel scope of anyio cancels its tasks again in each pass of the loop until they have ended. While one of
        them awaits its cleanup this would never end here, because a turn lasts until nothing is ready.
        """
        parked = [h for h in batch if getattr(h[0], "__name__", "") == _ANYIO_RETRY]
        self.parked = [*(self.parked or ()), *parked]
        return [h for h in batch if getattr(h[0], "__name__", "") != _ANYIO_RETRY]


_NO_BATCH: list[Handle] = []
"""Stands in while nothing runs. It is never added to."""


class _GeneratorHooks:
    """A thread's async generator hooks with ours before them. They stay until the node's loop ends: setting them for
    each turn costs more than the turn's other bookkeeping.
    """

    __slots__ = ("_final", "_first")

    def __init__(self) -> None:
        self._first, self._final = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self, self.finalize)

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Hold a workflow's generator until its run ends; anybody else's goes where it belongs."""
        loop = _get_loop()
        if type(loop) is WorkflowLoop:
            loop.hold_generator(generator)
        elif self._first is not None:
            self._first(generator)

    def finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Called for generators that nobody holds, which a workflow's never are."""
        if type(_get_loop()) is not WorkflowLoop and self._final is not None:
            self._final(generator)


class Entered(msgspec.Struct, eq=False):
    """`with Entered(loop):` the calling thread is inside the workflow; see the module's docstring."""

    _loop: WorkflowLoop
    _outer: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[Any] | None = None
    _gc: bool = False

    def __enter__(self) -> None:
        """Put the node's loop aside."""
        loop = self._loop
        self._outer = outer = _get_loop()
        self._task = task = None if outer is None else current_task(outer)
        if outer is not None and task is not None:
            _leave_task(outer, task)
        _set_loop(loop)
        loop.turning = True
        if type(sys.get_asyncgen_hooks().firstiter) is not _GeneratorHooks:
            _GeneratorHooks()
        self._gc = gc.isenabled()
        if self._gc:
            gc.disable()

    def __exit__(self, *_: object) -> None:
        """Take the node's loop up again."""
        if self._gc:
            gc.enable()
        self._loop.turning = False
        outer = self._outer
        _set_loop(outer)
        if outer is not None and self._task is not None:
            _enter_task(outer, self._task)


class Outside(msgspec.Struct, eq=False):
    """What `Entered` puts aside, as it is now; for a caller whose turn may be interrupted anywhere, also in the middle
    of `Entered`'s own lines.

    The loop is the one that runs, which a caller for each turn need not look up. The task is the
    loop's current one.
    """

    _loop: asyncio.AbstractEventLoop | None
    _task: asyncio.Task[Any] | None
    _gc: bool = msgspec.field(default_factory=gc.isenabled)

    def restore(self) -> None:
        """Make it so again. Nothing happens where `Entered` has done it."""
        _set_loop(self._loop)
        if self._loop is not None and self._task is not None and current_task(self._loop) is None:
            _enter_task(self._loop, self._task)
        if self._gc:
            gc.enable()


running_loop = _get_loop
"""The event loop that runs in the calling thread, whatever its kind. None: none does."""


def current_loop() -> WorkflowLoop | None:
    """The workflow loop that the calling code runs on; None outside of workflows."""
    loop = _get_loop()
    return loop if type(loop) is WorkflowLoop else None


# ---------------------------------------------------------------- what is refused

_THREADS = "a workflow has no threads: make it an activity (`def` activities run on a thread)"
_IO = "a workflow does no I/O: make it an activity"
_NODE = "a workflow's loop belongs to its node: it cannot be run, stopped or configured from inside"

_REFUSED = (
    (_THREADS, "run_in_executor set_default_executor shutdown_default_executor"),
    (
        _IO,
        "getaddrinfo getnameinfo create_connection create_server start_tls sendfile create_unix_connection",
    ),
    (
        _IO,
        "create_unix_server connect_accepted_socket create_datagram_endpoint connect_read_pipe connect_write_pipe",
    ),
    (
        _IO,
        "subprocess_shell subprocess_exec add_reader remove_reader add_writer remove_writer sock_recv",
    ),
    (
        _IO,
        "sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_connect sock_accept",
    ),
    (_IO, "sock_sendfile add_signal_handler remove_signal_handler"),
    (
        _NODE,
        "run_forever run_until_complete stop close shutdown_asyncgens set_task_factory set_debug",
    ),
    (_NODE, "set_exception_handler default_exception_handler"),
)


def _refusal(name: str, remedy: str) -> Callable[..., NoReturn]:
    def refuse(*_args: object, **_options: object) -> NoReturn:
        msg = f"loop.{name}() was called inside a workflow: {remedy}"
        raise WorkflowViolation(msg)

    refuse.__name__ = name
    return refuse


def _refuse_all() -> None:
    for remedy, names in _REFUSED:
        for name in names.split():
            setattr(WorkflowLoop, name, _refusal(name, remedy))


_refuse_all()
