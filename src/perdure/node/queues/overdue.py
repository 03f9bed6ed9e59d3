"""Overdue tasks: attempts whose worker was lost, and those that have waited too long for one.

The owner of an instance looks for them, and has their failure recorded. Only the kernel decides
whether there is another attempt. A result that comes before that is recorded still counts.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.errors import Failure, StoreError
from perdure.kernel.data.message import ActivityDone, Message
from perdure.kernel.data.placement import derived_id
from perdure.kernel.data.retry import WORKER_LOST
from perdure.ports.store import Overdue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.kernel.data.commit import Task
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.queues.store_time import StoreTime
    from perdure.node.queues.worker import TaskWorker

logger = logging.getLogger("perdure.worker")

_PAGE = 500
_AGAIN_S = 60.0
"""When the failure of a task that is still there is delivered again: it waits for a pause, say."""


class OverdueTasks:
    """Looks for overdue tasks of the scopes that the node owns."""

    def __init__(
        self,
        turns: Turns,
        ownership: Ownership,
        options: NodeOptions,
        worker: TaskWorker,
        time: StoreTime,
    ) -> None:
        """Nothing is known to be overdue."""
        self._turns = turns
        self._ownership = ownership
        self._options = options
        self._worker = worker
        self._time = time
        # By the identity of a task's lease, when its failure was delivered.
        self._delivered: dict[tuple[str, int, int, bytes | None], float] = {}

    async def run(self) -> None:
        """Look again and again, at the pace of the wall."""
        # Twice in a lease, so that a lost worker is found at most half a lease behind its end.
        pause_s = min(self._options.rescan_ms, self._options.task_lease_ms // 2) / 1000
        while True:
            await asyncio.sleep(pause_s)
            # A frozen node refuses messages, and its scopes may have another owner by now.
            if self._ownership.is_frozen:
                continue
            try:
                await self.look()
            except StoreError as error:
                # The next look finds the same.
                logger.debug("overdue tasks cannot be looked for now: %s", error)

    async def look(self) -> None:
        """Have the failures of overdue tasks recorded."""
        scopes = [scope.name for scope in self._ownership.all() if scope.takes_messages]
        if not scopes:
            return
        now_s = asyncio.get_running_loop().time()
        # Forgotten in time, or a long life would collect each task whose worker was ever lost.
        for key, at_s in list(self._delivered.items()):
            if now_s - at_s > _AGAIN_S:
                del self._delivered[key]
        query = Overdue(scopes=tuple(scopes), at=await self._time.look(), limit=_PAGE)
        while True:
            page = await self._turns.store.query(query)
            # One page at a time: the next look goes on behind those that are recorded by then.
            # Those that stay there, of instances that are paused, must not hide the others.
            if self._fail_new(page.items, now_s, query.at) or page.next is None:
                return
            query = replace(query, after=page.next)

    def _fail_new(self, tasks: Sequence[Task], now_s: float, at: int) -> bool:
        """Deliver the failures that were not delivered lately. Returns whether there are any."""
        found = False
        for task in tasks:
            key = (task.unit, task.seq, task.attempt, task.token)
            # A worker of this very process that is held up lives, or nothing here would run.
            if key in self._delivered or self._worker.has(task.token):
                continue
            self._delivered[key] = now_s
            self._fail(task, at)
            found = True
        return found

    def _fail(self, task: Task, at: int) -> None:
        failure = failure_of(task, at)
        ids: dict[str, object] = {"instance": task.unit, "activity": task.name, "seq": task.seq}
        ids |= {"attempt": task.attempt, "queue": task.queue}
        logger.warning("%s", failure.message, extra=ids)
        body = ActivityDone(
            task.run, task.execution, task.seq, task.attempt, None, failure, task.details
        )
        # Derived, so that the next owner delivers the same message, and the failure counts once.
        message_id = derived_id(task.run, task.execution, task.seq, b"lost.%d" % task.attempt)
        self._turns.deliver(Message(message_id, task.unit, body, at, 0, task.unit))


def failure_of(task: Task, at: int) -> Failure:
    """Why an overdue task has failed at a time (ms)."""
    what = f"activity {task.name!r}, attempt {task.attempt}"
    if task.worker is not None:
        text = (
            f"{what}: its worker {task.worker!r} of queue {task.queue!r} was lost: "
            "it has not renewed its lease"
        )
        return Failure(WORKER_LOST, text, "infrastructure")
    if task.ends_at is not None and task.ends_at <= at:
        text = f"{what}: all attempts together took too long, waiting in queue {task.queue!r}"
    else:
        text = f"{what}: no worker of queue {task.queue!r} took it in time"
    return Failure("ActivityTimeout", text)
