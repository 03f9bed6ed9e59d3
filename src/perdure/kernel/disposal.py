"""Getting rid of suspended coroutines without running their code.

Theory of operation. A workflow that leaves memory in the middle (eviction, a discarded turn, terminate) leaves
coroutines behind that wait inside `try` blocks. If they died by garbage collection, Python would throw GeneratorExit
into them and their `finally` and
`except` would run: inside
another instance's turn, or as plain calls with real effects. So the loop is made dead first (calls on it return
futures that never complete, nothing is recorded), and then the frames are dropped without running a line of them:
each suspended coroutine is marked as finalised already, one bit in its garbage-collector header, which makes CPython
free it as it frees a finished one.

The bit's place is an implementation detail of CPython with the GIL. It is checked at import on a real coroutine,
through `gc.is_finalized`; where the check fails, coroutines are closed under the dead loop instead, and those that
refuse to end are kept for ever in
`quarantine`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import types
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any

from perdure.kernel.loop import Entered, WorkflowLoop

quarantine: list[object] = []
"""Coroutines that resisted; they hold memory but never run."""

_CLOSE_ATTEMPTS = 8
_HELD_MAX = 100_000
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
    loop.dead = True
    loop.ready = loop.parked = []
    if not loop.generators and all(t.done() for t in loop.tasks):
        loop.tasks = []
        return
    with Entered(loop):
        for task in reversed(loop.tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if not task.done():
                _drop(task.get_coro())
        for generator in loop.generators:
            if generator.ag_frame is not None:  # type: ignore[attr-defined]
                _drop(generator)
    anyio = sys.modules.get("anyio._backends._asyncio")
    for task in loop.tasks:
        _break_cycle(task)
        if anyio is not None:  # its states refer to their tasks, and would keep them for ever
            anyio._task_states.pop(task, None)
    loop.tasks = []
    loop.generators = []
    loop.ready = []


def _drop(suspended: object) -> None:
    if CAN_MARK:
        for frame in _chain(suspended):
            _mark(frame)
            _mark_held(frame)
        return
    for frame in reversed(
        list(_chain(suspended))
    ):  # innermost first: an outer one that ends would drop one that resists
        if not _closed(frame):
            quarantine.append(suspended)
            return


def _mark_held(frame: object) -> None:
    """Mark the generators and coroutines that a frame holds: `with` a @contextmanager, `for` over a generator, what
    is kept for later.

    Objects with a `__del__` of their own still run it: that is Python's, and cannot be stopped.
    """
    todo = gc.get_referents(frame)  # a coroutine's variables and its stack
    seen: set[int] = set()
    while todo and len(seen) < _HELD_MAX:
        found = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, types.CoroutineType | types.GeneratorType):
            if not gc.is_finalized(found):
                _mark(found)  # pyright: ignore[reportUnknownArgumentType]
                todo += gc.get_referents(found)
        elif isinstance(found, _HOLDERS):
            todo += gc.get_referents(found)


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


def _break_cycle(task: Any) -> None:
    """Let memory go without waiting for the collector: a task and the future it waits for refer to each other."""
    waiter = getattr(task, "_fut_waiter", None)
    for future in (task, waiter):
        callbacks = getattr(future, "_callbacks", None)
        if future is not None and callbacks:
            for callback, _ in list(callbacks):
                with suppress(ValueError):  # it may have been removed by another entry of the same callback
                    future.remove_done_callback(callback)
