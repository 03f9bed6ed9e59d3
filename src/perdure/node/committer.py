"""The committer: commits that pile up while the last batch is being made durable go into the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.kernel.commit import Commit, Verdict
    from perdure.ports.store import Store

Done = Callable[["Verdict"], None]


class Committer:
    """Hands commits to the store in batches, one batch at a time, and reports the verdicts in order.

    A batch whose outcome is unknown is submitted again as it is: the store recognises commits that it has already.
    `failed` is called with
    the error when the store cannot go on; nothing is submitted after that.
    """

    def __init__(self, store: Store, failed: Callable[[Exception], None]) -> None:
        """Nothing runs until the first `submit`."""
        self._store = store
        self._failed = failed
        self._waiting: list[tuple[Commit, Done]] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.batches = 0
        self.commits = 0

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
                verdicts = await self._store.commit([commit for commit, _ in batch])
                self.batches += 1
                self.commits += len(batch)
                for (_, done), verdict in zip(batch, verdicts, strict=True):
                    done(verdict)
        except Exception as error:  # whatever it is, the node must not go on as if it had committed
            self._stopped = True
            self._failed(error)
        finally:
            self._task = None

    async def drain(self) -> None:
        """Wait until everything that was submitted has its verdict."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
