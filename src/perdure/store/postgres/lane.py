"""A lane: one connection that writes, and operations that wait for it.

Theory of operation. Operations that have gathered while the last ones were made durable are written
together, by one statement where that is possible. It is a transaction of its own, so a client that
stands still holds no lock.

When the connection is lost, the outcome is not known. A new connection is made, with pauses, and
the identical operations are submitted again. They are idempotent, so the second answer tells what
became of the first. An error that names the content is looked for in the halves, until the
operation that fails alone is refused. Errors of the server or the network fail all operations.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Literal, TypeVar

from perdure.errors import StoreUnavailable
from perdure.store.failure import again
from perdure.store.postgres.address import Address
from perdure.store.postgres.connection import Connection, close, connect, turn
from perdure.store.postgres.errors import Meaning, explain, meaning_of

O = TypeVar("O")  # noqa: E741 - an operation
R = TypeVar("R")

GROUP_OPERATIONS = 1_000
"""Operations after which a group is closed, so that callers are answered in a flood, too."""
_PAUSE_S = 0.02
_PAUSE_MAX_S = 1.0

logger = logging.getLogger("perdure.store")


class Writing(Generic[O, R]):
    """What a lane does with its operations."""

    def __init__(
        self,
        write: Callable[[Connection, list[list[O]]], Awaitable[list[R]]],
        refuse: Callable[[O, Exception], R],
        done: Callable[[list[O], list[R]], None],
        check: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        """`write` writes several batches. `refuse` is the result of one that cannot be stored.

        `done` is called with all that was written, before the callers get to know it. `check` looks
        at each new connection, and raises if nothing may be written there.
        """
        self.write = write
        self.refuse = refuse
        self.done = done
        self.check = check


class _Job(Generic[O, R]):
    """Operations of one caller, and the future that is answered with their results."""

    __slots__ = ("future", "operations")

    def __init__(self, operations: list[O], future: asyncio.Future[list[R]]) -> None:
        self.operations = operations
        self.future = future


class Lane(Generic[O, R]):
    """One connection that writes."""

    def __init__(self, address: Address, writing: Writing[O, R], name: str) -> None:
        """Connect when there is something to write."""
        self._address = address
        self._writing = writing
        self._connection: Connection | None = None
        self._jobs: deque[_Job[O, R]] = deque()
        self._rung = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name=name)

    def submit(self, operations: Sequence[O]) -> asyncio.Future[list[R]]:
        """A future that gets the results when they are durable."""
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(list(operations), future))
        self._rung.set()
        return future

    async def close(self) -> None:
        """Write what is waiting, and end."""
        self._closing = True
        self._rung.set()
        await self._task
        if self._connection is not None:
            await close(self._connection)

    # ------------------------------------------------------------ the task

    async def _run(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            while self._jobs:
                group = self._next_group()
                try:
                    await self._serve(group)
                except Exception as error:
                    self._give_up(group, error)
            if self._closing:
                return

    def _give_up(self, group: list[_Job[O, R]], error: Exception) -> None:
        """Answer callers after a defect of this store. Without it they would wait for ever."""
        name = self._address.name
        logger.critical("a group of writes to %s was left, which is a defect", name, exc_info=error)
        for job in group:
            if not job.future.done():
                text = f"a write to {name} was left after a defect: {error!r}; read the log"
                job.future.set_exception(StoreUnavailable(text, "unknown"))

    def _next_group(self) -> list[_Job[O, R]]:
        group: list[_Job[O, R]] = []
        count = 0
        while self._jobs and count < GROUP_OPERATIONS:
            job = self._jobs.popleft()
            group.append(job)
            count += len(job.operations)
        return group

    async def _serve(self, group: list[_Job[O, R]]) -> None:
        results = await self._results_of([job.operations for job in group])
        assert len(results) == sum(len(job.operations) for job in group)
        done: list[O] = []
        written: list[R] = []
        place = 0
        for job in group:
            found = results[place : place + len(job.operations)]
            place += len(job.operations)
            error = _error_of(found)
            answers = [one for one in found if not isinstance(one, StoreUnavailable)]
            if error is None:
                done += job.operations
                written += answers
            # Its caller may have been cancelled.
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(answers)
            else:
                job.future.set_exception(error)
        # Futures call back later, so this comes before their callers go on.
        self._writing.done(done, written)

    async def _results_of(self, batches: list[list[O]]) -> list[R | StoreUnavailable]:
        """The result of each operation, or the error that it shares with others."""
        count = sum(map(len, batches))
        if not count:
            return []
        try:
            return [*await self._insist(batches)]
        except StoreUnavailable as error:
            return [error] * count
        except Exception as error:
            if count > 1:
                first, second = _halves(batches)
                return await self._results_of(first) + await self._results_of(second)
            (operation,) = [one for batch in batches for one in batch]
            return [self._writing.refuse(operation, error)]

    async def _insist(self, batches: list[list[O]]) -> list[R]:
        """Write batches, again and again while only the connection fails.

        Raises:
            StoreUnavailable: the server could not do it.
            Exception: something in the batches cannot be stored.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._address.options.patience_ms / 1000
        outcome: Literal["none", "unknown"] = "none"
        pause = _PAUSE_S
        while True:
            was_sent = False
            try:
                connection = await self._connected()
                was_sent = True
                async with turn(connection, self._address):
                    return await self._writing.write(connection, batches)
            except Exception as error:
                meaning = meaning_of(error)
                if meaning is Meaning.CONTENT:
                    raise
                if meaning is Meaning.LOST:
                    self._hang_up()
                    if was_sent:
                        outcome = "unknown"
                # A first attempt may have been done, whatever is said of a later one.
                if meaning is Meaning.BATCH or loop.time() + pause > until:
                    reason = explain(error, self._address.name, outcome)
                    if isinstance(reason, StoreUnavailable):
                        raise reason from error
                    raise StoreUnavailable(str(reason), outcome, permanent=True) from error
                logger.warning("%s", explain(error, self._address.name))
            # Not all nodes at the same moment, when a server comes back.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _PAUSE_MAX_S)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._checked(await connect(self._address))
        return self._connection

    async def _checked(self, connection: Connection) -> Connection:
        if self._writing.check is None:
            return connection
        try:
            async with turn(connection, self._address):
                await self._writing.check(connection)
        except BaseException:
            # Nothing may be written on it.
            connection.terminate()
            raise
        return connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _halves(batches: list[list[O]]) -> tuple[list[list[O]], list[list[O]]]:
    """Batches in two parts, each with at least one operation."""
    count = sum(map(len, batches)) // 2
    first: list[list[O]] = []
    second: list[list[O]] = []
    for batch in batches:
        room = max(0, count)
        if batch[:room]:
            first.append(batch[:room])
        if batch[room:]:
            second.append(batch[room:])
        count -= len(batch)
    return first, second


def _error_of(results: Sequence[object]) -> StoreUnavailable | None:
    """The error that hit some operations of a job.

    The outcome is `unknown` when other operations of the job may be durable.
    """
    errors = [result for result in results if isinstance(result, StoreUnavailable)]
    if not errors:
        return None
    first = errors[0]
    outcome: Literal["none", "unknown"] = "none"
    if len(errors) < len(results) or any(error.outcome == "unknown" for error in errors):
        outcome = "unknown"
    return again(first, outcome)
