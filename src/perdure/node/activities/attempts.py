"""Attempts: activities and checkpoints that run on this node.

Each attempt is a job (job.py). It waits for a slot (slots.py), its function is run to an outcome
(runner.py) within its timeouts (timeouts.py), and the outcome is delivered as a message to the unit
that asked. Whether there is another attempt is the kernel's decision.

A job that takes too long, or that nobody wants any more, is told so at once: by its token, and by
`CancelledError` in an `async def`. One that has not ended after its grace is left to itself: it
gives its slot back, what it returns is ignored, its process is killed if it has one, and its thread
is not used again before it ends.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from perdure.activity import Attempt, node_client
from perdure.interceptor import overriding
from perdure.kernel.data.message import ActivityDone, CheckpointDone, Message
from perdure.kernel.loop.call import ActivityCall, Call, CallKey
from perdure.logs import node_name
from perdure.node.activities.job import Job, Kind, named
from perdure.node.activities.outcome import Outcome
from perdure.node.activities.runner import Runner, cancelled_itself
from perdure.node.activities.slots import Slots
from perdure.node.activities.timeouts import (
    Timeouts,
    is_limited,
    no_slot,
    total_left_ms,
    total_over,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from perdure.errors import Failure
    from perdure.node.surroundings import Surroundings

logger = logging.getLogger("perdure.activity")

CLEANUP_S = 0.5
"""What cancelled attempts get to end when the node stops, after the grace in which they could have
finished.
"""

_LIVES_ON_S = 1.0
"""After how long an event loop that is about to end has ended."""

_SLICE_S = 0.005
"""How long attempts are cancelled in one go. Each of them then has a step to take, all in one turn of
the event loop.
"""

_NAMED = 10
"""How many of the attempts that a stop leaves are named."""


class Attempts:
    """Runs activities and checkpoints of this node's units, within its limits."""

    def __init__(self, given: Surroundings, deliver: Callable[[Message], None]) -> None:
        """Nothing runs yet. Outcomes are messages for `deliver`."""
        self._deliver = deliver
        self._definitions = given.definitions
        self._clock = given.clock
        self._options = given.options
        interceptors = overriding(given.interceptors, "activity")
        self._runner = Runner(given.definitions, given.options.limits, interceptors)
        self._slots = Slots(given.options, self._launch)
        self._wanted: dict[str, dict[CallKey, Job]] = {}
        self._tasks: dict[asyncio.Task[Any], Job] = {}
        self._stopped = False
        # What functions see of their node, and what their log records say about it.
        self._context = copy_context()
        self._context.run(node_client.set, given.client)
        self._context.run(node_name.set, given.node_name)
        self._loop = asyncio.get_running_loop()
        self._resources = given.resources
        self._tally = given.tally
        self.metrics = given.metrics

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return self._slots.taken

    @property
    def waiting(self) -> int:
        """How many wait for a free slot."""
        return self._slots.waiting

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[Any]]:
        """The tasks of attempts that run now, also of cancelled ones that have not ended. Left out
        is what is `asleep`: an attempt, or its task, that waits for the node itself.
        """
        jobs = self._tasks.items()
        return [task for task, job in jobs if task not in asleep and job.attempt not in asleep]

    # ------------------------------------------------------------ asked by turns

    def start(self, unit: str, call: Call) -> None:
        """Run a call's next attempt, now or when its retry is due. One that this node has already
        goes on for it.
        """
        if self._stopped:
            return  # the next node derives it from the rows
        job = Job(unit, call, self._kind_of(call))
        jobs = self._wanted.setdefault(unit, {})
        present = jobs.get(job.key)
        if present is not None:
            if present.is_same(job):
                present.call = call  # the unit was loaded again meanwhile
                return
            self._give_up(present)
        jobs[job.key] = job
        self._begin_when_due(job)

    def cancel(self, unit: str, call: Call) -> None:
        """Nobody wants this call's result any more."""
        job = self._wanted.get(unit, {}).get(call.key)
        if job is not None and self._forget(job):
            self._give_up(job)

    def abandon(self, unit: str) -> None:
        """Nobody wants any result for this unit any more."""
        for job in self._wanted.pop(unit, {}).values():
            self._give_up(job)

    async def _abandon_all(self) -> None:
        ends_s = monotonic() + _SLICE_S
        while self._wanted:
            self.abandon(next(iter(self._wanted)))
            if monotonic() >= ends_s:
                await asyncio.sleep(0)
                ends_s = monotonic() + _SLICE_S

    def _kind_of(self, call: Call) -> Kind:
        """Where its function runs. One that the app does not have (any more) fails where it would
        run.
        """
        if not isinstance(call, ActivityCall):
            return "async"
        definition = self._definitions.find_activity(call.name)
        if definition is None or definition.is_async:
            return "async"
        return definition.executor

    def _is_wanted(self, job: Job) -> bool:
        return self._wanted.get(job.unit, {}).get(job.key) is job

    def _forget(self, job: Job) -> bool:
        """Nobody waits for its result from now on; False: nobody did."""
        jobs = self._wanted.get(job.unit)
        if jobs is None or jobs.get(job.key) is not job:
            return False
        del jobs[job.key]
        if not jobs:
            del self._wanted[job.unit]
        return True

    # ------------------------------------------------------------ waiting

    def _begin_when_due(self, job: Job) -> None:
        job.alarm = None
        call = job.call
        if (
            isinstance(call, ActivityCall)
            and call.retry_at
            and call.retry_at > self._clock.now_ms()
        ):
            job.alarm = self._clock.call_at(call.retry_at, lambda: self._begin_when_due(job))
        elif not self._slots.ask(job) and isinstance(call, ActivityCall):
            self._limit_wait(job, call)

    def _limit_wait(self, job: Job, call: ActivityCall) -> None:
        """A job that waits for a slot gives up when its time, or that of all attempts, is over."""
        limits: list[tuple[int, Failure]] = []
        if call.options.start_timeout_ms is not None:
            limits.append((call.options.start_timeout_ms, no_slot(call)))
        left_ms = total_left_ms(call, self._clock.now_ms())
        if left_ms is not None:
            limits.append((left_ms, total_over(call)))
        if limits:
            wait_ms, failure = min(limits, key=lambda limit: limit[0])
            job.alarm = self._clock.call_after(wait_ms, lambda: self._waited_too_long(job, failure))

    def _waited_too_long(self, job: Job, failure: Failure) -> None:
        if self._slots.withdraw(job):
            job.state = "ended"
            self._report(job, Outcome(None, failure))

    # ------------------------------------------------------------ running

    def _launch(self, job: Job) -> None:
        """The job has a slot: run it."""
        if job.alarm is not None:
            job.forget_alarm()
        job.state = "running"
        call = job.call
        if isinstance(call, ActivityCall):
            if call.options.total_timeout_ms is not None and self._is_too_late(call):
                self._end(job)
                self._report(job, Outcome(None, total_over(call)))
                return
            limit = self._options.limits.payload_bytes
            job.attempt = Attempt(job.info, call.details, self._resources, limit)
            job.began = self.metrics.timer() if self.metrics is not None else 0.0
            if is_limited(call):
                job.timeouts = Timeouts(self._clock, call, job.attempt, partial(self._expired, job))
                job.timeouts.begin()
        # In the node's context: that of whoever happened to wake the node is somebody else's.
        task = self._loop.create_task(self._run(job), context=self._context.copy())
        job.task = task
        self._tasks[task] = job
        task.add_done_callback(self._task_ended)

    def _is_too_late(self, call: ActivityCall) -> bool:
        left_ms = total_left_ms(call, self._clock.now_ms())
        return left_ms is not None and left_ms <= 0

    async def _run(self, job: Job) -> None:
        outcome = await self._runner.run(job)
        if job.task is not None and asyncio.current_task(self._loop) is job.task:
            self._returned(job, outcome)
        # Otherwise the coroutine is closed, not run: its event loop has ended.

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        job = self._tasks.pop(task)
        job.task = None
        if task.cancelled():
            self._returned(job, None)  # before its first step
        elif task.exception() is not None and job.state != "ended":
            # KeyboardInterrupt, on its way out of the loop: it runs again in the next life.
            self._end(job)

    def _returned(self, job: Job, outcome: Outcome | None) -> None:
        """The function has ended; None: it was cancelled, and not by itself."""
        if job.state == "ended":
            return  # it was left to itself, and is late
        if job.timeout is not None:
            outcome = Outcome(None, job.timeout)
        elif outcome is None and job.state == "running":
            self._interrupted(job)
            return
        self._end(job)
        self._report(job, outcome)

    def _interrupted(self, job: Job) -> None:
        """Its task was cancelled, and not by this node. If the event loop is about to end, then the
        attempt has not failed: it runs again in the next life. If the loop lives on, then it was
        the function itself.
        """
        job.state = "interrupted"  # it keeps its slot: nothing is to begin in a loop that ends
        if job.timeouts is not None:
            job.timeouts.end()  # the function takes no more time, whoever cancelled it
        outcome = Outcome(None, cancelled_itself(job))

        def lives_on() -> None:
            self._end(job)
            self._report(job, outcome)

        job.alarm = self._loop.call_later(_LIVES_ON_S, lives_on)

    def _end(self, job: Job) -> None:
        """It has ended, or is left to itself: its slot is free."""
        if job.alarm is not None:
            job.forget_alarm()
        if job.timeouts is not None:
            job.timeouts.end()
        job.state = "ended"
        self._slots.give_back(job)

    # ------------------------------------------------------------ ending it early

    def _expired(self, job: Job, failure: Failure) -> None:
        job.timeout = failure
        self._ask_to_end(job)

    def _give_up(self, job: Job) -> None:
        """Its result is not wanted any more, and it is forgotten already."""
        if job.state == "waiting":
            job.forget_alarm()
            self._slots.withdraw(job)
            job.state = "ended"
        elif job.state == "interrupted":
            self._end(job)
            self._count(job, None)
        elif job.state == "running":
            self._ask_to_end(job)

    def _ask_to_end(self, job: Job) -> None:
        job.state = "ending"
        if job.timeouts is not None:
            job.timeouts.end()
        if job.attempt is not None:
            job.attempt.cancel()
        assert job.task is not None
        job.task.cancel()
        if not self._stopped:  # the stop has a time of its own
            job.alarm = self._clock.call_after(
                self._options.grace_ms, lambda: self._grace_over(job)
            )

    def _grace_over(self, job: Job) -> None:
        job.alarm = None
        text = "%s does not end although it was cancelled %d ms ago; its result is ignored"
        if job.timeout is not None:
            text = "%s does not end %d ms after its timeout; it is left to itself"
        logger.warning(text, job.describe(), self._options.grace_ms, extra=job.ids())
        self._leave(job)

    def _leave(self, job: Job) -> None:
        """Leave it to itself."""
        outcome = Outcome(None, job.timeout) if job.timeout is not None else None
        self._end(job)
        process = job.process
        if process is not None:
            process.kill()
        if job.task is not None and job.kind != "async":
            # It only waits. An async function would be interrupted in its cleanup.
            job.task.cancel()
        self._report(job, outcome)

    # ------------------------------------------------------------ outcomes

    def _report(self, job: Job, outcome: Outcome | None) -> None:
        """Count it, and deliver its outcome if somebody wants it; None: nobody does."""
        self._count(job, outcome)
        details = job.attempt.details if job.attempt is not None else None
        # It refers to the job: without it memory goes back before the collector looks.
        job.attempt = None
        if outcome is None or not self._forget(job):
            return
        call = job.call
        body: ActivityDone | CheckpointDone
        if isinstance(call, ActivityCall):
            body = ActivityDone(job.run, job.execution, call.seq, job.number, details=details)
            body.result, body.failure = outcome.result, outcome.failure
        else:
            body = CheckpointDone(job.run, job.execution, call.seq, outcome.result, outcome.failure)
        now_ms = self._clock.now_ms()
        self._deliver(Message(job.message_id(), job.unit, body, now_ms, 0, job.unit))

    def _count(self, job: Job, outcome: Outcome | None) -> None:
        """Note an attempt of an activity that has ended."""
        call, metrics = job.call, self.metrics
        if not isinstance(call, ActivityCall):
            return
        failure = outcome.failure if outcome is not None else None
        self._tally.end_attempt(failed=failure is not None or outcome is None)
        if metrics is None:
            return
        seconds = metrics.timer() - job.began if job.began is not None else None
        if outcome is None or not self._is_wanted(job):
            metrics.attempt_given_up(call, seconds)
        else:
            metrics.attempt_ended(job.unit, call, failure, seconds)

    # ------------------------------------------------------------ the end

    async def stop(self, grace_ms: int) -> list[str]:
        """Begin nothing more, let what runs finish for up to `grace_ms`, then cancel it. What was
        cancelled, and what waited, runs again when a node takes the instances up.

        Returns what did not end even then: functions on threads, and async ones that do not heed
        their cancel.
        """
        self._begin_nothing()
        if self._tasks and grace_ms:
            await asyncio.wait(list(self._tasks), timeout=grace_ms / 1000)
        await self._abandon_all()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLEANUP_S)
        for job in list(self._tasks.values()):
            if job.state != "ended":
                self._leave(job)
        left = await self._runner.close()
        left += [job.describe() for job in self._tasks.values() if job.kind == "async"]
        if left:
            text = "%d attempts do not end, and the node stops without them; they run again: %s"
            logger.warning(text, len(left), named(left, _NAMED))
        return left

    def _begin_nothing(self) -> None:
        self._stopped = True
        self._slots.close()

    def leave_at_once(self) -> None:
        """End a stop that was cancelled: cancel everything, and wait for nothing."""
        self._begin_nothing()
        while self._wanted:
            self.abandon(next(iter(self._wanted)))
        self._runner.close_at_once()
