"""Histories as files: exported from a store, kept beside the tests, and replayed against later
code.

The file is JSON, and its format has a number that only changes when old readers could not read it
any more:

    {"format": "perdure-history-1",            the format
     "perdure": "0.1.0",                       the release that exported it
     "id": "order-1", "workflow": "checkout", "status": "completed",
     "executions": [                           oldest first
       {"number": 1, "version": "1.0.0",
        "kv": {"key": "AQ..."},                values at its beginning
        "kv_times": {"key": 1700000000000},    times at which these were written (ms)
        "turns": ["kw...", "kg..."]}]}         the journal, one text per turn: bytes in base64

`kv` is null if the values follow from the execution before. Payloads are inside the turns, byte for
byte as they were recorded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perdure.errors import NotFound, UsageError
from perdure.kernel.data.commit import JournalChunk, KvEntry
from perdure.kernel.data.events import AnyEvent, Started, decode_events
from perdure.kernel.data.placement import check_id
from perdure.kernel.execution.variables import Variables
from perdure.ports.store import ClientStore, Executions, Journal

FORMAT = 1
"""The format that this release writes and reads."""

_FORMAT = re.compile(r"perdure-history-(\d+)")
_AGAIN = "export it again with `perdure history ID --export FILE`"


@dataclass(frozen=True)
class Execution:
    """The journal of one execution.

    `kv` has the values at its beginning, and `kv_times` the times at which they were written (ms).
    `kv` is None if the values follow from the execution before. `turns` are encoded lists of
    events, as a store keeps them. `events` are those of all turns.
    """

    number: int
    version: str
    kv: dict[str, bytes] | None
    turns: tuple[bytes, ...]
    events: tuple[AnyEvent, ...]
    kv_times: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class History:
    """The history of an instance. `origin` names its file, or the instance in a store."""

    id: str
    workflow: str
    status: str
    executions: tuple[Execution, ...]
    origin: str

    @property
    def count(self) -> int:
        """The number of its events."""
        return sum(len(execution.events) for execution in self.executions)

    @classmethod
    def read(cls, path: str | Path) -> History:
        """The history in a file.

        Raises:
            UsageError: it cannot be read, is no exported history, is cut off or damaged, or has
                another format.
        """
        return parse(_bytes_of(Path(path)), str(path))

    def encode(self) -> bytes:
        """The content of the file."""
        from perdure import __version__

        executions = [
            _Execution(e.number, e.version, e.kv, list(e.turns), dict(e.kv_times))
            for e in self.executions
        ]
        document = _Document(
            f"perdure-history-{FORMAT}",
            self.id,
            self.workflow,
            self.status,
            executions,
            __version__,
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"

    def write(self, path: str | Path) -> None:
        """Write it to a file. An older history in that file is replaced.

        Raises:
            UsageError: the file is no history, or cannot be written.
        """
        target = Path(path)
        if target.exists():
            # A name that was typed wrongly must not cost a file that is something else.
            try:
                History.read(target)
            except UsageError as error:
                msg = (
                    f"{target} exists, and is not replaced, because it is no history: {error}. "
                    "Give another file"
                )
                raise UsageError(msg) from error
        # Written beside it first, so that a crash leaves the old file or the new one.
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            fresh.write_bytes(self.encode())
            fresh.replace(target)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            msg = (
                f"cannot write {target}: {error.strerror}; "
                "give a file in a folder that exists and is yours"
            )
            raise UsageError(msg) from error


class _Execution(msgspec.Struct):
    number: int
    version: str
    kv: dict[str, bytes] | None
    turns: list[bytes]
    kv_times: dict[str, int] = {}


class _Document(msgspec.Struct):
    format: str
    id: str
    workflow: str
    status: str
    executions: list[_Execution]
    perdure: str = ""


class _Head(msgspec.Struct):
    format: str = ""


# ---------------------------------------------------------------- reading


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read the history {path}: {error.strerror}"
        raise UsageError(msg) from error


def parse(data: bytes, origin: str) -> History:
    """The history in the bytes of a file. `origin` names the file in errors.

    Raises:
        UsageError: as `History.read`.
    """
    # The format is read alone first: a newer document need not have today's fields.
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"{origin} is no exported history, or was cut off: {error}; {_AGAIN}"
        raise UsageError(msg) from error
    found = _FORMAT.fullmatch(head.format)
    if found is None:
        msg = (
            f"{origin} is no exported history: "
            f"it does not begin with a format like 'perdure-history-1'; {_AGAIN}"
        )
        raise UsageError(msg)
    if int(found[1]) != FORMAT:
        newer = ""
        if int(found[1]) > FORMAT:
            newer = "run a newer Perdure, or "
        msg = (
            f"{origin} has format {found[1]}, and this release reads format {FORMAT}: "
            f"{newer}{_AGAIN}"
        )
        raise UsageError(msg)
    try:
        document = msgspec.json.decode(data, type=_Document)
        check_id(document.id)
    except (msgspec.ValidationError, UsageError) as error:
        msg = f"{origin} is damaged: {error}; {_AGAIN}"
        raise UsageError(msg) from error
    if not document.executions:
        msg = f"{origin} is damaged: it has no execution; {_AGAIN}"
        raise UsageError(msg)
    executions = [_execution(one, origin) for one in document.executions]
    return History(document.id, document.workflow, document.status, tuple(executions), origin)


def _execution(found: _Execution, origin: str) -> Execution:
    events: list[AnyEvent] = []
    for number, turn in enumerate(found.turns, 1):
        try:
            events += decode_events(turn)
        except (msgspec.MsgspecError, ValueError) as error:
            msg = (
                f"{origin}: turn {number} of execution {found.number} cannot be decoded ({error}): "
                f"the file is damaged, or a newer Perdure recorded it; run that one, or {_AGAIN}"
            )
            raise UsageError(msg) from error
    first = None
    if events:
        first = events[0]
    if not isinstance(first, Started) or first.execution != found.number:
        msg = (
            f"{origin} is damaged: execution {found.number} does not begin with its start; {_AGAIN}"
        )
        raise UsageError(msg)
    return Execution(
        found.number, found.version, found.kv, tuple(found.turns), tuple(events), found.kv_times
    )


# ---------------------------------------------------------------- exporting


async def export_history(store: ClientStore, id: str, *, every_execution: bool = False) -> History:
    """The history of an instance in an open store: its current execution, or all that are kept.

    Raises:
        NotFound: there is no such instance, or it has not begun.
    """
    loaded = (await store.load([check_id(id)]))[0]
    row = loaded.row
    if row is None or not loaded.journal:
        if row is None:
            msg = f"no instance has the id {id!r}"
        else:
            msg = f"{id!r} is {row.status} and has no history yet"
        raise NotFound(f"{msg}; check the id, or wait until it has begun")
    executions: list[Execution] = []
    if every_execution:
        executions = [await _ended(store, id, number) for number in await _numbers(store, id)]
    # The stored entries are those of now. `Variables` knows which ones the execution began with.
    variables = Variables()
    variables.load(loaded.kv, row.execution)
    executions.append(_exported(row.execution, loaded.journal, variables.entries()))
    return History(row.id, row.type, row.status, tuple(executions), repr(id))


async def _numbers(store: ClientStore, id: str) -> list[int]:
    numbers: list[int] = []
    after: str | None = None
    while True:
        page = await store.query(Executions(unit=id, after=after))
        numbers += [row.execution for row in page.items]
        if page.next is None:
            return numbers
        after = page.next


async def _ended(store: ClientStore, id: str, number: int) -> Execution:
    chunks: list[JournalChunk] = []
    after: str | None = None
    while True:
        page = await store.query(Journal(unit=id, execution=number, after=after))
        chunks += page.items
        after = page.next
        if after is None:
            break
    # A store keeps KV entries for the current execution only. The first one begins without any.
    entries: list[KvEntry] | None = None
    if number == 1:
        entries = []
    return _exported(number, chunks, entries)


def _exported(number: int, chunks: list[JournalChunk], entries: list[KvEntry] | None) -> Execution:
    events = [event for chunk in chunks for event in decode_events(chunk.events)]
    first = events[0]
    assert isinstance(first, Started)
    turns = tuple(chunk.events for chunk in chunks)
    if entries is None:
        return Execution(number, first.version, None, turns, tuple(events))
    kv: dict[str, bytes] = {}
    times: dict[str, int] = {}
    for entry in entries:
        if entry.value is not None:  # None: the key was deleted
            kv[entry.key] = entry.value
            times[entry.key] = entry.updated_at
    return Execution(number, first.version, kv, turns, tuple(events), times)
