"""Shapes of classes with fields: msgspec Structs, dataclasses, attrs classes, named tuples, typed
dicts.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, cast

import msgspec

from perdure.codec.nested import step_to, write_at
from perdure.codec.plain import field_names
from perdure.codec.shape import (
    Check,
    Checks,
    Look,
    Shape,
    Stack,
    Unfit,
    Writing,
    items_fit,
    show,
)
from perdure.codec.stand_in import read_as, stand_in_for

_PLANS_MAX = 4096
_MISSING = object()
Plan = tuple[tuple[int, Callable[[Any, Stack], bool]], ...]


class Fields(dict[tuple[type[Any], ...], "Plan | None"]):
    """The classes of the values of some fields, looked at together.

    For each combination of classes: the places that need a closer look, or None if one of the
    values does not fit. Most programs have few combinations for each class.
    """

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self._shapes = shapes

    def __missing__(self, classes: tuple[type[Any], ...]) -> Plan | None:
        if len(self) >= _PLANS_MAX:
            self.clear()
        found = self[classes] = self._plan(classes)
        return found

    def _plan(self, classes: tuple[type[Any], ...]) -> Plan | None:
        plan: list[tuple[int, Callable[[Any, Stack], bool]]] = []
        for index, (shape, cls) in enumerate(zip(self._shapes, classes, strict=False)):
            check = shape.checks[cls]
            if check is False:
                return None
            if check is not True:
                plan.append((index, check.one))
        return tuple(plan)


def look_at(plan: Plan, values: tuple[Any, ...], stack: Stack) -> bool:
    """Whether the values that need a closer look fit. Their parts are put on the stack."""
    return all(check(values[index], stack) for index, check in plan)


class Record(Shape):
    """The objects of one class with fields."""

    def __init__(self, declared: Any, cls: type[Any]) -> None:
        super().__init__(declared)
        self.cls = cls
        self._names: tuple[str, ...] = ()
        self._shapes: list[Shape] = []
        self._fields = Fields(())
        self._values_of: Callable[[Any], Any] = _no_values
        self._columns: list[tuple[Callable[[Any], object], Checks]] = []

    def fill(self, shapes: dict[str, Shape]) -> None:
        """Give the shapes of the fields. The class may hold itself, so they come afterwards."""
        self._names = tuple(shapes)
        self._shapes = list(shapes.values())
        self._fields = Fields(self._shapes)
        self._columns = [(attrgetter(name), shape.checks) for name, shape in shapes.items()]
        if is_tuple(self.cls):
            self._values_of = tuple
        elif shapes:
            names = self._names
            if len(names) == 1:  # with a single name the getter would not return a tuple
                names *= 2
            self._values_of = attrgetter(*names)

    def _wire(self) -> Any:
        return stand_in_for(self)

    def _parts(self) -> Iterable[Shape]:
        return self._shapes

    def _check(self, cls: type[Any]) -> Check:
        if cls is not self.cls:
            return False
        fields, values_of = self._fields, self._values_of

        # This runs for each object of a list, so it is one function without further calls.
        def fits(value: object, stack: Stack) -> bool:
            try:
                values = values_of(value)
            except AttributeError:  # a field that was never set
                return False
            plan = fields[tuple(map(type, values))]
            if plan is None:
                return False
            for index, check in plan:  # noqa: SIM110  # a generator would be slower
                if not check(values[index], stack):
                    return False
            return True

        return Look(fits, self._many_fit)

    def _many_fit(self, values: Collection[object], stack: Stack) -> bool:
        """Look at many objects field by field."""
        try:
            for getter, checks in self._columns:
                column = list(map(getter, values))
                for kind in set(map(type, column)):
                    if checks[kind] is not True:
                        if not items_fit(checks, column, stack):
                            return False
                        break
        except AttributeError:  # as above
            return False
        return True

    def _write(self, value: Any, out: Writing) -> Any:
        if type(value) is not self.cls:
            raise self._another(value)
        if isinstance(value, tuple):
            parts = zip(self._names, self._shapes, cast("tuple[object, ...]", value), strict=True)
            return tuple(write_at(f".{name}", shape, part, out) for name, shape, part in parts)
        # The object is copied at its first change, and written to though it may be frozen: the copy
        # is only encoded.
        changed: Any = None
        write: Callable[[Any, str, Any], None] = object.__setattr__
        if issubclass(self.cls, msgspec.Struct):
            write = msgspec.structs.force_setattr
        for name, shape in zip(self._names, self._shapes, strict=True):
            old = getattr(value, name, _MISSING)
            if old is _MISSING or old is msgspec.UNSET:
                continue
            new = write_at(f".{name}", shape, old, out)
            if new is not old:
                if changed is None:
                    changed = copy.copy(value)
                write(changed, name, new)
        if changed is None:
            return value
        return changed

    def _another(self, value: object) -> Unfit:
        cls = type(value)
        if not issubclass(cls, self.cls):
            return self.unfit(value)
        return Unfit(
            f"{show(cls)} would arrive as {show(self.declared)}, without what it adds; "
            f"declare {show(self.declared)} | {show(cls)}"
        )

    def read(self, value: object) -> object:
        """An object of decoded msgpack. Raises ValueError."""
        read = read_as(self._struct, value)
        values = {name: getattr(read, name) for name in self._names}
        if is_tuple(self.cls):
            return self.cls(*values.values())
        if issubclass(self.cls, msgspec.Struct):
            return cast("Any", self.cls)(**values)
        made: Any = object.__new__(self.cls)
        for name, part in values.items():
            object.__setattr__(made, name, part)
        for hook in ("__post_init__", "__attrs_post_init__"):
            if hasattr(made, hook):
                getattr(made, hook)()
        if hasattr(self.cls, "__attrs_attrs__"):
            sys.modules["attr"].validate(made)
        return made

    @cached_property
    def _struct(self) -> Any:
        """A Struct with the same fields, of the types that msgspec reads."""
        options: dict[str, Any] = {"kw_only": True}
        defaults = _defaults(self.cls)
        if issubclass(self.cls, msgspec.Struct):
            config = self.cls.__struct_config__
            options |= {
                "array_like": config.array_like,
                "tag": config.tag,
                "tag_field": config.tag_field,
                "forbid_unknown_fields": config.forbid_unknown_fields,
                "rename": dict(zip(self._names, self.cls.__struct_encode_fields__, strict=True)),
            }
        elif is_tuple(self.cls):
            options["array_like"] = True
        fields: list[Any] = []
        for name, shape in zip(self._names, self._shapes, strict=True):
            if name in defaults:
                default = msgspec.field(default_factory=defaults[name])
                fields.append((name, shape.wire, default))
            else:
                fields.append((name, shape.wire))
        return msgspec.defstruct(self.cls.__name__, fields, **options)


def _no_values(value: object) -> tuple[object, ...]:  # noqa: ARG001  # in place of a getter
    return ()


def _give(value: object) -> Callable[[], object]:
    return lambda: value


def _defaults(cls: type[Any]) -> dict[str, Callable[[], object]]:
    """The defaults of a class as functions, by field."""
    found: dict[str, Any] = {}
    if issubclass(cls, msgspec.Struct):
        parts: Iterable[Any] = msgspec.structs.fields(cls)
        nothing: Any = msgspec.NODEFAULT
    elif is_tuple(cls):
        named: dict[str, object] = getattr(cls, "_field_defaults", {})
        return {name: _give(value) for name, value in named.items()}
    elif dataclasses.is_dataclass(cls):
        parts = dataclasses.fields(cls)
        nothing = dataclasses.MISSING
    else:
        return _defaults_of_attrs(cls)
    for field in parts:
        if field.default is not nothing:
            found[field.name] = _give(field.default)
        elif field.default_factory is not nothing:
            found[field.name] = field.default_factory
    return found


def _defaults_of_attrs(cls: Any) -> dict[str, Callable[[], object]]:
    attrs: Any = sys.modules["attr"]
    found: dict[str, Callable[[], object]] = {}
    for field in cls.__attrs_attrs__:
        if field.default is attrs.NOTHING:
            continue
        found[field.name] = _give(field.default)
        if isinstance(field.default, attrs.Factory):
            found[field.name] = field.default.factory
    return found


class Keys(Shape):
    """The dicts of one `TypedDict`."""

    def __init__(self, declared: Any, cls: Any) -> None:
        super().__init__(declared)
        self._cls = cls
        self._required: frozenset[str] = cls.__required_keys__
        self._shapes: dict[str, Shape] = {}

    def fill(self, shapes: dict[str, Shape]) -> None:
        """Give the shapes of the keys. The type may hold itself, so they come afterwards."""
        self._shapes = shapes

    def _wire(self) -> Any:
        return stand_in_for(self)

    def _parts(self) -> Iterable[Shape]:
        return self._shapes.values()

    def _check(self, cls: type[Any]) -> Check:
        if cls is dict:
            return Look(self._fits)
        return False

    def _fits(self, value: dict[str, object], stack: Stack) -> bool:
        if not value.keys() >= self._required:
            return False
        for key, item in value.items():
            shape = self._shapes.get(key)
            if shape is None:  # the reader would drop it
                return False
            check = shape.checks[type(item)]
            if check is False or (check is not True and not check.one(item, stack)):
                return False
        return True

    def _write(self, value: Any, out: Writing) -> Any:
        if not isinstance(value, dict):
            raise self.unfit(value)
        missing = self._required.difference(cast("dict[str, object]", value))
        if missing:
            raise Unfit(f"{show(self.declared)} needs the key {min(missing)!r}")
        written: dict[str, Any] = {}
        for key, item in cast("dict[str, object]", value).items():
            if key not in self._shapes:
                raise Unfit(f"{show(self.declared)} has no key {key!r:.60}; declare it")
            written[key] = write_at(step_to(key), self._shapes[key], item, out)
        return written

    def read(self, value: object) -> object:
        """A dict of decoded msgpack. Raises ValueError."""
        read = read_as(self._struct, value)
        # In the order in which they were sent.
        return {name: getattr(read, name) for name in cast("Any", value) if name in self._shapes}

    @cached_property
    def _struct(self) -> Any:
        fields: list[Any] = []
        for name, shape in self._shapes.items():
            if name in self._required:
                fields.append((name, shape.wire))
            else:
                fields.append((name, shape.wire | msgspec.UnsetType, msgspec.UNSET))
        return msgspec.defstruct(self._cls.__name__, fields, kw_only=True)


def names_of(cls: type[Any]) -> tuple[str, ...]:
    """The fields of a class with fields. Empty for other classes."""
    if is_tuple(cls):
        return tuple(getattr(cls, "_fields", ()))
    return field_names(cls)


def is_tuple(cls: type[Any]) -> bool:
    """Whether the objects of a class are tuples."""
    return issubclass(cls, tuple)
