"""Hints between processes that have the same SQLite file open: a local socket of its owner.

The process that owns the file listens. Others tell it which units got messages, and ask to be told
when a unit changes. They send lines of text, each a word and JSON:

    posted ["order-1", "default/0"]   to the owner: this unit of this scope has a new message
    watch ["order-1", 3]    to the owner: tell me once when its version is no longer 3
    changed ["order-1", 4]  from the owner
    work []                 to the owner: tell me of tasks from now on
    tasks ["gpu", false]    to the owner, or from it: workers of this queue have something to do

A hint that is lost costs time only, because the messages themselves stand in the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from perdure.ports.store import (
    Hint,
)
from perdure.ports.tasks import TaskHint
from perdure.store.sqlite.fork import closes, keep_from_children
from perdure.store.watch import Watchers, answer

PATH_BYTES_MAX = 100
"""What fits into a socket's address on every system (macOS: 104)."""
LINE_BYTES_MAX = 64 << 10
CONNECTIONS_WAITING_MAX = 1_024
"""Connections that the system keeps for an owner that stands still. It refuses further ones."""
LOOK_S = 2.0
"""How often the owner looks whether the file of its socket is still there."""
FLUSH_S = 1.0
"""How long a process that ends waits for an owner that does not listen."""

UNREAD_BYTES_MAX = 256 << 10
"""Hints for a worker that does not read are dropped above this. It finds its tasks by looking."""
SUBSCRIBE_S = 2.0
"""How often a worker looks whether there is an owner to hear from."""

logger = logging.getLogger("perdure.store")

_encode = msgspec.json.encode
_decode_posted = msgspec.json.Decoder(tuple[str, str]).decode
_decode_tasks = msgspec.json.Decoder(tuple[str, bool]).decode
_decode_watch = msgspec.json.Decoder(tuple[str, int]).decode


def socket_path(database: str) -> Path:
    """The socket of a database's owner: beside the file, or in a private folder.

    It is in the folder when the path beside the file would be too long for an address.
    """
    real = Path(database).resolve()
    beside = real.with_name(f"{real.name}.sock")
    if len(os.fsencode(beside)) <= PATH_BYTES_MAX:
        return beside
    # Not $TMPDIR if possible: it differs between processes, which would then miss each other, and
    # it can itself be too long.
    shared = Path("/tmp")  # noqa: S108 - the folder in it is private
    if not os.access(shared, os.W_OK | os.X_OK):
        shared = Path(tempfile.gettempdir())
    digest = sha256(os.fsencode(real)).hexdigest()[:24]
    return shared / f"perdure-{os.getuid()}" / f"{digest}.sock"


def _check_folder(path: Path, database: str) -> None:
    """Raise unless the socket lies beside the database, or where no other user can put one."""
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
    # A socket that is there is that of an owner that was killed. This process has the lock now.
    path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _descriptor_of(writer: asyncio.StreamWriter) -> int:
    """The number of a connection's socket, -1 when it is closed."""
    number: int = writer.get_extra_info("socket").fileno()
    return number


class HintServer:
    """The owner's end."""

    def __init__(
        self,
        database: str,
        on_posted: Callable[[Hint], None],
        wait_change: Callable[[str, int], Awaitable[int]],
        on_tasks: Callable[[TaskHint], None],
    ) -> None:
        """Ring `on_posted` for units with messages, and `on_tasks` for queues.

        Answer watches by `wait_change`.
        """
        self._database = database
        self._on_posted = on_posted
        self._wait_change = wait_change
        self._on_tasks = on_tasks
        self._workers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._path = socket_path(database)
        self._identity: tuple[int, int] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._refused = ""
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        A system that refuses costs latency only. So that is logged, and tried again now and then.
        """
        await self._listen()
        self._keeping = asyncio.create_task(self._keep(), name="perdure-socket")

    async def _listen(self) -> None:
        try:
            _prepare(self._path, self._database)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(str(self._path))
                self._identity = _identity(self._path)
                # Before any process can connect, because it does not listen yet.
                self._path.chmod(0o600)
                keep_from_children(listener.fileno())
                self._server = await asyncio.start_unix_server(
                    self._serve,
                    sock=listener,
                    limit=LINE_BYTES_MAX,
                    backlog=CONNECTIONS_WAITING_MAX,
                )
            except BaseException:
                closes(listener.fileno())
                listener.close()
                raise
        except OSError as error:
            self._say_once(str(error))
        else:
            self._refused = ""

    def _say_once(self, reason: str) -> None:
        # Tried every two seconds, and worth one log record.
        if reason != self._refused:
            text = "no local socket for %s (%s): messages posted by other processes are found late"
            logger.warning(text, self._database, reason)
        self._refused = reason

    async def _keep(self) -> None:
        """Make the socket again when its file was removed, as cleaners of folders do."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._server is None:
                await self._listen()
            elif _identity(self._path) != self._identity:
                logger.warning("the local socket %s was removed; it is made again", self._path)
                self._stop_listening()
                await self._listen()

    def _stop_listening(self) -> None:
        """Take no new connections. Those that are open go on."""
        server = self._server
        self._server = None
        self._identity = None
        if server is not None:
            for listener in server.sockets:
                closes(listener.fileno())
            server.close()

    async def close(self) -> None:
        """Stop listening, and hang up."""
        self._closed = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        # Asked before it stops listening: by its name it could be that of the next owner.
        is_ours = self._identity is not None and _identity(self._path) == self._identity
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if is_ours:
            try:
                self._path.unlink(missing_ok=True)
            # The disk may be read-only by now. The next owner removes the file.
            except OSError as error:
                logger.warning("the local socket %s stays behind: %s", self._path, error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)
        connection = _descriptor_of(writer)
        watches: set[asyncio.Task[None]] = set()
        try:
            # It is cancelled when the store closes. asyncio would log a task that ends as
            # cancelled.
            with suppress(asyncio.CancelledError):
                keep_from_children(connection)
                while not self._closed and (line := await reader.readline()):
                    self._obey(line, writer, watches)
        # A line that cannot be read ends the connection. Its sender connects again.
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("a hint for %s was dropped: %s", self._database, error)
        finally:
            self._tasks.discard(own)
            self._workers.discard(writer)
            for watch in watches:
                watch.cancel()
            closes(connection)
            writer.close()

    def _obey(
        self, line: bytes, writer: asyncio.StreamWriter, watches: set[asyncio.Task[None]]
    ) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"posted":
            self._on_posted(Hint(*_decode_posted(rest)))
        elif word == b"watch":
            unit, version = _decode_watch(rest)
            watch = asyncio.create_task(self._watch(unit, version, writer))
            watches.add(watch)
            watch.add_done_callback(watches.discard)
        elif word == b"work":
            self._workers.add(writer)
        elif word == b"tasks":
            hint = TaskHint(*_decode_tasks(rest))
            self._on_tasks(hint)
            self.tell_workers([hint])

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell the workers of other processes of queues."""
        lines = _task_lines(hints)
        # Never waited for: the commit that added the tasks is durable, and this is only news of it.
        for writer in self._workers:
            transport = writer.transport
            if not writer.is_closing() and transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
                writer.write(lines)

    async def _watch(self, unit: str, version: int, writer: asyncio.StreamWriter) -> None:
        changed = await self._wait_change(unit, version)
        writer.write(b"changed " + _encode((unit, changed)) + b"\n")


def _task_lines(hints: Sequence[TaskHint]) -> bytes:
    return b"".join(b"tasks " + _encode((hint.queue, hint.is_drop)) + b"\n" for hint in hints)


class HintClient:
    """The end of a process that does not own the file.

    It connects when it is needed, again and again, because owners come and go.
    """

    def __init__(self, database: str) -> None:
        """Name the database. Nothing is opened yet."""
        self._database = database
        self._path = socket_path(database)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._watchers = Watchers()
        self._connecting = asyncio.Lock()
        self._posted: dict[str, Hint] = {}
        self._told: dict[TaskHint, None] = {}
        self._on_tasks: Callable[[TaskHint], None] | None = None
        self._subscribing: asyncio.Task[None] | None = None
        self._delivering: asyncio.Task[None] | None = None

    def posted(self, hint: Hint) -> None:
        """Tell the owner, if there is one, that a unit has messages.

        While the owner does not listen, each unit waits once.
        """
        self._posted[hint.unit] = hint
        self._deliver_soon()

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Have the owner, if there is one, tell the other processes of queues."""
        self._told |= dict.fromkeys(hints)
        self._deliver_soon()

    def hear_of_tasks(self, on_tasks: Callable[[TaskHint], None]) -> None:
        """Hear of queues from whichever process owns the file, from now on."""
        self._on_tasks = on_tasks
        if self._subscribing is None:
            self._subscribing = asyncio.create_task(self._subscribe(), name="perdure-subscribe")

    async def _subscribe(self) -> None:
        """Tell each owner that this process works, as long as the store is open."""
        known: asyncio.StreamWriter | None = None
        while True:
            # A connection that is closed, or another one than the last, has not been told.
            if self._writer is None or self._writer is not known:
                await self._send(b"work []\n")
                known = self._writer
            await asyncio.sleep(SUBSCRIBE_S)

    def _deliver_soon(self) -> None:
        if self._delivering is None or self._delivering.done():
            self._delivering = asyncio.create_task(self._deliver(), name="perdure-posted")

    async def _deliver(self) -> None:
        """Send all hints that have gathered, until there are no more."""
        while self._posted or self._told:
            hints = self._posted
            self._posted = {}
            # In one write, because a socket takes few writes while its reader stands still.
            lines = bytearray(_task_lines(list(self._told)))
            self._told = {}
            for hint in hints.values():
                lines += b"posted " + _encode((hint.unit, hint.scope)) + b"\n"
            await self._send(bytes(lines))

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> bool:
        """Wait until the owner says that a unit changed, the owner is gone, or the time is up.

        False: there is no owner.
        """
        # After a timeout the caller looks at the store, as it does after a change.
        with self._watchers.watch(unit) as waiter, suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                if not await self._send(b"watch " + _encode((unit, version)) + b"\n"):
                    return False
                await waiter
        return True

    async def close(self) -> None:
        """Hand over the hints that wait, and hang up."""
        if self._delivering is not None and not self._delivering.done():
            await asyncio.wait([self._delivering], timeout=FLUSH_S)
            if not self._delivering.done():
                self._delivering.cancel()
                await asyncio.wait([self._delivering])
                logger.warning(
                    "the owner of %s does not listen: "
                    "it finds the last messages of this process late",
                    self._database,
                )
        if self._subscribing is not None:
            self._subscribing.cancel()
            await asyncio.wait([self._subscribing])
        if self._reading is not None:
            self._reading.cancel()
            # It was cancelled in the line above.
            with suppress(asyncio.CancelledError):
                await self._reading
        self._hang_up()

    def _hang_up(self) -> None:
        if self._writer is not None:
            closes(_descriptor_of(self._writer))
            self._writer.close()
            self._writer = None

    async def _send(self, lines: bytes) -> bool:
        """Wait until the system has taken the lines. False: there is no owner."""
        # The death of an owner is noticed late. So lines that it did not take go to the next one,
        # which may have looked for messages before these were posted.
        for _ in range(2):
            writer = await self._connected()
            if writer is None:
                return False
            try:
                writer.write(lines)
                await writer.drain()
            except OSError:
                if self._writer is writer:
                    self._hang_up()
            else:
                return True
        return False

    async def _connected(self) -> asyncio.StreamWriter | None:
        async with self._connecting:
            if self._writer is None or self._writer.is_closing():
                self._hang_up()
                try:
                    _check_folder(self._path, self._database)
                    reader, writer = await asyncio.open_unix_connection(
                        str(self._path), limit=LINE_BYTES_MAX
                    )
                # There is no owner, or it is going.
                except OSError:
                    return None
                # So that `drain` waits for the last byte.
                writer.transport.set_write_buffer_limits(high=0)
                self._writer = writer
                # A connection that has failed already is noticed when it is used.
                with suppress(OSError):
                    keep_from_children(_descriptor_of(writer))
                self._reading = asyncio.create_task(
                    self._read(reader, writer), name="perdure-hints"
                )
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                word, _, rest = line.partition(b" ")
                if word == b"changed":
                    for waiter, version in self._watchers.take([_decode_watch(rest)]):
                        answer(waiter, version)
                elif word == b"tasks" and self._on_tasks is not None:
                    self._on_tasks(TaskHint(*_decode_tasks(rest)))
        # An owner that is killed with hints unread resets the connection in place of ending it.
        except ConnectionError as error:
            logger.debug("the owner of %s has ended: %s", self._path, error)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("the owner's socket %s failed: %s", self._path, error)
        finally:
            if self._writer is writer:
                self._hang_up()
            # The waiters look at the file themselves, and ask the next owner.
            for waiter, version in self._watchers.take_all():
                answer(waiter, version)
