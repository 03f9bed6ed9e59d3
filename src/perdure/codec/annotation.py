"""From an annotation to the shape of its values."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import inspect
import types
import typing
from functools import lru_cache
from typing import Any, cast

import msgspec

from perdure.codec.model import Model
from perdure.codec.nested import Anything, Dict, Items, Tuple
from perdure.codec.plain import is_text, pydantic_model
from perdure.codec.record import Keys, Record, names_of
from perdure.codec.shape import (
    BASES,
    Choice,
    Derived,
    Moment,
    Native,
    Scalar,
    Shape,
    Text,
    base_of,
)
from perdure.codec.union import OneOf, constrained

_abc = collections.abc
_Items = tuple[type[Any], type[Any] | tuple[type[Any], ...]]
# By origin: the class that arrives, and the classes that may be sent.
_ITEMS: dict[Any, _Items] = {
    list: (list, list),
    set: (set, set),
    frozenset: (frozenset, frozenset),
    _abc.Sequence: (list, list),
    _abc.MutableSequence: (list, list),
    _abc.Collection: (list, list),
    _abc.Set: (set, (set, frozenset)),
    _abc.MutableSet: (set, set),
}
# `asyncio.gather` returns a list, and type checkers take it for a tuple.
_TUPLES = (tuple, list)
_DICTS = (dict, _abc.Mapping, _abc.MutableMapping)
_WRAPPERS = {typing.Required, typing.NotRequired, typing.Final, getattr(typing, "ReadOnly", None)}
_SCALARS = frozenset({type(None), bool, bytearray, memoryview, msgspec.UnsetType})


def shape_of(type_: Any) -> Shape:
    """The shape of a declared type.

    Raises TypeError for constraints and unions that cannot be kept, NameError for a field whose
    type is unknown, and whatever a foreign class raises when its fields are read.
    """
    return _Builder(reader_knows=False).build(type_)


@lru_cache(maxsize=4096)
def _record_of(cls: type[Any]) -> Shape | None:
    """The shape of an object that is written without a declared type. None if it has no fields."""
    if not (names_of(cls) or pydantic_model(cls) or dataclasses.is_dataclass(cls)):
        return None
    try:
        return _Builder(reader_knows=True).build(cls)
    except Exception:  # whatever a foreign class does when its fields are read
        # Each field is taken as it is. The reader has to know their types.
        shape = Record(cls, cls)
        shape.fill(dict.fromkeys(names_of(cls), OPEN))
        return shape


def _record(cls: type[Any]) -> Shape | None:
    return _record_of(cast("Any", cls))


OPEN = Anything(Any, _record, reader_knows=True)
"""A value whose reader gives the type."""
ANY = Anything(Any, _record, reader_knows=False)
"""A value that is read without a type."""


class _Builder:
    """Builds the shapes of one declared type. Recursive types meet their own shape again."""

    def __init__(self, reader_knows: bool) -> None:
        # Nothing is said of the parameter of a generic class here, as in `Box` beside `Box[int]`.
        self._unsaid: Shape = ANY
        if reader_knows:
            self._unsaid = OPEN
        self._records: dict[Any, Shape] = {}

    def build(self, type_: Any) -> Shape:
        """The shape of an annotation."""
        if type_ is Any or type_ is object:
            return ANY
        if type_ is None:
            type_ = type(None)
        if hasattr(type_, "__supertype__"):  # a NewType
            return self.build(type_.__supertype__)
        if isinstance(type_, typing.TypeVar):
            if type_.__bound__ is None:
                return self._unsaid
            return self.build(type_.__bound__)
        origin = typing.get_origin(type_)
        args = typing.get_args(type_)
        value: Any = getattr(origin or type_, "__value__", None)
        if type(origin or type_).__name__ == "TypeAliasType":
            return self._alias(origin or type_, args, value)
        if origin is None:
            return self._class(type_)
        return self._special(type_, origin, args)

    def _alias(self, alias: Any, args: tuple[Any, ...], value: Any) -> Shape:
        if args:
            value = substituted(value, dict(zip(alias.__type_params__, args, strict=True)))
        return self.build(value)

    def _special(self, type_: Any, origin: Any, args: tuple[Any, ...]) -> Shape:
        if origin is typing.Annotated:
            return constrained(type_, self.build(args[0]), type_.__metadata__)
        if origin in (typing.Union, types.UnionType):
            return self._union(type_, args)
        if origin is typing.Literal:
            return Choice(type_, args)
        if origin in _WRAPPERS:
            return self.build(args[0])
        if origin is tuple:
            return self._tuple(type_, args)
        if origin in _ITEMS:
            return self._items(type_, origin, args[0])
        if origin in _DICTS:
            return Dict(type_, self.build(args[0]), self.build(args[1]))
        if isinstance(origin, type):
            return self._fields(type_, origin, args)
        return Native(type_)

    def _union(self, type_: Any, args: tuple[Any, ...]) -> Shape:
        # By type, because a `NewType` beside the type that it stands for says it twice.
        alternatives: dict[Any, Shape] = {}
        for arg in args:
            shape = self.build(arg)
            if isinstance(shape, Anything):
                return shape
            alternatives.setdefault(shape.declared, shape)
        return OneOf(type_, list(alternatives.values()))

    def _tuple(self, type_: Any, args: tuple[Any, ...]) -> Shape:
        if len(args) == 2 and args[1] is ...:
            return Items(type_, tuple, _TUPLES, self.build(args[0]))
        if args == ((),):  # how Python 3.10 wrote the empty tuple
            args = ()
        return Tuple(type_, [self.build(arg) for arg in args])

    def _items(self, type_: Any, origin: Any, item: Any) -> Shape:
        kind, accepted = _ITEMS[origin]
        return Items(type_, kind, accepted, self.build(item))

    def _class(self, cls: Any) -> Shape:
        if not isinstance(cls, type):
            return self._bare(cls)
        return self._class_itself(cast("type[Any]", cls))

    def _class_itself(self, cls: type[Any]) -> Shape:
        if cls in (dt.datetime, dt.time):
            return Moment(cls)
        if cls in BASES or cls in _SCALARS or issubclass(cls, enum.Enum):
            return Scalar(cls)
        if cls in _ITEMS or cls is tuple or cls in _DICTS:
            return self._bare(cls)
        if is_text(cls):
            return Text(cls)
        if pydantic_model(cls):
            return Model(cls)
        base = base_of(cls)
        if base is not None:
            return Derived(cls, self.build(base))
        return self._fields(cls, cls, ())

    def _bare(self, cls: Any) -> Shape:
        """A collection without a word about its items."""
        if cls is tuple:
            return Items(cls, tuple, _TUPLES, ANY)
        if cls in _ITEMS:
            return self._items(cls, cls, Any)
        if cls in _DICTS:
            return Dict(cls, ANY, ANY)
        return Native(cls)

    def _fields(self, type_: Any, cls: type[Any], args: tuple[Any, ...]) -> Shape:
        known = self._records.get(type_)
        if known is not None:
            return known
        shape: Record | Keys
        if typing.is_typeddict(cls):
            names = tuple(_annotations(cls))
            shape = Keys(type_, cls)
        else:
            names = names_of(cls)
            if not names and not dataclasses.is_dataclass(cls) and not _has_no_fields(cls):
                return Native(type_)
            shape = Record(type_, cls)
        self._records[type_] = shape
        hints = field_types(cls, args)
        shape.fill({name: self.build(hints.get(name, Any)) for name in names})
        return shape


def _has_no_fields(cls: type[Any]) -> bool:
    return issubclass(cls, msgspec.Struct) or hasattr(cls, "__attrs_attrs__")


def field_types(cls: type[Any], args: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The annotations of a class by name, with the arguments of generic classes put in."""
    found: dict[str, Any] = typing.get_type_hints(cls, include_extras=True)
    given = _arguments(cls, args)
    if not given:
        return found
    for owner in reversed(cls.__mro__):
        parameters = given.get(owner)
        if parameters:
            for name in _annotations(owner):
                found[name] = substituted(found[name], parameters)
    return found


def _annotations(cls: type[Any]) -> dict[str, Any]:
    return inspect.get_annotations(cls)


def _arguments(cls: type[Any], args: tuple[Any, ...]) -> dict[type[Any], dict[Any, Any]]:
    """The types in place of the parameters of a class and of each class that it extends."""
    found: dict[type[Any], dict[Any, Any]] = {}
    stack: list[tuple[Any, tuple[Any, ...]]] = [(cls, args)]
    while stack:
        part, given = stack.pop()
        parameters: dict[Any, Any] = {}
        if given:
            parameters = dict(zip(getattr(part, "__parameters__", ()), given, strict=False))
        if parameters:
            found.setdefault(part, parameters)
        for base in getattr(part, "__orig_bases__", ()):
            origin = typing.get_origin(base)
            if isinstance(origin, type) and origin is not typing.Generic:
                inner = tuple(substituted(arg, parameters) for arg in typing.get_args(base))
                stack.append((origin, inner))
    return found


def substituted(type_: Any, parameters: dict[Any, Any]) -> Any:
    """A type with others in place of its type parameters."""
    if isinstance(type_, typing.TypeVar):
        return parameters.get(type_, type_)
    free = getattr(type_, "__parameters__", ())
    if not free or isinstance(type_, type):
        return type_
    return type_[tuple(parameters.get(one, one) for one in free)]
