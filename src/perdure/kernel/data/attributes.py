"""Search attributes: named values of an instance, by which lists are filtered.

A value is a text, a number, a truth value, a time, or a list of texts. To be compared, attributes fall apart into
*terms*: a name, a kind, and a value that SQL and Python order alike. A list has a term for each text in it. Only terms
of the same kind are compared, so one name may have values of different kinds, and a comparison is never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from perdure.codec import PayloadError, decode, encode
from perdure.errors import LimitExceeded, UsageError
from perdure.kernel.data.definition import check_name, is_storable

if TYPE_CHECKING:
    from perdure.kernel.data.limits import Limits

AttributeValue: TypeAlias = str | int | float | bool | datetime | list[str]
"""What a search attribute can be: a datetime has a timezone."""

Comparable: TypeAlias = str | int | float
Term: TypeAlias = tuple[str, int, Comparable]
"""The name, the kind and the value of what can be searched for."""

TEXT, NUMBER, TRUTH, TIME = 1, 2, 3, 4

_RULE = "use text, an int of up to 64 bits, a finite float, a bool, a datetime with a timezone, or a list of texts"
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT_END = 1 << 63


def comparable(value: object) -> tuple[int, Comparable] | None:
    """The kind of a single value, and what it is compared by; None if it cannot be a search attribute."""
    if type(value) is str:
        return (TEXT, value) if is_storable(value) else None
    if type(value) is bool:
        return TRUTH, int(value)
    if type(value) is int:
        return (NUMBER, value) if -_INT_END <= value < _INT_END else None
    if type(value) is float:
        return (NUMBER, value) if math.isfinite(value) else None
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return TIME, (value - _EPOCH) // _MICROSECOND
    return None


def _parts(value: object) -> list[object]:
    return cast("list[object]", value) if type(value) is list else [value]


def encode_attributes(values: object, *, removing: bool) -> bytes:
    """Names and values as they are sent and journaled; with `removing`, None stands for a name that is to go.

    Raises:
        DefinitionError: a name cannot be one.
        UsageError: it is no mapping, or a value cannot be one.
    """
    if not isinstance(values, Mapping):
        msg = f"search attributes are a dict of names and values, got {values!r}"
        raise UsageError(msg)
    for name, value in cast("Mapping[object, object]", values).items():
        check_name(name, "a search attribute")
        if value is None and removing:
            continue
        listed = type(value) is list
        for part in _parts(value):
            if comparable(part) is None or (listed and type(part) is not str):
                msg = f"the search attribute {name!r} cannot be {value!r}: {_RULE}"
                raise UsageError(msg)
    return encode(dict(cast("Mapping[str, object]", values)))


def decode_attributes(data: bytes | None) -> dict[str, Any]:
    """The names and values of a row; none if it has none, or what it has was not written by `encode_attributes`."""
    if data is None:
        return {}
    try:
        values = decode(data)
    except PayloadError:
        return {}
    return cast("dict[str, Any]", values) if isinstance(values, dict) else {}


def merged(old: bytes | None, changes: bytes) -> bytes | None:
    """The attributes after a change: names in order, without those that are removed; None if none is left."""
    both = decode_attributes(old) | decode_attributes(changes)
    left = {name: both[name] for name in sorted(both) if both[name] is not None}
    return encode(left) if left else None


def terms_of(data: bytes | None) -> list[Term]:
    """What a row's attributes can be found by."""
    if data is None:
        return []
    found: set[Term] = set()
    for name, value in decode_attributes(data).items():
        for part in _parts(value):
            if (known := comparable(part)) is not None:
                found.add((name, *known))
    return sorted(found, key=repr)


def check_attributes(data: bytes | None, limits: Limits) -> None:
    """Refuse what would cross a limit.

    Raises:
        LimitExceeded: naming the limit and the option.
    """
    if data is None:
        return
    count = sum(max(1, len(_parts(value))) for value in decode_attributes(data).values())
    if count > limits.attributes:
        msg = (
            f"there would be {count} search attributes, each text of a list counted; the limit is {limits.attributes} "
            "(Limits.attributes): they are for finding instances, keep other data in the KV store"
        )
        raise LimitExceeded(msg)
    if len(data) > limits.attribute_bytes:
        msg = (
            f"the search attributes would have {len(data)} bytes; the limit is {limits.attribute_bytes} "
            "(Limits.attribute_bytes): they are for finding instances, keep other data in the KV store"
        )
        raise LimitExceeded(msg)
