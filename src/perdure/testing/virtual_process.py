"""A process that is none: a part of an event loop's work that can be stopped, and go on.

All tasks, callbacks and timers of a node inherit a context, and it names their process. While the
process is stopped, its event loop keeps what would run, in order, and runs it when it goes on. To
the node that is what SIGSTOP and SIGCONT do to a process: nothing of it happens meanwhile, and its
timers are late behind it. A process that is killed stays stopped, and its callers are told so.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Kept:
    """A call that waits until its process goes on. Its caller may cancel it by the handle."""

    handle: asyncio.Handle
    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: Context


class VirtualProcess:
    """One process on the event loop."""

    def __init__(self, name: str) -> None:
        """It runs. The name is for errors."""
        self.name = name
        # An attribute and no property: each callback of the loop asks.
        self.is_stopped = False
        self.is_killed = False
        self._context = copy_context()
        self._context.run(running_in.set, self)
        self._kept: list[_Kept] = []
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------ running in it

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the process, and wait for it as another process does.

        Raises:
            StoreUnavailable: the process was killed. If that was meanwhile, the outcome is unknown.
        """
        if self.is_killed:
            raise self._gone("none")
        # A copy, so that what one request sets in its context is not seen by the next one.
        task = asyncio.get_running_loop().create_task(work(), context=self._context.copy())
        awaited: list[asyncio.Future[Any]] = [task, self._end]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # `asyncio.wait` leaves its tasks alone when it is cancelled.
            task.cancel()
            raise
        if not task.done():
            task.add_done_callback(_ignore)
            raise self._gone("unknown")
        return task.result()

    def _gone(self, outcome: str) -> StoreUnavailable:
        text = f"node {self.name!r} was killed; ask another one, or restart it"
        if outcome == "none":
            return StoreUnavailable(text, "none")
        return StoreUnavailable(text, "unknown")

    # ------------------------------------------------------------ stopping it

    def stop(self) -> None:
        """Let nothing of it happen any more."""
        self.is_stopped = True

    def go_on(self) -> None:
        """Let happen what would have happened meanwhile, in its order."""
        self.is_stopped = False
        loop = asyncio.get_running_loop()
        kept, self._kept = self._kept, []
        for call in kept:
            # By the loop and not here: an error of one call must not keep the others back.
            loop.call_soon(self._make, call)

    def _make(self, call: _Kept) -> None:
        if self.is_stopped:
            self._kept.append(call)  # stopped again, before it came to this one
        elif not call.handle.cancelled():
            call.context.run(call.callback, *call.args)

    def kill(self) -> None:
        """Stop it for ever, and tell all who wait for an answer of it."""
        self.stop()
        self.is_killed = True
        # It is killed once, and perhaps again while it is taken apart.
        if not self._end.done():
            self._end.set_result(None)

    # ------------------------------------------------------------ asked by the loop

    def keep(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> asyncio.Handle:
        """Keep a callback until it goes on."""
        if context is None:
            context = copy_context()
        handle = asyncio.Handle(callback, args, loop, context)
        self._kept.append(_Kept(handle, callback, args, context))
        return handle

    def keep_timer(
        self,
        loop: asyncio.AbstractEventLoop,
        timer: asyncio.TimerHandle,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        """Keep a timer that has come due, until it goes on. It may be cancelled by then."""

        def ring() -> None:
            if not timer.cancelled():
                callback(*args)

        _ = self.keep(loop, ring, (), None)


def _ignore(task: asyncio.Task[Any]) -> None:
    """Nobody waits for the answer of a process that was killed. Its error is no news either."""
    if not task.cancelled():
        _ = task.exception()


running_in: ContextVar[VirtualProcess | None] = ContextVar("running_in", default=None)
"""The process whose code runs now. None: the test's own."""
