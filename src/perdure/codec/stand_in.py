"""Stand-ins: types that msgspec reads through a shape, because it does not know them itself.

msgspec hands the plain value of a class that it does not know to a hook. A stand-in is such a
class, made for one shape, and the hook asks the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, cast

import msgspec

from perdure.codec.plain import from_plain


class Reader(Protocol):
    """A shape that reads plain values itself."""

    def read(self, value: object) -> object:
        """A value of the declared type. Raises ValueError."""
        ...


class _Everything(type):
    """The class of stand-ins. msgspec asks whether what it has read is an instance of them."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class StandIn(metaclass=_Everything):
    """The type that msgspec is given in place of the declared one."""

    __perdure_read__: ClassVar[Callable[[object], object]]


def stand_in_for(shape: Reader) -> type[StandIn]:
    """A new stand-in that is read through `shape`."""
    made = _Everything("StandIn", (StandIn,), {"__perdure_read__": staticmethod(shape.read)})
    return cast("type[StandIn]", made)


def read_as(type_: Any, value: object) -> Any:
    """A plain value as a type that msgspec knows. Raises ValueError."""
    return msgspec.convert(value, type_, dec_hook=from_plain)
