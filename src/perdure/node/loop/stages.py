"""Stages: the work of turns that must end before their commits.

A unit whose turn has such work takes no other turn meanwhile, and its new messages gather.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from perdure.node.loop.supervisor import Discarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.unit.kinds import Working
    from perdure.kernel.unit.turn import Turn

logger = logging.getLogger("perdure.node")


class Stages:
    """Runs the work of turns, each in a task of its own."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether the work of a turn is under way."""
        return bool(self._tasks)

    def begin(self, working: Working, done: Callable[[Turn | Discarded], None]) -> None:
        """Do the work of a turn, and then call `done` with the turn, or with why there is none."""
        work = self._run(working, done)
        task = asyncio.get_running_loop().create_task(work, name="perdure-stage")
        # The event loop itself holds its tasks only weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, working: Working, done: Callable[[Turn | Discarded], None]) -> None:
        outcome: Turn | Discarded
        try:
            outcome = await working.finish()
        except Exception as error:
            # Code of the user may raise anything. A stop cancels the task, and that passes through.
            logger.exception("the work of a turn failed")
            outcome = Discarded(f"{type(error).__name__}: {error}")
        done(outcome)

    def give_up(self) -> list[asyncio.Task[None]]:
        """Cancel the work that is under way. The next owner begins it again."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    async def stop(self) -> None:
        """Cancel the work that is under way, and wait until it has ended."""
        tasks = self.give_up()
        if tasks:
            await asyncio.wait(tasks)
