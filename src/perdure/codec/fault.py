"""Where and why a value cannot be encoded or decoded.

Only failures come here, so this module may take its time. When msgspec encodes, it says what it
refuses but not where. So the value is searched: the search goes down into the first part that fails
on its own, until no part of that does.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from perdure.codec.plain import encode_msgpack, field_names, pydantic_model

_DEPTH = 1000
# Where the depth itself is refused, each step of the search encodes all levels below it, as far as
# the stack goes. A thousand steps would take too long.
_DEPTH_SEARCHED = 100
_TOO_DEEP = "it is nested too deeply; flatten it"
_AT = re.compile(r"^(?P<why>.*) - at (?P<key>`key` in )?`\$(?P<path>.*)`$", re.DOTALL)


def explain_encode(value: object, error: Exception) -> tuple[str, str]:
    """The path (such as `.items[2].callback`, empty for the value itself) and the reason with a
    remedy.
    """
    path = ""
    seen: set[int] = set()
    limit = _DEPTH
    if isinstance(error, RecursionError):
        limit = _DEPTH_SEARCHED
    while True:
        # A circle fails at every level, so the search would go round for ever.
        if id(value) in seen:
            return path, "it contains itself; pass ids instead of references"
        seen.add(id(value))
        if len(seen) > limit:
            return path[:60] + "...", _TOO_DEEP
        for step, part in _parts(value):
            failure = _failure(part)
            if failure is not None:
                path, value, error = path + step, part, failure
                break
        else:
            return path, _reason(value, error)


def explain_decode(error: Exception) -> tuple[str, str]:
    """The path (such as `[1].cents`) and the reason, from msgspec's message."""
    if isinstance(error, RecursionError):
        return "", "it is nested too deeply"
    found = _AT.match(str(error))
    if found is None:
        return "", str(error) or type(error).__name__
    why = found["why"]
    if found["key"]:
        why = f"a key: {why}"
    return found["path"], why


def _failure(value: object) -> Exception | None:
    try:
        encode_msgpack(value)
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            step = f"[{key!r:.60}]"
            if isinstance(key, str) and key.isidentifier():
                step = f".{key}"
            yield step, item
            yield " (a key)", key
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("list[object]", value)):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in cast("set[object]", value):
            yield "[...]", item
    else:
        cls: type[Any] = value.__class__
        if pydantic_model(cls):
            names: Iterable[str] = cls.model_fields
        else:
            names = field_names(cls)
        for name in names:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _reason(value: object, error: Exception) -> str:
    name = type(value).__qualname__
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(value, int) and isinstance(error, OverflowError):
        return (
            f"the integer needs {value.bit_length()} bits and 64 are the limit; "
            "pass it as a str or a Decimal"
        )
    if isinstance(error, UnicodeError):
        return (
            "the text holds a lone surrogate, which is no Unicode; "
            "pass bytes, or clean it with errors='replace'"
        )
    if inspect.isawaitable(value):
        return f"a {name} is not data; was an `await` forgotten?"
    if inspect.isroutine(value):
        return "a function is not data; pass its name, or call it and pass the result"
    if isinstance(value, type):
        return f"the class {value.__qualname__} is not data; pass an instance, or its name"
    if isinstance(value, BaseException):
        return "an exception is not data; pass str(error)"
    # Only our hook raises NotImplementedError, for a value that it does not know.
    if not isinstance(error, NotImplementedError):
        return f"{name}: {' '.join(str(error).split())}"
    if isinstance(value, io.IOBase):
        return f"an open file ({name}) is not data; pass its path or its content"
    if isinstance(value, Mapping):
        return f"a {name} is not plain data; pass dict(...)"
    if isinstance(value, Iterable):
        return f"a {name} is not plain data; pass list(...)"
    return (
        f"a {name} is not data; "
        "use a dataclass, msgspec.Struct, attrs class, pydantic model or plain values"
    )
