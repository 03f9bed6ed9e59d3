"""The writer of a SQLite store: one thread, one connection, many commits per transaction.

Theory of operation. Callers put jobs on a queue. Jobs that have piled up while the last fsync ran
are written in one transaction. All their callers are answered after the COMMIT, and each event loop
is woken once. An error in one operation rolls the whole transaction back. Its halves are tried
again, until the operation that fails alone is refused. Errors of the disk fail all operations. When
a COMMIT itself fails, the content of the disk is unknown, so the thread refuses everything from
then on. A full disk is the exception: SQLite has then undone the transaction, and goes on when
there is space.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
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
from perdure.ports.store import Hint
from perdure.store.bell import Bell
from perdure.store.failure import again
from perdure.store.limits import StoreLimits
from perdure.store.seal import refused_by
from perdure.store.sqlite.apply import Applier
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.database import BATCH_ERRORS, FileGuard, explain
from perdure.store.sqlite.fork import leak
from perdure.store.sqlite.programs import StatementError
from perdure.store.sqlite.wal import WriteAheadLog
from perdure.store.watch import Watchers

T = TypeVar("T")

GROUP_OPERATIONS = 512
"""Operations after which a group is closed, so that callers are answered in a flood, too."""

logger = logging.getLogger("perdure.store")


class Call(Generic[T]):
    """An operation that is a function of the connection."""

    __slots__ = ("function", "rewrites")

    def __init__(self, function: Callable[[Connection], T], *, rewrites: bool = False) -> None:
        """Run `function` inside the transaction. `rewrites`: it may write rows of any table."""
        self.function = function
        self.rewrites = rewrites


Operation = Commit | Message | Call[Any]
Numbered = tuple[int, Operation | SqlRefused]
"""An operation with the number of its job. The commits of one job are a batch. A commit that was
refused when the transaction was tried before stands as its verdict.
"""


Answers = list[tuple[asyncio.Future[Any], Any]]
"""Futures of one event loop, each with its result or its error."""


class Job(msgspec.Struct, eq=False):
    """Operations of one caller, and the future that is answered with the list of their results."""

    operations: Sequence[Operation]
    future: asyncio.Future[list[Any]]


def _resolve(answers: Answers) -> None:
    for future, result in answers:
        # Its caller may have been cancelled.
        if future.done():
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
        bell: Bell[Hint],
        limits: StoreLimits,
    ) -> None:
        """Take over the connection.

        The guard looks at the files before and after each transaction. A store in memory has none.
        """
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
        is_last = False
        while not is_last:
            jobs, is_last = self._next_group()
            if jobs:
                self._serve(jobs)
                # Now, because the callers have their answers and do not wait for it.
                if self._dead is None:
                    self._log.tend()
        for close in (self._log.close, self._connection.close):
            try:
                close()
            # The file is recovered when it is opened again.
            except (OSError, apsw.Error) as error:
                logger.warning("%s was not closed in order: %s", self._path, error)

    def _next_group(self) -> tuple[list[Job], bool]:
        """Wait for a job, and take all that wait with it. True: they are the last ones."""
        jobs: list[Job] = []
        count = 0
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            count += len(job.operations)
            if count >= GROUP_OPERATIONS:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs, False
        # The store is closing, and puts no job behind None.
        return jobs, True

    def forked(self) -> None:
        """Leave the connection alone, in a forked child."""
        leak(self)

    def _serve(self, jobs: list[Job]) -> None:
        operations: list[Numbered] = []
        for number, job in enumerate(jobs):
            operations += [(number, operation) for operation in job.operations]
        results = self._results_of(operations)
        answers: defaultdict[asyncio.AbstractEventLoop, Answers] = defaultdict(list)
        place = 0
        for job in jobs:
            end = place + len(job.operations)
            answers[job.future.get_loop()].append((job.future, _answer_of(results[place:end])))
            place = end
        if self._watchers:
            for waiter, version in self._watchers.take(_changes(operations, results)):
                answers[waiter.get_loop()].append((waiter, version))
        for loop, items in answers.items():
            # The loop may be closed. Then its callers are gone.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, items)

    def _results_of(self, operations: list[Numbered]) -> list[Any]:
        """Write operations. The result of each, or the error that refuses it."""
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
            # No part of a batch can be written to a sealed store, so it is not tried in halves.
            moved = refused_by(error, self._path)
            if moved is not None:
                return [moved] * len(operations)
            if len(operations) == 1:
                return [self._refuse(operations[0][1], error)]
            half = len(operations) // 2
            return self._results_of(operations[:half]) + self._results_of(operations[half:])

    def _transact_all_else(self, operations: list[Numbered]) -> list[Any]:
        """Write the operations, but for commits with a statement that the store cannot run."""
        while True:
            try:
                return self._transact(operations)
            except StatementError as error:
                # The others are tried together again. Halves would change the order of a batch.
                operations = _with_refusal(operations, error)

    def _transact(self, operations: list[Numbered]) -> list[Any]:
        if self._dead is not None:
            raise self._dead
        self._check()
        connection = self._connection
        # IMMEDIATE, because a reader that begins to write does not wait for another writer.
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._applier.begin()
            results = self._apply(operations)
            self._applier.finish()
        except BaseException:
            self._applier.forget()
            # SQLite ends the transaction itself after some errors, such as a full disk.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            raise self._fail(error) from error
        try:
            # Again, because the file that was just written may have been removed meanwhile.
            self._check()
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
            # This process alone can still read a log that was removed.
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
        # The disk does not even let us undo it.
        except apsw.Error:
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
            # Commits are written together until another operation comes, which has to see them.
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
                # A call may be a claim or a release, which change scopes.
                applier.forget_scopes()
                results.append(operation.function(self._connection))
                applier.forget_scopes()
                if operation.rewrites:
                    applier.forget()
        if batches:
            results += applier.commits(list(batches.values()))
        return results

    def _refuse(self, operation: Operation | SqlRefused, error: Exception) -> object:
        kind = type(error).__name__
        if isinstance(operation, Commit):
            # `flaw_of` has let it pass, so the store is wrong, or the file is damaged.
            text = "a commit of %r cannot be written, which is a defect: %s: %s"
            logger.critical(text, operation.unit, kind, error, extra=_ids_of(operation))
            return "invalid"
        if isinstance(error, PerdureError):
            return error
        what = "the request"
        if isinstance(operation, Message):
            what = f"a message to {operation.to!r}"
        return StoreError(f"{self._path} refused {what}: {kind}: {error}")


def _with_refusal(operations: list[Numbered], error: StatementError) -> list[Numbered]:
    """The operations with the verdict in the place of the commit that is refused."""
    others: list[Numbered] = []
    for number, operation in operations:
        if operation is error.commit:
            others.append((number, error.refusal))
        else:
            others.append((number, operation))
    return others


def _ids_of(commit: Commit) -> dict[str, object]:
    """The ids that log records of a commit have."""
    row = commit.row
    return {
        "instance": row.id,
        "execution": row.execution,
        "workflow": row.type,
        "version": row.type_version,
    }


def _answer_of(results: list[Any]) -> Any:
    """A job's results, or the error that hit any of them.

    The outcome is `unknown` when other operations of the job may be durable.
    """
    errors = [result for result in results if isinstance(result, BaseException)]
    if not errors:
        return results
    first = errors[0]
    if not isinstance(first, StoreUnavailable):
        return first
    outcome: Literal["none", "unknown"] = "none"
    is_unsure = any(getattr(error, "outcome", "none") != "none" for error in errors)
    if is_unsure or len(errors) < len(results):
        outcome = "unknown"
    return again(first, outcome)


def _changes(operations: list[Numbered], results: list[Any]) -> list[tuple[str, int]]:
    """The units that changed, each with its newest version."""
    changed: dict[str, int] = {}
    for (_, operation), result in zip(operations, results, strict=True):
        if isinstance(operation, Commit) and result == "applied":
            # A unit that was deleted has no row, which is version 0.
            changed[operation.unit] = 0
            if operation.delete is None:
                changed[operation.unit] = operation.expect + 1
    return list(changed.items())
