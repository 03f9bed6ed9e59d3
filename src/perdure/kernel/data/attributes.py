"""Search attributes: named values of an instance, by which lists are filtered.

A value is a text, a number, a truth value, a time, or a list of texts. A client gives attributes
with a start, and workflow code changes them (`kernel/execution/changes.py`). They stand encoded in
the unit's row.

To be compared, attributes fall apart into *terms*: a name, a kind, and a value that SQL and Python
order alike. A list has a term for each text in it. Only terms of the same kind are compared. So one
name may have values of different kinds, and a comparison is never an error. Stores index the terms
of a row, and filters of clients name a term.
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
"""A value of a search attribute. A datetime has a timezone."""

Comparable: TypeAlias = str | int | float
Term: TypeAlias = tuple[str, int, Comparable]
"""A name, a kind and a value, by which an instance is found."""

# The kinds stand in the index of stores, so these numbers never change.
TEXT, NUMBER, TRUTH, TIME = 1, 2, 3, 4

_RULE = (
    "use text, an int of up to 64 bits, a finite float, a bool, a datetime with a timezone, "
    "or a list of texts"
)
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT_END = 1 << 63


# ---------------------------------------------------------------- writing


def encode_attributes(values: object, *, removing: bool) -> bytes:
    """Encode names and values as they are sent and journaled.

    With `removing`, None stands for a name that is to be removed.

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
        if not _is_value(value):
            msg = f"the search attribute {name!r} cannot be {value!r}: {_RULE}"
            raise UsageError(msg)
    return encode(dict(cast("Mapping[str, object]", values)))


def _is_value(value: object) -> bool:
    if type(value) is not list:
        return comparable(value) is not None
    # A list is for texts only.
    return all(type(part) is str and is_storable(part) for part in cast("list[object]", value))


def merged(old: bytes | None, changes: bytes) -> bytes | None:
    """The attributes after a change, without those that it removes. None if none is left."""
    both = decode_attributes(old) | decode_attributes(changes)
    # In the order of the names, so that equal attributes are equal bytes.
    left = {name: both[name] for name in sorted(both) if both[name] is not None}
    if not left:
        return None
    return encode(left)


def check_attributes(data: bytes | None, limits: Limits) -> None:
    """Refuse attributes that would cross a limit.

    Raises:
        LimitExceeded: naming the limit and the option.
    """
    if data is None:
        return
    # The limit is for the index, which has a row for each term. An empty list counts, too.
    count = sum(max(1, len(_parts(value))) for value in decode_attributes(data).values())
    if count > limits.attributes:
        msg = (
            f"there would be {count} search attributes, each text of a list counted; the limit is "
            f"{limits.attributes} (Limits.attributes): they are for finding instances, keep other "
            "data in the KV store"
        )
        raise LimitExceeded(msg)
    if len(data) > limits.attribute_bytes:
        msg = (
            f"the search attributes would have {len(data)} bytes; the limit is "
            f"{limits.attribute_bytes} (Limits.attribute_bytes): they are for finding instances, "
            "keep other data in the KV store"
        )
        raise LimitExceeded(msg)


# ---------------------------------------------------------------- reading


def decode_attributes(data: bytes | None) -> dict[str, Any]:
    """Decode the names and values of a row.

    There are none if the row has none, or if `encode_attributes` did not write them.
    """
    if data is None:
        return {}
    try:
        values = decode(data)
    except PayloadError:
        # A list of instances must not fail because of one damaged row.
        return {}
    if not isinstance(values, dict):
        return {}
    return cast("dict[str, Any]", values)


def terms_of(data: bytes | None) -> list[Term]:
    """The terms by which a row's attributes are found."""
    if data is None:
        return []
    found: set[Term] = set()
    for name, value in decode_attributes(data).items():
        for part in _parts(value):
            known = comparable(part)
            if known is not None:
                found.add((name, *known))
    # By their texts: terms of different kinds cannot be compared with each other.
    return sorted(found, key=repr)


def _parts(value: object) -> list[object]:
    if type(value) is list:
        return cast("list[object]", value)
    return [value]


def comparable(value: object) -> tuple[int, Comparable] | None:
    """The kind of a single value, and the value that is compared.

    None if it cannot be a search attribute.
    """
    # By exact types: a bool is an int, and an enum may be a str.
    if type(value) is str:
        if is_storable(value):
            return TEXT, value
    elif type(value) is bool:
        return TRUTH, int(value)
    elif type(value) is int:
        # Databases have integers of 64 bits.
        if -_INT_END <= value < _INT_END:
            return NUMBER, value
    elif type(value) is float:
        # NaN is neither less than a number nor more.
        if math.isfinite(value):
            return NUMBER, value
    elif isinstance(value, datetime) and value.utcoffset() is not None:
        return TIME, (value - _EPOCH) // _MICROSECOND
    return None
