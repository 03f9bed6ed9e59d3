"""The end of the loop's work: for the moment, when all of it is done, and for good."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.node.loop.committer import Committer
    from perdure.node.loop.deadlines import Deadlines
    from perdure.node.loop.memory import Memory
    from perdure.node.loop.ready import Ready
    from perdure.node.loop.stages import Stages
    from perdure.node.loop.waiters import Waiters
    from perdure.node.ownership.ownership import Ownership


class Ending:
    """Brings the loop of a node to its end. Nothing comes in once the end has begun."""

    def __init__(
        self,
        ownership: Ownership,
        ready: Ready,
        stages: Stages,
        committer: Committer,
        memory: Memory,
        deadlines: Deadlines,
        waiters: Waiters,
    ) -> None:
        """The loop goes on."""
        self.has_begun = False
        self._ownership = ownership
        self._ready = ready
        self._stages = stages
        self._committer = committer
        self._memory = memory
        self._deadlines = deadlines
        self._waiters = waiters

    # ------------------------------------------------------------ for the moment

    @property
    def quiet(self) -> bool:
        """Whether no turn is ready or on its way to the store, and nothing is being read."""
        if self._ready or self._stages.busy or self._committer.busy:
            return False
        return not self._memory.loader.reading

    async def settle(self) -> None:
        """Wait until it is quiet. The wait ends before attempts, clients or clocks bring more."""
        while not self.quiet:
            # Ready units take their turns when the event loop comes to them.
            await asyncio.sleep(0)
            await self._memory.loader.settle()
            await self._committer.drain()

    # ------------------------------------------------------------ for good

    async def stop(self, cause: Exception | None = None) -> None:
        """Take nothing more, let the commits on their way finish, leave memory.

        Callers that still wait are told the cause. A store that is away is waited for until its
        answer is late.
        """
        self._begin()
        await self._memory.loader.stop()
        self._committer.hurry()
        # Messages that have arrived are recorded. Units that would go on without a message take no
        # further turn.
        while self._ready and not self._ownership.is_frozen:
            self._ready.run()
            await asyncio.sleep(0)
        await self._stages.stop()
        await self._committer.drain()
        self._committer.stop()
        error = _stopped(cause)
        await self._memory.clear(error)
        self._waiters.fail(error)

    def leave_at_once(self) -> None:
        """End a stop that was cancelled: leave memory in one go.

        A unit that stayed would be left to the garbage collector, which runs lines of its code.
        """
        self._begin()
        self._memory.loader.close()
        self._stages.give_up()
        self._committer.stop()
        error = _stopped(None)
        self._memory.clear_at_once(error)
        self._waiters.fail(error)

    def _begin(self) -> None:
        self.has_begun = True
        self._deadlines.stop()


def _stopped(cause: Exception | None) -> StoreUnavailable:
    """The answer of a node that has stopped to callers that still wait."""
    why = "the node has stopped"
    if cause is not None:
        why = f"{cause}. The node has stopped"
    return StoreUnavailable(f"{why}; the instance goes on when a node runs again", "unknown")
