"""The portal: one event loop on one thread, and calls into it that block the caller.

Theory of operation. `open` starts the thread, runs the loop on it, and there the coroutine that
starts the node or the client. `close` runs the coroutine that stops it, and lets the loop end as
`asyncio.run` does. In between any thread may `call`: the coroutine runs as a task of the loop, in
the caller's context variables, and its result or its error comes back.

A caller is never left waiting. A call is admitted under a lock, so it is either refused or known to
the loop before the loop ends. A loop that ends cancels its tasks. A caller that is interrupted
(Ctrl-C) leaves at once and cancels its call. All other calls go on. The thread is no daemon,
because the interpreter would freeze a daemon in the middle of a commit. Instead, open portals are
closed when the main thread has ended.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

from perdure.errors import StoreUnavailable, UsageError

T = TypeVar("T")

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
"""Makes the event loop, as `uvloop.new_event_loop` does."""

Work: TypeAlias = Callable[[], Coroutine[Any, Any, T]]
"""Makes a coroutine for the loop."""

logger = logging.getLogger("perdure.sync")


class Portal:
    """One event loop on one thread."""

    def __init__(self, name: str, loop_factory: LoopFactory | None = None) -> None:
        """Nothing runs before `open`. Errors and the thread have the name."""
        self.name = name
        self._loop_factory = loop_factory
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None  # while calls are admitted
        self._stop: Work[object] | None = None
        self._end: asyncio.Event | None = None
        self._starting: asyncio.Task[object] | None = None
        self._was_open = False
        self._at_exit = False  # whether it is closed because the process ends

    # ------------------------------------------------------------ life cycle

    def open(self, start: Work[T], stop: Work[object]) -> T:
        """Start the thread and its loop, and run `start` there. `stop` is run at the end.

        Raises:
            UsageError: it is open already, or this thread runs an event loop.
        """
        _refuse_loops(self.name)
        with self._lock:
            if self._thread is not None:
                msg = f"{self.name} is open already; one `with` is enough"
                raise UsageError(msg)
            self._process = os.getpid()
            self._ready = Future()
            self._starting = None
            self._thread = threading.Thread(
                target=self._run, args=[self._ready], name=f"perdure {self.name}"
            )
        try:
            _open.add(self)
            self._thread.start()
            with self._lock:
                self._loop = self._ready.result()
                self._was_open = True
            value = self._wait(self._submit(lambda: self._begin(start)))
        except BaseException:
            self._end_loop(None)
            raise
        self._stop = stop
        return value

    def close(self, instead: Work[object] | None = None) -> None:
        """Run the coroutine that stops the node (or another one), end the loop, join the thread.

        It is idempotent. Ctrl-C does not shorten it, unless it comes twice: then the rest happens
        behind the caller's back. In a forked process it does nothing, because the loop is the
        parent's.
        """
        if self._process != os.getpid():
            return
        if self._thread is threading.current_thread():
            msg = f"{self.name} cannot be closed by code that runs on its own loop"
            raise UsageError(msg)
        with self._lock:
            # Taken out under the lock, so that of several threads only one closes.
            stop = self._stop
            self._stop = None
        if stop is not None:
            self._end_loop(instead or stop)

    def close_at_exit(self) -> None:
        """Close it because the process ends."""
        self._at_exit = True
        self.close()

    def _run(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        """The thread."""
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._serve(ready))
        except BaseException as error:
            if ready.done() and self._at_exit:
                # Python 3.12 cannot start the thread that waits for an executor's threads any more.
                # They are waited for anyway.
                logger.debug("the event loop of %s ended with the process: %s", self.name, error)
            elif ready.done():
                logger.exception("the event loop of %s failed", self.name)
            else:
                ready.set_exception(error)

    async def _begin(self, start: Work[T]) -> T:
        self._starting = asyncio.current_task()
        return await start()

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        self._end = asyncio.Event()
        ready.set_result(asyncio.get_running_loop())
        await self._end.wait()

    def _end_loop(self, stop: Work[object] | None) -> None:
        with self._lock:
            self._loop = None  # from here on no call is admitted
        thread = self._thread
        assert thread is not None
        try:
            if thread.ident is not None and self._ready.exception() is None:
                ended: Future[None] = Future()
                # Ctrl-C at this moment must not cancel the stop: the thread is waited for below.
                loop = self._ready.result()
                loop.call_soon_threadsafe(_begin_call, lambda: self._last(stop), ended)
                _outlast(ended)
        finally:
            if thread.ident is not None:
                thread.join()
            self._thread = None

    async def _last(self, stop: Work[object] | None) -> None:
        """The last work of the loop. It goes on when its caller is interrupted."""
        assert self._end is not None
        try:
            if stop is not None:
                await stop()
            elif self._starting is not None and not self._starting.done():
                # An interrupted start still closes the store that it has opened.
                await asyncio.wait([self._starting])
        finally:
            self._end.set()

    # ------------------------------------------------------------ calls

    def call(self, work: Work[T]) -> T:
        """Run a coroutine on the loop, and wait for its result.

        Raises:
            UsageError: the portal is not open, belongs to another process, or this thread runs an
                event loop.
            StoreUnavailable: it was closed meanwhile. The call may have had its effect, or not.
        """
        _refuse_loops(self.name)
        return self._wait(self._submit(work))

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """The elements of an asynchronous iterator, each fetched at its turn."""
        iterator = make()

        # In a tuple, because an element may be None.
        async def fetch() -> tuple[T] | None:
            try:
                return (await anext(iterator),)
            except StopAsyncIteration:
                return None

        async def drop() -> None:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

        try:
            while True:
                found = self.call(fetch)
                if found is None:
                    return
                yield found[0]
        finally:
            # The caller may leave in the middle. The rest of the iterator is its own loop's.
            if self._loop is not None:
                self.call(drop)

    def _submit(self, work: Work[T]) -> Future[T]:
        if self._process != os.getpid():
            msg = (
                f"{self.name} was opened by process {self._process}, and this is {os.getpid()}, "
                "which was forked from it: the event loop is not here. Open it after the fork, or "
                "start processes with the method 'spawn'"
            )
            raise UsageError(msg)
        with self._lock:
            if self._loop is None:
                how = "is not open"
                if self._was_open:
                    how = "has been closed"
                msg = f"{self.name} {how}: use it inside of `with ... as`"
                raise UsageError(msg)
            return _hand_over(work, self._loop)

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            msg = (
                f"{self.name} was closed while this call waited; "
                "what was started goes on when a node runs"
            )
            raise StoreUnavailable(msg, "unknown") from None
        finally:
            # If this thread was interrupted, its call is not wanted any more.
            future.cancel()


def _hand_over(work: Work[T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    """Have the loop, which runs in another thread, begin a call."""
    future: Future[T] = Future()
    try:
        loop.call_soon_threadsafe(_begin_call, work, future)
    except BaseException:
        # Ctrl-C may come when the loop has heard of the call already.
        future.cancel()
        raise
    return future


def _begin_call(work: Work[T], future: Future[T]) -> None:
    """Begin a call, on the loop. Its result goes to `future`, and cancelling that cancels the call.

    The coroutine is made here. Made by the caller, it would be left behind by a Ctrl-C that comes
    before the loop has it.
    """
    if future.cancelled():
        return
    loop = asyncio.get_running_loop()
    task = loop.create_task(_do(work))

    def stop(future: Future[T]) -> None:
        # A cancel comes from the caller's thread. Once the loop is closed, its tasks have ended.
        if future.cancelled():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    future.add_done_callback(stop)
    task.add_done_callback(partial(_settle, future))


def _settle(future: Future[T], task: asyncio.Task[T]) -> None:
    """Give the outcome of a call to its caller, unless that has left."""
    if task.cancelled():
        future.cancel()
    else:
        # Asked in any case, because asyncio complains of an error that nobody has looked at.
        error = task.exception()
        if not future.set_running_or_notify_cancel():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


async def _do(work: Work[T]) -> T:
    return await work()


def _outlast(future: Future[None]) -> None:
    """Wait for the end, and only then pass on a Ctrl-C. A second one is passed on at once."""
    try:
        future.result()
    except KeyboardInterrupt:
        future.result()
        raise


def _refuse_loops(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    msg = (
        f"a call to {name} would block the event loop that runs in this thread: await the "
        "asynchronous one (`async with app.node(...)`, `async with Client.open(...)`), or call "
        "from "
        "a thread of its own, for example with `await asyncio.to_thread(...)`"
    )
    raise UsageError(msg)


# ---------------------------------------------------------------- the end of the process

_open: weakref.WeakSet[Portal] = weakref.WeakSet()


def _close_all() -> None:
    for portal in list(_open):
        try:
            portal.close_at_exit()
        except Exception:
            logger.exception("%s could not be closed when the process ended", portal.name)


def _register() -> None:
    """Have portals closed when the main thread has ended, before the threads of executors end.

    Activities run on those. `atexit` would come after Python has waited for the thread of the
    portal, and so never.
    """
    # The callback that is registered last is called first. This import registers that of executors.
    importlib.import_module("concurrent.futures.thread")
    # The function is private, and the only one that is called at this moment.
    register = getattr(threading, "_register_atexit")  # noqa: B009
    register(_close_all)


_register()
