"""The catalogue of what replay cannot repeat, by object: functions themselves, and not their names.

So `from time import time as clock` is known, and a method called `now` is not.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodType,
    ModuleType,
)

from perdure.lint.catalogue import FORBIDDEN, PRIVATE, Entry, entries


def _names() -> Iterator[tuple[str, Entry, str]]:
    """The names of the catalogue, each with its module and its entry."""
    for module, rule, names in FORBIDDEN:
        for name in names.split():
            for entry in entries(((module, rule, name),)).values():
                yield PRIVATE.get(entry.name, module), entry, name.removesuffix("()")


_NAMES = tuple(_names())
_MODULES = sorted({module for module, _, _ in _NAMES})

# These are imported here, to be known. The others are known only if the program has loaded them.
_LIGHT = ("datetime", "random", "secrets", "time", "uuid")

# Only objects of these types are looked up, so that no user-defined `__hash__` or `__eq__` runs.
_PLAIN_TYPES = frozenset(
    {BuiltinFunctionType, ClassMethodDescriptorType, FunctionType, MethodType, type}
)


def forbidden() -> Mapping[object, Entry]:
    """The callables of the catalogue whose modules are loaded, by object."""
    for light in _LIGHT:
        importlib.import_module(light)
    loaded: list[tuple[int, int]] = []
    for name in _MODULES:
        module = sys.modules.get(name)
        if module is not None:
            loaded.append((id(module), len(vars(module))))
    return _forbidden(tuple(loaded))


# Made anew only when a module has been loaded, or has got further in loading.
@functools.lru_cache(maxsize=4)
def _forbidden(_loaded: tuple[tuple[int, int], ...]) -> Mapping[object, Entry]:
    known: dict[object, Entry] = {}
    for module_name, entry, name in _NAMES:
        module = sys.modules.get(module_name)
        if module is not None:
            for form in _forms(module, name):
                known.setdefault(form, entry)
    return known


def _forms(module: ModuleType, name: str) -> Iterator[object]:
    """The objects that a name may stand for.

    These are the object itself, the form in which its class holds it, and the function behind the
    guard's own wrapper.
    """
    owner, _, attribute = name.rpartition(".")
    holder: object = module
    if owner:
        holder = vars(module).get(owner)
    if isinstance(holder, type):
        item = getattr(holder, attribute, None)
    else:
        item = vars(module).get(attribute)
    # Some names are not on each platform, or not in each version.
    if type(item) not in _PLAIN_TYPES:
        return
    yield item
    if isinstance(holder, type):
        yield inspect.getattr_static(holder, attribute)
    if isinstance(item, FunctionType):
        yield inspect.unwrap(item)


def look_up(known: Mapping[object, Entry], item: object) -> Entry | None:
    """The entry of an object, of whatever type it may be."""
    if type(item) not in _PLAIN_TYPES:
        return None
    return known.get(item)
