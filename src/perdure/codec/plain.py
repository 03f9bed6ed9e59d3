"""From objects to plain data that msgpack knows, and back, the same way in every process.

`msgspec` encodes most types itself. This module adds two things. Hooks encode pydantic models and a
few types that are text at heart (paths, addresses, URLs). Pydantic is not imported for that,
because a model can only exist where it was imported already. And sets are put in order: msgspec
writes them in the order of their hashes, which for strings differs from process to process. Its own
"deterministic" mode also sorts dicts, whose order is data.
"""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from pathlib import PurePath
from typing import Any, cast

import msgspec

SCALARS = frozenset({str, int, float, bool, type(None), bytes})
DEPTH_MAX = 5_000
"""Levels of nesting, where only the C stack is a limit (Python 3.14 and later)."""
# An array or a map of msgpack begins with one of these bytes.
_CONTAINERS = (*range(0x80, 0xA0), *range(0xDC, 0xE0))
_OTHER_BYTES = bytes(sorted(set(range(256)).difference(_CONTAINERS)))
_TEXT = (
    PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


def pydantic_model(cls: type[Any]) -> bool:
    """Whether `cls` is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def known(cls: type[Any]) -> bool:
    """Whether the hooks below encode `cls`."""
    if cls is object or issubclass(cls, _TEXT):
        return True
    return pydantic_model(cls)


def to_plain(value: Any) -> object:
    """msgspec's hook for a value that it does not know."""
    cls: type[Any] = value.__class__
    if pydantic_model(cls):
        # Python mode, because JSON mode would mask secrets and break bytes. Names of fields and not
        # aliases, because both sides are ours.
        dumped = value.model_dump(mode="python", round_trip=True, by_alias=False, warnings="error")
        if holds_set((dumped,)):
            return sort_sets(dumped)
        return dumped
    if isinstance(value, _TEXT) or _is_url(value):
        return str(value)
    base: Any
    for base in (str, int, float, bytes):  # msgspec takes no subclasses of them
        if isinstance(value, base):
            return base(value)
    raise NotImplementedError  # how a hook of msgspec says that it does not know the value


def from_plain(cls: type[Any], value: Any) -> object:
    """msgspec's hook for a declared class that it does not know.

    msgspec adds the path to ValueError and TypeError.
    """
    if cls is object:
        return value
    if issubclass(cls, _TEXT):
        if not isinstance(value, str):
            raise TypeError(f"Expected `str` for {cls.__name__}, got `{type(value).__name__}`")
        return cls(value)
    return _validate(cls, value)


def _is_url(value: object) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.AnyUrl)


def _validate(cls: Any, value: object) -> object:
    from pydantic import ValidationError

    try:
        return cls.model_validate(value, by_name=True)
    except ValidationError as error:
        refused = error
    if not _holds_bytes(value):  # JSON has no bytes: they would come back as text
        # A strict model takes text for a UUID, or an array for a set, from JSON only.
        with suppress(ValidationError):  # the first refusal is the one to report
            return cls.model_validate_json(msgspec.json.encode(value), by_name=True)
    first = refused.errors(include_url=False)[0]
    text = first["msg"]
    where = ".".join(map(str, first["loc"]))
    if where:
        text = f"{text} (`{where}` of {cls.__name__})"
    raise ValueError(text)


def _holds_bytes(value: object) -> bool:
    """Whether decoded msgpack has bytes in it."""
    if isinstance(value, bytes):
        return True
    return any(map(_holds_bytes, _inside(value)))


encode_msgpack = msgspec.msgpack.Encoder(enc_hook=to_plain).encode


def pack(value: object) -> bytes:
    """msgpack of any value, sets in order. Raises whatever msgspec or a hook raises."""
    body = encode_msgpack(value)  # first, so that the walk below never meets a cycle
    check_depth(body)
    if type(value) in SCALARS or not holds_set((value,)):
        return body
    return encode_msgpack(sort_sets(value))


def check_depth(body: bytes) -> None:
    """Raise RecursionError when msgpack is nested so deeply that it may not decode.

    Before Python 3.14 encoding and decoding count their steps and stop at the same number. Since
    then both go on until the C stack is used up, and decoding needs more of it. So an encoded value
    need not decode.
    """
    # A value with few arrays and maps, by far the most frequent case, is not looked at any further.
    # The condition is one expression, so that mypy follows the version on every Python.
    if (
        sys.version_info >= (3, 14)
        and len(body) > DEPTH_MAX
        and len(body.translate(None, _OTHER_BYTES)) > DEPTH_MAX
    ):
        _check_levels(msgspec.msgpack.decode(body))


def _check_levels(value: object) -> None:
    level = [value]
    depth = 0
    while level:
        level = list(chain.from_iterable(map(_inside, level)))
        depth += 1
        if depth > DEPTH_MAX:
            raise RecursionError("it is nested too deeply")


def _inside(value: object) -> Iterable[object]:
    """The direct parts of decoded msgpack."""
    if isinstance(value, dict):
        return chain.from_iterable(cast("dict[object, object]", value).items())
    if isinstance(value, (list, tuple)):
        return cast("list[object]", value)
    return ()


def holds_set(values: Iterable[object]) -> bool:
    """Whether there is a set with an order to fix anywhere in `values`, which must be free of
    cycles.
    """
    stack = [values]
    while stack:
        for value in stack.pop():
            cls = type(value)
            if cls in SCALARS:
                continue
            parts = _PARTS_OF[cls]
            if parts is None:
                continue
            if parts is _set_parts and value:
                return True
            stack.append(parts(value))
    return False


_CLOSED = (
    msgspec.inspect.NoneType,
    msgspec.inspect.BoolType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.TimeDeltaType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.EnumType,
    msgspec.inspect.LiteralType,
)
Parts = Callable[[Any], Iterable[object]]


def _find_parts(cls: type[Any]) -> Parts | None:
    """A function that returns the parts of a value of this class. None for values without parts."""
    if issubclass(cls, (set, frozenset)):
        return _set_parts
    if issubclass(cls, dict):
        return _dict_parts
    if issubclass(cls, (list, tuple)):
        return _same
    names = _open_fields(cls)
    if not names:
        return None
    # One name is given twice: with a single name the getter would not return a tuple.
    getter = attrgetter(*names, names[0])

    def fields(value: object) -> Iterable[object]:
        try:
            return cast("tuple[object, ...]", getter(value))
        except AttributeError:  # a field that was never set is not encoded either
            return [getattr(value, name) for name in names if hasattr(value, name)]

    return fields


def _open_fields(cls: type[Any]) -> list[str]:
    """The fields that may lead to a set.

    A set in a field that is declared as text or a number would not decode anyway.
    """
    names = list(field_names(cls))
    if not names:
        return names
    try:
        info = msgspec.inspect.type_info(cls)
    except Exception:  # a field of a type that msgspec does not know: then each field is looked at
        return names
    closed = {field.name for field in getattr(info, "fields", ()) if _is_closed(field.type)}
    return [name for name in names if name not in closed]


def _is_closed(type_: msgspec.inspect.Type) -> bool:
    if isinstance(type_, msgspec.inspect.UnionType):
        return all(map(_is_closed, type_.types))
    return isinstance(type_, _CLOSED)


class _PartsOf(dict[type[Any], Parts | None]):
    """The answers of `_find_parts`, kept for a limited number of classes.

    Some programs make classes without end.
    """

    def __missing__(self, cls: type[Any]) -> Parts | None:
        if len(self) >= 4096:
            self.clear()
        found = self[cls] = _find_parts(cls)
        return found


_PARTS_OF = _PartsOf()


def _dict_parts(value: dict[object, object]) -> Iterable[object]:
    return chain(value, value.values())


def _set_parts(value: Iterable[object]) -> Iterable[object]:
    return value


def _same(value: Iterable[object]) -> Iterable[object]:
    return value


def field_names(cls: type[Any]) -> tuple[str, ...]:
    """The fields of a Struct, dataclass or attrs class. Empty for any other class."""
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()))


def sort_sets(value: Any) -> Any:
    """A copy in which each set has become a tuple in a fixed order.

    It encodes like the original.
    """
    cls: type[Any] = value.__class__
    if cls in SCALARS:
        return value
    if issubclass(cls, (set, frozenset)):
        return _in_order([sort_sets(item) for item in value])
    if issubclass(cls, dict):
        return {sort_sets(key): sort_sets(item) for key, item in value.items()}
    if issubclass(cls, list):
        return [sort_sets(item) for item in value]
    if issubclass(cls, tuple):
        return tuple(sort_sets(item) for item in value)
    # The object is copied at its first set, and written to though it may be frozen: the copy is
    # only encoded.
    changed: Any = None
    write: Callable[[Any, str, Any], None] = object.__setattr__
    if issubclass(cls, msgspec.Struct):
        write = msgspec.structs.force_setattr
    for name in field_names(cls):
        old = getattr(value, name, None)
        if type(old) not in SCALARS and holds_set((old,)):
            if changed is None:
                changed = copy.copy(value)
            write(changed, name, sort_sets(old))
    if changed is None:
        return value
    return changed


def _in_order(items: list[Any]) -> tuple[Any, ...]:
    kinds = set(map(type, items))
    if kinds in ({str}, {int}):
        return tuple(sorted(items))
    # `<` is partial for frozensets and undefined for mixtures, so the encoded forms are compared.
    return tuple(sorted(items, key=encode_msgpack))


def complete(values: Iterable[object]) -> None:
    """Make decoded dataclasses encode like those that Python made.

    For a field that was not in the data msgspec sets nothing on the object. The class has its
    default, but encoding looks at the object only.
    """
    stack = [values]
    while stack:
        for value in stack.pop():
            if isinstance(value, (list, tuple, set, frozenset)):
                stack.append(cast("Iterable[object]", value))
            elif isinstance(value, dict):
                stack.append(_dict_parts(cast("dict[object, object]", value)))
            elif type(value) not in SCALARS:
                names = field_names(type(value))
                if dataclasses.is_dataclass(value) and hasattr(value, "__dict__"):
                    present = {name: getattr(value, name) for name in names if hasattr(value, name)}
                    vars(value).update(present)
                stack.append([getattr(value, name, None) for name in names])
