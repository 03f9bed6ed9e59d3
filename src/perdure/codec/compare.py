"""Comparing a value with what is read of it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, cast
from zoneinfo import ZoneInfo

from perdure.codec.plain import SCALARS, field_names, pydantic_model
from perdure.codec.shape import base_of


def difference(value: object, again: object, path: str = "") -> tuple[str, str] | None:
    """The path to the first part of `value` that is another in `again`, and what it is there.

    None if there is no such part. A value of a subclass of text, a number or a date is the same as
    what it extends.
    """
    kind = type(value)
    if kind is not type(again) and base_of(kind) is not type(again):
        return path, f"{kind.__qualname__} would come back as {type(again).__qualname__}"
    pairs = list(_pairs(value, again))
    if not pairs and not _equal(value, again):
        return path, f"{value!r:.60} would come back as {again!r:.60}"
    if kind in SCALARS:
        return None
    for step, part, part_again in pairs:
        found = difference(part, part_again, path + step)
        if found is not None:
            return found
    return None


def _equal(value: Any, again: Any) -> bool:
    """Whether two values without parts are the same."""
    if isinstance(value, (dt.datetime, dt.time)) and not _same_zone(value, again):
        return False
    if isinstance(value, Decimal):  # which may be a nan that refuses to be compared
        return str(value) == str(again)
    return value == again or (_is_nan(value) and _is_nan(again)) or _is_empty(value)


def _is_nan(value: Any) -> bool:
    # nan is no equal of itself.
    return bool(value != value)  # noqa: PLR0124


def _is_empty(value: object) -> bool:
    """Whether it has fields of which none is set. Such classes need not compare."""
    return bool(field_names(type(value))) or pydantic_model(type(value))


def _same_zone(value: Any, again: Any) -> bool:
    zone, other = value.tzinfo, again.tzinfo
    if isinstance(zone, ZoneInfo) or isinstance(other, ZoneInfo):
        return getattr(zone, "key", None) == getattr(other, "key", None)
    return cast("bool", value.utcoffset() == again.utcoffset())


def _pairs(value: Any, again: Any) -> Iterable[tuple[str, object, object]]:
    """The parts of both, in pairs."""
    cls: type[Any] = value.__class__
    if cls in SCALARS:
        return []
    if isinstance(value, (list, tuple)):
        one, other = cast("list[object]", value), cast("list[object]", again)
        if len(one) != len(other):
            return []
        return [(f"[{index}]", *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    if isinstance(value, dict):
        return _pairs_of_dict(cast("dict[object, object]", value), again)
    if isinstance(value, (set, frozenset)):  # in no order, so only the types can be compared
        if _types(value) == _types(again):
            return []
        return [(" (an element)", cast("object", value), None)]
    names: Iterable[str] = field_names(cls)
    if pydantic_model(cls):
        names = [*cls.model_fields, *(value.model_extra or ())]
    # A field that was never set is on neither side.
    return [
        (f".{name}", getattr(value, name), getattr(again, name, None))
        for name in names
        if hasattr(value, name)
    ]


def _pairs_of_dict(value: dict[object, object], again: Any) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = []
    if len(value) != len(again):
        return found
    for (key, one), (key_again, other) in zip(value.items(), again.items(), strict=True):
        found.append((" (a key)", key, key_again))
        step = f"[{key!r:.60}]"
        if isinstance(key, str) and key.isidentifier():
            step = f".{key}"
        found.append((step, one, other))
    return found


def _types(elements: Any) -> Counter[type]:
    return Counter(map(type, elements))
