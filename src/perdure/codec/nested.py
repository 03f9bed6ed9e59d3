"""Shapes of lists, tuples, sets and dicts, and of values without a declared type."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, cast

import msgspec
from msgspec.msgpack import Ext

from perdure.codec import extension
from perdure.codec.extension import extended
from perdure.codec.plain import SCALARS, encode_msgpack, is_text
from perdure.codec.shape import (
    Check,
    Look,
    Shape,
    Stack,
    Unfit,
    Writing,
    as_base,
    base_of,
    items_fit,
    name_of,
    show,
)


class Items(Shape):
    """Any number of items of one shape: a list, a set, a frozenset, or a tuple."""

    def __init__(
        self,
        declared: Any,
        kind: type[Any],
        accepted: type[Any] | tuple[type[Any], ...],
        item: Shape,
    ) -> None:
        super().__init__(declared)
        self._kind = kind
        self._accepted = accepted
        self._item = item

    def _wire(self) -> Any:
        if self._kind is tuple:
            return cast("Any", tuple)[self._item.wire, ...]
        return cast("Any", self._kind)[self._item.wire]

    def _parts(self) -> Iterable[Shape]:
        return (self._item,)

    def _check(self, cls: type[Any]) -> Check:
        if cls is not self._kind:
            return False
        if issubclass(cls, (set, frozenset)):
            return Look(self._set_fits)
        return Look(self._items_fit)

    def _items_fit(self, value: Collection[object], stack: Stack) -> bool:
        return items_fit(self._item.checks, value, stack)

    def _set_fits(self, value: set[object], stack: Stack) -> bool:
        # The order of a set differs from process to process, so that several items need one.
        return len(value) < 2 and self._items_fit(value, stack)

    def _write(self, value: Any, out: Writing) -> Any:
        if not isinstance(value, self._accepted):
            raise self.unfit(value)
        if isinstance(value, (set, frozenset)):
            return write_set(self._item, cast("set[object]", value), out)
        items = write_items([self._item] * len(value), value, out)
        if self._kind is tuple:
            return tuple(items)
        return items


class Tuple(Shape):
    """A tuple with a shape for each place."""

    def __init__(self, declared: Any, items: list[Shape]) -> None:
        super().__init__(declared)
        self._items = items

    def _wire(self) -> Any:
        return cast("Any", tuple)[tuple(item.wire for item in self._items)]

    def _parts(self) -> Iterable[Shape]:
        return self._items

    def _check(self, cls: type[Any]) -> Check:
        if cls is tuple:
            return Look(self._fits)
        return False

    def _fits(self, value: tuple[object, ...], stack: Stack) -> bool:
        if len(value) != len(self._items):
            return False
        for shape, item in zip(self._items, value, strict=True):
            check = shape.checks[type(item)]
            if check is False or (check is not True and not check.one(item, stack)):
                return False
        return True

    def _write(self, value: Any, out: Writing) -> Any:
        if not isinstance(value, (tuple, list)):  # a list, as above
            raise self.unfit(value)
        items = cast("Sequence[object]", value)
        if len(items) != len(self._items):
            raise Unfit(f"Expected `{show(self.declared)}`, got {len(items)} items")
        return tuple(write_items(self._items, items, out))


class Dict(Shape):
    """A dict with one shape for keys and one for values."""

    def __init__(self, declared: Any, key: Shape, item: Shape) -> None:
        super().__init__(declared)
        self._key = key
        self._item = item

    def _wire(self) -> Any:
        return cast("Any", dict)[self._key.wire, self._item.wire]

    def _parts(self) -> Iterable[Shape]:
        return (self._key, self._item)

    def _check(self, cls: type[Any]) -> Check:
        if cls is dict:
            return Look(self._fits)
        return False

    def _fits(self, value: dict[object, object], stack: Stack) -> bool:
        return items_fit(self._key.checks, value, stack) and items_fit(
            self._item.checks, value.values(), stack
        )

    def _write(self, value: Any, out: Writing) -> Any:
        if not isinstance(value, dict):
            raise self.unfit(value)
        return write_dict(cast("dict[object, object]", value), self._key, self._item, out)


def write_at(step: str, shape: Shape, value: object, out: Writing) -> Any:
    """A part of a value, written. An error tells the step that leads to it."""
    try:
        return shape.write(value, out)
    except Unfit as unfit:
        raise unfit.inside(step) from None


def write_items(shapes: list[Shape], items: Iterable[object], out: Writing) -> list[Any]:
    """Items with a shape for each, written."""
    pairs = zip(shapes, items, strict=True)
    return [write_at(f"[{i}]", shape, item, out) for i, (shape, item) in enumerate(pairs)]


def write_set(shape: Shape, items: Iterable[object], out: Writing) -> tuple[Any, ...]:
    """The items of a set, written, in an order that is the same in every process."""
    return in_order([write_at("[...]", shape, item, out) for item in items])


def write_dict(value: dict[object, object], key: Shape, item: Shape, out: Writing) -> Any:
    """A dict, written: as a map, or as an extension where a key cannot be one of a map."""
    keys = [write_at(" (a key)", key, one, out) for one in value]
    items = [write_at(step_to(name), item, one, out) for name, one in value.items()]
    if any(isinstance(one, Ext) for one in keys):
        pairs = list(chain.from_iterable(zip(keys, items, strict=True)))
        return out.note(Ext(extension.DICT, encode_msgpack(pairs)))
    return dict(zip(keys, items, strict=True))


def step_to(key: object) -> str:
    """The step of a path that leads to the value of a key."""
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    return f"[{key!r:.60}]"


def write_named(declared: Any, written: object) -> Ext:
    """The written value of an alternative of a union with its name."""
    return Ext(extension.UNION, encode_msgpack((name_of(declared), written)))


def in_order(items: list[Any]) -> tuple[Any, ...]:
    """The written items of a set in an order that is the same in every process."""
    kinds = set(map(type, items))
    if kinds in ({str}, {int}):
        return tuple(sorted(items))
    # `<` is partial for frozensets and undefined for mixtures, so the encoded forms are compared.
    return tuple(sorted(items, key=encode_msgpack))


class Anything(Shape):
    """A value without a declared type: `Any`, `object`, no annotation.

    Lists, dicts and what the extension types hold come back as they were. An object of a class
    would come back as a dict. It is refused, except where `reader_knows`: there the type is given
    when the value is read, such as with `kv.get(key, Item)`.
    """

    def __init__(
        self, declared: Any, record_of: Callable[[type[Any]], Shape | None], reader_knows: bool
    ) -> None:
        super().__init__(declared)
        self._record_of = record_of
        self._reader_knows = reader_knows

    def _check(self, cls: type[Any]) -> Check:
        if cls in SCALARS or cls is bytearray or cls is msgspec.UnsetType:
            return True
        if cls is list:
            return Look(self._items_fit)
        if cls is dict:
            return Look(self._dict_fits)
        if cls is dt.datetime:
            return Look(_in_utc)
        if self._reader_knows:
            shape = self._record_of(cls)
            if shape is not None:
                return shape.check(cls)
            return cls is memoryview
        return False

    def _items_fit(self, value: list[object], stack: Stack) -> bool:
        return items_fit(self.checks, value, stack)

    def _dict_fits(self, value: dict[object, object], stack: Stack) -> bool:
        return items_fit(self.checks, value, stack) and items_fit(
            self.checks, value.values(), stack
        )

    def _write(self, value: Any, out: Writing) -> Any:
        cls: type[Any] = value.__class__
        if cls in SCALARS:
            return value
        if isinstance(value, dict):
            return write_dict(cast("dict[object, object]", value), self, self, out)
        if isinstance(value, (list, set, frozenset)) or cls is tuple:
            return self._write_items(value, out)
        base = base_of(cls)
        if base is not None:
            return self._write_base(as_base(value, base), out)
        return self._write_object(value, out)

    def _write_items(self, value: Any, out: Writing) -> Any:
        if isinstance(value, list):
            items = cast("list[object]", value)
            return write_items([self] * len(items), items, out)
        if isinstance(value, tuple):
            parts = cast("tuple[object, ...]", value)
            written: Any = write_items([self] * len(parts), parts, out)
            code = extension.TUPLE
        else:
            written = write_set(self, cast("set[object]", value), out)
            code = extension.SET
            if isinstance(value, frozenset):
                code = extension.FROZENSET
        return out.note(Ext(code, encode_msgpack(written)))

    def _write_base(self, value: Any, out: Writing) -> Any:
        try:
            written = extended(value)
        except extension.ZoneError as error:
            raise Unfit(str(error)) from error
        if written is None:
            return value
        return out.note(written)

    def _write_object(self, value: Any, out: Writing) -> Any:
        cls: type[Any] = value.__class__
        shape = self._record_of(cls)
        if self._reader_knows:
            if shape is not None:
                return shape.write(value, out)
            # The reader may have a union of it and `str`.
            if isinstance(value, enum.Enum):
                return out.note(write_named(cls, value.value))
            if is_text(cls):
                return out.note(write_named(cls, str(value)))
            return value
        came: type[Any] = dict
        if isinstance(value, enum.Enum):
            # It is equal to the text or number that arrives.
            if isinstance(value, (str, int)):
                return value.value
            came = value.value.__class__
        elif is_text(cls):
            came = str
        elif isinstance(value, tuple):
            came = tuple
        elif isinstance(value, Ext) and value.code in extension.CODES:
            raise Unfit(f"the extension type {value.code} has a meaning of its own; use another")
        elif shape is None:
            return value  # msgspec knows it, or its hook refuses it
        raise Unfit(f"{show(cls)} would arrive as {came.__name__}; declare its type")


def _in_utc(value: dt.datetime, stack: Stack) -> bool:  # noqa: ARG001  # the form of a look
    return value.tzinfo is dt.UTC
