"""From objects to plain data that msgpack knows, and back, the same way in every process.

`msgspec` encodes most types itself. The hooks of this module encode the others: pydantic models, a
few types that are text at heart (paths, addresses, URLs), and subclasses of text, numbers and
dates. Pydantic is not imported for that, because a model can only exist where it was imported
already.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import PurePath
from typing import Any, cast

import msgspec

from perdure.codec.shape import as_base, base_of, read_derived
from perdure.codec.validation import validate

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
    if cls is object or issubclass(cls, _TEXT) or hasattr(cls, "__perdure_read__"):
        return True
    return base_of(cls) is not None or pydantic_model(cls)


def to_plain(value: Any) -> object:
    """msgspec's hook for a value that it does not know."""
    cls: type[Any] = value.__class__
    if pydantic_model(cls):
        # Python mode, because JSON mode would mask secrets and break bytes. Names of fields and not
        # aliases, because both sides are ours.
        return value.model_dump(mode="python", round_trip=True, by_alias=False, warnings="error")
    if is_text(cls):
        return str(value)
    base = base_of(cls)
    if base is not None:  # msgspec takes no subclasses
        return as_base(value, base)
    raise NotImplementedError  # how a hook of msgspec says that it does not know the value


def from_plain(cls: type[Any], value: Any) -> object:
    """msgspec's hook for a declared class that it does not know.

    msgspec adds the path to ValueError and TypeError.
    """
    if cls is object:
        return value
    read = getattr(cls, "__perdure_read__", None)
    if read is not None:  # a stand-in, see `stand_in`
        return read(value)
    if issubclass(cls, _TEXT):
        if not isinstance(value, str):
            raise TypeError(f"Expected `str` for {cls.__name__}, got `{type(value).__name__}`")
        return cls(value)
    base = base_of(cls)
    if base is not None:
        return read_derived(cls, base, value)
    return validate(cls, value)


def is_text(cls: type[Any]) -> bool:
    """Whether the values of a class are text at heart."""
    pydantic = sys.modules.get("pydantic")
    return issubclass(cls, _TEXT) or (pydantic is not None and issubclass(cls, pydantic.AnyUrl))


encode_msgpack = msgspec.msgpack.Encoder(enc_hook=to_plain).encode


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


def field_names(cls: type[Any]) -> tuple[str, ...]:
    """The fields of a Struct, dataclass or attrs class. Empty for any other class."""
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()))


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
                stack.append(_parts_of_dict(cast("dict[object, object]", value)))
            elif type(value) not in SCALARS:
                names = field_names(type(value))
                if dataclasses.is_dataclass(value) and hasattr(value, "__dict__"):
                    present = {name: getattr(value, name) for name in names if hasattr(value, name)}
                    vars(value).update(present)
                stack.append([getattr(value, name, None) for name in names])


def _parts_of_dict(value: dict[object, object]) -> Iterable[object]:
    return chain(value, value.values())
