"""Background work of a node: tasks that run until they end, or until the node stops."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from perdure.node.loop.patience import Stopped

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

logger = logging.getLogger("perdure.node")


class Background:
    """The tasks of one life of a node. A task that fails is reported, and takes nothing with it."""

    def __init__(self, node_name: str) -> None:
        """Nothing runs yet. The name is for log records."""
        self._node_name = node_name
        # The event loop itself holds its tasks only weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run this beside the node's turns."""
        _ = self.begin(work, name)

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run this beside the node's turns. The task may be cancelled."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def named(self, names: Collection[str]) -> list[asyncio.Task[None]]:
        """The tasks that run under one of these names."""
        return [task for task in self._tasks if task.get_name() in names]

    def give_up(self) -> list[asyncio.Task[None]]:
        """Cancel all but the task that asks."""
        # A node that stops because its store failed does so in such a task.
        asking = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not asking]
        for task in tasks:
            task.cancel()
        return tasks

    async def end(self) -> None:
        """Cancel all but the task that asks, and wait until they have ended."""
        tasks = self.give_up()
        if tasks:
            await asyncio.wait(tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None or isinstance(error, Stopped):
            return  # a stop ends work that waits for the store
        text = "background work %s of node %s has failed; restart the node, and please report it"
        ids = {"node": self._node_name}
        logger.error(text, task.get_name(), self._node_name, exc_info=error, extra=ids)
