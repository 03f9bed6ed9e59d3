"""The worker of a node: it leases tasks of the queues that the node serves, and runs them.

    told of a queue, or a slot is free ──▶ lease ──▶ attempt (activities/attempts.py)
                                                        │
                store has the result ◀── results ◀──────┘
                     (then the slot's queue is asked again)

A task is run by the same code as an activity of the node's own instances, within the same slots.
Whether there is another attempt is decided by the owner of the instance.

A worker that is told of tasks asks for them at once. It looks by itself every few seconds, because
what it is told may be lost. That is one question for all queues, and only those that have tasks are
asked for them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from perdure.errors import Failure, StoreError
from perdure.kernel.data.message import ActivityDone, Message
from perdure.kernel.data.placement import derived_id
from perdure.node.background import Background
from perdure.node.queues.held import Held, call_of
from perdure.node.queues.keeper import Keeper
from perdure.node.queues.results import Results, result_of
from perdure.ports.moving import MovableStore
from perdure.ports.store import (
    Waiting,
)
from perdure.ports.tasks import SessionHold, TaskMatch, TaskRequest
from perdure.store.seal import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from perdure.kernel.data.commit import Task
    from perdure.node.activities.attempts import Attempts
    from perdure.node.queues.routes import Routes
    from perdure.node.queues.store_time import StoreTime
    from perdure.node.surroundings import Surroundings
    from perdure.ports.clock import Alarm
    from perdure.ports.tasks import TaskHint

logger = logging.getLogger("perdure.worker")

_BATCH = 100
"""Tasks that are leased at once. A node that takes more would leave less for others."""

_RETRY_MS = 1_000
"""When a store that did not answer is asked for tasks again."""

_LAST_POST_S = 2.0
"""How long a worker that stops waits for the store to take its last results."""


class _Line:
    """What the worker knows of a queue that it serves."""

    __slots__ = ("alarm", "has_more", "is_due", "running")

    def __init__(self) -> None:
        # Looked at first of all, because tasks may wait from before.
        self.is_due = True
        # Whether the last answer left tasks that could be had when something has ended.
        self.has_more = False
        self.running = 0
        self.alarm: Alarm | None = None

    def ask_again(self) -> None:
        """There may be tasks for this worker."""
        self.is_due = True

    def ask_at(self, alarm: Alarm) -> None:
        """Ask again when the alarm rings."""
        self.alarm = alarm

    def begin_asking(self) -> None:
        """The store is being asked for tasks now."""
        self.is_due = False
        self.end()

    def has_answered(self, *, has_more: bool, is_full: bool) -> None:
        """The store has answered. `is_full`: with as many tasks as were asked for."""
        self.has_more = has_more
        self.is_due = self.is_due or is_full

    def begin_task(self) -> None:
        """One more task runs."""
        self.running += 1

    def end_task(self) -> bool:
        """One task less runs. Returns whether to ask for another one."""
        self.running -= 1
        return self.finish()

    def finish(self) -> bool:
        """A task is out of the way of others. Returns whether to ask for another one."""
        self.is_due = self.is_due or self.has_more
        return self.is_due

    def end(self) -> None:
        """Wait for no time any more."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None


class TaskWorker:
    """Runs tasks of the queues that its node serves."""

    def __init__(
        self, given: Surroundings, attempts: Attempts, routes: Routes, time: StoreTime
    ) -> None:
        """Nothing is leased yet."""
        self._store = given.store
        self._clock = given.clock
        self._options = given.options
        self._routes = routes
        self._time = time
        self._attempts = attempts
        self._loop = asyncio.get_running_loop()
        self._background = Background(given.node_name)
        self.name = f"{given.node_name}/{given.incarnation.id}"
        self._ids = {"node": given.node_name}
        self._lines: dict[str, _Line] = {}
        self._news = asyncio.Event()
        self._leasing: asyncio.Task[None] | None = None
        self._is_away = False
        self._has_moved = False
        self._is_draining = False
        self._results = Results(given.store, self._settled)
        self._keeper = Keeper(given, self.name, time, self._lost)

    @property
    def running(self) -> dict[str, int]:
        """How many tasks of each queue this node has."""
        return {queue: line.running for queue, line in self._lines.items()}

    def has(self, token: bytes | None) -> bool:
        """Whether the task with this lease is still this node's."""
        return self._keeper.find(token) is not None

    def begin(self) -> None:
        """Take tasks from now on."""
        hints = self._store.task_hints()
        self._background.spawn(self._hear(hints), "perdure-worker-hints")
        self._leasing = self._background.begin(self._run(), "perdure-worker")
        self._background.spawn(self._look(), "perdure-worker-look")
        self._background.spawn(self._results.run(), "perdure-results")
        self._background.spawn(self._keeper.run(), "perdure-leases")

    # ------------------------------------------------------------ which queue to ask

    async def _hear(self, hints: AsyncIterator[TaskHint]) -> None:
        async for hint in hints:
            if hint.is_drop:
                self._keeper.look_at(hint.queue)
            else:
                self._ask_soon(hint.queue)

    async def _look(self) -> None:
        """Look for tasks of which this worker was not told."""
        while True:
            await asyncio.sleep(self._options.rescan_ms / 1000)
            try:
                waiting = await self._waiting()
                await self._look_at_place()
            except StoreError as error:
                logger.debug("queues cannot be looked at now: %s", error)
                continue
            for queue in waiting:
                self._ask_soon(queue)

    async def _look_at_place(self) -> None:
        """Say once that the store has moved.

        Nothing waits in a store that has moved, so no request for a task is refused there.
        """
        if self._has_moved or not isinstance(self._store, MovableStore):
            return
        seal = await self._store.seal()
        if seal is not None and seal.is_closed:
            self._has_moved = True
            text = "this node gets no tasks any more, stop it and start it with the new URL: %s"
            logger.error(text, refusal(seal, self._store.place), extra=self._ids)

    async def _waiting(self) -> list[str]:
        """The queues with tasks that wait, of those that the node serves."""
        served = tuple(self._routes.queues())
        if not served:
            return []
        query = Waiting(queues=served, at=self._time.now_ms(), limit=len(served))
        return (await self._store.query(query)).items

    def _ask_soon(self, queue: str) -> None:
        line = self._lines.get(queue)
        if line is None:
            if queue not in self._routes.queues():
                return
            line = self._lines[queue] = _Line()
        line.ask_again()
        self._news.set()

    async def _run(self) -> None:
        # Queues that the app declares later are found by hints, or by the next look.
        for queue in self._routes.queues():
            self._lines[queue] = _Line()
        await self._time.look()
        while not self._is_draining:
            for queue, line in list(self._lines.items()):
                room = self._room(queue, line)
                # A queue that is due and has no room is asked when a task of it has ended.
                if line.is_due and room > 0:
                    line.begin_asking()
                    await self._lease(queue, line, room)
            # A drain, a hint or a free slot ends the wait.
            if not self._can_ask():
                await self._news.wait()
            self._news.clear()

    def _can_ask(self) -> bool:
        """Whether there is a queue to ask for tasks now, and room for some."""
        return any(line.is_due and self._room(queue, line) for queue, line in self._lines.items())

    def _room(self, queue: str, line: _Line) -> int:
        # As many as can begin now: a task that waits here for a slot would not run elsewhere.
        room = min(_BATCH, self._attempts.room(queue, self._routes.kinds(queue)))
        per_node = self._routes.rules(queue).per_node
        if per_node is not None:
            room = min(room, per_node - line.running)
        return max(0, room)

    # ------------------------------------------------------------ leasing

    async def _lease(self, queue: str, line: _Line, room: int) -> None:
        options = self._options
        request = TaskRequest(
            queue=queue,
            worker=self.name,
            limit=room,
            lease_ms=options.task_lease_ms,
            at=await self._time.look(),
            match=TaskMatch(
                names=self._routes.names(),
                tags=options.tags,
                only_tagged=options.only_tagged,
                sessions=options.sessions,
            ),
            rules=self._routes.rules(queue),
        )
        try:
            leased = await self._store.lease(request)
        except StoreError as error:
            # What was leased without an answer is taken up again when its lease has expired.
            self._say_away(queue, error)
            self._ask_at(queue, line, self._clock.now_ms() + _RETRY_MS)
            return
        self._is_away = False
        is_full = len(leased.tasks) == room
        line.has_answered(has_more=leased.again_at is not None, is_full=is_full)
        # They begin now and not when all queues were asked: their leases run already.
        for task in leased.tasks:
            self._begin(task, line)
        if leased.again_at is not None and not is_full:
            wait_ms = max(1, leased.again_at - request.at)
            self._ask_at(queue, line, self._clock.now_ms() + wait_ms)

    def _say_away(self, queue: str, error: StoreError) -> None:
        if not self._is_away:  # once for each time that the store is away
            text = "no tasks of queue %s can be leased now, and they are asked for again: %s"
            logger.warning(text, queue, error, extra=self._ids)
        self._is_away = True

    def _ask_at(self, queue: str, line: _Line, at: int) -> None:
        line.ask_at(self._clock.call_at(at, lambda: self._ask_soon(queue)))

    def _begin(self, task: Task, line: _Line) -> None:
        held = Held(task, self._loop.time())
        line.begin_task()
        self._keeper.add(held)
        try:
            call = call_of(task, self._loop)
        # Another release has written it. A workflow that waits for ever would be worse.
        except (ValueError, TypeError, KeyError) as error:
            text = f"this worker cannot read {held.describe()}: {error}; deploy the same release"
            self._ended(held, _refused(task, text, self._clock.now_ms()))
            return

        def deliver(message: Message) -> None:
            self._ended(held, message)

        job = self._attempts.work(held.token, task.unit, call, deliver)
        if job is not None:
            held.run_as(job)

    # ------------------------------------------------------------ the ends of tasks

    def _ended(self, held: Held, message: Message) -> None:
        """The function of a task has ended. Its slot is free."""
        if not self.has(held.token):
            return  # the lease was lost meanwhile
        held.end(result_of(held, message, self.name))
        self._results.add(held)
        self._free(held)

    def _free(self, held: Held) -> None:
        if self._lines[held.task.queue].end_task():
            self._news.set()

    def _settled(self, batch: Sequence[Held]) -> None:
        """The store has these results, so limits of their queues may allow other tasks."""
        for held in batch:
            self._keeper.remove(held)
            if self._lines[held.task.queue].finish():
                self._news.set()

    def _lost(self, held: Held) -> None:
        """The task was cancelled, or counts as lost: nobody wants its result."""
        text = "%s is not this node's any more: it was cancelled, or its lease has expired"
        logger.info(text, held.describe(), extra={**self._ids, **held.ids()})
        # Its slot comes back when its function has ended. The count of the queue goes on at once.
        if held.result is None:
            self._free(held)
        self._attempts.abandon(held.token)

    # ------------------------------------------------------------ the end

    def drain(self) -> None:
        """Take no more tasks. Those that run go on."""
        # A question that is on its way is not given up: what the store has leased must be known.
        self._is_draining = True
        self._news.set()
        for line in self._lines.values():
            line.end()

    async def stop(self) -> None:
        """Post the last results, and give back what has none, so that others run it.

        It is called when the attempts have ended.
        """
        if self._leasing is not None:
            await asyncio.wait([self._leasing], timeout=_LAST_POST_S)
        await self._background.end()
        try:
            async with asyncio.timeout(_LAST_POST_S):
                await self._results.post()
                await self._give_back()
        except (TimeoutError, StoreError) as error:
            # Their leases expire, and others run them then.
            text = "tasks of node %s are taken up when their leases have expired: %s"
            logger.warning(text, self.name, error or "the store does not answer", extra=self._ids)

    async def _give_back(self) -> None:
        # One with a result stays this node's until its lease expires.
        leases = [held.renewal(0) for held in self._keeper.all() if held.result is None]
        if leases:
            self._store.tell_workers(await self._store.give_back(leases))
        holds = [SessionHold(queue, name, self.name, 0) for queue, name in self._keeper.sessions]
        if holds:
            await self._store.hold_sessions(holds, self._time.now_ms())

    def leave_at_once(self) -> None:
        """End a stop that was cancelled: the leases expire."""
        self.drain()
        self._background.give_up()


def _refused(task: Task, text: str, now_ms: int) -> Message:
    """The result of a task that this release cannot read."""
    failure = Failure("TaskUnreadable", text, "configuration", retryable=False)
    body = ActivityDone(task.run, task.execution, task.seq, task.attempt, failure=failure)
    message_id = derived_id(task.run, task.execution, task.seq, b"done.%d" % task.attempt)
    return Message(message_id, task.unit, body, now_ms, 0)
