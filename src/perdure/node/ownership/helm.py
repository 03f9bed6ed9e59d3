"""The helm: where the membership of a node runs, beside the node or on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.node.ownership.membership import Membership
    from perdure.ports.cluster import Cluster

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("perdure.node")


class Helm:
    """Runs a membership from its begin to its end."""

    def __init__(
        self, cluster: Cluster, membership: Membership, failed: Callable[[Exception], None]
    ) -> None:
        """Nothing runs. `failed` is told of an error behind which the membership cannot go on."""
        self._cluster = cluster
        self._membership = membership
        self._failed = failed
        self._home = asyncio.get_running_loop()
        self._joined: asyncio.Future[None] = self._home.create_future()
        self._ended: asyncio.Future[None] = self._home.create_future()
        self._away: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Join the cluster, and stay in it.

        Raises:
            UsageError: a living node has this name.
            StoreUnavailable: the cluster does not answer.
        """
        if self._cluster.shares_loop:
            self._task = self._home.create_task(self._serve(), name="perdure-membership")
        else:
            # A daemon: a cluster that does not answer must not hold up the end of the process.
            threading.Thread(target=self._run, name="perdure-membership", daemon=True).start()
        await self._joined

    def _run(self) -> None:
        asyncio.run(self._begin_serving())

    async def _begin_serving(self) -> None:
        self._away = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._serve(), name="perdure-membership")
        await asyncio.wait([self._task])

    async def _serve(self) -> None:
        error: Exception | None = None
        try:
            async with self._cluster:
                try:
                    await self._membership.join()
                    self.tell(_settle, self._joined)
                    await self._membership.run()
                finally:
                    # Also behind a join that failed: it may have happened.
                    await self._leave()
        except Exception as failure:
            error = failure
        finally:
            _hand_over(self._home, partial(self._end, error))

    async def _leave(self) -> None:
        try:
            await self._membership.leave()
        except StoreUnavailable as error:
            logger.warning("its seat in the cluster ends with its lease: %s", error)

    def tell(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call something of the node, soon and on its event loop."""
        if not _hand_over(self._home, partial(call, *args, **kwargs)) and self._task is not None:
            # The event loop has ended, and nobody has stopped the node. Its seat is given up.
            self._task.cancel()

    def _end(self, error: Exception | None) -> None:
        """The membership has ended."""
        if not self._joined.done():
            if error is None:
                self._joined.cancel()
            else:
                self._joined.set_exception(error)
        elif error is not None:
            self._failed(error)
        _settle(self._ended)

    def call(self, call: Callable[[], None]) -> None:
        """Call something of the membership where it runs, unless it has ended."""
        if self._away is None:
            call()
        else:
            _hand_over(self._away, call)

    async def ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to a question that is worked on where the membership runs."""
        if self._away is None:
            return await question()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question(), self._away))

    async def end(self) -> None:
        """Leave the cluster."""
        task = self._task
        if task is None:
            return
        if not self._ended.done():
            self.call(lambda: _cancel(task))
        await self._ended


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _hand_over(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> bool:
    """Have an event loop call something, from any thread. False: it has been closed."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True
