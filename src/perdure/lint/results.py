"""The value that a call returns, as far as the lint needs its type."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from perdure.lint.classes import result_of
from perdure.lint.values import (
    NUMBER,
    TEXT,
    Class,
    External,
    Function,
    Object,
    Value,
    canonical,
    element,
    one_of,
)

if TYPE_CHECKING:
    from perdure.lint.scope import Scope

# A tuple of unknown length is like a list: each element has the same type.
_COLLECTS = {"set": "set", "frozenset": "frozenset", "tuple": "list"} | dict.fromkeys(
    ("list", "sorted", "reversed", "iter", "collections.deque"), "list"
)
_TEXTS = frozenset({"str", "repr", "ascii", "format", "chr", "hex", "bin", "oct", "input"}) | {
    f"str.{name}"
    for name in (
        "capitalize",
        "casefold",
        "center",
        "expandtabs",
        "format",
        "join",
        "ljust",
        "lower",
        "lstrip",
        "replace",
        "removeprefix",
        "removesuffix",
        "rjust",
        "rstrip",
        "strip",
        "swapcase",
        "title",
        "upper",
        "zfill",
    )
}
_NUMBERS = frozenset(
    {"int", "float", "bool", "len", "abs", "round", "ord", "hash", "id", "str.count", "str.find"}
)
_LISTS_OF_TEXT = frozenset(
    {"str.split", "str.rsplit", "str.splitlines", "str.partition", "str.rpartition"}
)
# Methods whose result has the type of their object.
_KEEP = frozenset(
    f"{kind}.{name}"
    for kind in ("set", "frozenset", "list", "dict")
    for name in ("copy", "union", "intersection", "difference", "symmetric_difference")
)
_INSTANCES = {
    "logging.getLogger": "logging.Logger",
    "asyncio.get_running_loop": "asyncio.AbstractEventLoop",
    "asyncio.get_event_loop": "asyncio.AbstractEventLoop",
    "perdure.App.workflow": "perdure.WorkflowDecorator",
    "perdure.App.activity": "perdure.ActivityDecorator",
}


def call_result(node: ast.Call, scope: Scope) -> Value:
    """The value that a call returns. None if it is not known."""
    holder: Value = None
    if isinstance(node.func, ast.Attribute):
        # The holder is evaluated once: twice would double the work at each link of a chain.
        holder = scope.evaluate(node.func.value)
        called = scope.attribute(holder, node.func.attr)
    else:
        called = scope.evaluate(node.func)
    match called:
        case Class():
            return Object(called)
        case Function():
            return result_of(called)
        case External(name=name):
            return _external(name, node, holder, scope)
        case _:
            return None


def _external(name: str, node: ast.Call, holder: Value, scope: Scope) -> Value:
    first = _first_argument(node, scope)
    if name in _COLLECTS:
        if not node.args:
            return Object(External(_COLLECTS[name]))
        return Object(External(_COLLECTS[name]), (element(first),))
    if name in _TEXTS:
        return TEXT
    if name in _NUMBERS:
        return NUMBER
    if name in _LISTS_OF_TEXT:
        return Object(External("list"), (TEXT,))
    if name in _KEEP:
        return holder
    if name in _INSTANCES:
        return Object(External(_INSTANCES[name]))
    return _built_in(name, first, node, holder, scope)


def _built_in(name: str, first: Value, node: ast.Call, holder: Value, scope: Scope) -> Value:
    match name:
        case "dict":
            if node.keywords:
                return Object(External("dict"), (TEXT, None))
            return first
        case "dict.fromkeys":
            return Object(External("dict"), (element(first), None))
        case "enumerate":
            return Object(External("list"), (Object(External("tuple"), (NUMBER, element(first))),))
        case "zip":
            parts = tuple(element(scope.evaluate(part)) for part in node.args)
            return Object(External("list"), (Object(External("tuple"), parts),))
        case "typing.cast" if node.args:
            return scope.annotated(node.args[0])
        case _ if name.startswith("dict."):
            return _of_dict(name, holder)
        case _ if name.rpartition(".")[2][:1].isupper():  # by convention the name of a class
            return Object(External(canonical(name)), _elements_of(name, first))
        case _:
            return None


def _first_argument(node: ast.Call, scope: Scope) -> Value:
    if not node.args or isinstance(node.args[0], ast.Starred):
        return None
    return scope.evaluate(node.args[0])


def _elements_of(name: str, first: Value) -> tuple[Value, ...]:
    if canonical(name) in {"list", "set"}:
        return (element(first),)
    return ()


def _of_dict(name: str, holder: Value) -> Value:
    if not isinstance(holder, Object) or not holder.arguments:
        return None
    key = holder.arguments[0]
    value = None
    if len(holder.arguments) > 1:
        value = holder.arguments[1]
    match name:
        case "dict.keys":
            return Object(External("dict_keys"), (key,))
        case "dict.values":
            return Object(External("list"), (value,))
        case "dict.items":
            return Object(External("list"), (Object(External("tuple"), (key, value)),))
        case "dict.get" | "dict.pop" | "dict.setdefault":
            return one_of([value])
        case _:
            return None
