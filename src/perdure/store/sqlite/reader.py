"""Readers of a SQLite file: a few threads with a connection each, beside the writer.

In WAL mode a reader sees everything that was committed before it began. It neither waits for the
writer nor delays it. Each read is one short transaction, so that checkpoints proceed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Protocol, TypeVar

from perdure.errors import StoreLocked, StoreUnavailable
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.database import FileGuard, Options, connect, explained
from perdure.store.sqlite.fork import leak
from perdure.store.sqlite.writer import Call, Writer

T = TypeVar("T")

READER_THREADS = 2


class Reader(Protocol):
    """Runs functions of a connection in a snapshot."""

    async def read(self, function: Callable[[Connection], T]) -> T:
        """The function's result."""
        ...

    def close(self) -> None:
        """Close the connections. Blocks."""
        ...

    def forked(self) -> None:
        """Leave the connections alone, in a forked child."""
        ...


class WriterReader:
    """Reads on the writer's connection: a store that is only in memory has no other."""

    def __init__(self, writer: Writer) -> None:
        """Use this writer."""
        self._writer = writer

    async def read(self, function: Callable[[Connection], T]) -> T:
        """The function's result, after all that was submitted before."""
        result: T = (await self._writer.submit([Call(function)]))[0]
        return result

    def close(self) -> None:
        """Nothing to close."""

    def forked(self) -> None:
        """Nothing to leave alone."""


class FileReader:
    """Reads on connections of its own."""

    def __init__(self, path: str, options: Options, guard: FileGuard) -> None:
        """Open connections as they are needed."""
        self._path = path
        self._options = options
        self._guard = guard
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._opened = 0
        self._pool = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="perdure-reader")

    async def read(self, function: Callable[[Connection], T]) -> T:
        """The function's result, in one snapshot."""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, self._read, function
            )
        # A pool that was shut down says it in this way.
        except RuntimeError as error:
            msg = f"the store {self._path} is closed"
            raise StoreUnavailable(msg) from error

    def _read(self, function: Callable[[Connection], T]) -> T:
        self._guard.check()
        try:
            return self._snapshot(function)
        except StoreLocked as error:
            raise StoreUnavailable(str(error)) from error

    def _snapshot(self, function: Callable[[Connection], T]) -> T:
        with explained(self._path):
            # Another thread may take the last idle one in between. Then this one waits for its
            # return.
            if self._idle.empty():
                connection = self._open()
            else:
                connection = self._idle.get()
            try:
                connection.execute("BEGIN")
                try:
                    return function(connection)
                finally:
                    connection.execute("ROLLBACK")
            finally:
                self._idle.put(connection)

    def _open(self) -> Connection:
        connection = connect(self._guard.path, self._options, reader=True)
        try:
            # Again, because it was opened by its name, which may mean another file by now.
            self._guard.check()
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Wait for reads that run, then close the connections."""
        self._pool.shutdown(wait=True)
        # Each is closed, whatever becomes of the one before.
        with ExitStack() as stack:
            while not self._idle.empty():
                stack.callback(self._idle.get().close)

    def forked(self) -> None:
        """Leave the connections alone, in a forked child."""
        leak(self._idle)
        self._idle = SimpleQueue()
