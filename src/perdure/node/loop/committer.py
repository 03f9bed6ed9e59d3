"""The committer: commits that pile up while a batch is being made durable go into the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from perdure.errors import StoreUnavailable
from perdure.node.loop.patience import Patience, Stopped

if TYPE_CHECKING:
    from perdure.kernel.data.commit import Commit, Verdict
    from perdure.node.loop.freezer import Freezer
    from perdure.node.surroundings import Surroundings

_BATCH_MAX = 256
"""Commits that are handed over together. Their effects follow in one go, on the node's loop."""

_BEHIND = 2 * _BATCH_MAX
"""So many commits keep the store at work. More only cost memory, and let messages wait longer."""

Done = Callable[["Verdict", bool], None]
"""Gets the verdict, and whether an earlier try may have been applied without an answer."""

Answer = asyncio.Future[list["Verdict"]]


class Committer:
    """Hands commits to the store, one batch at a time, and reports the verdicts in order.

    A batch that the store could not take, or whose outcome is unknown, is submitted again as it is
    until the store answers: the store recognises commits that it has already. An error that is no
    `StoreUnavailable`, and a store that says that it will never answer, end that. The node's
    `failed` is then called with the error, and nothing is submitted any more.
    """

    def __init__(
        self, given: Surroundings, freezer: Freezer, caught_up: Callable[[], None]
    ) -> None:
        """Nothing is submitted. While an answer is late, `freezer` freezes the node.

        `caught_up` is called after each batch for which too many others have waited.
        """
        self._store = given.store
        self._patience = Patience(given.node_name, given.options.store_retry_ms)
        self._freezer = freezer
        self._caught_up = caught_up
        self._failed = given.failed
        # Commits, and beside them the calls that get their verdicts. There are two lists, because
        # the store is handed the first one as it is.
        self._waiting: list[Commit] = []
        self._told: list[Done] = []
        self._batch: list[Commit] = []
        self._batch_told: list[Done] = []
        self._answer: Answer | None = None
        self._unsure = False
        self._stopped = False

    def submit(self, commit: Commit, done: Done) -> None:
        """Make a commit durable with the next batch. `done` gets the verdict on the node's loop."""
        if not self._stopped:
            self._waiting.append(commit)
            self._told.append(done)

    def flush(self) -> None:
        """Hand over what was submitted. While a batch is on its way, its answer does that."""
        if self._answer is not None or not self._waiting:
            return
        self._batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
        self._batch_told, self._told = self._told[:_BATCH_MAX], self._told[_BATCH_MAX:]
        self._unsure = False
        # A store that gives a future needs no task here. For a turn that is alone in its batch the
        # task would be a tenth of the work.
        answer = self._store.commit(self._batch)
        self._answer = asyncio.ensure_future(answer)
        self._answer.add_done_callback(self._first_answer)

    def _first_answer(self, answer: Answer) -> None:
        error: BaseException | None = None
        if not answer.cancelled():
            error = answer.exception()
        if isinstance(error, StoreUnavailable):
            again = self._again(self._batch, error)
            self._answer = asyncio.get_running_loop().create_task(again, name="perdure-committer")
            self._answer.add_done_callback(self._answered)
        else:
            self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        told = self._batch_told
        self._batch, self._batch_told = [], []
        self._answer = None
        if answer.cancelled():  # the loop is being closed under us
            self.stop()
            return
        error = answer.exception()  # asked for in any case, or asyncio would report it
        if self._stopped:
            return  # the stop was cancelled, and all senders know that the outcome is unknown
        if isinstance(error, Stopped):
            self.stop()  # the outcome of the batch is unknown, and its senders are told so
            return
        try:
            for done, verdict in zip(told, answer.result(), strict=True):
                done(verdict, self._unsure)
        except Exception as error:
            # Whatever it is, the node must not go on as if it had committed.
            self.stop()
            self._failed(error)
        was_behind = len(self._waiting) >= _BEHIND
        if self._waiting:
            self.flush()
        if was_behind:
            self._caught_up()

    async def _again(self, commits: list[Commit], error: StoreUnavailable) -> list[Verdict]:
        """Submit a batch until the store answers."""
        self._note(error)

        async def submit() -> list[Verdict]:
            try:
                return await self._store.commit(commits)
            except StoreUnavailable as refused:
                self._note(refused)
                raise

        verdicts = await self._patience.insist(submit, self._late, error)
        self._freezer.store_answers()
        return verdicts

    def _note(self, error: StoreUnavailable) -> None:
        """Note a failed try. That a try was refused says nothing about an earlier one."""
        self._unsure = self._unsure or error.outcome == "unknown"

    def _late(self, error: StoreUnavailable) -> None:
        if error.is_permanent:
            # The last try may say "none" for itself. Senders want to know of all tries.
            outcome: Literal["none", "unknown"] = "none"
            if self._unsure:
                outcome = "unknown"
            raise StoreUnavailable(str(error), outcome, permanent=True) from error
        self._freezer.store_is_late(error)

    @property
    def is_behind(self) -> bool:
        """Whether so many commits wait for the store that turns should wait, too."""
        return len(self._waiting) >= _BEHIND

    @property
    def busy(self) -> bool:
        """Whether something that was submitted has no verdict yet."""
        return self._answer is not None or bool(self._waiting)

    async def drain(self) -> None:
        """Wait until everything that was submitted has its verdict, or will get none."""
        while self.busy:
            self.flush()
            assert self._answer is not None
            await asyncio.wait([self._answer])

    def hurry(self) -> None:
        """Give up a batch whose answer is late: the node stops."""
        self._patience.hurry()

    def stop(self) -> None:
        """Take nothing more, and submit nothing again."""
        self._stopped = True
        self._waiting.clear()
        self._told.clear()
        self._patience.stop()
