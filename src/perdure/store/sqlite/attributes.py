"""Search attributes in SQLite: the rows of the index that a unit has, and the list of units that it is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.kernel.data.attributes import terms_of
from perdure.ports.where import Where
from perdure.store.sqlite.connection import Values


def index_rows(unit: str, attributes: bytes | None, created_at: int) -> list[Values]:
    """The arguments of `insert_attribute` for a unit."""
    return [(unit, *term, created_at) for term in terms_of(attributes)]


def leading(where: Sequence[Where]) -> tuple[Where, list[Where]]:
    """The condition whose rows of the index are walked, and those that are looked up for each unit that it gives."""
    equal = [condition for condition in where if is_equal(condition)]
    first = equal[0] if equal else min(where, key=lambda condition: condition.op == "!=")
    return first, [
        condition for condition in where if condition is not first or condition.op == "!="
    ]


def is_equal(condition: Where) -> bool:
    """Whether it asks for one value, so that the index gives its units in order of creation."""
    return condition.op == "=" or (condition.op == "in" and len(condition.operands[1]) == 1)


def in_index(condition: Where) -> tuple[str, Values]:
    """The condition on rows of the index; of `!=` only that the unit has such an attribute."""
    kind, values = condition.operands
    term, all_values = "name = ? AND value_kind = ?", (condition.name, kind)
    if condition.op == "!=":
        return term, all_values
    if condition.op == "in":
        return f"{term} AND value IN ({', '.join('?' * len(values))})", (*all_values, *values)
    return f"{term} AND value {condition.op} ?", (*all_values, *values)


def of_unit(condition: Where) -> Iterator[tuple[str, Values]]:
    """The condition on a row of `units`."""
    term, values = in_index(condition)
    exists = f"EXISTS (SELECT 1 FROM attributes WHERE unit = units.id AND {term})"  # noqa: S608 - no input
    yield exists, values
    if condition.op == "!=":
        yield f"NOT {exists[:-1]} AND value = ?)", (*values, condition.operands[1][0])


def found_units(condition: Where) -> tuple[str, Values]:
    """The units of the leading condition, each once, as a table `found`."""
    term, values = in_index(condition)
    once = "" if is_equal(condition) else "DISTINCT "
    rows = f"SELECT {once}unit, created FROM attributes INDEXED BY attributes_value WHERE {term}"  # noqa: S608
    return f"({rows}) AS found", values
