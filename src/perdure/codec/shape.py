"""Shapes: a declared type, seen from the values that are sent as it.

msgspec encodes a value by its class and not by the declared type. So an object of a subclass, a
tuple for a list or a UUID for a `str` would arrive as something else, without an error. A shape
knows which values arrive as they are. It answers in two steps:

 1. `Shape.checks` and `fit` are asked for each value and have to be fast. They look at classes
    only, in a loop without recursion, and say yes when msgspec's own encoding of the value is read
    back as the same value.
 2. `Shape.write` is asked for the others. It makes a value that msgspec encodes well, with sets in
    a fixed order and with the extension types of `extension`. It raises `Unfit` for a value that
    would not arrive as it is.
"""

from __future__ import annotations

import datetime as dt
import enum
import types
import typing
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, cast

import msgspec
from msgspec.msgpack import Ext

from perdure.codec.extension import ZoneError, moment, plain_moment

Stack: TypeAlias = "list[tuple[Checks, Iterable[object]]]"


class Look(NamedTuple):
    """How a value of some class is looked at. Its parts are put on the stack."""

    one: Callable[[Any, Stack], bool]
    many: Callable[[Collection[Any], Stack], bool] | None = None
    """The same for many values at once, where that is faster."""


Check: TypeAlias = Look | bool
"""How the values of a class are looked at. True: all fit. False: each has to be written."""
_MANY = 4  # from here on, collecting the classes is faster than a loop over the items
_CLASSES_MAX = 4096  # some programs make classes without end
_NONE = type(None)


class Unfit(Exception):  # it never leaves the codec
    """A value would not arrive as what it is. `why` says so, with the remedy."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path = ""

    def inside(self, step: str) -> Unfit:
        """The same, told from outside: `step` leads to the part that does not fit."""
        self.path = step + self.path
        return self


class Checks(dict[type[Any], Check]):
    """The answers of `Shape.check`, by class."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._shape = shape

    def __missing__(self, cls: type[Any]) -> Check:
        if len(self) >= _CLASSES_MAX:
            self.clear()
        found = self[cls] = self._shape.check(cls)
        return found


def fit(stack: Stack) -> bool:
    """Whether all values on a stack fit."""
    while stack:
        checks, values = stack.pop()
        for value in values:
            check = checks[type(value)]
            if check is True:
                continue
            if check is False or not check.one(value, stack):
                return False
    return True


def items_fit(checks: Checks, items: Collection[object], stack: Stack) -> bool:
    """Put items on the stack, except if there are many and a look at their classes is enough."""
    if len(items) < _MANY:
        stack.append((checks, items))
        return True
    look: Look | None = None
    kinds = set(map(type, items))
    for kind in kinds:
        check = checks[kind]
        if check is False:
            return False
        if check is not True:
            look = check
    if look is None:
        return True
    if len(kinds) == 1 and look.many is not None:
        return look.many(items, stack)
    stack.append((checks, items))
    return True


class Writing:
    """A value while it is written. It knows whether an extension type is in it."""

    def __init__(self) -> None:
        self.extended = False

    def note(self, value: Any) -> Any:
        """Take note of an extension type, and return the value."""
        if isinstance(value, Ext):
            self.extended = True
        return value


class Shape(ABC):
    """The values of one declared type."""

    odd = False
    """Whether msgspec cannot read the declared type, or would read it in another way."""

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.checks = Checks(self)

    @cached_property
    def wire(self) -> Any:
        """The type that msgspec reads: the declared one, except where `is_odd`."""
        if is_odd(self):
            return self._wire()
        return self.declared

    def check(self, cls: type[Any]) -> Check:
        """How the values of a class are looked at. See `Check`."""
        return self._check(cls)

    def write(self, value: Any, out: Writing) -> Any:
        """A value that msgspec encodes as what the declared type reads.

        Raises:
            Unfit: it would be read as something else.
        """
        return self._write(value, out)

    def parts(self) -> Iterable[Shape]:
        """The shapes inside this one."""
        return self._parts()

    @abstractmethod
    def _check(self, cls: type[Any]) -> Check: ...

    @abstractmethod
    def _write(self, value: Any, out: Writing) -> Any: ...

    def _parts(self) -> Iterable[Shape]:
        return ()

    def _wire(self) -> Any:
        return self.declared

    def unfit(self, value: object) -> Unfit:
        """The error for a value of another class."""
        return Unfit(f"Expected `{show(self.declared)}`, got `{show(type(value))}`")


def show(type_: Any) -> str:
    """A type as people write it."""
    if isinstance(type_, type) and not hasattr(type_, "__args__"):
        return type_.__qualname__
    return str(type_)


def name_of(type_: Any) -> str:
    """A type by the names that its own code gives it, without those of modules."""
    origin = typing.get_origin(type_)
    args = typing.get_args(type_)
    if origin is typing.Annotated:
        return name_of(args[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(name_of, args))
    if origin is typing.Literal:
        return str(type_)
    if origin is None:
        return getattr(type_, "__name__", None) or str(type_)
    return f"{name_of(origin)}[{', '.join(map(name_of, args))}]"


def reachable(shape: Shape) -> Iterator[Shape]:
    """A shape and all shapes inside it. Types may be recursive."""
    stack = [shape]
    seen: set[int] = set()
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        stack.extend(part.parts())


def is_odd(shape: Shape) -> bool:
    """Whether msgspec must be given another type than the declared one."""
    return any(part.odd for part in reachable(shape))


class Native(Shape):
    """A type of which only msgspec knows more. Its values are left as they are."""

    def _check(self, cls: type[Any]) -> Check:
        return True

    def _write(self, value: Any, out: Writing) -> Any:
        return value


BASES: tuple[type[Any], ...] = (
    str,
    int,
    float,
    bytes,
    Decimal,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
)
"""Values of a subclass of these travel as what they extend."""


def base_of(cls: type[Any]) -> type[Any] | None:
    """The type of `BASES` that a class extends, or is."""
    if issubclass(cls, (bool, enum.Enum)):
        return None
    for base in BASES:
        if issubclass(cls, base):
            return base
    return None


def as_base(value: Any, base: type[Any]) -> Any:
    """A value of a subclass as the type of `BASES` that it extends."""
    if isinstance(value, enum.Enum):
        value = value.value
    if type(value) is base:
        return value
    if base in _BUILT_OF:
        names = _BUILT_OF[base]
        return base(**{name: getattr(value, name) for name in names})
    if base is str:
        return str.__str__(value)  # a subclass may show itself as something else
    return base(value)


_CLOCK = ("hour", "minute", "second", "microsecond", "tzinfo", "fold")
_DAY = ("year", "month", "day")
_BUILT_OF: dict[type[Any], tuple[str, ...]] = {
    dt.datetime: (*_DAY, *_CLOCK),
    dt.date: _DAY,
    dt.time: _CLOCK,
    dt.timedelta: ("days", "seconds", "microseconds"),
    uuid.UUID: ("int",),
}


class Scalar(Shape):
    """A type without parts: text, numbers, bytes, dates, None, enums."""

    def __init__(self, declared: type[Any]) -> None:
        super().__init__(declared)
        self._exact: frozenset[type[Any]] = _ALSO.get(declared, frozenset({declared}))

    def _check(self, cls: type[Any]) -> Check:
        return cls in self._exact

    def _write(self, value: Any, out: Writing) -> Any:
        if type(value) in self._exact:
            return value
        base = self.declared
        # A bool is an int and a datetime is a date in Python only.
        mistaken = isinstance(value, (bool, dt.datetime))
        if base in BASES and isinstance(value, base) and not mistaken:
            return as_base(value, base)
        raise self.unfit(value)


_ALSO: dict[type[Any], frozenset[type[Any]]] = {
    float: frozenset({float, int}),  # as in all annotations
    bytes: frozenset({bytes, bytearray, memoryview}),
}


class Moment(Shape):
    """`datetime` and `time`."""

    def _check(self, cls: type[Any]) -> Check:
        if cls is self.declared:
            return Look(_plain)
        return False

    def _write(self, value: Any, out: Writing) -> Any:
        if not isinstance(value, self.declared):
            raise self.unfit(value)
        return out.note(write_moment(as_base(value, self.declared)))


def write_moment(value: Any) -> Any:
    """A time where its type is declared. Raises Unfit for a zone that cannot be written down."""
    try:
        return moment(value)
    except ZoneError as error:
        raise Unfit(str(error)) from error


def _plain(value: Any, stack: Stack) -> bool:  # noqa: ARG001  # the form of a look
    return plain_moment(value)


class Choice(Shape):
    """A `Literal`."""

    def __init__(self, declared: Any, values: tuple[object, ...]) -> None:
        super().__init__(declared)
        self.values = values
        self._exact = {(type(value), value) for value in values}

    def _check(self, cls: type[Any]) -> Check:
        if any(kind is cls for kind, _ in self._exact):
            return Look(self._is_one)
        return False

    def _is_one(self, value: object, stack: Stack) -> bool:
        return (type(value), value) in self._exact

    def _write(self, value: Any, out: Writing) -> Any:
        for one in self.values:
            if isinstance(value, type(one)) and one == value:
                return one
        raise Unfit(f"Expected `{show(self.declared)}`, got {value!r:.60}")


class Text(Shape):
    """A class whose values are text at heart: paths and addresses."""

    def _check(self, cls: type[Any]) -> Check:
        if issubclass(cls, self.declared):
            return Look(self._is_same)
        return False

    def _is_same(self, value: object, stack: Stack) -> bool:
        # A path of another platform is read in another way.
        try:
            return cast("bool", self.declared(str(value)) == value)
        except ValueError:
            return False

    def _write(self, value: Any, out: Writing) -> Any:
        if isinstance(value, self.declared) and self._is_same(value, []):
            return str(value)
        raise self.unfit(value)


class Derived(Shape):
    """A declared subclass of one of `BASES`, such as `class UserId(str)`."""

    def __init__(self, declared: type[Any], base: Shape) -> None:
        super().__init__(declared)
        self._base = base

    def _check(self, cls: type[Any]) -> Check:
        return False

    def _write(self, value: Any, out: Writing) -> Any:
        if type(value) is not self.declared:
            raise self.unfit(value)
        plain = as_base(value, self._base.declared)
        if derive(self.declared, plain) != value or _more(value):
            raise Unfit(
                f"a {show(self.declared)} holds more than its {show(self._base.declared)}; "
                "use a dataclass"
            )
        return self._base.write(plain, out)


def _more(value: object) -> bool:
    """Whether an object has attributes beside its value. A name with an underscore is a cache."""
    return any(not name.startswith("_") for name in getattr(value, "__dict__", ()))


def derive(cls: type[Any], value: Any) -> object:
    """A value of one of `BASES` as the subclass that was declared."""
    base: type[Any] = value.__class__
    if base in _BUILT_OF:
        return cls(**{name: getattr(value, name) for name in _BUILT_OF[base]})
    return cls(value)


def read_derived(cls: type[Any], base: type[Any], value: object) -> object:
    """Decoded msgpack as a declared subclass of `base`."""
    return derive(cls, msgspec.convert(value, base))
