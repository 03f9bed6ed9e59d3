"""The OS lock of a SQLite file: who may claim its scopes.

A lock on `<file>.lock` that the kernel releases when its process ends, however it ends: no renewals, no expiry,
instant takeover. The file holds the process id and the incarnation of the owner, for people and for error messages;
it is never removed, because removing it would let two processes lock two files of one name.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from perdure.errors import StoreLocked, StoreUnavailable

HANDOVER_S = 1.0
"""How long a lock that no living process has signed is taken to be changing hands, before it is refused."""
_LOOK_S = 0.005
_PATIENCE_S = 60.0

logger = logging.getLogger("perdure.store")


class OwnerLock:
    """Holds the lock of one file, or not."""

    def __init__(self, path: str) -> None:
        """Name the database file."""
        self._path = path
        self._file = f"{path}.lock"
        self._held: int | None = None
        self._waiting: asyncio.Future[int] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._held is not None

    @property
    def owner(self) -> str | None:
        """The living process that has signed the lock, for people; None if there is none. Nothing is locked."""
        return self._holder() if self._signed() else None

    async def acquire(self, incarnation: str, *, standby: bool) -> None:
        """Take the lock; `standby` waits for its holder to end.

        Raises:
            StoreLocked: another process has it; the message names it and says whether it is stopped.
            StoreUnavailable: the lock file cannot be created, or the store was closed while waiting.
        """
        if self._held is not None:
            return
        handle = self._open()
        if not await self._try_for_a_while(handle):
            holder = self._holder()
            os.close(handle)
            if not standby:
                msg = f"{self._path} is owned by {holder}; stop it, or open the store with ?standby=true to wait for it"
                raise StoreLocked(msg)
            logger.warning("%s is owned by %s; waiting for it to end", self._path, holder)
            handle = await self._wait()
            logger.warning("%s has no owner any more; taking over", self._path)
        self._held = handle
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {incarnation}\n".encode(), 0)

    @contextmanager
    def kept_free(self, why: str) -> Generator[None]:
        """Keep nodes away for as long as the block runs, without signing the lock. Blocks until another block ends.

        Raises:
            StoreLocked: a node owns the file; `why` says why that matters.
        """
        handle = self._open()
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not _try(handle):
                if self._signed() or time.monotonic() >= deadline:
                    msg = f"{self._path} {why}, and {self._holder()} has it; stop that first"
                    raise StoreLocked(msg)
                time.sleep(_LOOK_S)
            yield
        finally:
            os.close(handle)

    async def _try_for_a_while(self, handle: int) -> bool:
        """Try at once, and again while the holder is one that is only passing it on: a standby that was closed."""
        deadline = asyncio.get_running_loop().time() + HANDOVER_S
        try:
            while not _try(handle):
                if self._signed() or asyncio.get_running_loop().time() >= deadline:
                    return False
                await asyncio.sleep(_LOOK_S)
        except BaseException:
            os.close(handle)
            raise
        return True

    def release(self) -> None:
        """Give the lock back, and stop waiting for it."""
        if self._waiting is not None and not self._waiting.done():
            msg = f"the store {self._path} was closed while it waited for its owner"
            self._waiting.set_exception(StoreUnavailable(msg))
        if self._held is not None:
            os.ftruncate(self._held, 0)
            os.close(self._held)
            self._held = None

    def _open(self) -> int:
        try:
            return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            msg = (
                f"the lock file {self._file} cannot be opened ({error.strerror}); it must be a plain file of this user"
            )
            raise StoreUnavailable(msg) from error

    async def _wait(self) -> int:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[int] = loop.create_future()
        self._waiting = waiting
        handle = self._open()

        def arrive() -> None:
            if waiting.done():  # closed or cancelled meanwhile: nobody wants the lock any more
                os.close(handle)
            else:
                waiting.set_result(handle)

        def block() -> None:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if waiting.done():  # nobody wants it any more; do not hold it until the loop has time
                os.close(handle)
                return
            try:
                loop.call_soon_threadsafe(arrive)
            except RuntimeError:  # the loop is closed
                os.close(handle)

        Thread(target=block, name="perdure-standby", daemon=True).start()
        try:
            return await waiting
        finally:
            self._waiting = None

    def _read(self) -> tuple[str, str]:
        """The process and the incarnation that signed, or empty strings."""
        try:
            pid, _, incarnation = Path(self._file).read_text(encoding="utf-8").strip().partition(" ")
        except (OSError, UnicodeDecodeError):
            return "", ""
        return (pid, incarnation) if pid.isdigit() else ("", "")

    def _signed(self) -> bool:
        """Whether the lock names a process that lives."""
        pid, _ = self._read()
        if not pid:
            return False
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # it lives, as another user
            return True
        return True

    def _holder(self) -> str:
        pid, incarnation = self._read()
        if not pid:
            return "another process"
        if _is_stopped(pid):
            return (
                f"process {pid} (node {incarnation}), which is stopped: continue it with `kill -CONT {pid}` or end it"
            )
        return f"process {pid} (node {incarnation})"


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_stopped(pid: str) -> bool:
    try:
        status = Path("/proc", pid, "stat").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # no such process by now, or no such system
        return False
    return status.rpartition(")")[2].split()[:1] in (["T"], ["t"])
