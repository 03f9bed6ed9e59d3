"""Hints between processes that have the same SQLite file open: a local socket of its owner.

The process that owns the file listens; others tell it which units got mail, and ask it to be told when a unit
changes. Lines of text, each a word and JSON:

    mail "order-1"          to the owner: this unit has a new message in the file
    watch ["order-1", 3]    to the owner: tell me once when its version is no longer 3
    changed ["order-1", 4]  from the owner

Everything here may be lost: the messages themselves stand in the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from perdure.store.watch import Watchers, answer

PATH_BYTES_MAX = 100
"""What fits into a socket's address on every system (macOS: 104)."""
LINE_BYTES_MAX = 64 << 10

logger = logging.getLogger("perdure.store")

_encode = msgspec.json.encode
_decode_mail = msgspec.json.Decoder(str).decode
_decode_watch = msgspec.json.Decoder(tuple[str, int]).decode


def socket_path(database: str) -> Path:
    """Where the owner of a database listens: beside it, or in a private folder if that path is too long."""
    real = Path(database).resolve()
    beside = real.with_name(f"{real.name}.sock")
    if len(os.fsencode(beside)) <= PATH_BYTES_MAX:
        return beside
    # Not $TMPDIR: it differs between processes, which would miss each other, and can itself be too long.
    shared = Path("/tmp") if os.access("/tmp", os.W_OK | os.X_OK) else Path(tempfile.gettempdir())  # noqa: S108
    return shared / f"perdure-{os.getuid()}" / f"{sha256(os.fsencode(real)).hexdigest()[:24]}.sock"


def _check_folder(path: Path, database: str) -> None:
    """Raise unless the socket lies beside the database, or where nobody else can put one."""
    if path.parent == Path(database).resolve().parent:
        return
    found = path.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        msg = f"{path.parent} is not a private folder of this user; remove it, or chmod 700 it"
        raise PermissionError(msg)


def _prepare(path: Path, database: str) -> None:
    if path.parent != Path(database).resolve().parent:
        path.parent.mkdir(mode=0o700, exist_ok=True)
    _check_folder(path, database)
    path.unlink(missing_ok=True)  # of an owner that was killed: the lock says that there is none now


class HintServer:
    """The owner's end."""

    def __init__(
        self, database: str, on_mail: Callable[[str], None], wait_change: Callable[[str, int], Awaitable[int]]
    ) -> None:
        """Ring `on_mail` for units with mail; answer watches by `wait_change`."""
        self._database = database
        self._on_mail = on_mail
        self._wait_change = wait_change
        self._server: asyncio.Server | None = None
        self._path = socket_path(database)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A system that refuses costs latency only: it is logged."""
        try:
            _prepare(self._path, self._database)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(str(self._path))
                self._path.chmod(0o600)  # before anybody can connect: it does not listen yet
                self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_BYTES_MAX)
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            logger.warning(
                "no local socket for %s (%s): messages posted by other processes are found late", self._database, error
            )

    async def close(self) -> None:
        """Stop listening, and hang up."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)
        watches: set[asyncio.Task[None]] = set()
        try:
            with suppress(asyncio.CancelledError):  # the store closes; asyncio would log a task that ends as cancelled
                while line := await reader.readline():
                    self._obey(line, writer, watches)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("a hint for %s was dropped: %s", self._database, error)
        finally:
            self._tasks.discard(own)
            for watch in watches:
                watch.cancel()
            writer.close()

    def _obey(self, line: bytes, writer: asyncio.StreamWriter, watches: set[asyncio.Task[None]]) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"mail":
            self._on_mail(_decode_mail(rest))
        elif word == b"watch":
            unit, version = _decode_watch(rest)
            watch = asyncio.create_task(self._watch(unit, version, writer))
            watches.add(watch)
            watch.add_done_callback(watches.discard)

    async def _watch(self, unit: str, version: int, writer: asyncio.StreamWriter) -> None:
        changed = await self._wait_change(unit, version)
        writer.write(b"changed " + _encode((unit, changed)) + b"\n")


class HintClient:
    """The end of a process that does not own the file. Connects when it is needed, again and again."""

    def __init__(self, database: str) -> None:
        """Name the database; nothing is opened yet."""
        self._database = database
        self._path = socket_path(database)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._watchers = Watchers()
        self._connecting = asyncio.Lock()

    async def mail(self, unit: str) -> None:
        """Tell the owner, if there is one, that a unit has mail."""
        await self._send(b"mail " + _encode(unit) + b"\n")

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> bool:
        """Wait until the owner says that a unit changed, is gone, or the time is up. False when there is no owner."""
        with self._watchers.watch(unit) as waiter:
            if not await self._send(b"watch " + _encode((unit, version)) + b"\n"):
                return False
            with suppress(TimeoutError):  # the caller looks at the store in any case
                async with asyncio.timeout(timeout_ms / 1000):
                    await waiter
        return True

    async def close(self) -> None:
        """Hang up."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):  # that is what we asked for
                await self._reading
        self._hang_up()

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _send(self, line: bytes) -> bool:
        async with self._connecting:
            if self._writer is None or self._writer.is_closing():
                try:
                    _check_folder(self._path, self._database)
                    reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_BYTES_MAX)
                except OSError:  # no owner, or one that is going
                    self._writer = None
                    return False
                self._reading = asyncio.create_task(self._read(reader))
            self._writer.write(line)
        return True

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                word, _, rest = line.partition(b" ")
                if word == b"changed":
                    for waiter, version in self._watchers.take([_decode_watch(rest)]):
                        answer(waiter, version)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("the owner's socket %s failed: %s", self._path, error)
        finally:
            self._hang_up()
            for waiter, version in self._watchers.take_all():
                answer(waiter, version)
