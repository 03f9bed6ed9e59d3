"""Extension types of msgpack: values that plain msgpack would turn into something else.

msgspec writes a `UUID`, a `Decimal` or a date as text, and a datetime with a zone as a moment in
UTC. Where the declared type says what to read, that is enough for most of them. Where it does not
(`Any`, a union with `str`, the zone of a datetime), the value is written as one of these types:

    100  Decimal     its text
    101  UUID        its 16 bytes
    102  datetime    its text as in RFC 9557: 2026-03-29T00:30:00+01:00[Europe/Berlin]
    103  date        its text
    104  time        its text, as with a datetime
    105  timedelta   days, seconds and microseconds in msgpack
    106  tuple       an array in msgpack
    107  set         an array in msgpack, in a fixed order
    108  frozenset   an array in msgpack, in a fixed order
    109  dict        keys and values in turn, where a key is one of these types
    110  union       the name of the alternative and its value in msgpack
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from msgspec.msgpack import Decoder, Encoder, Ext

CODES = range(100, 111)
DECIMAL, UUID, DATETIME, DATE, TIME, TIMEDELTA, TUPLE, SET, FROZENSET, DICT, UNION = CODES

Moment: TypeAlias = dt.datetime | dt.time
_SUFFIX = re.compile(r"\[([^\]]*)\]")
# RFC 9557 keeps keys that begin with an underscore for private use.
_FOLD = "_fold=1"
_encode = Encoder().encode


class ZoneError(ValueError):
    """A time has a zone that cannot be written down."""


def plain_moment(value: Moment) -> bool:
    """Whether msgspec keeps all of a time where its type is declared."""
    zone = value.tzinfo
    if zone is None:
        return not value.fold
    return zone is dt.UTC


def extended(value: Any) -> Ext | None:
    """A value of exactly one of the scalar types above as an extension.

    None if msgpack keeps the value without one.
    """
    cls: type[Any] = value.__class__
    write = _SCALARS.get(cls)
    if write is None:
        return None
    return write(value)


def moment(value: Moment) -> Moment | Ext:
    """A time where its type is declared.

    Raises ZoneError for a zone without a name and a fixed offset.
    """
    value, key = _zoned(value)
    if key is None and plain_moment(value):
        return value
    return _ext_of_moment(value, key)


def _any_moment(value: Moment) -> Ext | None:
    """A time where its type is not declared."""
    value, key = _zoned(value)
    # msgpack has a type of its own for a moment in UTC.
    if key is None and isinstance(value, dt.datetime) and value.tzinfo is dt.UTC:
        return None
    return _ext_of_moment(value, key)


def _ext_of_moment(value: Moment, key: str | None) -> Ext:
    text = value.isoformat()
    if key is not None:
        text += f"[{key}]"
    if value.fold:
        text += f"[{_FOLD}]"
    code = TIME
    if isinstance(value, dt.datetime):
        code = DATETIME
    return Ext(code, text.encode())


def _zoned(value: Moment) -> tuple[Moment, str | None]:
    """The time with a zone of the standard library, and the key of the zone if it has one."""
    zone = value.tzinfo
    if zone is None or zone is dt.UTC:
        return value, None
    if isinstance(zone, ZoneInfo):
        if zone.key:
            return value, zone.key
        raise ZoneError("its ZoneInfo has no key; make it with ZoneInfo(key)")
    # Libraries have fixed zones of their own. A zone with changing offsets has none without a date.
    offset = zone.utcoffset(None)
    if offset is None:
        raise ZoneError(
            f"its timezone is a {type(zone).__module__}.{type(zone).__qualname__}, which has no "
            "fixed offset; use zoneinfo.ZoneInfo"
        )
    if offset.microseconds:  # Python reads them wrong
        raise ZoneError(f"the offset of its timezone, {offset}, is no number of whole seconds")
    return value.replace(tzinfo=dt.timezone(offset)), None


def _read_moment(kind: type[dt.datetime | dt.time], data: bytes) -> object:
    text = data.decode()
    value: Any = kind.fromisoformat(text.partition("[")[0])
    for suffix in _SUFFIX.findall(text):
        if suffix == _FOLD:
            value = value.replace(fold=1)
        else:
            # The time on the clock is kept, also where the rules of the zone have changed.
            value = value.replace(tzinfo=ZoneInfo(suffix))
    return value


_SCALARS: dict[type, Callable[[Any], Ext | None]] = {
    Decimal: lambda value: Ext(DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: Ext(UUID, value.bytes),
    dt.datetime: _any_moment,
    dt.date: lambda value: Ext(DATE, value.isoformat().encode()),
    dt.time: _any_moment,
    dt.timedelta: lambda value: Ext(
        TIMEDELTA, _encode((value.days, value.seconds, value.microseconds))
    ),
}


class TaggedDict(dict[Any, Any]):
    """A dict that was written as an alternative of a union."""

    tag = ""


class TaggedList(list[Any]):
    """A list that was written as an alternative of a union."""

    tag = ""


class TaggedStr(str):  # noqa: SLOT000  # the tag is kept in its __dict__
    """A text that was written as an alternative of a union."""

    tag = ""


class TaggedInt(int):
    """An integer that was written as an alternative of a union."""

    tag = ""


_TAGGED: dict[type, type[Any]] = {
    dict: TaggedDict,
    list: TaggedList,
    str: TaggedStr,
    int: TaggedInt,
}
TAGGED = tuple(_TAGGED.values())


def untagged(value: Any) -> Any:
    """The plain value of an alternative."""
    for kind, tagged in _TAGGED.items():
        if type(value) is tagged:
            return kind(value)
    return value


class _Reader:
    """Reads the extension types, with or without the names of alternatives."""

    def __init__(self, keep_names: bool) -> None:
        self._keep_names = keep_names
        self.decode: Callable[[bytes], Any] = Decoder(ext_hook=self.extension).decode
        self._by_code: dict[int, Callable[[bytes], object]] = {
            DECIMAL: lambda data: Decimal(data.decode()),
            UUID: lambda data: uuid.UUID(bytes=data),
            DATETIME: lambda data: _read_moment(dt.datetime, data),
            DATE: lambda data: dt.date.fromisoformat(data.decode()),
            TIME: lambda data: _read_moment(dt.time, data),
            TIMEDELTA: lambda data: dt.timedelta(*self.decode(data)),
            TUPLE: lambda data: tuple(self.decode(data)),
            SET: lambda data: self._set(set, data),
            FROZENSET: lambda data: self._set(frozenset, data),
            DICT: self._dict,
            UNION: self._union,
        }

    def extension(self, code: int, data: memoryview) -> object:
        """msgspec's hook for an extension type."""
        read = self._by_code.get(code)
        if read is None:
            return Ext(code, bytes(data))
        return read(bytes(data))

    def _set(self, kind: type[set[Any] | frozenset[Any]], data: bytes) -> object:
        items = self.decode(data)
        try:
            return kind(items)
        except TypeError:
            # Objects in a set are dicts until the reader gives their type. It takes a list, too.
            return items

    def _dict(self, data: bytes) -> object:
        parts = iter(self.decode(data))
        return dict(zip(parts, parts, strict=True))

    def _union(self, data: bytes) -> object:
        name, value = self.decode(data)
        cls = _TAGGED.get(value.__class__)
        if cls is None or not self._keep_names:
            return value
        tagged = cls(value)
        tagged.tag = name
        return tagged


_plain = _Reader(keep_names=False)
read_extension = _plain.extension
read_plain = _plain.decode
"""Decode msgpack with the extension types above, without a declared type."""
read_tagged = _Reader(keep_names=True).decode
"""The same for a declared type with unions that msgspec does not know."""
