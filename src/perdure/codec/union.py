"""Shapes of unions, and of types with constraints."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Optional, cast

import msgspec
from msgspec.msgpack import Ext

from perdure.codec import extension
from perdure.codec.compare import difference
from perdure.codec.constraint import Test, constraints_of, limits_of, tests_of
from perdure.codec.extension import TAGGED, extended
from perdure.codec.nested import Dict, Items, Tuple, write_named
from perdure.codec.record import Keys, Record, is_tuple
from perdure.codec.shape import (
    Check,
    Choice,
    Moment,
    Scalar,
    Shape,
    Unfit,
    Writing,
    is_odd,
    name_of,
    show,
)
from perdure.codec.stand_in import read_as, stand_in_for

_NONE = type(None)
_NATURAL = frozenset({bool, int, float, str, bytes})
_KINDS: dict[type[Any], str] = {
    _NONE: "None",
    bool: "bool",
    int: "int",
    float: "float",
    msgspec.UnsetType: "unset",
}


class OneOf(Shape):
    """A union.

    msgspec reads a union when the first byte tells which alternative it is. The others are written
    so that it does: scalars as extension types, and the rest with the name of the alternative.
    """

    def __init__(self, declared: Any, alternatives: list[Shape]) -> None:
        super().__init__(declared)
        self._alternatives = alternatives
        self._optional = any(shape.declared is _NONE for shape in alternatives)
        self._others = [shape for shape in alternatives if shape.declared is not _NONE]
        self._names: dict[str, Shape] = {name_of(shape.declared): shape for shape in self._others}
        self.odd = not told_apart(alternatives)
        if self.odd and len(self._names) < len(self._others):
            raise TypeError(
                f"two alternatives of {show(declared)} have the same name; rename one of them"
            )

    @cached_property
    def _stands_in(self) -> bool:
        if self.odd:
            return True
        # msgspec reads one alternative through a stand-in, and not several.
        return len(self._others) > 1 and any(map(is_odd, self._others))

    def _wire(self) -> Any:
        found: Any
        if self._stands_in:
            found = stand_in_for(self)
        else:
            found = self._others[0].wire
        if self._optional:
            return Optional[found]  # noqa: UP045  # `|` is not defined between every two types
        return found

    def _parts(self) -> Iterable[Shape]:
        return self._alternatives

    def _check(self, cls: type[Any]) -> Check:
        if self._stands_in and cls not in _NATURAL and cls is not _NONE:
            return False
        checks = [
            check for shape in self._alternatives if (check := shape.checks[cls]) is not False
        ]
        if True in checks:
            return True
        if len(checks) == 1:
            return checks[0]
        return False

    def _write(self, value: Any, out: Writing) -> Any:
        cls: type[Any] = value.__class__
        likely = [shape for shape in self._alternatives if shape.checks[cls] is not False]
        others = [shape for shape in self._alternatives if shape not in likely]
        refusals: list[Unfit] = []
        for shape in (*likely, *others):
            try:
                return self._write_as(shape, value, out)
            except Unfit as unfit:
                refusals.append(unfit)
        # A refusal from inside tells more than that it is none of the alternatives.
        for refusal in refusals:
            if refusal.path or len(self._others) == 1 or "Expected " not in refusal.why:
                raise refusal
        raise self.unfit(value)

    def _write_as(self, shape: Shape, value: Any, out: Writing) -> Any:
        tried = Writing()  # so that a refused alternative leaves nothing behind
        written = shape.write(value, tried)
        if self._stands_in and written is not None:
            written = tried.note(_told(shape, written))
        if tried.extended:
            out.extended = True
        return written

    def read(self, value: object) -> object:
        """A plain value as one of the alternatives. Raises ValueError."""
        if isinstance(value, TAGGED):
            tag: str = cast("Any", value).tag
            known = self._names.get(tag)
            value = extension.untagged(value)
            if known is not None:
                return read_as(known.wire, value)
            # The class has another name since, or it was sent by code that does not know the union,
            # such as a `PosixPath` for a `Path`. A text or a number of its own has no name.
            others = [shape for shape in self._others if shape.declared not in _NATURAL]
            return self._read_only(value, others)
        if isinstance(value, (dict, list)):
            return self._read_only(cast("object", value), self._others)
        cls = type(value)
        exact = [s for s in self._others if s.declared is cls or isinstance(s, Choice)]
        likely = [shape for shape in self._others if shape.checks[cls] is not False]
        for shape in (*exact, *likely, *self._others):
            with suppress(ValueError, TypeError):
                return read_as(shape.wire, value)
        raise ValueError(f"Expected `{show(self.declared)}`, got `{cls.__name__}`")

    def _read_only(self, value: object, alternatives: list[Shape]) -> object:
        """The only alternative that fits a value without a known name, such as one from JSON."""
        found: list[tuple[str, object]] = []
        for shape in alternatives:
            with suppress(ValueError, TypeError):
                read: object = read_as(shape.wire, value)
                if all(difference(read, other) for _, other in found):
                    found.append((show(shape.declared), read))
        if len(found) == 1:
            return found[0][1]
        if not found:
            raise ValueError(f"Expected `{show(self.declared)}`, got another")
        names = " and ".join(name for name, _ in found)
        raise ValueError(f"it fits {names}; send it from code that knows the type")


def _told(shape: Shape, written: Any) -> Any:
    """The written value of an alternative, so that the reader can tell which it is."""
    if isinstance(shape, Constrained):
        return _told(shape.inner, written)
    if isinstance(shape, Choice):
        return written
    if isinstance(shape, (Scalar, Moment)):
        if shape.declared in _NATURAL or isinstance(written, Ext):
            return written
        found = extended(written)
        if found is not None:
            return found
        if isinstance(shape, Moment):
            return written
    return write_named(shape.declared, written)


def told_apart(alternatives: list[Shape]) -> bool:
    """Whether msgspec can tell the alternatives apart."""
    tagged, others = _tagged(alternatives)
    seen: set[str] = set()
    if tagged:
        seen = {"object", "array", "struct"}
    for shape in others:
        kinds = _kinds(shape)
        if kinds is None:
            # msgspec leaves an unknown class to a hook. It reads None beside that, and no more.
            return all(one is shape or one.declared is _NONE for one in alternatives)
        if seen & kinds:
            return False
        seen |= kinds
    return True


def _tagged(alternatives: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """The Structs that msgspec tells apart by their tags, and the other alternatives."""
    structs = [
        shape
        for shape in alternatives
        if isinstance(shape, Record) and issubclass(shape.cls, msgspec.Struct)
    ]
    configs = [cast("type[msgspec.Struct]", shape.cls).__struct_config__ for shape in structs]
    tags = {config.tag for config in configs}
    forms = {(config.tag_field, config.array_like) for config in configs}
    if len(structs) < 2 or None in tags or len(tags) < len(structs) or len(forms) > 1:
        return [], alternatives
    if len(set(map(type, tags))) > 1:
        return [], alternatives
    return list(structs), [shape for shape in alternatives if shape not in structs]


def _kinds(shape: Shape) -> set[str] | None:
    """How the values of a shape may begin in msgpack. None if only a hook knows."""
    if isinstance(shape, Constrained):
        return _kinds(shape.inner)
    if isinstance(shape, Choice):
        return _kinds_of(shape.values)
    if isinstance(shape, Scalar):
        if issubclass(shape.declared, enum.Enum):
            return _kinds_of([one.value for one in shape.declared])
        if shape.declared is Decimal:
            return {"text", "float"}
        return {_KINDS.get(shape.declared, "text")}
    if isinstance(shape, Moment):
        return {"text"}
    if isinstance(shape, (Items, Tuple)):
        return {"array"}
    if isinstance(shape, Record):
        return _kinds_of_record(shape.cls)
    if isinstance(shape, (Dict, Keys)):
        return {"object"}
    return None


def _kinds_of_record(cls: type[Any]) -> set[str]:
    if is_tuple(cls):
        return {"array"}
    if not issubclass(cls, msgspec.Struct):
        return {"object"}
    # msgspec takes no two Structs without tags, not even of different forms.
    if cls.__struct_config__.array_like:
        return {"array", "struct"}
    return {"object", "struct"}


def _kinds_of(values: Iterable[object]) -> set[str]:
    kinds = {_KINDS.get(value.__class__, "text") for value in values}
    if "int" in kinds:
        kinds.add("float")  # beside a float, msgspec reads the number as one
    return kinds


class Constrained(Shape):
    """A type with constraints, such as `Annotated[int, Gt(0)]`. They hold when it is read."""

    def __init__(
        self, declared: Any, inner: Shape, wire: Any, tests: list[Test], odd: bool
    ) -> None:
        super().__init__(declared)
        self.inner = inner
        self._kept_wire = wire
        self._tests = tests
        self.odd = odd

    def _wire(self) -> Any:
        if self._tests:
            return stand_in_for(self)
        return self._kept_wire

    def _parts(self) -> Iterable[Shape]:
        return (self.inner,)

    def _check(self, cls: type[Any]) -> Check:
        return self.inner.checks[cls]

    def _write(self, value: Any, out: Writing) -> Any:
        return self.inner.write(value, out)

    def read(self, value: object) -> object:
        """A plain value, if it keeps the constraints. Raises ValueError."""
        found = read_as(self._kept_wire, value)
        for test in self._tests:
            if not test.holds(found):
                raise ValueError(f"Expected `{show(self.inner.declared)}` with {test.text}")
        return found


def constrained(declared: Any, inner: Shape, metadata: tuple[object, ...]) -> Shape:
    """The shape of an `Annotated` type.

    Raises TypeError for a constraint that cannot be kept.
    """
    own = [limits_of(one) for one in metadata if isinstance(one, msgspec.Meta)]
    others, tests = constraints_of(metadata)
    odd = bool(others or tests)
    if not own and not odd:
        return inner
    wire: Any = inner.wire
    for limits in (*own, others):
        try:
            tried = Annotated[wire, msgspec.Meta(**limits)]
            msgspec.msgpack.Decoder(tried)
        except (TypeError, ValueError):  # msgspec compares numbers, and no Decimal and no date
            odd = True
            tests = [*tests, *tests_of(limits)]
        else:
            wire = tried
    return Constrained(declared, inner, wire, tests, odd)
