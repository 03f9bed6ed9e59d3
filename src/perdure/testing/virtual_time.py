"""Virtual time: an event loop whose time jumps to its next timer when nothing is left to do.

A minute of sleep takes no time, and nothing depends on how busy the machine is. Two things are real
work: functions that run on threads, and sockets. While there are some, time goes on at the pace of
the wall. So a function that hangs meets its timeout, and one that is quick does not.

The loop may be one that runs already, for example that of pytest-asyncio. Its own methods are
replaced, and restored at the end.
"""

from __future__ import annotations

import asyncio
import selectors
from contextlib import contextmanager
from contextvars import Context
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.errors import UsageError
from perdure.ports.clock import SystemClock
from perdure.testing.virtual_process import VirtualProcess, running_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping

T = TypeVar("T")

BEGIN_NS = 1_767_225_600_000_000_000
"""The first moment of virtual time is 2026-01-01, in UTC."""

PASS_S = 1e-4
"""What one pass of the loop takes. A loop that is never idle must not make time stand still."""

# The loop itself has one socket, by which other threads wake it.
_OWN_SOCKETS = 1


class _Skipping(selectors.BaseSelector):
    """Looks at the files of a selector, and lets time pass instead of waiting for them."""

    def __init__(self, real: selectors.BaseSelector, is_real_work: Callable[[], bool]) -> None:
        self.passed_s = 0.0
        self._real = real
        self._is_real_work = is_real_work

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return self._real.select(None)  # there is no timer: only a thread can go on
        self.passed_s += PASS_S
        if timeout > 0 and (len(self._real.get_map()) > _OWN_SOCKETS or self._is_real_work()):
            began_s = perf_counter()
            ready = self._real.select(timeout)
            # No more than was asked for: a busy machine must not make timers late.
            self.passed_s += min(perf_counter() - began_s, timeout)
            return ready
        # Asked without a wait: another thread may have woken the loop.
        ready = self._real.select(0)
        if not ready:
            self.passed_s += max(timeout, 0)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualTime:
    """The time of one event loop while `on` lasts, and the processes that run on it."""

    def __init__(self) -> None:
        """Nothing is replaced yet."""
        # Each is asked whether it has work that takes real time.
        self.real_work: list[Callable[[], bool]] = []
        self._since_s = 0.0
        self._skipping: _Skipping | None = None
        self._threads = 0

    @property
    def passed_s(self) -> float:
        """The seconds that have passed."""
        if self._skipping is None:
            return 0.0
        return self._skipping.passed_s

    def boot_ns(self) -> int:
        """Nanoseconds since the beginning."""
        return int(self.passed_s * 1e9)

    def wall_ns(self) -> int:
        """The present, in nanoseconds since 1970."""
        return BEGIN_NS + self.boot_ns()

    def clock(self) -> SystemClock:
        """A clock that shows it, as that of a machine."""
        return SystemClock(self.wall_ns, self.boot_ns)

    @contextmanager
    def on(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Replace the time of a loop.

        Raises:
            UsageError: its time cannot be replaced, as that of uvloop.
        """
        real = getattr(loop, "_selector", None)
        if not isinstance(real, selectors.BaseSelector) or isinstance(real, _Skipping):
            msg = (
                f"the time of this event loop ({type(loop).__module__}.{type(loop).__name__}) "
                "cannot be virtual: use a loop of asyncio.new_event_loop(), for one cluster at once"
            )
            raise UsageError(msg)
        # Timers that are set already ring when so much virtual time has passed.
        self._since_s = loop.time()
        self._skipping = _Skipping(real, self._works_really)
        replaced = self._methods(loop)
        replaced["_selector"] = self._skipping
        for name, value in replaced.items():
            setattr(loop, name, value)
        try:
            yield
        finally:
            loop._selector = real  # type: ignore[attr-defined]
            for name in replaced.keys() - {"_selector"}:
                delattr(loop, name)  # the method of its class is seen again

    def _time(self) -> float:
        return self._since_s + self.passed_s

    def _works_really(self) -> bool:
        return self._threads > 0 or any(ask() for ask in self.real_work)

    def _methods(self, loop: asyncio.AbstractEventLoop) -> dict[str, object]:
        """The methods of the loop that must know of virtual time and of processes."""
        call_soon = loop.call_soon
        call_threadsafe = loop.call_soon_threadsafe
        call_at = loop.call_at
        in_executor = loop.run_in_executor

        def soon(
            callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.Handle:
            process = _process_of(context)
            if process is not None and process.is_stopped:
                return process.keep(loop, callback, args, context)
            return call_soon(callback, *args, context=context)

        def threadsafe(
            callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.Handle:
            process = _process_of(context)
            if process is None:
                return call_threadsafe(callback, *args, context=context)
            # Stopped or not is known on the loop only.
            return call_threadsafe(soon, callback, *args, context=context)

        def at(
            when: float,
            callback: Callable[..., object],
            *args: Any,
            context: Context | None = None,
        ) -> asyncio.TimerHandle:
            process = _process_of(context)
            if process is None:
                return call_at(when, callback, *args, context=context)

            # Asked when the timer is due, because the process may be stopped or go on until then.
            def due() -> None:
                if process.is_stopped:
                    process.keep_timer(loop, timer, callback, args)
                else:
                    callback(*args)

            timer = call_at(when, due, context=context)
            return timer

        def on_thread(executor: Any, fn: Callable[..., T], *args: Any) -> asyncio.Future[T]:
            future = asyncio.ensure_future(in_executor(executor, fn, *args))
            self._threads += 1
            # An empty context names no process: the thread is counted off also while its process is
            # stopped.
            future.add_done_callback(self._thread_ended, context=Context())
            return future

        return {
            "time": self._time,
            "call_soon": soon,
            "call_soon_threadsafe": threadsafe,
            "call_at": at,
            "run_in_executor": on_thread,
        }

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        self._threads -= 1


def _process_of(context: Context | None) -> VirtualProcess | None:
    """The process whose code asks, or in whose context the call is to be made."""
    if context is None:
        return running_in.get()
    return context.get(running_in)


def run_virtually(main: Callable[[VirtualTime], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop of its own, in virtual time."""
    virtual = VirtualTime()
    with asyncio.Runner() as runner, virtual.on(runner.get_loop()):
        return runner.run(main(virtual))
