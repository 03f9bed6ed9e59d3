"""The lookout: whether all tasks of the event loop are cancelled.

`asyncio.run` does so at its end, and many programs do when they are asked to stop. Functions that
fail then have not failed: their program ends. A cancelled task alone does not tell, because a
function may cancel its own. So a task is kept that waits for nothing, and that no code but such a
sweep can find.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Lookout:
    """Notices a sweep of the running event loop."""

    def __init__(self, swept: Callable[[], None]) -> None:
        """Look out until `end`. `swept` is called soon after a sweep."""
        self._swept = swept
        self._ended = False
        # Without the context of the code that starts the node: the task would keep it alive.
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(_wait(), name="perdure-lookout", context=Context())
        self._task.add_done_callback(self._done)

    @property
    def sees_sweep(self) -> bool:
        """Whether the loop has been swept. It is known at once, before any task has ended."""
        return not self._ended and self._task.cancelling() > 0

    async def end(self) -> None:
        """Look out no longer."""
        self.give_up()
        await asyncio.wait([self._task])

    def give_up(self) -> None:
        """Look out no longer, where nothing can be awaited any more."""
        if not self.sees_sweep:
            self._ended = True
            self._task.cancel()

    def _done(self, _: asyncio.Task[None]) -> None:
        if not self._ended:
            self._swept()


async def _wait() -> None:
    await asyncio.get_running_loop().create_future()
