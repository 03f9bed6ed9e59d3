"""Threads for `def` activities.

A thread is made when none is idle, and kept for the next function. How many may run at once is
decided before (slots.py), so that no function waits here. A function that was left to itself,
because it does not end, keeps its thread and takes the place of no other. The threads are daemons:
a function that does not end must not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class ThreadCall:
    """A function that runs on a thread, seen from the event loop."""

    __slots__ = ("_body", "_error", "_loop", "_value", "_waiter", "is_done", "what")

    def __init__(self, body: Callable[[], Any], what: str | None) -> None:
        """Made by `Threads.run`."""
        self.what = what
        self._body = body
        self._loop = asyncio.get_running_loop()
        # Made when there is a wait: a function that is quick needs none.
        self._waiter: asyncio.Future[None] | None = None
        self.is_done = False
        self._value: Any = None
        self._error: BaseException | None = None

    async def result(self) -> Any:
        """Wait for its end, and return its result or raise its error.

        A cancel ends the wait, and not the function. The wait may begin again.
        """
        if not self.is_done:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        return self._value

    def run(self) -> None:
        """Run it, on the thread. Any error is its own, and must not end the thread."""
        try:
            self._value = self._body()
        except BaseException as error:
            self._error = error

    def tell(self) -> None:
        """Tell the event loop that it has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so there is no wait any more
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self.is_done = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_Orders = SimpleQueue[ThreadCall | None]
"""The functions for one thread. None: it is to end."""


class Threads:
    """Runs functions on threads."""

    def __init__(self) -> None:
        """There is no thread yet."""
        self._lock = Lock()
        self._idle: list[_Orders] = []
        self._busy: dict[_Orders, ThreadCall] = {}
        self._count = 0
        self._closed = False

    def run(self, body: Callable[[], Any], what: str | None = None) -> ThreadCall:
        """Run it now. `what` names it for people. Functions that always end have no name.

        Raises:
            RuntimeError: the system has no thread to give.
        """
        call = ThreadCall(body, what)
        orders: _Orders
        with self._lock:
            is_new = not self._idle
            if is_new:
                orders = SimpleQueue()
                self._count += 1
            else:
                orders = self._idle.pop()
            self._busy[orders] = call
            orders.put(call)
            name = f"perdure-activity_{self._count}"
        if is_new:
            self._start(orders, name)
        return call

    def _start(self, orders: _Orders, name: str) -> None:
        try:
            Thread(target=self._serve, args=(orders,), name=name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                del self._busy[orders]
            raise

    def _serve(self, orders: _Orders) -> None:
        while (call := orders.get()) is not None:
            call.run()
            with self._lock:
                del self._busy[orders]
                closed = self._closed
                if not closed:
                    self._idle.append(orders)
            # Behind that: the next function may begin as soon as the loop knows.
            call.tell()
            del call  # an idle thread keeps nothing alive
            if closed:
                return

    @property
    def busy(self) -> list[str]:
        """The functions that run now, without those that always end."""
        with self._lock:
            return [call.what for call in self._busy.values() if call.what is not None]

    def close(self) -> None:
        """Let the idle threads end now, and the others when their function does."""
        with self._lock:
            self._closed = True
            idle = self._idle
            self._idle = []
        for orders in idle:
            orders.put(None)
