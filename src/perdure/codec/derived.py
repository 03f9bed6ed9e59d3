"""Types without a declaration: told from a value, or from the function that returns it.

A recorded value is read again as this type. So a list of dataclass objects comes back as that, live
and in replay alike, and not as a list of dicts.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Optional, cast

from perdure.codec.declared import check_type, hints_of
from perdure.codec.plain import SCALARS, field_names, pydantic_model

_GENERIC: dict[type, Any] = {list: list, set: set, frozenset: frozenset}


def type_of(value: object) -> Any:
    """The type that a value is read as.

    `Any`, which reads plain data, where the value does not tell.
    """
    kind = type(value)
    if value is None:  # None tells nothing about the values that may stand in its place
        return Any
    if kind in _GENERIC:
        part = _common(cast("Iterable[object]", value))
        if part is Any:
            return kind
        return _GENERIC[kind][part]
    if kind is dict:
        return _type_of_dict(cast("dict[object, object]", value))
    if kind is tuple:
        parts = cast("tuple[object, ...]", value)
        return types.GenericAlias(tuple, tuple(type_of(part) for part in parts))
    return kind


def _type_of_dict(items: dict[object, object]) -> Any:
    key = _common(items)
    part = _common(items.values())
    if key is Any and part is Any:
        return dict
    return types.GenericAlias(dict, (key, part))


def _common(parts: Iterable[object]) -> Any:
    """The one type of all parts, None aside.

    `Any` for plain data, and for parts of several types.
    """
    kinds: list[Any] = []
    has_none = False
    for part in parts:
        if part is None:
            has_none = True
            continue
        kind = type_of(part)
        if kind not in kinds:
            kinds.append(kind)
    # Scalars come back as themselves without a type, too.
    if len(kinds) != 1 or kinds[0] in SCALARS:
        return Any
    if has_none and kinds[0] is not Any:
        return Optional[kinds[0]]  # noqa: UP045  # `|` is not defined between every two types
    return kinds[0]


def returned_type(fn: Callable[..., object]) -> Any:
    """The declared result of a function, or of its awaitable. None if there is none to use."""
    try:
        hints = hints_of(fn, "function")
        declared = hints.get("return")
        if typing.get_origin(declared) in _AWAITED:
            declared = typing.get_args(declared)[-1]
        if declared in (None, typing.Never, typing.NoReturn):
            return None
        check_type(declared, "result")
    except TypeError:
        # It cannot be resolved, or payloads cannot hold it. The value itself must tell its type.
        return None
    return declared


_AWAITED = (collections.abc.Awaitable, collections.abc.Coroutine)


def difference(value: object, again: object, path: str = "") -> str | None:
    """The place where a value that was encoded and read again has another type, in words.

    None: there is no such place.
    """
    kind = type(value)
    if kind is not type(again):
        place = ""
        if path:
            place = f"{path.lstrip('.')}: "
        return f"{place}{kind.__qualname__} would come back as {type(again).__qualname__}"
    if kind in SCALARS:
        return None
    for step, part, part_again in _pairs(value, again):
        found = difference(part, part_again, path + step)
        if found is not None:
            return found
    return None


def _pairs(value: Any, again: Any) -> Iterable[tuple[str, object, object]]:
    """The parts of both, in pairs. Encoding keeps order and number."""
    cls: type[Any] = value.__class__
    if isinstance(value, (list, tuple)):
        parts = enumerate(zip(cast("list[object]", value), again, strict=True))
        return [(f"[{index}]", one, other) for index, (one, other) in parts]
    if isinstance(value, dict):
        return _pairs_of_dict(cast("dict[object, object]", value), again)
    if isinstance(value, (set, frozenset)):  # in no order, so only the types can be compared
        if _types(value) == _types(again):
            return []
        return [(" (an element)", cast("object", value), None)]
    if pydantic_model(cls):
        names: Iterable[str] = cls.model_fields
    else:
        names = field_names(cls)
    # A field that was never set is on neither side.
    return [
        (f".{name}", getattr(value, name), getattr(again, name))
        for name in names
        if hasattr(value, name) and hasattr(again, name)
    ]


def _pairs_of_dict(value: dict[object, object], again: Any) -> Iterable[tuple[str, object, object]]:
    for (key, one), (key_again, other) in zip(value.items(), again.items(), strict=True):
        yield " (a key)", key, key_again
        yield f"[{key!r:.60}]", one, other


def _types(elements: Any) -> Counter[type]:
    return Counter(map(type, elements))
