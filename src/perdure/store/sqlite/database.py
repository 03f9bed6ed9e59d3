"""Opening a SQLite file: options, checks, and SQLite's errors in words that say what to do."""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from time import monotonic, sleep, time_ns
from typing import TYPE_CHECKING, Literal

import apsw
import msgspec

from perdure.errors import StoreError, StoreFormat, StoreLocked, StoreUnavailable, UsageError
from perdure.ports.store import StoreInfo
from perdure.store.seal import KEY, decode
from perdure.store.sqlite.connection import Connection, opened, transaction
from perdure.store.sqlite.lock import holder_of
from perdure.store.sqlite.migrate import migrate, pending, tables_of

if TYPE_CHECKING:
    from collections.abc import Generator

MEMORY = ":memory:"
_LEVELS = {"off": 0, "normal": 1, "full": 2, "extra": 3}
_WAL_BYTES_KEPT = 64 << 20
_BUSY_PAUSE_S = 0.01
_CACHE_KIB = 32 << 10
_SETTLED_NS = 3_000_000_000
"""The age from which the time of a folder says that no name in it has changed since.

A younger time could stay the same at the next change, because some file systems count in 2 seconds.
"""
_SETTLED_FINE_NS = 50_000_000
"""The same where the time has digits below 10 ms.

Such a file system counts in ticks of the machine's clock, which last 10 ms at most.
"""
_SPACE_BYTES_MIN = 64 << 10
"""The space that SQLite needs to open a file. The index of the log takes 32 KiB of it."""

BATCH_ERRORS: tuple[type[BaseException], ...] = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.NotADBError,
    apsw.CorruptError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.InterruptError,
    apsw.InternalError,
    apsw.ConnectionClosedError,
    MemoryError,
)
"""Errors that say nothing about one commit: they fail a whole batch."""


_REFUSALS = (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a file is opened."""

    synchronous: Literal["full", "normal", "off"] = "full"
    """What a power cut may take.

    With "full" each acknowledged commit survives it. With "normal" the last commits may be lost,
    but not in a crash of the process. With "off" the file may be lost.
    """
    shards: int | None = None
    """The shard count of a new store. None: one shard, or those that the file has."""
    standby: bool = False
    """A claim waits for the process that owns the file, instead of failing."""
    create: bool = True
    """Whether a file is made where there is none. Without it that is an error."""
    read_only: bool = False
    busy_ms: int = 5_000
    """How long to wait for a program that writes."""


def explain(error: BaseException, path: str) -> StoreError:
    """SQLite's error in words, with the remedy. `outcome` is "none"."""
    if isinstance(error, StoreError):
        return error
    if _lacks_space(error, path):
        return StoreUnavailable(
            f"no space is left for {path}, or for what SQLite sorts beside it ({gettempdir()}): "
            "free some on that disk; nothing acknowledged is lost"
        )
    if isinstance(error, apsw.NotADBError):
        return StoreFormat(
            f"{path} is not a SQLite database; name another file, or restore this one from a backup"
        )
    if isinstance(error, apsw.CorruptError):
        return StoreFormat(
            f"{path} is damaged ({error}); stop the node and restore the file from a backup"
        )
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreLocked(_who_holds(path))
    # SQLite says either of the two for a log that it may not make.
    if isinstance(error, _REFUSALS) and _lacks_log(path):
        return StoreUnavailable(
            f"{path} is open in no process, and to read it SQLite must then make its -wal and -shm "
            "files beside it, which this user may not: start a node on it, give this user write "
            f"access to {_folder_of(path)}, or read a copy of the file"
        )
    if isinstance(error, apsw.ReadOnlyError):
        return StoreUnavailable(
            f"{path} is read-only: give this user write access, or open it with ?read_only=true"
        )
    if isinstance(error, _REFUSALS):
        return StoreUnavailable(
            f"{path} cannot be opened ({error}): "
            "the file and its folder must be readable and writable by this user"
        )
    if isinstance(error, apsw.IOError):
        return StoreUnavailable(
            f"reading or writing {path} failed ({error}); check the disk and the system's log"
        )
    return StoreUnavailable(f"{path}: {type(error).__name__}: {error}")


def _folder_of(path: str) -> Path:
    """The folder of the database, in which SQLite makes its other files."""
    return Path(path).resolve().parent


def _is_full(path: str) -> bool:
    """Whether the disk has no room for the files that SQLite makes beside the database."""
    try:
        disk = os.statvfs(_folder_of(path))
    except OSError:
        return False
    # A file system without a fixed number of files says 0 for both.
    if disk.f_files > 0 and disk.f_ffree == 0:
        return True
    return disk.f_bavail * disk.f_frsize < _SPACE_BYTES_MIN


def _lacks_space(error: BaseException, path: str) -> bool:
    """Whether an error of SQLite comes from a full disk."""
    if isinstance(error, apsw.FullError):
        return True
    # SQLite often says no more than "I/O error".
    return isinstance(error, apsw.IOError | apsw.CantOpenError) and _is_full(path)


def _lacks_log(path: str) -> bool:
    """Whether a file that may be read has no log, in a folder in which this user may make none."""
    if Path(f"{os.path.realpath(path)}-wal").exists():
        return False
    return os.access(path, os.R_OK) and not os.access(_folder_of(path), os.W_OK)


def _who_holds(path: str) -> str:
    owner = holder_of(path)
    if owner.stopped:
        return (
            f"the transaction of {path}'s owner, {owner}, is not finished; nobody can write before"
        )
    if owner.lives and owner.pid != str(os.getpid()):
        # The owner holds it for moments. They follow each other where a sync takes long.
        return (
            f"another program holds {path} locked. If its owner, {owner}, writes to a slow disk, "
            "try again, or raise busy_ms in the URL. If it is a database browser, end that"
        )
    return (
        f"another program holds {path} locked in its own transaction; "
        "end that (a database browser?) and try again"
    )


@contextmanager
def explained(path: str) -> Generator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except (apsw.Error, MemoryError) as error:
        raise explain(error, path) from error


class FileGuard:
    """Notices when other files stand at the names of those that were opened, or none.

    The database, its write-ahead log and the log's index belong together. Without the log,
    acknowledged commits are lost when this process is killed. Without the index, the next process
    would write beside this one.
    """

    def __init__(self, path: str, name: str, *, read_only: bool = False) -> None:
        """Remember the files that stand there now. The database is open, so the others exist.

        `name` is what messages call the database. The others may be missing only where the database
        is opened for reading, and open in no other process.
        """
        real = os.path.realpath(path)
        self.path = path
        self.log = f"{real}-wal"
        index = f"{real}-shm"
        self._names = {path: name, self.log: f"{name}-wal", index: f"{name}-shm"}
        self._folder = os.path.dirname(real)  # noqa: PTH120 - as text, for what runs for each batch
        self._is_link = real != os.path.normpath(path)
        self._identities: dict[str, tuple[int, int] | None] = {}
        for file in self._names:
            identity = _identity(file)
            # A file that is missing at the opening is found to be missing at the first look.
            if identity is not None or not read_only:
                self._identities[file] = identity
        self._seen: tuple[int, int, int] | None = None

    def check(self) -> None:
        """Raise StoreUnavailable unless all files still stand where they were opened."""
        # This runs for each batch. A folder in which nothing was made, renamed or removed since the
        # last look has the same files, and one look at it is as cheap as one at a file.
        stamp = _stamp(self._folder)
        if stamp is not None and stamp == self._seen:
            return
        for file, known in self._identities.items():
            found = _identity(file)
            if found is None:
                raise self._gone(file, "was moved or deleted")
            if found != known:
                raise self._gone(file, "was replaced by another file")
        self._seen = None
        # A link is looked at itself each time, because it may be changed in another folder.
        if stamp is not None and not self._is_link:
            *_, changed_ns = stamp
            settled_ns = _SETTLED_NS
            if changed_ns % 10_000_000:
                settled_ns = _SETTLED_FINE_NS
            if 0 <= changed_ns < time_ns() - settled_ns:
                self._seen = stamp

    def _gone(self, file: str, what: str) -> StoreUnavailable:
        back = "put it back"
        if file == self.path:
            back = "put it back (with its -wal file)"
        return StoreUnavailable(
            f"{self._names[file]} {what} while the store was open, so nothing is written any more; "
            f"{back}, or restart on what stands there now",
            permanent=True,
        )

    def misses_only_log(self) -> bool:
        """Whether the log's file is gone, and nothing has taken the place of any file."""
        if _identity(self.log) is not None:
            return False
        others = [file for file in self._identities if file != self.log]
        return all(_identity(file) == self._identities[file] for file in others)


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116 - several times as fast, and it runs for each batch
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stamp(folder: str) -> tuple[int, int, int] | None:
    """The identity of a folder, and when a name in it last changed (ns)."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def check_path(path: str, *, read_only: bool) -> None:
    """Raise StoreUnavailable when no file can be at this path."""
    file = Path(path)
    try:
        mode = mode_of(file)
        mode_of_folder = mode_of(file.parent)
    except OSError as error:
        msg = (
            f"{path} cannot be reached ({error.strerror}): "
            "its folder must be readable and writable by this user"
        )
        raise StoreUnavailable(msg) from error
    if stat.S_ISDIR(mode):
        msg = f"{path} is a folder; name a file in it, such as {file / 'perdure.db'}"
        raise StoreUnavailable(msg)
    if not stat.S_ISDIR(mode_of_folder):
        msg = f"the folder of {path} does not exist; create it: mkdir -p {file.parent}"
        raise StoreUnavailable(msg)
    if read_only and not mode:
        msg = f"{path} does not exist, and it was to be opened read-only; check the path"
        raise StoreUnavailable(msg)
    if mode:
        _check_names(path)


def mode_of(path: Path) -> int:
    """The mode of the file at a path, as `stat` tells it. 0: there is none.

    Raises:
        OSError: it cannot be seen whether there is anything.
    """
    # `Path.exists` does not do: from Python 3.14 on it says False of a file in a closed folder,
    # too.
    try:
        return path.stat().st_mode
    # ValueError means a NUL, which no path can hold.
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return 0


def has_content(path: Path) -> bool:
    """Whether there is a file with anything in it.

    Raises:
        StoreUnavailable: no file can be there.
    """
    check_path(os.fspath(path), read_only=False)
    return mode_of(path) != 0 and path.stat().st_size > 0


def _check_names(path: str) -> None:
    """Raise StoreUnavailable when the file has a second name that SQLite cannot follow.

    It can follow a symbolic link. SQLite keeps its log beside the name that it is given. With two
    names there would be two logs, and each process would overwrite what the other one wrote.
    """
    real = os.path.realpath(path)
    count = Path(real).stat().st_nlink
    if count > 1:
        msg = (
            f"{path} has {count} names (hard links), and SQLite would keep another log for each; "
            "remove the others, or make them symbolic links"
        )
        raise StoreUnavailable(msg)
    if os.fsencode(real) in _mount_points():
        msg = (
            f"{path} is mounted as a single file, "
            "and SQLite's log must lie beside the file itself; mount its folder instead"
        )
        raise StoreUnavailable(msg)


def _mount_points() -> set[bytes]:
    """Where something is mounted, as far as the system tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    # Only Linux has it.
    except OSError:
        return set()
    return {_unescaped(line.split(b" ")[4]) for line in lines}


def _unescaped(name: bytes) -> bytes:
    """A name of `mountinfo`, which has spaces and the like as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)


def connect(path: str, options: Options, *, reader: bool, create: bool = False) -> Connection:
    """A connection with our settings. The file's content is not looked at yet."""
    if options.read_only:
        flags = apsw.SQLITE_OPEN_READONLY
    elif create:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    else:
        flags = apsw.SQLITE_OPEN_READWRITE
    connection = opened(path, flags)
    connection.execute(f"PRAGMA busy_timeout = {options.busy_ms}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if reader:
        connection.execute("PRAGMA query_only = ON")
    return connection


def open_database(path: str, options: Options, new_id: str) -> tuple[Connection, StoreInfo]:
    """Open or create a store. Returns the writing connection, and what the store is.

    Raises:
        StoreFormat: the file is no store, is damaged, or needs a newer release.
        StoreLocked: another program holds it in a transaction.
        StoreUnavailable: it cannot be opened or written.
        UsageError: it exists and has another shard count than `options`.
    """
    if path != MEMORY:
        check_path(path, read_only=options.read_only)
        if not options.create and not mode_of(Path(path)):
            msg = f"there is no store {path}; check the path"
            raise StoreUnavailable(msg)
    with explained(path):
        connection = connect(path, options, reader=False, create=options.create)
    try:
        with explained(path):
            todo = pending(connection)
            if todo and options.read_only:
                _check_not_empty(connection, path)
                msg = (
                    f"{path} is of an older format: it has to be brought to the {todo[0]}, and was "
                    f"opened read-only; run `perdure migrate sqlite:///{path}`, or open it once "
                    "without read_only"
                )
                raise StoreFormat(msg)
            if not options.read_only:
                # SQLite opens a file that it may not write for reading, and says nothing.
                if connection.readonly("main"):
                    raise explain(apsw.ReadOnlyError(), path)
                _configure(connection, path, options)
                migrate(connection)
            return connection, _identify(connection, path, options, new_id)
    except BaseException:
        connection.close()
        raise


def _check_not_empty(connection: Connection, path: str) -> None:
    if not tables_of(connection):
        msg = (
            f"{path} is an empty file, and no store yet; "
            "a node makes it one: `perdure run` or `perdure serve`"
        )
        raise StoreFormat(msg)


class Upgrade(msgspec.Struct, frozen=True):
    """The format of a file, and the migrations that it needs for this release, or was given."""

    path: str
    format: int
    pending: list[str]
    applied: list[str]


def upgrade(path: str, options: Options, *, check: bool) -> Upgrade:
    """Bring an existing store to the format of this release. With `check` only say what it needs.

    Raises:
        StoreFormat: the file is no store, is damaged, or needs a newer release.
        StoreLocked: a node of an older release owns it, or a program holds it in a transaction.
        StoreUnavailable: it cannot be opened or written.
    """
    # The shard count is that of the file.
    options = msgspec.structs.replace(options, read_only=check, shards=None)
    check_path(path, read_only=True)
    with explained(path):
        connection = connect(path, options, reader=False)
        try:
            todo = pending(connection)
            _check_not_empty(connection, path)
            if connection.readonly("main") and not check:
                raise explain(apsw.ReadOnlyError(), path)
            applied: list[str] = []
            if not check:
                applied = migrate(connection)
                todo = []
            # Read-only, because a file without an id is no store, and must not become one here.
            info = _identify(connection, path, msgspec.structs.replace(options, read_only=True), "")
        finally:
            connection.close()
    return Upgrade(path, info.format, todo, applied)


def _use_log(connection: Connection, options: Options) -> object:
    """Make SQLite use a write-ahead log. Returns the journal mode that the file has then."""
    # SQLite does not wait here for a connection that is about to write, whatever the busy timeout.
    # Two processes that open a new file at once would not both succeed.
    until_s = monotonic() + options.busy_ms / 1000
    while True:
        try:
            return connection.execute("PRAGMA journal_mode = WAL").get
        except apsw.BusyError:
            if monotonic() >= until_s:
                raise
        sleep(_BUSY_PAUSE_S)


def _configure(connection: Connection, path: str, options: Options) -> None:
    mode = _use_log(connection, options)
    wanted = "wal"
    if path == MEMORY:
        wanted = "memory"
    if mode != wanted:
        msg = (
            f"{path} cannot use a write-ahead log (journal mode {mode}); "
            "put the file on a local disk"
        )
        raise StoreUnavailable(msg)
    connection.execute(f"PRAGMA synchronous = {options.synchronous}")
    if connection.execute("PRAGMA synchronous").get != _LEVELS[options.synchronous]:
        msg = (
            f"{path}: SQLite did not accept synchronous={options.synchronous}, "
            "so durability cannot be promised"
        )
        raise StoreUnavailable(msg)
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")


def _identify(connection: Connection, path: str, options: Options, new_id: str) -> StoreInfo:
    # Two processes may open a new file at once. The first one gives it its id.
    insert = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
    meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta"))
    if "id" not in meta and not options.read_only:
        rows = [("id", new_id), ("shards", str(options.shards or 1))]
        with transaction(connection):
            connection.executemany(insert, rows)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    try:
        format_ = int(meta["format"])
        shards = int(meta["shards"])
        identity = meta["id"]
        seal = decode(meta.get(KEY))
    except (KeyError, ValueError) as error:
        msg = (
            f"{path} does not say what store it is ({error!r} in its table `meta`); "
            "restore the file from a backup"
        )
        raise StoreFormat(msg) from error
    if options.shards is not None and options.shards != shards:
        msg = (
            f"{path} was created with {shards} shards, which never changes; "
            f"leave out shards={options.shards}"
        )
        raise UsageError(msg)
    capabilities = {"sql"}
    if path != MEMORY:
        capabilities.add("durable")
    return StoreInfo(identity, format_, shards, frozenset(capabilities), seal=seal)
