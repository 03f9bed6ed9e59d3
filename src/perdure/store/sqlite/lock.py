"""The OS lock of a SQLite file. Its holder may claim the scopes of the file.

Two locks make an owner. The kernel releases both when the owner's process ends, however it ends. So
there are no renewals, no expiry, and a takeover is instant.

One lock is on `<file>.lock`, which also holds the process id and the incarnation of the owner, for
people and for error messages. Perdure never removes this file, because then two processes could
lock two files of one name. But people and other programs may remove it. So the other lock is on the
write-ahead log. All processes that have the database open have the same log, and SQLite itself
locks nothing in it. The database file would not do: SQLite's own locks on it end when any
descriptor of the file is closed in this process.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from perdure.errors import StoreLocked, StoreUnavailable
from perdure.store.sqlite.fork import closes, keep_from_children

HANDOVER_S = 1.0
"""How long a lock that no living process has signed is taken to be changing hands.

After that time it is refused.
"""
_ENDS = 0x4
"""PF_EXITING, of the flags in /proc/PID/stat."""
_LOOK_S = 0.005
# A migration takes the lock as an owner does, and can take this long.
_PATIENCE_S = 60.0

logger = logging.getLogger("perdure.store")


class _Locks:
    """The descriptors of one attempt to become the owner.

    After `try_all` all of them are locked, or none.
    """

    def __init__(self, path: str) -> None:
        """Name the database by its real path.

        The log lies beside the file itself, not beside a link to it.
        """
        self._path = path
        self._descriptors: list[int] = []

    @property
    def sheet(self) -> int:
        """The descriptor of the lock file."""
        return self._descriptors[0]

    def try_all(self) -> bool:
        """Take the locks, unless another process has one of them."""
        return self._take(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def wait_for_all(self) -> None:
        """Take the locks as soon as their holder lets go of them. Blocks."""
        self._take(fcntl.LOCK_EX)

    def _take(self, how: int) -> bool:
        self.close()
        try:
            self._lock_the_file_that_stands_there(f"{self._path}.lock", how, create=True)
            self._lock_the_file_that_stands_there(f"{self._path}-wal", how, create=False)
        except BlockingIOError:
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        return True

    def _lock_the_file_that_stands_there(self, name: str, how: int, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if create:
            flags |= os.O_CREAT
        while True:
            try:
                descriptor = keep_from_children(os.open(name, flags, 0o600))
            except FileNotFoundError:
                if create:
                    raise
                # A database without a log has no owner either, because an owner holds its log open.
                return
            self._descriptors.append(descriptor)
            fcntl.flock(descriptor, how)
            # After a wait the lock may be that of a file which was removed meanwhile.
            if _stands_at(descriptor, name):
                return
            self._descriptors.remove(descriptor)
            _close(descriptor)

    def close(self) -> None:
        """Let go of the locks."""
        # The lock file comes last, because a standby waits for it first.
        while self._descriptors:
            _close(self._descriptors.pop())

    def forget(self) -> None:
        """Have nothing, in a forked child. The descriptors are the parent's."""
        self._descriptors = []


def _close(descriptor: int) -> None:
    closes(descriptor)
    os.close(descriptor)


def _stands_at(descriptor: int, name: str) -> bool:
    try:
        found = Path(name).lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that signed the lock of a file. Empty strings: it is unknown."""

    pid: str
    incarnation: str

    @property
    def lives(self) -> bool:
        """Whether there is such a process, and it is not about to end."""
        if not self.pid:
            return False
        try:
            os.kill(int(self.pid), 0)
        except (ProcessLookupError, OverflowError):
            return False
        # It lives, as another user.
        except PermissionError:
            return True
        return not self._ends

    @property
    def stopped(self) -> bool:
        """Whether it is stopped, as by SIGSTOP. Only Linux tells."""
        return self._stat()[:1] in (["T"], ["t"])

    @property
    def _ends(self) -> bool:
        """Whether it has begun to exit, as after SIGKILL. Only Linux tells."""
        # The kernel takes the memory of the process back first, which can take a while, and then
        # its locks.
        match self._stat():
            case ["Z" | "X", *_]:
                return True
            case [_, _, _, _, _, _, flags, *_]:
                return bool(int(flags) & _ENDS)
            case _:
                return False

    def _stat(self) -> list[str]:
        """The fields of /proc/PID/stat from the state on. Empty: there is nothing to read."""
        if not self.pid:
            return []
        try:
            text = Path("/proc", self.pid, "stat").read_text(encoding="utf-8")
        # There may be no such process by now, or no such folder on this system.
        except (OSError, UnicodeDecodeError):
            return []
        # The state stands behind the name of the program, which may have parentheses and spaces.
        return text.rpartition(")")[2].split()

    def __str__(self) -> str:
        """The process, with what to do if it is stopped."""
        if not self.pid:
            return "another process"
        name = f"process {self.pid} (node {self.incarnation})"
        if not self.stopped:
            return name
        return f"{name}, which is stopped: continue it with `kill -CONT {self.pid}` or end it"


def holder_of(path: str) -> Holder:
    """The process that signed the lock of a database. It may be dead: ask `is_owned` for that."""
    try:
        text = Path(f"{os.path.realpath(path)}.lock").read_text(encoding="utf-8")
    # The holder is only named in messages, so a file that cannot be read is as good as an empty
    # one.
    except (OSError, UnicodeDecodeError):
        text = ""
    pid, _, incarnation = text.strip().partition(" ")
    if not pid.isdecimal():
        return Holder("", "")
    return Holder(pid, incarnation)


def is_owned(path: str) -> bool:
    """Whether a process owns a database now. Nothing is created, and nothing is waited for.

    Raises:
        StoreUnavailable: the lock file cannot be opened.
    """
    for name in (f"{os.path.realpath(path)}.lock", f"{os.path.realpath(path)}-wal"):
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _cannot_lock(name, error) from error
        # A shared lock, because several processes may ask at once. A node that starts at this
        # moment tries again.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


class OwnerLock:
    """Holds the lock of one file, or not."""

    def __init__(self, path: str, name: str = "") -> None:
        """Name the database file, and what messages call it."""
        self._path = path
        self._name = name or path
        self._held: _Locks | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._held is not None

    async def acquire(self, incarnation: str, *, standby: bool) -> None:
        """Take the lock. With `standby` this waits for its holder to end.

        Raises:
            StoreLocked: another process has it. The message says which, and whether it is stopped.
            StoreUnavailable: the lock file cannot be created, or the store was closed while
            waiting.
        """
        if self._held is not None:
            return
        locks = self._locks()
        with _explained(self._path):
            is_taken = await self._try_for_a_while(locks)
        if not is_taken:
            holder = holder_of(self._path)
            if not standby:
                msg = (
                    f"{self._name} is owned by {holder}; "
                    "stop it, or open the store with ?standby=true to wait for it"
                )
                raise StoreLocked(msg)
            logger.warning("%s is owned by %s; waiting for it to end", self._name, holder)
            with _explained(self._path):
                await self._wait(locks)
            logger.warning("%s has no owner any more; taking over", self._name)
        self._held = locks
        self._sign(locks.sheet, incarnation)

    @contextmanager
    def kept_free(self, why: str) -> Generator[None]:
        """Keep nodes away for as long as the block runs, without signing the lock.

        Blocks until another such block ends.

        Raises:
            StoreLocked: a node owns the file. `why` says why that matters.
        """
        locks = self._locks()
        try:
            deadline = time.monotonic() + _PATIENCE_S
            with _explained(self._path):
                while not locks.try_all():
                    # Another block has signed nothing, and ends soon.
                    if holder_of(self._path).lives or time.monotonic() >= deadline:
                        holder = holder_of(self._path)
                        msg = f"{self._name} {why}, and {holder} has it; stop that first"
                        raise StoreLocked(msg)
                    time.sleep(_LOOK_S)
            yield
        finally:
            locks.close()

    def _locks(self) -> _Locks:
        return _Locks(os.path.realpath(self._path))

    async def _try_for_a_while(self, locks: _Locks) -> bool:
        """Try at once, and again while no living process has signed the lock."""
        # A standby that was closed holds it for a moment: its thread gets the lock and lets go of
        # it.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HANDOVER_S
        while not locks.try_all():
            if holder_of(self._path).lives or loop.time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    def _sign(self, sheet: int, incarnation: str) -> None:
        """Write into the lock file which process has the lock."""
        # A full disk is no reason to stop here. The first write to the store will say so.
        try:
            os.ftruncate(sheet, 0)
            os.pwrite(sheet, f"{os.getpid()} {incarnation}\n".encode(), 0)
        except OSError as error:
            text = "%s.lock cannot be written (%s): others are not told who owns it"
            logger.warning(text, self._name, error.strerror)

    def release(self) -> None:
        """Give the lock back, and stop waiting for it."""
        if self._waiting is not None and not self._waiting.done():
            msg = f"the store {self._name} was closed while it waited for its owner"
            self._waiting.set_exception(StoreUnavailable(msg))
        locks = self._held
        self._held = None
        if locks is None:
            return
        # Before the lock is free, so that no successor's signature is removed.
        try:
            os.ftruncate(locks.sheet, 0)
        except OSError as error:
            logger.warning("%s.lock still names this process (%s)", self._name, error.strerror)
        finally:
            locks.close()

    def forked(self) -> None:
        """Hold nothing, in a forked child."""
        if self._held is not None:
            self._held.forget()
        self._held = None
        self._waiting = None

    async def _wait(self, locks: _Locks) -> None:
        """Wait for the locks on a thread of its own, because the kernel's wait blocks."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        self._waiting = waiting

        def arrive(error: BaseException | None) -> None:
            # The wait was closed or cancelled meanwhile.
            if waiting.done():
                locks.close()
            elif error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(None)

        def block() -> None:
            error: BaseException | None = None
            try:
                locks.wait_for_all()
            # The folder may be gone, or the disk may fail.
            except OSError as refused:
                error = refused
            # A lock that is not wanted any more must not be held until the loop has time.
            if waiting.done():
                locks.close()
                return
            try:
                loop.call_soon_threadsafe(arrive, error)
            # The loop is closed.
            except RuntimeError:
                locks.close()

        Thread(target=block, name="perdure-standby", daemon=True).start()
        try:
            await waiting
        except BaseException:
            # They may have come in the moment in which the caller was cancelled.
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                locks.close()
            raise
        finally:
            self._waiting = None


@contextmanager
def _explained(path: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_lock(f"{path}.lock", error) from error


def _cannot_lock(name: str, error: OSError) -> StoreUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space on that disk"
    elif error.errno == errno.ENOLCK:
        remedy = "put the file on a local disk"
    else:
        remedy = "it must be a plain file of this user, in a folder that this user may write"
    return StoreUnavailable(
        f"the lock file {error.filename or name} cannot be used ({error.strerror}); {remedy}"
    )
