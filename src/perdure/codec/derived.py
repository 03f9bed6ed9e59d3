"""Types without a declaration: told from a value, or from the function that returns it.

A recorded value is read again as this type. So a list of dataclass objects comes back as that, live
and in replay alike, and not as a list of dicts.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Optional, cast

from perdure.codec import compare
from perdure.codec.declared import check_type, hints_of
from perdure.codec.plain import SCALARS

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


def difference(value: object, again: object) -> str | None:
    """The place where a value that was encoded and read again is another, in words.

    None: there is no such place.
    """
    found = compare.difference(value, again)
    if found is None:
        return None
    path, why = found
    if not path:
        return why
    return f"{path.lstrip('.')}: {why}"
