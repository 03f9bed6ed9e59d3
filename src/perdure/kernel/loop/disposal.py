"""Getting rid of suspended coroutines without running their code.

An execution calls `dispose` when it ends without its code, and when its unit leaves memory. Nothing
happens on the loop afterwards.

A workflow that leaves memory in the middle (eviction, a discarded turn, terminate) leaves
coroutines behind that wait inside `try` blocks. If they died by garbage collection, Python would
throw GeneratorExit into them, and their `finally` and `except` would run. That would be inside
another instance's turn, or as plain calls with real effects.

So the loop is made dead first: calls on it return futures that never complete, and nothing is
recorded. Then the frames are dropped without running a line of them. Each suspended coroutine is
marked as finalised already, by one bit in its garbage-collector header. CPython then frees it as it
frees a finished one.

The bit's place is an implementation detail of CPython with the GIL. It is checked at import on a
real coroutine, through `gc.is_finalized`. Where the check fails, coroutines are closed under the
dead loop instead, and those that refuse to end are kept for ever in `quarantine`.

The memory of frames is free at once, without the collector. Tasks and futures refer to each other
by callbacks, and since Python 3.14 by the tasks that await them. These references are taken from
them, because they would keep the frames alive.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import ctypes
import gc
import sys
import types
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any

from perdure.kernel.loop.entered import Entered
from perdure.kernel.loop.loop import WorkflowLoop

quarantine: list[object] = []
"""Coroutines that resisted. They hold memory but never run."""

# Code may ignore GeneratorExit any number of times, in a loop even.
_CLOSE_ATTEMPTS = 8

# Objects of one task that are looked into. Code may hold any amount of data.
_HELD_MAX = 100_000

# The attribute of each kind of coroutine with what it awaits. None of them can have subclasses.
_AWAITED: dict[type, str] = {
    types.CoroutineType: "cr_await",
    types.GeneratorType: "gi_yieldfrom",
    types.AsyncGeneratorType: "ag_await",
}

_FRAMES = (types.CoroutineType, types.GeneratorType)
_HOLDERS = (
    list,
    tuple,
    dict,
    set,
    deque,
    types.MethodType,
    contextlib._GeneratorContextManager,  # pyright: ignore[reportPrivateUsage]
    contextlib._AsyncGeneratorContextManager,  # pyright: ignore[reportPrivateUsage]
    contextlib.ExitStack,
    contextlib.AsyncExitStack,
)
"""Objects in which a frame may hold other frames."""

_PLAIN_METACLASSES = (type, abc.ABCMeta)
_TYPES_MAX = 1_000
_Gathering: Any = vars(asyncio.tasks)["_GatheringFuture"]
_WORD = ctypes.sizeof(ctypes.c_void_p)

Suspended = Coroutine[Any, Any, Any] | Generator[Any, Any, Any] | AsyncGenerator[Any, Any]


# ---------------------------------------------------------------- the mark


def _mark(suspended: object) -> None:
    """Set the "finalised" bit: the lowest bit of the word before the object."""
    ctypes.c_size_t.from_address(id(suspended) - _WORD).value |= 1


def _can_mark() -> bool:
    """Try the mark on a coroutine of our own and see whether its `finally` stays silent."""
    # Without the GIL, objects have another header, and other threads may look at it.
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not has_gil:
        return False
    ran: list[int] = []

    @types.coroutine
    def pause() -> Generator[None, None, None]:
        yield

    async def probe() -> None:
        try:
            await pause()
        finally:
            ran.append(1)

    coroutine = probe()
    coroutine.send(None)
    is_marked_before = gc.is_finalized(coroutine)
    _mark(coroutine)
    if is_marked_before or not gc.is_finalized(coroutine):
        # The bit is elsewhere, so the probe ends as a coroutine usually does.
        coroutine.close()
        return False
    del coroutine
    return not ran


CAN_MARK = _can_mark()
"""Whether this interpreter lets frames be dropped silently."""


# ---------------------------------------------------------------- disposal


def dispose(loop: WorkflowLoop) -> None:
    """Make the loop dead, and drop all that runs on it.

    No user code runs, and nothing is recorded.
    """
    loop.empty()
    # A run that has ended leaves nothing suspended, mostly.
    if not loop.generators and all(task.done() for task in loop.tasks):
        loop.forget_tasks()
        return
    # Entered, because code that is closed for want of the mark may call asyncio.
    with Entered(loop):
        for task in reversed(loop.tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if not task.done():
                _drop(loop, task.get_coro())
        for generator in loop.generators or ():
            if generator.ag_frame is not None:  # type: ignore[attr-defined]
                _drop(loop, generator)
    anyio = sys.modules.get("anyio._backends._asyncio")
    for task in loop.tasks:
        _unbind(loop, getattr(task, "_fut_waiter", None))
        _unbind(loop, task)
        # anyio's states refer to their tasks, and would keep them for ever.
        if anyio is not None:
            anyio._task_states.pop(task, None)
    loop.forget_tasks()


def _drop(loop: WorkflowLoop, suspended: object) -> None:
    frames = list(chain(suspended))
    if CAN_MARK:
        for frame in frames:
            _mark(frame)
        _clear_held(loop, frames)
        return
    # Innermost first: an outer frame that ends would drop an inner one that resists.
    for frame in reversed(frames):
        if not _closed(frame):
            quarantine.append(suspended)
            return


def chain(suspended: object) -> Iterator[object]:
    """The suspended coroutine and everything that it awaits, outermost first."""
    name = _AWAITED.get(type(suspended))
    while name is not None:
        yield suspended
        suspended = getattr(suspended, name)
        name = _AWAITED.get(type(suspended))


def _clear_held(loop: WorkflowLoop, frames: list[object]) -> None:
    """Mark the generators and coroutines that frames hold, and unbind the futures.

    A frame holds a generator inside `with` a @contextmanager, in a `for` over it, or in a variable.
    """
    # A `__del__` of an object's own class still runs: nothing stops Python there.
    todo = gc.get_referents(*frames)  # a coroutine's variables and its stack
    seen: set[int] = set()
    while todo and len(seen) < _HELD_MAX:
        found: object = todo.pop()
        role = _role(type(found))
        if role is None or id(found) in seen:
            continue
        seen.add(id(found))
        if role == "future":
            _unbind(loop, found)
        elif role == "holder":
            todo += gc.get_referents(found)
        elif not gc.is_finalized(found):
            _mark(found)
            todo += gc.get_referents(found)


_known: dict[type, str | None] = {}


def _role(kind: type) -> str | None:
    """The role of objects of this type: "frame", "holder" or "future". None: they have none."""
    # A type whose metaclass is the user's own is not looked up: that would run the metaclass's
    # `__hash__` and `__eq__`.
    if type(kind) not in _PLAIN_METACLASSES:
        return _classify(kind)
    try:
        return _known[kind]
    except KeyError:
        # Code that makes types makes no end of them.
        if len(_known) >= _TYPES_MAX:
            _known.clear()
        # Kept, because this is asked for each variable of each frame.
        role = _classify(kind)
        _known[kind] = role
        return role


def _classify(kind: type) -> str | None:
    # By ancestors alone: `issubclass` asks an abstract class's registry, and may run code.
    ancestors = type.__dict__["__mro__"].__get__(kind)
    for role, kinds in (("frame", _FRAMES), ("holder", _HOLDERS), ("future", (asyncio.Future,))):
        if any(ancestor is known for ancestor in ancestors for known in kinds):
            return role
    return None


def _closed(suspended: Any) -> bool:
    """Close it under the dead loop. False if it goes on yielding."""
    for _ in range(_CLOSE_ATTEMPTS):
        try:
            if isinstance(suspended, types.AsyncGeneratorType):
                suspended.aclose().__await__().send(None)
            elif isinstance(suspended, types.CoroutineType | types.GeneratorType):
                suspended.close()
            return True
        except RuntimeError:  # it ignored GeneratorExit: ask again
            continue
        except BaseException:  # whatever its cleanup raises, it has ended
            return True
    return False


def _unbind(loop: WorkflowLoop, future: Any) -> None:
    """Take from a future of this loop its references to others.

    These are its callbacks and, since Python 3.14, the tasks that await it.
    """
    if getattr(future, "_loop", None) is not loop:
        return
    callbacks = future._callbacks
    if callbacks:
        for callback, _ in list(callbacks):
            # Another entry of the same callback may have removed this one.
            with suppress(ValueError):
                future.remove_done_callback(callback)
    if sys.version_info >= (3, 14):
        for task in future._asyncio_awaited_by or ():
            asyncio.future_discard_from_awaited_by(future, task)
    if type(future) is _Gathering:
        for child in future._children:
            _unbind(loop, child)
