"""Search attributes in SQLite: their rows in an index, and the conditions that read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.kernel.data.attributes import terms_of
from perdure.ports.where import Where
from perdure.store.sqlite.connection import Values


def index_rows(unit: str, attributes: bytes | None, created_at: int) -> list[Values]:
    """The arguments of `insert_attribute` for a unit."""
    return [(unit, *term, created_at) for term in terms_of(attributes)]


def leading(where: Sequence[Where]) -> tuple[Where, list[Where]]:
    """The condition whose rows of the index are walked, and those to look up for each of its units.

    It is the cheapest to walk: one for equality first, because its units are in order, and one with
    `!=` last, because the index has nothing for it.
    """
    first = min(where, key=_cost)
    # For `!=` the index gives all units with the attribute, so its values are still to be looked
    # at.
    if first.op == "!=":
        return first, list(where)
    return first, [condition for condition in where if condition is not first]


def _cost(condition: Where) -> int:
    if is_equal(condition):
        return 0
    if condition.op == "!=":
        return 2
    return 1


def is_equal(condition: Where) -> bool:
    """Whether a condition asks for one value. Then the index has its units in order of creation."""
    if condition.op == "in":
        _, values = condition.operands
        return len(values) == 1
    return condition.op == "="


def in_index(condition: Where) -> tuple[str, Values]:
    """A condition on rows of the index. Of `!=` only that the unit has such an attribute."""
    kind, values = condition.operands
    term = "name = ? AND value_kind = ?"
    key = (condition.name, kind)
    if condition.op == "!=":
        return term, key
    if condition.op == "in":
        marks = ", ".join("?" * len(values))
        return f"{term} AND value IN ({marks})", (*key, *values)
    return f"{term} AND value {condition.op} ?", (*key, *values)


def of_unit(condition: Where) -> Iterator[tuple[str, Values]]:
    """A condition on a row of `units`, in one part or two."""
    term, values = in_index(condition)
    rows = f"SELECT 1 FROM attributes WHERE unit = units.id AND {term}"  # noqa: S608 - no input
    yield f"EXISTS ({rows})", values
    # A list fits `!=` when none of its texts is the value, so this is no condition on one row.
    if condition.op == "!=":
        _, (unwanted, *_) = condition.operands
        yield f"NOT EXISTS ({rows} AND value = ?)", (*values, unwanted)


def found_units(condition: Where) -> tuple[str, Values]:
    """The units of the leading condition, each once, as a table `found`."""
    term, values = in_index(condition)
    # A list can have several values that fit, but each value only once. DISTINCT is left out then,
    # because it would have SQLite sort what the index has in order.
    once = "DISTINCT "
    if is_equal(condition):
        once = ""
    # INDEXED BY has the statement fail, rather than walk the table, if the index should change.
    index = "attributes INDEXED BY attributes_value"
    rows = f"SELECT {once}unit, created FROM {index} WHERE {term}"  # noqa: S608 - no input
    return f"({rows}) AS found", values
