"""What iterates over a set whose order differs between processes.

Strings hash differently in each process, and so does whatever contains them. A loop over a set of them takes its
elements in another order on each replay, and schedules its activities so.
"""

from __future__ import annotations

import ast

from perdure.lint.values import External, Object, Value, hashes_by_chance, is_set, name_of

_ANY_ORDER = frozenset({"sorted", "sum", "min", "max", "any", "all", "len", "set", "frozenset"})
"""Functions whose result does not depend on the order in which they are given things."""

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
"""Functions that take the elements in order, and from which argument on."""


def hazard(value: Value) -> str | None:
    """What to call the iteration over a value, if its order differs between processes."""
    if (
        isinstance(value, Object)
        and is_set(value)
        and value.arguments
        and hashes_by_chance(value.arguments[0])
    ):
        return f"iteration over a set of {name_of(value.arguments[0])}"
    return None


def ordered_arguments(node: ast.Call, function: Value) -> list[ast.expr]:
    """The arguments of a call that it takes apart in their order, and the set that it takes an element from."""
    if not isinstance(function, External):
        return []
    if (
        function.name in {"set.pop", "frozenset.pop"}
        and isinstance(node.func, ast.Attribute)
        and not node.args
    ):
        return [node.func.value]
    first = _IN_ORDER.get(function.name)
    return node.args[first:] if first is not None else []


def ignores_order(function: Value) -> bool:
    """Whether a call gives the same for its argument in any order."""
    return isinstance(function, External) and function.name in _ANY_ORDER
