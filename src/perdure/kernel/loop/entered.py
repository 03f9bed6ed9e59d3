"""Entering a workflow's loop for the time of one turn, and leaving it.

A unit enters the loop before it delivers, and leaves it when nothing on the loop is ready any more
(`kernel/unit/workflow_unit.py`). Meanwhile the calling thread is inside the workflow:

- The workflow's loop is the running one. The node's own loop and its current task are put aside,
  because Python 3.14 refuses to nest them.
- The garbage collector is off. It could run `finally` blocks of anything in the middle of this
  workflow.
- Async generators that the code begins are held by the workflow's loop.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import tasks as _tasks
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.kernel.loop.loop import WorkflowLoop, running_loop, set_running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_enter_task: Callable[[asyncio.AbstractEventLoop, Any], None] = _tasks._enter_task
_leave_task: Callable[[asyncio.AbstractEventLoop, Any], None] = _tasks._leave_task

current_task: Callable[[asyncio.AbstractEventLoop], Any]
# Each turn asks. The function is in C since Python 3.12. Before, this is the table where it looks.
if sys.version_info >= (3, 12):
    current_task = asyncio.current_task
else:
    current_task = vars(_tasks)["_current_tasks"].get


class Entered(msgspec.Struct, eq=False):
    """`with Entered(loop):` the calling thread is inside the workflow.

    Nothing happens before `__enter__`. It is a struct, which is made without a line of Python.
    """

    _loop: WorkflowLoop
    _outer: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[Any] | None = None
    _gc: bool = False

    def __enter__(self) -> None:
        """Put the node's loop aside."""
        # The collector is off before the loop is set, and on again only when the loop is taken
        # away. It may start in any line between, and a `finally` that it runs would call activities
        # in the name of this workflow. It may be off already, in a program that wants it so.
        self._gc = gc.isenabled()
        if self._gc:
            gc.disable()
        loop = self._loop
        outer = running_loop()
        task = None
        if outer is not None:
            task = current_task(outer)
        self._outer = outer
        self._task = task
        if outer is not None and task is not None:
            _leave_task(outer, task)
        set_running_loop(loop)
        loop.turning = True
        # Another library of the node's process may have replaced the hooks since the last turn.
        if type(sys.get_asyncgen_hooks().firstiter) is not _GeneratorHooks:
            _GeneratorHooks()

    def __exit__(self, *_: object) -> None:
        """Take the node's loop up again."""
        self._loop.turning = False
        outer = self._outer
        set_running_loop(outer)
        if outer is not None and self._task is not None:
            _enter_task(outer, self._task)
        if self._gc:
            gc.enable()


class _GeneratorHooks:
    """A thread's async generator hooks with ours before them.

    They stay until the node's loop ends, because to set them for each turn costs more than the
    turn's other bookkeeping.
    """

    __slots__ = ("_final", "_first")

    def __init__(self) -> None:
        self._first, self._final = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self, self.finalize)

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Hold a workflow's generator until its run ends. Others go to the hooks before ours."""
        loop = running_loop()
        if type(loop) is WorkflowLoop:
            loop.hold_generator(generator)
        elif self._first is not None:
            self._first(generator)

    def finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Called for generators that nothing holds. A workflow's never are."""
        if type(running_loop()) is not WorkflowLoop and self._final is not None:
            self._final(generator)


class Outside(msgspec.Struct, eq=False):
    """A copy of what `Entered` puts aside.

    The caller of a turn takes it, because the turn may be interrupted anywhere, also in the middle
    of `Entered`'s own lines.
    """

    # The loop that runs, which a caller of many turns knows, and its current task.
    _loop: asyncio.AbstractEventLoop | None
    _task: asyncio.Task[Any] | None
    _gc: bool = msgspec.field(default_factory=gc.isenabled)

    def restore(self) -> None:
        """Make it so again. Nothing happens where `Entered` has done it."""
        loop = self._loop
        set_running_loop(loop)
        if loop is not None and self._task is not None and current_task(loop) is None:
            _enter_task(loop, self._task)
        if self._gc:
            gc.enable()
