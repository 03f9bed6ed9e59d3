"""Getting rid of suspended coroutines without running their code.

Theory of operation. A workflow that leaves memory in the middle (eviction, a discarded turn, terminate) leaves
coroutines behind that wait inside `try` blocks. If they died by garbage collection, Python would throw GeneratorExit
into them and their `finally` and `except` would run: inside another instance's turn, or as plain calls with real
effects. So the loop is made dead first (calls on it return
futures that never complete, nothing is recorded), and then the frames are dropped without running a line of them:
each suspended coroutine is marked as finalised already, one bit in its garbage-collector header, which makes CPython
free it as it frees a finished one.

The bit's place is an implementation detail of CPython with the GIL. It is checked at import on a real coroutine,
through `gc.is_finalized`; where the check fails, coroutines are closed under the dead loop instead, and those that
refuse to end are kept for ever in `quarantine`.

Their memory is free at once, without the collector: what tasks and futures know of each other (callbacks, and since
Python 3.14 who awaits them) is taken from them, or they would keep the frames alive.
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

from perdure.kernel.loop.loop import Entered, WorkflowLoop

quarantine: list[object] = []
"""Coroutines that resisted; they hold memory but never run."""

_CLOSE_ATTEMPTS = 8
_HELD_MAX = 100_000
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
"""What a frame's generators hide in."""
_PLAIN_METACLASSES = (type, abc.ABCMeta)
_TYPES_MAX = 1_000
_Gathering: Any = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined] # pyright: ignore[reportPrivateUsage]
_WORD = ctypes.sizeof(ctypes.c_void_p)

Suspended = Coroutine[Any, Any, Any] | Generator[Any, Any, Any] | AsyncGenerator[Any, Any]


def _mark(suspended: object) -> None:
    """Set the "finalised" bit: the lowest bit of the word before the object."""
    ctypes.c_size_t.from_address(id(suspended) - _WORD).value |= 1


def _can_mark() -> bool:
    """Try the mark on a coroutine of our own and see whether its `finally` stays silent."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
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
    if gc.is_finalized(coroutine):
        coroutine.close()
        return False
    _mark(coroutine)
    if not gc.is_finalized(coroutine):
        coroutine.close()
        return False
    del coroutine
    return not ran


CAN_MARK = _can_mark()
"""Whether this interpreter lets frames be dropped silently."""


def _chain(suspended: object) -> Iterator[object]:
    """The suspended coroutine and everything it awaits, outermost first."""
    kinds = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)
    while isinstance(suspended, kinds):
        yield suspended
        suspended = (
            getattr(suspended, "cr_await", None)  # pyright: ignore[reportUnknownArgumentType]
            or getattr(suspended, "gi_yieldfrom", None)  # pyright: ignore[reportUnknownArgumentType]
            or getattr(suspended, "ag_await", None)  # pyright: ignore[reportUnknownArgumentType]
        )


def dispose(loop: WorkflowLoop) -> None:
    """Make the loop dead and drop all that runs on it. No user code runs (see above); nothing is recorded."""
    loop.empty()
    if not loop.generators and all(t.done() for t in loop.tasks):
        loop.forget_tasks()
        return
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
        if anyio is not None:  # its states refer to their tasks, and would keep them for ever
            anyio._task_states.pop(task, None)
    loop.forget_tasks()


def _drop(loop: WorkflowLoop, suspended: object) -> None:
    if CAN_MARK:
        frames = list(_chain(suspended))
        for frame in frames:
            _mark(frame)
        _clear_held(loop, frames)
        return
    for frame in reversed(
        list(_chain(suspended))
    ):  # innermost first: an outer one that ends would drop one that resists
        if not _closed(frame):
            quarantine.append(suspended)
            return


def _clear_held(loop: WorkflowLoop, frames: list[object]) -> None:
    """Mark the generators and coroutines that frames hold (`with` a @contextmanager, `for` over a generator, what is
    kept for later), and unbind the futures.

    Objects with a `__del__` of their own still run it: that is Python's, and cannot be stopped.
    """
    todo = gc.get_referents(*frames)  # a coroutine's variables and its stack
    seen: set[int] = set()
    while todo and len(seen) < _HELD_MAX:
        found: object = todo.pop()
        what = _what(type(found))
        if what is None or id(found) in seen:
            continue
        seen.add(id(found))
        if what == "future":
            _unbind(loop, found)
        elif what == "holder":
            todo += gc.get_referents(found)
        elif not gc.is_finalized(found):
            _mark(found)
            todo += gc.get_referents(found)


_known: dict[type, str | None] = {}


def _what(kind: type) -> str | None:
    """What an object of this type is here: "frame", "holder", "future", or nothing to look at.

    The answer is kept: this is asked for each variable of each frame. Types whose metaclass is somebody's own are left
    out of that, because to look them up could run that one's `__hash__` and `__eq__`.
    """
    if type(kind) not in _PLAIN_METACLASSES:
        return _classify(kind)
    try:
        return _known[kind]
    except KeyError:
        if len(_known) >= _TYPES_MAX:  # code that makes types makes no end of them
            _known.clear()
        what = _known[kind] = _classify(kind)
        return what


def _classify(kind: type) -> str | None:
    """By ancestors alone: `issubclass` asks an abstract class's registry, and may run code."""
    ancestors = type.__dict__["__mro__"].__get__(kind)
    for what, kinds in (("frame", _FRAMES), ("holder", _HOLDERS), ("future", (asyncio.Future,))):
        if any(ancestor is known for ancestor in ancestors for known in kinds):
            return what
    return None


def _closed(suspended: Any) -> bool:
    """Close it under the dead loop; False if it goes on yielding."""
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
    """Take from a future of this loop what it knows of others: its callbacks and, since Python 3.14, who awaits it."""
    if getattr(future, "_loop", None) is not loop:
        return
    callbacks = future._callbacks
    if callbacks:
        for callback, _ in list(callbacks):
            with suppress(
                ValueError
            ):  # it may have been removed by another entry of the same callback
                future.remove_done_callback(callback)
    if sys.version_info >= (3, 14):
        for task in future._asyncio_awaited_by or ():
            asyncio.future_discard_from_awaited_by(future, task)
    if type(future) is _Gathering:
        for child in future._children:
            _unbind(loop, child)
