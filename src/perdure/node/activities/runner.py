"""Runs functions of the app, of every kind, and turns each way to end into an outcome.

A result is an outcome, and so are any exception and `SystemExit`. Two ways to end are none. One is
a cancel: where it came from is for the attempt to tell (attempts.py). The other is
`KeyboardInterrupt` on the main thread: the person at the keyboard ends the program, and the attempt
runs again in the next one. Elsewhere no signal raises it, so there it is the function's own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.activity import running_attempt
from perdure.errors import Failure
from perdure.function import wraps_async
from perdure.interceptor import Interceptor, around_activity
from perdure.kernel.loop.call import ActivityCall, CheckpointCall
from perdure.node.activities.line import Request
from perdure.node.activities.outcome import EndedWith, Outcome, call_function, encoded, failure_from
from perdure.node.activities.pool import PoolProcess, Processes, ProcessLost
from perdure.node.activities.threads import ThreadCall, Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.activity import Attempt
    from perdure.kernel.data.definition import ActivityDefinition, Definitions
    from perdure.kernel.data.limits import Limits
    from perdure.kernel.data.retry import RetryPolicy
    from perdure.node.activities.job import Job

logger = logging.getLogger("perdure.activity")

PROCESSES_LOST_MAX = 3
"""After how many lost processes an attempt fails.

Before, it runs again: processes also end by no fault of its own.
"""


class Runner:
    """Runs the functions of jobs."""

    def __init__(
        self, definitions: Definitions, limits: Limits, interceptors: Sequence[Interceptor]
    ) -> None:
        """Threads and processes are made when they are needed."""
        self._definitions = definitions
        self._limits = limits
        self._threads = Threads()
        self.on_threads = 0
        self._processes = Processes()
        self._interceptors = interceptors

    async def run(self, job: Job) -> Outcome | None:
        """Run the function of a job. None: it ended by a cancel.

        Raises:
            KeyboardInterrupt: the program is to end.
        """
        call = job.call
        try:
            if isinstance(call, ActivityCall):
                return Outcome(await self._activity(job, call))
            assert isinstance(call, CheckpointCall)
            return Outcome(await self._checkpoint(call))
        except asyncio.CancelledError:
            return None
        except BaseException as error:  # any error of the user's code is its outcome
            if isinstance(error, KeyboardInterrupt) and _is_main_thread():
                raise
            retry: RetryPolicy | None = None
            if isinstance(call, ActivityCall):
                retry = call.options.retry
            return Outcome(None, failure_from(error, self._limits.payload_bytes, retry))

    async def close(self) -> list[str]:
        """End the processes and the idle threads. Return the functions that run on threads."""
        if self._processes.used:
            # On a thread, because it waits for their ends.
            await self._threads.run(self._processes.close).result()
        self._threads.close()
        return self._threads.busy

    def close_at_once(self) -> None:
        """Close where nothing can be awaited any more."""
        if self._processes.used:
            self._processes.close()
        self._threads.close()

    # ------------------------------------------------------------ the kinds

    async def _checkpoint(self, call: CheckpointCall) -> bytes:
        what = f"result of checkpoint {call.name!r}"
        outcome = call.fn()
        if inspect.isawaitable(outcome):
            outcome = await outcome
        data = encoded(outcome, what, call.encode, self._limits.payload_bytes)
        # A value that cannot be read back must fail here, and not in a replay.
        call.codec.decode(data)
        return data

    async def _activity(self, job: Job, call: ActivityCall) -> bytes:
        definition = self._definitions.find_activity(call.name)
        assert definition is not None, "the kernel holds a unit without its activity"
        assert job.attempt is not None
        running_attempt.set(job.attempt)
        signature = definition.signature
        if self._interceptors:
            info = job.attempt.info
            innermost = partial(self._value, job, definition, call.input)
            value = await around_activity(self._interceptors, info, innermost)
        elif definition.executor == "process":
            return await self._in_process(job, definition, call.input)
        elif definition.is_async:  # as `_value` does it, with one coroutine less
            args, kwargs = signature.decode(call.input)
            value = await definition.fn(*args, **kwargs)
        else:
            value = await self._value(job, definition, call.input)
        limit = self._limits.payload_bytes
        result = encoded(value, signature.result.what, signature.result.encode, limit)
        signature.result.check(result)
        return result

    async def _value(self, job: Job, definition: ActivityDefinition, data: bytes) -> Any:
        """Run the function. Return its result as interceptors see it."""
        if definition.executor == "process":
            return definition.signature.result.decode(await self._in_process(job, definition, data))
        args, kwargs = definition.signature.decode(data)
        if definition.is_async:
            return await definition.fn(*args, **kwargs)
        # A thread of a pool has a context of its own, so it gets that of the attempt.
        context = copy_context()
        value: object = await self._on_thread(
            job, lambda: context.run(call_function, definition.fn, args, kwargs), job.describe()
        )
        if inspect.iscoroutine(value) and wraps_async(definition.fn):
            return await value  # a decorator has handed on the coroutine of an `async def`
        return value

    async def _on_thread(self, job: Job, body: Callable[[], Any], what: str | None = None) -> Any:
        """Run a function on a thread.

        A cancel waits for its end while the job has its grace, because a thread cannot be stopped.
        """
        try:
            running = self._threads.run(body, what)
        except RuntimeError as error:
            text = f"no thread can be started for {job.describe()}: {error}"
            raise EndedWith(Failure("RuntimeError", text, "infrastructure")) from error
        self.on_threads += 1
        try:
            return await _end_of(running, job)
        finally:
            self.on_threads -= 1

    async def _in_process(self, job: Job, definition: ActivityDefinition, data: bytes) -> bytes:
        """Run it in a process. Return the encoded result.

        A process that is lost is replaced, and the attempt runs again.
        """
        call = job.call
        assert isinstance(call, ActivityCall)
        attempt = job.attempt
        assert attempt is not None
        fn = definition.fn
        request = msgspec.msgpack.encode(
            Request(
                fn.__module__,
                fn.__qualname__,
                data,
                call.options.retry.names,
                self._limits.payload_bytes,
                attempt.info,
            )
        )
        lost: ProcessLost | None = None
        for _ in range(PROCESSES_LOST_MAX):
            try:
                return await self._exchange(job, attempt, request)
            except ProcessLost as error:
                lost = error
            if job.state != "running":
                break  # the process was killed, because the result is not wanted any more
            logger.warning("a process was lost with %s: %s", job.describe(), lost, extra=job.ids())
        text = f"{PROCESSES_LOST_MAX} processes were lost with it, one after the other"
        raise EndedWith(Failure("ProcessLost", f"{text}; the last one: {lost}", "infrastructure"))

    async def _exchange(self, job: Job, attempt: Attempt, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()

        def begin() -> None:
            # It may have timed out while the call was on its way to the loop.
            if job.state == "running" and job.timeouts is not None:
                job.timeouts.begin()

        def taken(process: PoolProcess) -> bool:
            job.work_in(process)
            loop.call_soon_threadsafe(begin)
            return job.state == "running"

        if job.timeouts is not None:
            job.timeouts.pause()  # its time is counted from when a process is there
        try:
            outcome: Outcome | None = await self._on_thread(
                job, lambda: self._processes.run(request, attempt, taken)
            )
        finally:
            job.work_in(None)
        if outcome is None:
            raise asyncio.CancelledError
        if outcome.failure is not None:
            raise EndedWith(outcome.failure)
        assert outcome.result is not None
        return outcome.result


async def _end_of(running: ThreadCall, job: Job) -> Any:
    while True:
        try:
            return await running.result()
        except asyncio.CancelledError:
            if running.is_done or job.state != "ending":
                raise


def cancelled_itself(job: Job) -> Failure:
    """The failure of a function that was cancelled by itself: a task of its own, a closed pool."""
    what = "checkpoint"
    if isinstance(job.call, ActivityCall):
        what = "activity"
    return Failure("CancelledError", f"the {what} cancelled itself", "cancelled")


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
