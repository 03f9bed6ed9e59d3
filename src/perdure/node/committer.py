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

_BATCH_MAX = 256
"""Commits that are handed over together: what follows them is done in one go, on the node's event loop."""

Done = Callable[["Verdict"], None]
Answer = asyncio.Future[list["Verdict"]]


class Committer:
    """Hands commits to the store in batches, one batch at a time, and reports the verdicts in order.

    A batch that the store could not take, or whose outcome is unknown, is submitted again as it is for a while: the
    store recognises commits that it has already. After that `failed` is called with the error, and nothing is
    submitted any more.
    """

    def __init__(self, store: Store, retry_ms: int, failed: Callable[[Exception], None]) -> None:
        """Nothing is handed over before the first `flush`."""
        self._store = store
        self._retry_ms = retry_ms
        self._failed = failed
        self._waiting: list[tuple[Commit, Done]] = []
        self._batch: list[tuple[Commit, Done]] = []
        self._answer: Answer | None = None
        self._stopped = False
        self.node_name = ""

    def submit(self, commit: Commit, done: Done) -> None:
        """Make a commit durable with the next batch; `done` gets the verdict on the node's loop."""
        if not self._stopped:
            self._waiting.append((commit, done))

    def flush(self) -> None:
        """Hand over what was submitted; while a batch is on its way, its answer does that."""
        if self._answer is not None or not self._waiting:
            return
        self._batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
        # A store that gives a future needs no task here, which would be a tenth of the work of a lonely step.
        answer = self._store.commit([commit for commit, _ in self._batch])
        self._wait_for(asyncio.ensure_future(answer), self._first_answer)

    def _wait_for(self, answer: Answer, then: Callable[[Answer], None]) -> None:
        self._answer = answer
        answer.add_done_callback(then)

    def _first_answer(self, answer: Answer) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, StoreUnavailable):
            again = self._again([commit for commit, _ in self._batch], error)
            self._wait_for(
                asyncio.get_running_loop().create_task(again, name="perdure-committer"),
                self._answered,
            )
        else:
            self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        batch, self._batch, self._answer = self._batch, [], None
        if answer.cancelled():  # the loop is being closed under us
            self.stop()
            return
        try:
            for (_, done), verdict in zip(batch, answer.result(), strict=True):
                done(verdict)
        except Exception as error:  # whatever it is, the node must not go on as if it had committed
            self.stop()
            self._failed(error)
        self.flush()

    async def _again(self, commits: list[Commit], error: StoreUnavailable) -> list[Verdict]:
        """Submit a batch again and again while the store says that it cannot take it.

        The time of the tries counts, too: one that waits for a lock may take seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._retry_ms / 1000
        is_unknown, delay_ms = error.outcome == "unknown", 50
        while loop.time() < deadline:
            text = "the store cannot take a batch of %d commits; it is tried again: %s"
            logger.warning(text, len(commits), error, extra={"node": self.node_name})
            await asyncio.sleep(delay_ms / 1000)
            delay_ms = min(delay_ms * 2, 1_000)
            try:
                return await self._store.commit(commits)
            except StoreUnavailable as refused:
                error = refused
                is_unknown = is_unknown or refused.outcome == "unknown"
        # A try that was refused for sure says nothing about an earlier one, which may have become durable.
        raise StoreUnavailable(str(error), "unknown" if is_unknown else "none") from error

    @property
    def busy(self) -> bool:
        """Whether something that was submitted has no verdict yet."""
        return self._answer is not None or bool(self._waiting)

    async def drain(self) -> None:
        """Wait until everything that was submitted has its verdict."""
        while self.busy:
            self.flush()
            assert self._answer is not None
            await asyncio.wait([self._answer])

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
        self._waiting.clear()
