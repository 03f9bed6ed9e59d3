"""Attempts: activities and checkpoints that run on this node.

Each attempt is a job (job.py). It waits for a slot (slots.py), its function is run to an outcome
(runner.py) within its timeouts (timeouts.py), and the outcome is delivered as a message to the unit
that asked. Whether there is another attempt is the kernel's decision.

A job that takes too long, or whose result is not wanted any more, is told so at once: by its token,
and by `CancelledError` in an `async def`. A job that has not ended after its grace is left to
itself. It gives its slot back, and its result is ignored. If it has a process, that is killed. Its
thread is not used again before it ends.

A function can also be cancelled by others than the node. If that is the end of the event loop, the
attempt is given back: nothing is recorded, and it runs again in the next life. If it was the
function itself, it is a failure like others. Which of the two it was is known a moment later
(lookout.py).
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from perdure.activity import Attempt, node_client
from perdure.errors import Failure
from perdure.interceptor import overriding
from perdure.kernel.data.message import ActivityDone, CheckpointDone, Message
from perdure.kernel.loop.call import ActivityCall, Call, CallKey
from perdure.logs import node_name
from perdure.node.activities.job import Home, Job, Kind, named
from perdure.node.activities.lookout import Lookout
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
from perdure.node.telemetry.failures import log_call

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from perdure.kernel.data.definition import ActivityDefinition
    from perdure.node.surroundings import Surroundings

logger = logging.getLogger("perdure.activity")

CLEANUP_S = 0.5
"""How long cancelled attempts may take to end when the node stops.

It comes after the grace in which they could have finished.
"""

_LIVES_ON_S = 1.0
"""After how long a cancel by others than the node was not the end of the event loop.

A program may cancel its tasks one after the other, and wait for the end of each.
"""

_SLICE_S = 0.005
"""How long attempts are cancelled in one go.

Each of them then has code to run, and all of them in one turn of the event loop.
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
        # By unit or lease, and by call. A job that is not here runs in vain.
        self._wanted: dict[Home, dict[CallKey, Job]] = {}
        self._tasks: dict[asyncio.Task[Any], Job] = {}
        self._stopped = False
        self._lookout = Lookout(self._swept)
        # The client of functions, and the node's name in their log records.
        self._context = copy_context()
        self._context.run(node_client.set, given.client)
        self._context.run(node_name.set, given.node_name)
        self._loop = asyncio.get_running_loop()
        self._node_name = given.node_name
        self._resources = given.resources
        self._tally = given.tally
        self.metrics = given.metrics

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return self._slots.taken

    @property
    def waiting(self) -> int:
        """How many attempts wait for a free slot."""
        return self._slots.waiting

    @property
    def on_threads(self) -> int:
        """How many functions run on threads and in processes now."""
        return self._runner.on_threads

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[Any]]:
        """The tasks of attempts that run now, also of cancelled ones that have not ended.

        Attempts and tasks that are `asleep` are left out: they wait for the node itself.
        """
        working: list[asyncio.Task[Any]] = []
        for task, job in self._tasks.items():
            if task not in asleep and job.attempt not in asleep:
                working.append(task)
        return working

    # ------------------------------------------------------------ asked by turns

    def start(self, unit: str, call: Call) -> None:
        """Run a call's next attempt, now or when its retry is due.

        If this node has the attempt already, that one goes on.
        """
        if self._stopped or self._lookout.sees_sweep:
            return  # the next node derives it from the rows
        job = Job(unit, call, self._kind_of(call), self._deliver, unit)
        jobs = self._wanted.setdefault(unit, {})
        present = jobs.get(job.key)
        if present is not None:
            if present.is_same(job):
                present.renew(call)
                return
            self._give_up(present)
        jobs[job.key] = job
        self._begin_when_due(job)

    def work(
        self, token: bytes, unit: str, call: ActivityCall, deliver: Callable[[Message], None]
    ) -> Job | None:
        """Run the attempt of a task that was leased with this token. None: the node stops.

        `abandon` with the token gives it up, and then nothing is delivered.
        """
        if self._stopped or self._lookout.sees_sweep:
            return None
        job = Job(unit, call, self._kind_of(call), deliver, token)
        self._wanted[token] = {job.key: job}
        self._begin_when_due(job)
        return job

    def room(self, queue: str, kinds: Collection[Kind]) -> int:
        """How many more attempts of a queue could begin now, if they are of these kinds."""
        return self._slots.room(queue, kinds)

    def cancel(self, unit: str, call: Call) -> None:
        """The result of this call is not wanted any more."""
        job = self._wanted.get(unit, {}).get(call.key)
        if job is not None and self._forget(job):
            self._give_up(job)

    def abandon(self, home: Home) -> None:
        """No result for this unit, or of the task with this lease, is wanted any more."""
        for job in self._wanted.pop(home, {}).values():
            self._give_up(job)

    async def _abandon_all(self) -> None:
        ends_s = monotonic() + _SLICE_S
        while self._wanted:
            self.abandon(next(iter(self._wanted)))
            if monotonic() >= ends_s:
                await asyncio.sleep(0)
                ends_s = monotonic() + _SLICE_S

    def _kind_of(self, call: Call) -> Kind:
        """Where its function runs.

        An activity that the app does not have (any more) fails on the node's loop.
        """
        if not isinstance(call, ActivityCall):
            return "async"
        return kind_of(self._definitions.find_activity(call.name))

    def _is_wanted(self, job: Job) -> bool:
        return self._wanted.get(job.home, {}).get(job.key) is job

    def _forget(self, job: Job) -> bool:
        """Its result is not wanted from now on. False: it was not wanted before."""
        jobs = self._wanted.get(job.home)
        if jobs is None or jobs.get(job.key) is not job:
            return False
        del jobs[job.key]
        if not jobs:
            del self._wanted[job.home]
        return True

    # ------------------------------------------------------------ waiting

    def _begin_when_due(self, job: Job) -> None:
        job.forget_alarm()
        call = job.call
        if not isinstance(call, ActivityCall):
            self._slots.ask(job)
        elif call.retry_at and call.retry_at > self._clock.now_ms():
            # Also after the alarm has rung: a clock may have been set back meanwhile.
            alarm = self._clock.call_at(call.retry_at, lambda: self._begin_when_due(job))
            job.wait_until(alarm)
        elif not self._slots.ask(job):
            self._limit_wait(job, call)

    def _limit_wait(self, job: Job, call: ActivityCall) -> None:
        """A job that waits for a slot gives up when its time, or that of all attempts, is over."""
        limits: list[tuple[int, Failure]] = []
        if call.options.start_timeout_ms is not None:
            limits.append((call.options.start_timeout_ms, no_slot(call)))
        left_ms = total_left_ms(call, self._clock.now_ms())
        if left_ms is not None:
            limits.append((left_ms, total_over(call)))
        if not limits:
            return
        wait_ms, failure = min(limits, key=lambda limit: limit[0])
        alarm = self._clock.call_after(wait_ms, lambda: self._waited_too_long(job, failure))
        job.wait_until(alarm)

    def _waited_too_long(self, job: Job, failure: Failure) -> None:
        # It may have got its slot in the moment in which the alarm rang.
        if self._slots.withdraw(job):
            job.end()
            self._report(job, Outcome(None, failure))

    # ------------------------------------------------------------ running

    def _launch(self, job: Job) -> None:
        """The job has a slot: run it."""
        job.launch()
        call = job.call
        if isinstance(call, ActivityCall):
            if call.options.total_timeout_ms is not None and self._is_too_late(call):
                self._end(job)
                self._report(job, Outcome(None, total_over(call)))
                return
            limit = self._options.limits.payload_bytes
            attempt = Attempt(job.info, call.details, self._resources, limit)
            began_s = 0.0
            if self.metrics is not None:
                began_s = self.metrics.timer()
            job.begin_attempt(attempt, began_s)
            if is_limited(call):
                job.limit(Timeouts(self._clock, call, attempt, partial(self._expired, job)))
        # In the node's context. The present one is that of the code that happened to wake the node,
        # perhaps an activity of another instance.
        # And not by the task factory of the loop, which may begin it before its job knows of it.
        task = asyncio.Task(self._run(job), loop=self._loop, context=self._context.copy())
        job.run_in(task)
        self._tasks[task] = job
        task.add_done_callback(self._task_ended)

    def _is_too_late(self, call: ActivityCall) -> bool:
        left_ms = total_left_ms(call, self._clock.now_ms())
        return left_ms is not None and left_ms <= 0

    async def _run(self, job: Job) -> None:
        job.begin_function()
        outcome = await self._runner.run(job)
        task = job.task
        if task is not None and asyncio.current_task(self._loop) is task:
            # Noted here, because the callback would take one more round of the event loop.
            task.remove_done_callback(self._task_ended)
            del self._tasks[task]
            job.leave_task()
            self._returned(job, outcome, was_cancelled=task.cancelling() > 0)
        # Otherwise the coroutine is closed, not run: its event loop has ended.

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        job = self._tasks.pop(task)
        job.leave_task()
        if task.cancelled():
            self._returned(job, None, was_cancelled=True)  # before its first line ran
            return
        error = task.exception()
        if error is None or job.state == "ended":
            return
        if isinstance(error, KeyboardInterrupt):
            self._end(job)  # on its way out of the loop, and it runs again in the next life
            return
        # What is around the function has failed. The workflow must hear of it nevertheless.
        text = f"{job.describe()} was not run to its end: {error!r:.200}"
        failure = Failure(type(error).__name__, text, "infrastructure")
        self._returned(job, Outcome(None, failure), was_cancelled=False)

    def _returned(self, job: Job, outcome: Outcome | None, *, was_cancelled: bool) -> None:
        """The function has ended. Without an outcome it ended by a cancel."""
        if job.state == "ended":
            return  # it was left to itself, and is late
        if job.timeout is not None:
            # Also if the function has returned meanwhile: one limit, one outcome.
            outcome = Outcome(None, job.timeout)
        elif job.state == "running" and self._is_doubtful(outcome, was_cancelled):
            self._interrupted(job, outcome or Outcome(None, cancelled_itself(job)))
            return
        self._end(job)
        self._report(job, outcome)

    def _is_doubtful(self, outcome: Outcome | None, was_cancelled: bool) -> bool:
        """Whether the function may have ended because the event loop ends."""
        if outcome is None:
            return True  # a task that it waited for may have been cancelled before its own
        if outcome.failure is None:
            return False  # it has done its work nevertheless
        if outcome.failure.type == "CancelledError":
            return True  # on a thread, for a task of this loop that was cancelled before its own
        # Many functions answer a cancel with an error of their own: their connection is lost.
        return was_cancelled or self._lookout.sees_sweep

    def _interrupted(self, job: Job, outcome: Outcome) -> None:
        """It was cancelled, and not by this node. The outcome counts if the loop lives on."""
        job.interrupt()  # it keeps its slot, because nothing is to begin in a loop that ends

        def lives_on() -> None:
            # A stop gives the attempt back when it has waited for the others.
            if not self._stopped and not self._lookout.sees_sweep:
                self._end(job)
                self._report(job, outcome)

        # The time of this loop, and not the node's clock: the end of the loop is the question.
        job.wait_until(self._loop.call_later(_LIVES_ON_S, lives_on))

    def _swept(self) -> None:
        """All tasks of the event loop were cancelled, also those that the node cannot do without.

        The node is about to be stopped, or the loop to be closed. Nothing begins any more.
        """
        self._slots.close()
        self._loop.call_later(_LIVES_ON_S, self._warn_swept)

    def _warn_swept(self) -> None:
        if not self._stopped:
            text = (
                "all tasks of the event loop of node %s were cancelled, and the loop goes on: the "
                "node does nothing more; stop it, and start it again"
            )
            logger.warning(text, self._node_name, extra={"node": self._node_name})

    def _end(self, job: Job) -> None:
        """It has ended, or is left to itself: its slot is free."""
        job.end()
        self._slots.give_back(job)

    # ------------------------------------------------------------ ending it early

    def _expired(self, job: Job, failure: Failure) -> None:
        job.run_out(failure)
        self._ask_to_end(job)

    def _give_up(self, job: Job) -> None:
        """Its result is not wanted any more, and it is forgotten already."""
        if job.state == "waiting":
            self._slots.withdraw(job)
            job.end()
        elif job.state == "interrupted":
            self._end(job)
            self._count(job, None)
        elif job.state == "running":
            self._ask_to_end(job)

    def _ask_to_end(self, job: Job) -> None:
        job.ask_to_end()
        if not self._stopped:  # the stop has a time of its own
            grace_ms = self._options.grace_ms
            job.wait_until(self._clock.call_after(grace_ms, lambda: self._grace_over(job)))

    def _grace_over(self, job: Job) -> None:
        text = "%s does not end although it was cancelled %d ms ago; its result is ignored"
        if job.timeout is not None:
            text = "%s does not end %d ms after its timeout; it is left to itself"
        logger.warning(text, job.describe(), self._options.grace_ms, extra=job.ids())
        self._leave(job)

    def _leave(self, job: Job) -> None:
        """Leave it to itself."""
        outcome: Outcome | None = None
        if job.timeout is not None:
            outcome = Outcome(None, job.timeout)
        self._end(job)
        process = job.process
        if process is not None:
            process.kill()
        if job.task is not None and job.kind != "async":
            # The task only waits for a thread or a process. An async function would be interrupted
            # in its cleanup.
            job.task.cancel()
        self._report(job, outcome)

    # ------------------------------------------------------------ outcomes

    def _report(self, job: Job, outcome: Outcome | None) -> None:
        """Count it, and deliver its outcome if that is wanted. Without an outcome it is not."""
        self._count(job, outcome)
        details = job.take_details()
        if outcome is None or not self._forget(job):
            return
        if outcome.failure is not None:
            _log(job, outcome.failure)
        call = job.call
        body: ActivityDone | CheckpointDone
        if isinstance(call, ActivityCall):
            body = ActivityDone(job.run, job.execution, call.seq, job.number, details=details)
            body.result, body.failure = outcome.result, outcome.failure
        else:
            body = CheckpointDone(job.run, job.execution, call.seq, outcome.result, outcome.failure)
        now_ms = self._clock.now_ms()
        job.deliver(Message(job.message_id(), job.unit, body, now_ms, 0, job.unit))

    def _count(self, job: Job, outcome: Outcome | None) -> None:
        """Note an attempt of an activity that has ended."""
        call, metrics = job.call, self.metrics
        if not isinstance(call, ActivityCall):
            return
        self._tally.end_attempt(failed=outcome is None or outcome.failure is not None)
        if metrics is None:
            return
        seconds: float | None = None
        if job.began_s is not None:
            seconds = metrics.timer() - job.began_s
        if outcome is None or not self._is_wanted(job):
            metrics.attempt_given_up(call, seconds)
        else:
            metrics.attempt_ended(job.unit, call, outcome.failure, seconds)

    # ------------------------------------------------------------ the end

    async def stop(self, grace_ms: int) -> list[str]:
        """Begin nothing more, let running attempts finish for up to `grace_ms`, then cancel them.

        Attempts that were cancelled, and those that waited, run again when a node takes their
        instances up. Returns those that did not end even then: functions on threads, and async
        functions that do not heed their cancel.
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
        await self._lookout.end()
        if left:
            text = "the node stops without attempts that do not end (%d); they run again: %s"
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
        self._lookout.give_up()
        self._runner.close_at_once()


def kind_of(definition: ActivityDefinition | None) -> Kind:
    """Where an activity runs. One that the app does not have fails on the node's loop."""
    if definition is None or definition.is_async:
        return "async"
    return definition.executor


def _log(job: Job, failure: Failure) -> None:
    """Say that an attempt has failed, or a checkpoint, which has only one."""
    call = job.call
    is_final = False
    if isinstance(call, ActivityCall):
        is_final = not call.options.retry.wants(failure, job.number)
        what = f"attempt {job.number} of activity {call.name!r} of {job.unit!r}"
    else:
        what = job.describe()
    log_call(what, failure, is_final=is_final, ids=job.ids())
