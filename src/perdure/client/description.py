"""Descriptions: an instance as it is stored, and the events of its history."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import msgspec

from perdure.codec import decode
from perdure.errors import DecodeError, Failure
from perdure.kernel.data.attributes import AttributeValue, decode_attributes
from perdure.kernel.data.commit import JournalChunk, Status, UnitRow
from perdure.kernel.data.events import AnyEvent, decode_events

T = TypeVar("T")
AsType: TypeAlias = type[T]


@dataclass(frozen=True, slots=True)
class Description:
    """An instance as it is stored. Times are UTC.

    `reason` is what a running instance waits for, or why it is suspended. `execution` counts from 1
    and grows with continue-as-new. `run` is another one for each life of the id. `wake_at` is the
    next deadline. `failure` says why it has no result.

    A `datetime` ends with the year 9999. A later time, such as that of `asyncio.sleep(1e12)`, is
    shown as its last moment.
    """

    id: str
    type: str
    version: str
    status: Status
    reason: str | None
    execution: int
    parent: str | None
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    closed_at: datetime | None
    history_events: int
    history_bytes: int
    wake_at: datetime | None
    failure: Failure | None
    custom_status_version: int
    paused: bool
    run: str
    _custom_status: bytes | None = field(default=None, repr=False)
    _result: bytes | None = field(default=None, repr=False)
    _attributes: bytes | None = field(default=None, repr=False)

    def custom_status(self, as_type: AsType[T] | None = None) -> T | None:
        """The value that the workflow gave to `workflow.set_status`."""
        if self._custom_status is None:
            return None
        if as_type is None:
            plain: T = decode(self._custom_status, Any)
            return plain
        value: T = decode(self._custom_status, as_type)
        return value

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """Its search attributes, by name."""
        return decode_attributes(self._attributes)

    def result(self) -> object:
        """The result as plain data. None if there is none (yet)."""
        if self._result is None:
            return None
        return decode(self._result)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_FIRST_MS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def moment(at_ms: int) -> datetime:
    """A stored time as a datetime, or the nearest that a datetime can hold."""
    # An error here would keep a whole list from being read, for the sake of one instance.
    return _EPOCH + timedelta(milliseconds=min(max(at_ms, _FIRST_MS), _LAST_MS))


def _moment_or_none(at_ms: int | None) -> datetime | None:
    if not at_ms:  # rows have 0 for a time that is not set
        return None
    return moment(at_ms)


def describe_row(row: UnitRow) -> Description:
    """A row for people and programs."""
    try:
        return _describe(row)
    except (TypeError, ValueError, AttributeError):
        # A damaged row must not keep its neighbours from being listed.
        readable, _ = readable_row(row)
        return _describe(readable)


def _describe(row: UnitRow) -> Description:
    created = moment(row.created_at)
    return Description(
        row.id,
        row.type,
        row.type_version,
        row.status,
        row.reason,
        row.execution,
        row.parent_unit,
        created,
        _moment_or_none(row.started_at),
        _moment_or_none(row.updated_at) or created,
        _moment_or_none(row.closed_at),
        row.journal_events,
        row.journal_bytes,
        _moment_or_none(row.wake_at),
        row.failure,
        row.custom_status_version,
        row.paused,
        row.run.hex(),
        row.custom_status,
        row.result,
        row.attributes,
    )


def readable_row(row: UnitRow) -> tuple[UnitRow, list[str]]:
    """The row with a default for each damaged value, and the names of these columns.

    A value is damaged that is not of its column's type. Stores do not check types on reading. Only
    a damaged file has such values.
    """
    damaged: dict[str, object] = {}
    for column in msgspec.structs.fields(UnitRow):
        try:
            msgspec.convert(getattr(row, column.name), column.type, builtin_types=(bytes,))
        except msgspec.ValidationError:
            has_default = column.default is not msgspec.NODEFAULT
            if has_default:
                damaged[column.name] = column.default
            else:
                damaged[column.name] = _EMPTY[column.name]
    return msgspec.structs.replace(row, **damaged), list(damaged)


_EMPTY: dict[str, object] = {
    "id": "",
    "scope": "",
    "kind": "",
    "type": "",
    "type_version": "",
    "run": b"",
}
"""The values for damaged columns that have no default."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of a history: its number in its execution (from 1), and the event as the kernel
    knows it.
    """

    number: int
    execution: int
    event: AnyEvent


def events_of(unit: str, execution: int, chunk: JournalChunk) -> list[HistoryEvent]:
    """The events of one row of a journal.

    Raises:
        DecodeError: the row cannot be read.
    """
    try:
        events = decode_events(chunk.events)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        numbers = f"events {chunk.first} to {chunk.first + chunk.count - 1}"
        msg = (
            f"{numbers} of execution {execution} of {unit!r} cannot be read: {error}. The file is "
            "damaged, or a newer release wrote them: restore a backup, or upgrade this process"
        )
        raise DecodeError(msg) from error
    return [
        HistoryEvent(number, execution, event) for number, event in enumerate(events, chunk.first)
    ]
