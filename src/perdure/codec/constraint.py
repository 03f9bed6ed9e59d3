"""Constraints in `Annotated`: those of pydantic and annotated_types, as msgspec knows them.

Each constraint is kept or refused. Metadata that is no constraint, such as a text, means nothing.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec


class Test(NamedTuple):
    """A constraint that msgspec does not know."""

    text: str
    holds: Callable[[Any], bool]


class Constraints(NamedTuple):
    """The constraints of one `Annotated` type."""

    known: dict[str, Any]
    """Those that `msgspec.Meta` takes, by its names."""
    tests: list[Test]


_COMPARED: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}
_TAKEN = {**_COMPARED, "multiple_of": None, "min_length": None, "max_length": None, "pattern": None}


def constraints_of(metadata: Iterable[object]) -> Constraints:
    """The constraints in the metadata of an `Annotated` type.

    Raises TypeError for a constraint that is unknown here.
    """
    found = Constraints({}, [])
    for one in _each(metadata):
        if isinstance(one, msgspec.Meta) or not _is_constraint(one):
            continue
        name = type(one).__name__
        if name == "Predicate":
            found.tests.append(Test(f"the predicate {one.func!r}", one.func))
            continue
        demands = _demands(one)
        if not demands or not _TAKEN.keys() >= demands.keys():
            raise TypeError(
                f"the constraint {one!r:.80} is unknown here; "
                "use msgspec.Meta, or put the value into a pydantic model"
            )
        found.known.update(demands)
    return found


def limits_of(meta: msgspec.Meta) -> dict[str, Any]:
    """The limits of a `Meta`, by its names."""
    limits = {name: getattr(meta, name) for name in (*_TAKEN, "tz")}
    return {name: limit for name, limit in limits.items() if limit is not None}


def tests_of(limits: dict[str, Any]) -> list[Test]:
    """The same constraints for a type with which msgspec does not take them.

    Raises TypeError for one that cannot be tested.
    """
    return [_test(name, limit) for name, limit in limits.items()]


def _test(name: str, limit: Any) -> Test:
    if name in _COMPARED:
        sign, compare = _COMPARED[name]
        return Test(f"`{sign} {limit}`", partial(_compares, compare, limit))
    if name == "multiple_of":
        return Test(f"a multiple of {limit}", partial(_is_multiple, limit))
    if name == "min_length":
        return Test(f"length >= {limit}", partial(_is_long, limit))
    if name == "max_length":
        return Test(f"length <= {limit}", partial(_is_short, limit))
    raise TypeError(f"the constraint {name}={limit!r} does not fit; use a pydantic model")


def _compares(compare: Callable[[Any, Any], bool], limit: object, value: object) -> bool:
    return compare(value, limit)


def _is_multiple(limit: Any, value: Any) -> bool:
    return not value % limit


def _is_long(limit: int, value: Sized) -> bool:
    return len(value) >= limit


def _is_short(limit: int, value: Sized) -> bool:
    return len(value) <= limit


def _each(metadata: Iterable[object]) -> Iterator[Any]:
    """The single constraints: some are groups of others."""
    for one in metadata:
        inner = None
        if _is_from("pydantic", "fields", "FieldInfo", one):
            inner = cast("Any", one).metadata
        elif _is_from("annotated_types", "", "GroupedMetadata", one):
            inner = cast("Iterable[object]", one)
        if inner is None:
            yield one
        else:
            yield from _each(inner)


def _is_from(package: str, module: str, name: str, value: object) -> bool:
    # A value of a class that was never imported does not exist.
    found = sys.modules.get(f"{package}.{module}".rstrip("."))
    return found is not None and isinstance(value, getattr(found, name))


def _is_constraint(one: object) -> bool:
    if _is_from("annotated_types", "", "BaseMetadata", one):
        return True
    return hasattr(one, "__get_pydantic_core_schema__") or _is_general(one)


def _is_general(one: object) -> bool:
    """Whether it holds constraints of pydantic by name, such as a pattern."""
    cls = type(one)
    is_named = cls.__name__.lstrip("_") == "PydanticGeneralMetadata"  # private in pydantic
    return is_named and cls.__module__.startswith("pydantic.")


def _demands(one: Any) -> dict[str, Any]:
    """The limits of one constraint, by the names of `msgspec.Meta`."""
    if _is_general(one):
        limits: dict[str, Any] = one.__dict__
        return {name: value for name, value in limits.items() if value is not None}
    fields: Iterable[str] = getattr(one, "__dataclass_fields__", ())
    return {name: getattr(one, name) for name in fields if getattr(one, name) is not None}
