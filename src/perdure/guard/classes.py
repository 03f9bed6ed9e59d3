"""Classes of the scanned package: objects of them, their members, and what makes an object.

No line of the user's code runs here: no `__getattr__`, no property. What is known of an object is
its class.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import NamedTuple, cast

import msgspec

if sys.version_info >= (3, 14):
    import annotationlib

MISSING = object()
"""Stands for an object that is not known."""


class Instance(NamedTuple):
    """Stands for some object of a class."""

    owner: type


class Above(NamedTuple):
    """Stands for `super()` in a method of the class `after`, of an object of the class `owner`."""

    owner: type
    after: type


class Member(NamedTuple):
    """An attribute of a class as the class holds it, and the class of the object that has it."""

    item: object
    owner: type


def member(owner: type, name: str) -> object:
    """The attribute of an object of this class. A field is known by its annotation."""
    found = inspect.getattr_static(owner, name, MISSING)
    if found is not MISSING and not isinstance(found, _FIELDS):
        return Member(found, owner)
    for base in owner.__mro__:
        annotations = annotations_of(base)
        if name in annotations:
            return declared(annotations[name], _names_of(base))
    return MISSING


def member_above(place: Above, name: str) -> object:
    """The attribute that `super()` finds."""
    order = place.owner.__mro__
    if place.after not in order:
        return MISSING
    for base in order[order.index(place.after) + 1 :]:
        if name in base.__dict__:
            return Member(base.__dict__[name], place.owner)
    return MISSING


if sys.version_info >= (3, 14):
    # Since then annotations are code, and may name what only type checkers import.

    def annotations_of(item: Callable[..., object]) -> Mapping[str, object]:
        """The annotations of a function or of the fields of a class, as far as they are known."""
        return annotationlib.get_annotations(item, format=annotationlib.Format.FORWARDREF)

else:

    def annotations_of(item: Callable[..., object]) -> Mapping[str, object]:
        """The annotations of a function or of the fields of a class."""
        return inspect.get_annotations(item)


def declared(annotation: object, names: Mapping[str, object]) -> object:
    """An object of the class that an annotation names."""
    # It is a text with `from __future__ import annotations`, and quoted twice if it was quoted.
    if isinstance(annotation, str):
        annotation = names.get(annotation.strip("\"'"), MISSING)
    if isinstance(annotation, type):
        return Instance(annotation)
    return MISSING


def function_of(item: object) -> object:
    """The function behind a member: that of a property, which runs when it is read, or itself."""
    if isinstance(item, property):
        return item.fget
    if isinstance(item, functools.cached_property):
        return cast("functools.cached_property[object]", item).func
    return item


def is_property(item: object) -> bool:
    """Whether reading the member runs a function."""
    return isinstance(item, (property, functools.cached_property))


def constructors(owner: type) -> Iterator[object]:
    """All that runs when the class is called: its own functions, and factories of its fields."""
    for name in _CONSTRUCTORS:
        yield inspect.getattr_static(owner, name, None)
    for holder in ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__"):
        fields = inspect.getattr_static(owner, holder, None)
        if isinstance(fields, dict):
            fields = tuple(cast("dict[str, object]", fields).values())
        if isinstance(fields, tuple):
            for field in cast("tuple[object, ...]", fields):
                yield _factory(field)
    # msgspec keeps the values of the last fields, and factories among them.
    if isinstance(owner, type(msgspec.Struct)):
        for value in cast("tuple[object, ...]", owner.__struct_defaults__):
            yield _factory(value)


def _factory(field: object) -> object:
    """The function that makes the default value of a field."""
    for holder in (field, getattr(field, "default", None)):
        for name in ("default_factory", "factory"):
            factory: object = getattr(holder, name, None)
            if callable(factory):
                return factory
    return None


def _names_of(owner: type) -> Mapping[str, object]:
    module = sys.modules.get(owner.__module__)
    if module is None:
        return {}
    return vars(module)


_CONSTRUCTORS = ("__new__", "__init__", "__post_init__", "__attrs_post_init__", "model_post_init")

# A class with slots holds a descriptor for each field, which says nothing of its value.
_FIELDS = (type(FunctionType.__code__), type(FunctionType.__globals__), type(Member.item))
