"""Declared types: resolved and checked once, when a definition is made.

A type that cannot work is refused here, with the name of the function, the parameter and the
remedy. So no instance is ever started whose arguments cannot be read.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from perdure.codec.annotation import shape_of
from perdure.codec.extension import read_extension
from perdure.codec.plain import from_plain, known
from perdure.codec.shape import Shape, is_odd, reachable, show

_UNRESOLVED = (
    "define the type at module level and import it at run time, not only under TYPE_CHECKING"
)


def hints_of(fn: Callable[..., object], what: str) -> dict[str, Any]:
    """The annotations of `fn` as types, by parameter name and "return".

    Raises TypeError for an unknown name.
    """
    target: Any = fn
    # The annotations are on the function inside: behind partials, wrappers and callable objects.
    while isinstance(target, functools.partial):
        target = typing.cast("functools.partial[object]", target).func
    target = inspect.unwrap(target)
    if not inspect.isroutine(target) and not isinstance(target, type):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, localns=_enclosing_names(target), include_extras=True)
    except Exception as error:  # an annotation is an expression: evaluating it can raise anything
        subject = _unresolved(target, getattr(error, "name", None))
        raise TypeError(f"{what}: {subject} cannot be resolved: {error}; {_UNRESOLVED}") from error


def _unresolved(target: Any, missing: str | None) -> str:
    """The annotation to blame: the first that has the missing name, or the first at all."""
    texts: dict[str, object] = {}
    # Without the future import, Python 3.14 evaluates the annotations here and fails again.
    with suppress(NameError):
        texts = getattr(target, "__annotations__", texts)
    for name, text in texts.items():
        if not isinstance(text, str):
            continue
        if missing and not re.search(rf"\b{re.escape(missing)}\b", text):
            continue
        part = f"parameter '{name}'"
        if name == "return":
            part = "the result"
        return f"the annotation '{text}' of {part}"
    return "its annotations"


def _enclosing_names(fn: Any) -> dict[str, object]:
    """The local names of the functions inside which `fn` is being defined.

    Types of tests often live there, and `typing` looks at global names only.
    """
    names: dict[str, object] = {}
    outer = getattr(fn, "__qualname__", "")
    scopes: set[str] = set()
    while ".<locals>." in outer:
        outer = outer.rpartition(".<locals>.")[0]
        scopes.add(outer)
    if not scopes:
        return names
    module = getattr(fn, "__globals__", None)
    frame = inspect.currentframe()
    while frame is not None:
        # Functions of the same name in other modules may be running, too.
        if frame.f_code.co_qualname in scopes and frame.f_globals is module:
            names = {**frame.f_locals, **names}  # an inner scope is met first and wins
        frame = frame.f_back
    return names


class Declared(NamedTuple):
    """A declared type that payloads can hold."""

    shape: Shape
    decode: Callable[[bytes], Any]
    """Reads msgpack."""


class _Refused(Exception):  # it becomes a TypeError that names the place
    """A type cannot be declared."""


def check_type(type_: Any, what: str) -> Declared:
    """Raise TypeError, naming `what` and the remedy, for a type that payloads cannot hold."""
    try:
        try:
            return _declared(type_)
        except TypeError:  # the metadata of an Annotated type need not be hashable
            return _declared.__wrapped__(type_)
    except _Refused as refused:
        raise TypeError(f"{what}: {refused}") from refused.__cause__


@functools.lru_cache(maxsize=1024)
def _declared(type_: Any) -> Declared:
    try:
        shape = shape_of(type_)
        for part in _parts_for_msgspec(shape):
            root = msgspec.inspect.type_info(part.wire)
            msgspec.msgpack.Decoder(part.wire, dec_hook=from_plain)
            _check_nodes(root, type_)
        decoder = msgspec.msgpack.Decoder(shape.wire, dec_hook=from_plain, ext_hook=read_extension)
    except _Refused:
        raise
    except NameError as error:
        raise _Refused(
            f"a field of {show(type_)} cannot be resolved: {error}; {_UNRESOLVED}"
        ) from error
    except Exception as error:  # whatever a foreign class does when its fields are read
        raise _Refused(_with_remedy(str(error))) from error
    return Declared(shape, decoder.decode)


def _parts_for_msgspec(shape: Shape) -> Iterator[Shape]:
    """The shapes that msgspec has to know: the whole, and what is read through stand-ins."""
    if not is_odd(shape):
        yield shape
        return
    for part in reachable(shape):
        if part.declared is not msgspec.UnsetType:  # it is known beside other types only
            yield part


def _check_nodes(root: msgspec.inspect.Type, type_: Any) -> None:
    stack: list[object] = [root]
    seen: set[int] = set()  # types may be recursive
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(typing.cast("tuple[object, ...]", node))
            continue
        if id(node) in seen:
            continue
        if isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
            seen.add(id(node))
            _check_node(node, type_)
            # A default is a value, not a type.
            fields = [n for n in node.__struct_fields__ if n not in {"default", "default_factory"}]
            stack.extend(getattr(node, name) for name in fields)


def _check_node(node: object, type_: Any) -> None:
    if isinstance(node, msgspec.inspect.CustomType) and not known(node.cls):
        inside = ""
        if node.cls is not type_:
            inside = f" in {show(type_)}"
        raise _Refused(f"{show(node.cls)}{inside} cannot be carried; {_instead_of(node.cls)}")
    if isinstance(node, msgspec.inspect.DataclassType):
        for field in getattr(node.cls, "__attrs_attrs__", ()):
            # msgspec leaves private fields of attrs classes out, without an error.
            if field.name.startswith("_"):
                raise _Refused(
                    f"the private field '{field.name}' of {show(node.cls)} would be lost; rename it"
                )


def _with_remedy(message: str) -> str:
    if "; " in message:
        return message
    return f"{message}; use a dataclass, msgspec.Struct, attrs class, pydantic model or plain types"


def _instead_of(cls: type[Any]) -> str:
    if cls.__name__ == "Callable":
        return "a function is not data: pass its name"
    if issubclass(cls, dict) or cls.__name__.endswith("Mapping"):
        return "use dict"
    if issubclass(cls, collections.abc.Awaitable):
        return "declare what it returns when it is awaited"
    if issubclass(cls, collections.abc.Iterable):
        return "use list"
    return "use a dataclass, msgspec.Struct, attrs class, pydantic model or plain types"
