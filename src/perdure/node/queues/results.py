"""Results of tasks: posted to the store, until it has them.

A result takes the place of its task, if the lease is still this node's. If it is not, another
attempt counts, and the result is dropped. A store that is away is asked until it answers, while the
lease is renewed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.errors import Failure, StoreUnavailable
from perdure.kernel.data.message import ActivityDone, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.node.queues.held import Held
    from perdure.ports.store import Posted, Store

logger = logging.getLogger("perdure.worker")

_BATCH = 500
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class Results:
    """The results that the store does not have yet, in the order in which they came."""

    def __init__(self, store: Store, settled: Callable[[Sequence[Held]], None]) -> None:
        """`settled` is told of tasks whose result has found its way, or is dropped."""
        self._store = store
        self._settled = settled
        self._waiting: list[Held] = []
        self._news = asyncio.Event()
        self._is_away = False

    def add(self, held: Held) -> None:
        """The function of a task has ended."""
        self._waiting.append(held)
        self._news.set()

    @property
    def are_posted(self) -> bool:
        """Whether the store has all of them."""
        return not self._waiting

    async def run(self) -> None:
        """Post results as they come."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._news.wait()
            if await self.post():
                pause_s = _FIRST_PAUSE_S
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def post(self) -> bool:
        """Post what waits. False: the store is away, and what waits goes on waiting."""
        while self._waiting:
            batch = self._waiting[:_BATCH]
            try:
                await self._post(batch)
            except StoreUnavailable as error:
                self._say_away(error)
                return False
            # Only now: a post that is cancelled, or not answered, is made again as it was.
            del self._waiting[: len(batch)]
            self._is_away = False
            self._settled(batch)
        self._news.clear()
        return True

    async def _post(self, batch: Sequence[Held]) -> None:
        # In the order in which they came, which is that of the inboxes, too.
        messages = [held.result for held in batch if held.result is not None]
        try:
            posted = await self._store.post(messages)
        except StoreUnavailable:
            raise
        except Exception as error:
            # One result that the store cannot take must not keep the others.
            if len(batch) > 1:
                for held in batch:
                    await self._post([held])
                return
            await self._post_refusal(batch[0], error)
            return
        for held, one in zip(batch, posted, strict=True):
            _note(held, one)

    async def _post_refusal(self, held: Held, error: Exception) -> None:
        """The store cannot take a result, so the attempt fails with that."""
        text = f"the result of {held.describe()} cannot be stored: {error}"
        logger.error("%s", text, extra=held.ids())
        message = held.result
        assert message is not None
        body = message.body
        assert isinstance(body, ActivityDone)
        failure = Failure("ResultRefused", text[:2_000], "configuration", retryable=False)
        refused = ActivityDone(body.run, body.execution, body.seq, body.attempt, failure=failure)
        try:
            [posted] = await self._store.post([replace(message, body=refused)])
        except StoreUnavailable:
            raise
        # Then its lease expires, and the owner records a lost worker. The other results go on.
        except Exception:
            logger.exception(
                "the failure of %s cannot be stored", held.describe(), extra=held.ids()
            )
            return
        _note(held, posted)

    def _say_away(self, error: StoreUnavailable) -> None:
        if not self._is_away:  # once for each time that the store is away
            text = "%d results of tasks wait until the store answers: %s"
            logger.warning(text, len(self._waiting), error)
        self._is_away = True


def _note(held: Held, posted: Posted) -> None:
    if posted.outcome == "accepted":
        return
    # Also after a post whose answer was lost: then the result is the one that counts.
    text = "the result of %s was dropped: its lease is over, and the store says %r"
    logger.warning(text, held.describe(), posted.outcome, extra=held.ids())


def result_of(held: Held, message: Message, worker: str) -> Message:
    """A result as a worker posts it."""
    return replace(message, sender=worker, scope=held.task.scope, token=held.token)
