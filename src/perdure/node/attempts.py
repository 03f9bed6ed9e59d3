"""Attempts: activities and checkpoints that run on this node.

Each attempt is one task. It decodes the input, runs the function within its timeouts, encodes the outcome, and
delivers it as a message to the unit that
asked; whether there is another attempt is the kernel's decision. Cancelling reaches the function at once (the token,
and `CancelledError` in an `async def`); one
that has not ended after the grace period is left to itself and its result is ignored.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import multiprocessing
from collections import deque
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.activity import Attempt, attempt_ids, node_client, running_attempt
from perdure.errors import Failure, PayloadError, PayloadTooLarge, failure_of
from perdure.interceptor import Interceptor, around_activity
from perdure.kernel.call import ActivityCall, Call, StepCall
from perdure.kernel.message import ActivityDone, Message, StepDone
from perdure.logs import node_name
from perdure.node.job import Job
from perdure.node.pool import run_in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from perdure.client import Client
    from perdure.kernel.definition import ActivityDefinition, Definitions
    from perdure.kernel.unit import Unit
    from perdure.node.metrics import Metrics
    from perdure.node.options import NodeOptions
    from perdure.node.turns import Turns
    from perdure.ports.clock import Alarm, Clock

logger = logging.getLogger("perdure.activity")

_OWN_TRACE = (
    "perdure/node/attempts.py",
    "perdure/node/pool.py",
    "perdure/interceptor.py",
    "asyncio/tasks.py",
    "concurrent/futures/thread.py",
)


class Attempts:
    """Runs activities and checkpoints of this node's units, within its limits."""

    def __init__(self, turns: Turns, definitions: Definitions, clock: Clock, options: NodeOptions) -> None:
        """Nothing runs yet; thread and process pools are made when they are needed."""
        self._turns = turns
        self._definitions = definitions
        self._clock = clock
        self._options = options
        self.resources: object = None
        self.interceptors: list[Interceptor] = []
        self._jobs: dict[str, dict[int, Job]] = {}
        self._waiting: dict[str, deque[Job]] = {}
        self._running: dict[str, int] = {}
        self._total = 0
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._processes: ProcessPoolExecutor | None = None
        self._message_ids = 0
        self._stopped = False
        self._context = copy_context()
        self.metrics: Metrics | None = None

    def offer_client(self, make: Callable[[], Client]) -> None:
        """What `activity.client()` gives in activities and checkpoints."""
        self._context.run(node_client.set, make)

    def name_node(self, name: str) -> None:
        """What log records of activities say about the node."""
        self._context.run(node_name.set, name)

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return self._total

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[None]]:
        """The tasks of attempts that run now, also of cancelled ones that have not ended. Left out is what is
        `asleep`: an attempt, or its task, that waits for the node itself.
        """
        return [task for task, job in self._tasks.items() if task not in asleep and job.attempt not in asleep]

    @property
    def waiting(self) -> int:
        """How many wait for a free slot."""
        return sum(map(len, list(self._waiting.values())))  # a copy: metrics are read on another thread

    # ------------------------------------------------------------ asked by turns

    def start(self, unit: Unit, call: Call) -> None:
        """Run a call's next attempt, now or when its retry is due."""
        if self._stopped:
            return  # the next node derives it from the rows
        job = Job(unit, call)
        self._jobs.setdefault(unit.id, {})[call.seq] = job
        if isinstance(call, ActivityCall) and call.retry_at > self._clock.now_ms():
            job.alarm = self._clock.call_at(call.retry_at, lambda: self._retry(job))
            return
        self._enqueue(job)

    def _retry(self, job: Job) -> None:
        job.alarm = None
        assert isinstance(job.call, ActivityCall)
        if job.call.retry_at > self._clock.now_ms():
            job.alarm = self._clock.call_at(job.call.retry_at, lambda: self._retry(job))
        else:
            self._enqueue(job)

    def cancel(self, unit: str, call: Call) -> None:
        """Nobody wants this call's result any more."""
        job = self._jobs.get(unit, {}).pop(call.seq, None)
        if job is not None:
            self._cancel(job)

    def abandon(self, unit: str) -> None:
        """Nobody wants any result for this unit any more."""
        for job in self._jobs.pop(unit, {}).values():
            self._cancel(job)

    def _cancel(self, job: Job) -> None:
        if job.alarm is not None:
            job.alarm.cancel()
            job.alarm = None
        waiting = self._waiting.get(job.queue)
        if waiting is not None and job in waiting:
            waiting.remove(job)
        if job.attempt is not None:
            job.attempt.cancel()
        task = job.task
        if task is not None and not task.done():
            task.cancel()
            grace_ms = self._options.grace_ms
            self._clock.call_at(self._clock.now_ms() + grace_ms, lambda: _complain(task, job, grace_ms))

    # ------------------------------------------------------------ slots

    def _enqueue(self, job: Job) -> None:
        queue = job.queue
        limit = self._options.queues.get(queue, self._options.activities)
        if self._total < self._options.activities and self._running.get(queue, 0) < limit:
            self._launch(job)
            return
        job.queued_at = self._clock.now_ms()
        self._waiting.setdefault(queue, deque()).append(job)
        timeout_ms = job.call.options.start_timeout_ms if isinstance(job.call, ActivityCall) else None
        if timeout_ms is not None:
            job.alarm = self._clock.call_at(job.queued_at + timeout_ms, lambda: self._start_timeout(job))

    def _start_timeout(self, job: Job) -> None:
        waiting = self._waiting.get(job.queue)
        if waiting is None or job not in waiting:
            return
        waiting.remove(job)
        assert isinstance(job.call, ActivityCall)
        failure = _timed_out(job.call, "no slot became free", job.call.options.start_timeout_ms or 0)
        self._count(job, job.call, failure, None)
        self._report(job, None, failure)

    def _launch(self, job: Job) -> None:
        if job.alarm is not None:
            job.alarm.cancel()
            job.alarm = None
        self._total += 1
        queue = job.queue
        self._running[queue] = self._running.get(queue, 0) + 1
        work = self._run_activity(job, job.call) if isinstance(job.call, ActivityCall) else self._run_step(job)
        # In the node's context: that of whoever happened to wake the node is somebody else's.
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        job.task = task
        self._tasks[task] = job
        task.add_done_callback(lambda t: self._finished(t, job))

    def _finished(self, task: asyncio.Task[None], job: Job) -> None:
        queue = job.queue
        del self._tasks[task]
        job.task = job.attempt = None  # they refer to the job: memory goes back without waiting for the collector
        self._total -= 1
        self._running[queue] -= 1
        if not self._waiting:
            return
        for name, waiting in list(self._waiting.items()):
            limit = self._options.queues.get(name, self._options.activities)
            while waiting and self._total < self._options.activities and self._running.get(name, 0) < limit:
                self._launch(waiting.popleft())
            if not waiting:
                del self._waiting[name]

    # ------------------------------------------------------------ running

    async def _run_activity(self, job: Job, call: ActivityCall) -> None:
        definition = self._definitions.find_activity(call.name)
        assert definition is not None, "the kernel holds a unit that calls an activity which the app does not have"
        attempt = job.attempt = Attempt(job.info, call.details, self.resources)
        running_attempt.set(attempt)
        began = self.metrics.timer() if self.metrics is not None else 0.0
        result: bytes | None = None
        failure: Failure | None = None
        try:
            limit_ms, limit = self._limit(call)
            if limit_ms is None and call.options.heartbeat_timeout_ms is None:
                result = await self._invoke(definition, call.input)
            else:
                result = await self._invoke_within(definition, call, attempt, limit_ms, limit)
            self._check_result(call, result)
        except asyncio.CancelledError:
            if self._jobs.get(job.unit, {}).get(call.seq) is not job:
                self._count(job, call, None, began, given_up=True)
                raise
            failure = Failure("CancelledError", "the activity cancelled itself", "cancelled", retryable=False)
        except _TimedOut as timeout:
            failure = timeout.failure
        except PayloadError as error:
            failure = failure_of(error, category="configuration", skip=_OWN_TRACE)
        except BaseException as error:  # whatever the user's code raises is its outcome
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = failure_of(error, skip=_OWN_TRACE)
            if call.options.retry.is_final(error):
                failure = msgspec.structs.replace(failure, retryable=False)
        self._count(job, call, failure, began)
        self._report(job, result, failure, attempt.details)

    def _count(
        self, job: Job, call: ActivityCall, failure: Failure | None, began: float | None, *, given_up: bool = False
    ) -> None:
        """Note an attempt that has ended; `began` is None if it never ran."""
        tally, metrics = self._turns.tally, self.metrics
        tally.attempts += 1
        if failure is not None or given_up:
            tally.attempt_failures += 1
        if metrics is None:
            return
        seconds = metrics.timer() - began if began is not None else None
        if given_up or self._jobs.get(job.unit, {}).get(call.seq) is not job:
            metrics.attempt_given_up(call, seconds)
        else:
            metrics.attempt_ended(job.unit, call, failure, seconds)

    def _limit(self, call: ActivityCall) -> tuple[int | None, str]:
        """The time this attempt has, and which limit that is."""
        options = call.options
        if options.total_timeout_ms is not None:
            left = call.scheduled_at + options.total_timeout_ms - self._clock.now_ms()
            if options.timeout_ms is None or left < options.timeout_ms:
                return max(left, 0), "total"
        return options.timeout_ms, "attempt"

    async def _invoke(self, definition: ActivityDefinition, data: bytes) -> bytes:
        """Run the function; the encoded result."""
        signature = definition.signature
        if self.interceptors:
            attempt = running_attempt.get()
            assert attempt is not None
            value = await around_activity(self.interceptors, attempt.info, lambda: self._value(definition, data))
        elif definition.executor == "process":
            return await self._in_process(definition, data)
        else:
            args, kwargs = signature.decode(data)
            if definition.is_async:
                value = await definition.fn(*args, **kwargs)
            else:
                value = await self._in_thread(definition, args, kwargs)
        result = signature.result.encode(value)
        signature.result.check(result)
        return result

    async def _value(self, definition: ActivityDefinition, data: bytes) -> Any:
        """Run the function; its result as interceptors see it."""
        if definition.executor == "process":
            return definition.signature.result.decode(await self._in_process(definition, data))
        args, kwargs = definition.signature.decode(data)
        if definition.is_async:
            return await definition.fn(*args, **kwargs)
        return await self._in_thread(definition, args, kwargs)

    def _in_thread(
        self, definition: ActivityDefinition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        context = copy_context()
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread_pool(), lambda: context.run(_call, definition.fn, args, kwargs))

    def _in_process(self, definition: ActivityDefinition, data: bytes) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        fn = definition.fn
        return loop.run_in_executor(self._pool(), run_in_process, fn.__module__, fn.__qualname__, data)

    async def _invoke_within(
        self, definition: ActivityDefinition, call: ActivityCall, attempt: Attempt, limit_ms: int | None, limit: str
    ) -> bytes:
        """Run the function within its timeouts, which are counted on the node's clock."""
        work = asyncio.ensure_future(self._invoke(definition, call.input))
        timeout: list[Failure] = []
        alarms: dict[str, Alarm] = {}
        given_up = asyncio.Event()
        patience = asyncio.ensure_future(given_up.wait())

        def end() -> None:
            attempt.cancel()
            work.cancel()
            alarms["grace"] = self._clock.call_at(self._clock.now_ms() + self._options.grace_ms, given_up.set)

        def expire(why: str, after_ms: int) -> None:
            if not timeout:
                timeout.append(_timed_out(call, why, after_ms))
                end()

        def watch_beats(seen: int) -> None:
            silence_ms = call.options.heartbeat_timeout_ms
            assert silence_ms is not None
            if attempt.beats == seen and seen >= 0:
                expire("no heartbeat came", silence_ms)
                return
            beats = attempt.beats
            alarms["beat"] = self._clock.call_at(self._clock.now_ms() + silence_ms, lambda: watch_beats(beats))

        if limit_ms is not None:
            why = "all attempts together took too long" if limit == "total" else "the attempt took too long"
            total_ms = call.options.total_timeout_ms if limit == "total" else limit_ms
            alarms["limit"] = self._clock.call_at(self._clock.now_ms() + limit_ms, lambda: expire(why, total_ms or 0))
        if call.options.heartbeat_timeout_ms is not None:
            watch_beats(-1)
        try:
            await asyncio.wait([work, patience], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            end()
            await asyncio.wait([work, patience], return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            patience.cancel()
            for alarm in alarms.values():
                alarm.cancel()
        if not timeout:
            return work.result()
        if not work.done():
            what, grace_ms = call.describe(), self._options.grace_ms
            text = "%s does not end %d ms after its timeout; it is left to itself"
            logger.warning(text, what, grace_ms, extra=attempt_ids(attempt))
        elif not work.cancelled():
            work.exception()  # it is late; looking at it keeps asyncio from reporting it
        raise _TimedOut(timeout[0])

    async def _run_step(self, job: Job) -> None:
        call = job.call
        assert isinstance(call, StepCall)
        value: bytes | None = None
        failure: Failure | None = None
        try:
            outcome = call.fn()
            if inspect.isawaitable(outcome):
                outcome = await outcome
            value = call.encode(outcome)
            call.decode(value)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever the user's code raises is its outcome
            failure = failure_of(error, skip=_OWN_TRACE)
        self._deliver(job, StepDone(job.run, job.execution, call.seq, value, failure))

    def _check_result(self, call: ActivityCall, result: bytes) -> None:
        limit = self._options.limits.payload_bytes
        if len(result) > limit:
            msg = (
                f"the result of activity {call.name!r} has {len(result)} bytes; the limit is {limit} "
                "(Limits.payload_bytes): store it elsewhere and return a reference"
            )
            raise PayloadTooLarge(msg)

    def _report(self, job: Job, result: bytes | None, failure: Failure | None, details: bytes | None = None) -> None:
        call = job.call
        assert isinstance(call, ActivityCall)
        body = ActivityDone(job.run, job.execution, call.seq, call.attempt, result, failure, details)
        self._deliver(job, body)

    def _deliver(self, job: Job, body: ActivityDone | StepDone) -> None:
        jobs = self._jobs.get(job.unit)
        if jobs is None or jobs.get(job.call.seq) is not job:
            return
        del jobs[job.call.seq]
        if not jobs:
            del self._jobs[job.unit]
        self._message_ids += 1
        message_id = job.run[:8] + self._message_ids.to_bytes(8)
        self._turns.deliver(Message(message_id, job.unit, body, self._clock.now_ms(), 0, job.unit))

    # ------------------------------------------------------------ pools

    def _thread_pool(self) -> Executor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._options.threads, thread_name_prefix="perdure-activity")
        return self._threads

    def _pool(self) -> Executor:
        if self._processes is not None and getattr(self._processes, "_broken", False):
            self._processes.shutdown(wait=False)
            self._processes = None
        if self._processes is None:
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self._options.processes, mp_context=context)
        return self._processes

    async def stop(self, grace_ms: int) -> None:
        """Let what runs finish for up to `grace_ms`, then cancel it; it runs again when a node takes the instances
        up.
        """
        self._stopped = True
        if self._tasks and grace_ms:
            await asyncio.wait(list(self._tasks), timeout=grace_ms / 1000)
        for unit in list(self._jobs):
            self.abandon(unit)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=max(grace_ms, 100) / 1000)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.shutdown(wait=False, cancel_futures=True)


class _TimedOut(Exception):  # a private signal
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _call(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:  # a future cannot carry it
        msg = "the activity raised StopIteration"
        raise RuntimeError(msg) from error


def _timed_out(call: ActivityCall, why: str, after_ms: int) -> Failure:
    return Failure(
        "ActivityTimeout", f"activity {call.name!r}, attempt {call.attempt}: {why} ({after_ms} ms)", "application"
    )


def _complain(task: asyncio.Task[None], job: Job, grace_ms: int) -> None:
    if not task.done():
        logger.warning(
            "%s of %r does not end although it was cancelled %d ms ago; its result is ignored",
            job.call.describe(),
            job.unit,
            grace_ms,
            extra=job.ids(),
        )
