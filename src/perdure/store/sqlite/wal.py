"""The write-ahead log: its file is made longer in advance, and copied between transactions.

Theory of operation. A sync of a file that has grown must also make the new length durable, which is
a transaction of the file system. It takes twice as long as a sync of bytes that were there before,
and many times as long while others use the disk. So the file is made longer in a few large pieces
of zeros, before SQLite needs them. SQLite reads a log up to the first frame without the right
checksum, so zeros behind the last frame mean nothing to it. After a checkpoint it writes from the
beginning of the file again.

A long log on a small disk is a trap: a checkpoint needs room for what it copies, and the room is
taken by the log. So where the disk is nearly full, the log is copied while there still is room.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

import apsw

from perdure.errors import StoreError
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.database import FileGuard

CHECKPOINT_PAGES = 4_000
"""The log is copied into the database when it has so many.

SQLite's own 1,000 would sync the database too often.
"""
PIECE_BYTES = 1 << 20
"""By how much the file grows at a time, so that no caller waits long for it."""
MARGIN_BYTES = 64 << 10
"""The free space behind the last frame, which is more than most transactions write."""
SMALL_PAGES = 8
"""Transactions that write more pages on average gain nothing.

Writing their bytes twice costs more than the new length.
"""

logger = logging.getLogger("perdure.store")


class WriteAheadLog:
    """The log of a connection that writes. Only the thread that uses the connection may call it."""

    def __init__(self, connection: Connection, path: str, guard: FileGuard | None) -> None:
        """Take over the checkpoints of the connection. The guard raises when a file is gone."""
        self._connection = connection
        self._path = f"{path}-wal"
        if guard is not None:
            self._path = guard.log
        self._guard = guard
        self._file: int | None = None
        self._pages = 0
        self._per_transaction = 1.0
        self._full_at = 0
        if guard is not None:
            # A frame has a page behind a header of 24 bytes.
            self._frame_bytes = 24 + int(connection.execute("PRAGMA page_size").get)
            self._limit_bytes = CHECKPOINT_PAGES * self._frame_bytes + MARGIN_BYTES
            self._piece_pages = PIECE_BYTES // self._frame_bytes
            # The room on the disk is looked at when the log has so many pages.
            self._look_at = self._piece_pages
            connection.set_wal_hook(self._committed)

    def _committed(self, _connection: object, _database: str, pages: int) -> int:
        # A moving average. After a checkpoint the log begins anew, with fewer pages than before.
        self._per_transaction += (max(pages - self._pages, 1) - self._per_transaction) / 8
        if pages < self._pages:
            self._look_at = self._piece_pages
        self._pages = pages
        return apsw.SQLITE_OK

    def tend(self) -> None:
        """Copy the log, or make its file longer. Call it between two transactions."""
        if self._pages >= CHECKPOINT_PAGES or self._is_cramped():
            # It is tried again after the next transaction, as SQLite itself would. A log that was
            # replaced is not copied: another process writes to the new one, and both logs go by the
            # same index.
            with suppress(apsw.Error, StoreError):
                self._check()
                self._connection.wal_checkpoint()
        elif self._pages > self._full_at and self._per_transaction <= SMALL_PAGES:
            self._lengthen()

    def _is_cramped(self) -> bool:
        """Whether the disk has no room for a longer log and its copy."""
        if self._guard is None or self._pages < self._look_at:
            return False
        try:
            disk = os.statvfs(self._path)
        except OSError:  # the log is gone, and the guard says so at the next transaction
            return False
        # By the next look both are longer by a piece.
        needed = self._pages * self._frame_bytes + 2 * PIECE_BYTES
        if disk.f_bavail * disk.f_frsize < needed:
            return True
        self._look_at = self._pages + self._piece_pages
        return False

    def _check(self) -> None:
        if self._guard is not None:
            self._guard.check()

    def _lengthen(self) -> None:
        """Write zeros behind the last frame."""
        used = self._pages * self._frame_bytes
        size = min(used + PIECE_BYTES, self._limit_bytes)
        try:
            # In a transaction, because no other process may write to the end of the file meanwhile.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                size = self._write_zeros(size)
            finally:
                self._connection.execute("ROLLBACK")
        # Without the zeros the next transactions are slower, and nothing else.
        except (apsw.Error, OSError, StoreError) as error:
            logger.debug("%s stays as it is: %s", self._path, error)
        self._full_at = (size - MARGIN_BYTES) // self._frame_bytes

    def _write_zeros(self, size: int) -> int:
        if self._file is None:
            self._check()
            # Kept open, because the name could be another file's one day.
            self._file = os.open(self._path, os.O_WRONLY)
        found = os.fstat(self._file).st_size
        if found < size:
            os.pwrite(self._file, bytes(size - found), found)
            os.fsync(self._file)
        return max(found, size)

    def save(self) -> None:
        """Copy a log whose file was removed, which only this process can still read.

        Otherwise acknowledged commits would be gone when this process is killed. Call it only when
        there is no other file of that name: two logs must not be copied into one database.
        """
        try:
            pages, copied = self._connection.wal_checkpoint()
        except apsw.Error as error:
            logger.critical(
                "%s was removed, and what was in it could not be saved: %s", self._path, error
            )
            return
        # A reader can keep the last pages from being copied. Then this is tried again.
        if copied == pages:
            logger.critical(
                "%s was removed; what was in it is saved, nothing acknowledged is lost", self._path
            )

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
