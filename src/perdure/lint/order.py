"""Iteration over a set whose order differs between processes.

Strings hash differently in each process, and so does a value that contains strings. A loop over a
set of them takes the elements in another order on each replay, and calls activities in that order.
"""

from __future__ import annotations

import ast

from perdure.lint.values import External, Object, Value, hashes_by_chance, is_set, name_of

_ANY_ORDER = frozenset({"sorted", "sum", "min", "max", "any", "all", "len", "set", "frozenset"})
"""Functions whose result does not depend on the order of the elements."""

_IN_ORDER = {
    **dict.fromkeys(
        ("list", "tuple", "iter", "enumerate", "collections.deque", "dict.fromkeys", "str.join"), 0
    ),
    **dict.fromkeys(
        (
            "zip",
            "itertools.chain",
            "itertools.chain.from_iterable",
            "list.extend",
            "itertools.cycle",
        ),
        0,
    ),
    **dict.fromkeys(("map", "filter", "functools.reduce", "itertools.starmap"), 1),
}
"""Functions that take the elements in order, with the index of the first such argument."""


def hazard(value: Value) -> str | None:
    """The name of an iteration over this value, if its order differs between processes."""
    if not isinstance(value, Object) or not is_set(value):
        return None
    # A set of unknown elements is not reported: most of them are sets of numbers or of enums.
    for part in value.arguments[:1]:
        if hashes_by_chance(part):
            return f"iteration over a set of {name_of(part)}"
    return None


def ordered_arguments(node: ast.Call, function: Value) -> list[ast.expr]:
    """The arguments whose elements a call takes in order.

    For `set.pop` it is the set itself, because the removed element depends on the order.
    """
    if not isinstance(function, External):
        return []
    pops = function.name in {"set.pop", "frozenset.pop"} and not node.args
    if pops and isinstance(node.func, ast.Attribute):
        return [node.func.value]
    first = _IN_ORDER.get(function.name)
    if first is None:
        return []
    return node.args[first:]


def ignores_order(function: Value) -> bool:
    """Whether the result of a call is the same for any order of the elements."""
    return isinstance(function, External) and function.name in _ANY_ORDER
