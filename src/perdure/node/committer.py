"""The committer: commits that pile up while the last batch is being made durable go into the next one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.kernel.commit import Commit, Verdict
    from perdure.ports.store import Store

logger = logging.getLogger("perdure.node")

Done = Callable[["Verdict"], None]


class Committer:
    """Hands commits to the store in batches, one batch at a time, and reports the verdicts in order.

    A batch that the store could not take, or whose outcome is unknown, is submitted again as it is for a while: the
    store recognises commits that it has already. After that `failed` is called with the error, and nothing is
    submitted any more.
    """

    def __init__(self, store: Store, retry_ms: int, failed: Callable[[Exception], None]) -> None:
        """Nothing runs until the first `submit`."""
        self._store = store
        self._retry_ms = retry_ms
        self._failed = failed
        self._waiting: list[tuple[Commit, Done]] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.node_name = ""

    def submit(self, commit: Commit, done: Done) -> None:
        """Make a commit durable; `done` gets the verdict on the node's loop."""
        if self._stopped:
            return
        self._waiting.append((commit, done))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure-committer")

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                verdicts = await self._commit([commit for commit, _ in batch])
                for (_, done), verdict in zip(batch, verdicts, strict=True):
                    done(verdict)
        except Exception as error:  # whatever it is, the node must not go on as if it had committed
            self._stopped = True
            self._failed(error)
        finally:
            self._task = None

    async def _commit(self, commits: list[Commit]) -> list[Verdict]:
        """Submit a batch, again and again while the store says that it cannot take it."""
        waited_ms = 0
        delay_ms = 50
        while True:
            try:
                return await self._store.commit(commits)
            except StoreUnavailable as error:
                if waited_ms >= self._retry_ms:
                    raise
                text = "the store cannot take a batch of %d commits; it is tried again: %s"
                logger.warning(text, len(commits), error, extra={"node": self.node_name})
            await asyncio.sleep(delay_ms / 1000)
            waited_ms += delay_ms
            delay_ms = min(delay_ms * 2, 1_000)

    @property
    def busy(self) -> bool:
        """Whether something that was submitted has no verdict yet."""
        return self._task is not None

    async def drain(self) -> None:
        """Wait until everything that was submitted has its verdict."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
