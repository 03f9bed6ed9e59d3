"""The writer of a SQLite store: one thread, one connection, many commits per transaction.

Theory of operation. Callers put jobs on a queue. Whatever has piled up while the last fsync ran is written in one
transaction, and all its callers are answered after the COMMIT: each event loop is woken once. An error in one
operation rolls the whole transaction back, and its halves are tried again, until the one that fails alone is refused;
errors of the disk fail them all. When a COMMIT itself fails nobody knows what the disk holds, so the thread refuses
everything from then on. A full disk is the exception: SQLite has then undone the transaction and goes on when there
is space.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, Literal, TypeVar

import apsw
import msgspec

from perdure.errors import PerdureError, StoreError, StoreUnavailable
from perdure.kernel.data.commit import Commit, SqlRefused
from perdure.kernel.data.message import Message
from perdure.store.bell import Bell
from perdure.store.limits import StoreLimits
from perdure.store.sqlite.apply import Applier
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.database import BATCH_ERRORS, FileGuard, explain
from perdure.store.sqlite.fork import leak
from perdure.store.sqlite.programs import StatementError
from perdure.store.sqlite.wal import WriteAheadLog
from perdure.store.watch import Watchers

T = TypeVar("T")

GROUP_OPERATIONS = 512
"""Operations after which a group is closed, so that callers in a flood are answered now and then."""

logger = logging.getLogger("perdure.store")


class Call(Generic[T]):
    """An operation that is a function of the connection."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], T]) -> None:
        """Run `function` inside the transaction."""
        self.function = function


Operation = Commit | Message | Call[Any]
Numbered = tuple[int, Operation | SqlRefused]
"""An operation with the number of its job. The commits of one job are a batch. A commit that was
refused when the transaction was tried before stands as its verdict.
"""


class Job(msgspec.Struct, eq=False):
    """Operations of one caller, and the future that is answered with the list of their results."""

    operations: Sequence[Operation]
    future: asyncio.Future[list[Any]]


def _resolve(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if future.done():  # its caller was cancelled
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


class Writer:
    """The thread that writes."""

    def __init__(
        self,
        connection: Connection,
        path: str,
        guard: FileGuard | None,
        watchers: Watchers,
        bell: Bell,
        limits: StoreLimits,
    ) -> None:
        """Take over the connection. The guard looks before and after each transaction; there is none in memory."""
        self._connection = connection
        self._path = path
        self._guard = guard
        self._watchers = watchers
        self._bell = bell
        self._applier = Applier(connection, limits)
        self._log = WriteAheadLog(connection, path, guard)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._dead: StoreUnavailable | None = None
        self._thread = Thread(target=self._run, name="perdure-writer", daemon=True)
        self._thread.start()

    def submit(self, operations: Sequence[Operation]) -> asyncio.Future[list[Any]]:
        """A future of the running loop that gets the results after they are durable."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._jobs.put(Job(operations, future))
        return future

    def close(self) -> None:
        """Write what is waiting, then end. Blocks."""
        self._jobs.put(None)
        self._thread.join()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            count = len(job.operations)
            last = False
            while count < GROUP_OPERATIONS:
                try:
                    more = self._jobs.get_nowait()
                except Empty:
                    break
                if more is None:
                    last = True
                    break
                jobs.append(more)
                count += len(more.operations)
            self._serve(jobs)
            if self._dead is None:
                self._log.tend()
            if last:
                break
        for close in (self._log.close, self._connection.close):
            try:
                close()
            except (OSError, apsw.Error) as error:  # the file is recovered when it is opened again
                logger.warning("%s was not closed in order: %s", self._path, error)

    def forked(self) -> None:
        """Leave the connection alone, in a forked child."""
        leak(self)

    def _serve(self, jobs: list[Job]) -> None:
        operations: list[Numbered] = [
            (number, operation) for number, job in enumerate(jobs) for operation in job.operations
        ]
        results = self._settle(operations)
        answers: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        place = 0
        for job in jobs:
            end = place + len(job.operations)
            answers.setdefault(job.future.get_loop(), []).append(
                (job.future, _answer_of(results[place:end]))
            )
            place = end
        if self._watchers:
            for waiter, version in self._watchers.take(_changes(operations, results)):
                answers.setdefault(waiter.get_loop(), []).append((waiter, version))
        for loop, items in answers.items():
            with suppress(RuntimeError):  # the loop was closed: nobody is left to be told
                loop.call_soon_threadsafe(_resolve, items)

    def _settle(self, operations: list[Numbered]) -> list[Any]:
        if not operations:
            return []
        try:
            return self._transact_all_else(operations)
        except StoreUnavailable as error:
            return [error] * len(operations)
        except BATCH_ERRORS as error:
            reason = explain(error, self._path)
            return [StoreUnavailable(str(reason), "none")] * len(operations)
        except Exception as error:
            if len(operations) == 1:
                return [self._refuse(operations[0][1], error)]
            half = len(operations) // 2
            return self._settle(operations[:half]) + self._settle(operations[half:])

    def _transact_all_else(self, operations: list[Numbered]) -> list[Any]:
        """Write the operations, but for commits with a statement that the store cannot run."""
        while True:
            try:
                return self._transact(operations)
            except StatementError as error:
                # The others are tried together again. Halves would change the order of a batch.
                operations = [
                    (number, error.refusal if operation is error.commit else operation)
                    for number, operation in operations
                ]

    def _transact(self, operations: list[Numbered]) -> list[Any]:
        if self._dead is not None:
            raise self._dead
        self._check()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._applier.begin()
            results = self._apply(operations)
            self._applier.finish()
        except BaseException:
            self._applier.forget()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            raise self._fail(error) from error
        try:
            self._check()  # again: what was just written may be in a file that was removed meanwhile
        except StoreUnavailable as error:
            self._applier.forget()
            raise StoreUnavailable(str(error), "unknown", permanent=error.is_permanent) from error
        for hint in self._applier.take_hints():
            self._bell.ring(hint)
        return results

    def _check(self) -> None:
        if self._guard is None:
            return
        try:
            self._guard.check()
        except StoreUnavailable:
            if self._guard.misses_only_log():
                self._log.save()
            raise

    def _fail(self, error: apsw.Error) -> StoreUnavailable:
        self._applier.forget()
        reason = explain(error, self._path)
        failure = StoreUnavailable(str(reason), "unknown")
        undone = True
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:  # the disk does not even let us undo it
            undone = False
        if not undone or not isinstance(error, apsw.FullError):
            failure = StoreUnavailable(
                f"{reason}. The store is stopped: restart the node when the disk is sound",
                "unknown",
                permanent=True,
            )
            self._dead = StoreUnavailable(str(failure), "none", permanent=True)
            logger.critical("%s", failure)
        return failure

    def _apply(self, operations: list[Numbered]) -> list[Any]:
        applier = self._applier
        results: list[Any] = []
        batches: dict[int, list[Commit]] = {}
        for number, operation in operations:
            if isinstance(operation, Commit):
                batches.setdefault(number, []).append(operation)
                continue
            if batches:
                results += applier.commits(list(batches.values()))
                batches = {}
            if isinstance(operation, Message):
                results.append(applier.post(operation))
            elif isinstance(operation, SqlRefused):
                results.append(operation)
            else:
                applier.forget_scopes()
                results.append(operation.function(self._connection))
                applier.forget_scopes()
        if batches:
            results += applier.commits(list(batches.values()))
        return results

    def _refuse(self, operation: Operation | SqlRefused, error: Exception) -> object:
        if isinstance(operation, Commit):
            row = operation.row
            ids = {
                "instance": row.id,
                "execution": row.execution,
                "workflow": row.type,
                "version": row.type_version,
            }
            kind = type(error).__name__
            # `flaw_of` has let it pass, so it is the store that is wrong, or the file is damaged.
            logger.critical(
                "a commit of %r cannot be written, which is a defect: %s: %s",
                operation.unit,
                kind,
                error,
                extra=ids,
            )
            return "invalid"
        if isinstance(error, PerdureError):
            return error
        what = f"a message to {operation.to!r}" if isinstance(operation, Message) else "the request"
        return StoreError(f"{self._path} refused {what}: {type(error).__name__}: {error}")


def _answer_of(results: list[Any]) -> Any:
    """A job's results, or the error that hit any of them; `unknown` when others of the job may be durable."""
    errors = [result for result in results if isinstance(result, BaseException)]
    if not errors:
        return results
    first = errors[0]
    if isinstance(first, StoreUnavailable):
        sure = len(errors) == len(results) and all(
            getattr(error, "outcome", "none") == "none" for error in errors
        )
        outcome: Literal["none", "unknown"] = "none" if sure else "unknown"
        return StoreUnavailable(str(first), outcome, permanent=first.is_permanent)
    return first


def _changes(operations: list[Numbered], results: list[Any]) -> list[tuple[str, int]]:
    """The units that changed, each with its newest version."""
    changed: dict[str, int] = {}
    for (_, operation), result in zip(operations, results, strict=True):
        if isinstance(operation, Commit) and result == "applied":
            changed[operation.unit] = 0 if operation.delete is not None else operation.expect + 1
    return list(changed.items())
