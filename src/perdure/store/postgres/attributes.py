"""Conditions on search attributes, as they are looked up in their index."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from perdure.kernel.data.attributes import TEXT
from perdure.ports.where import Where
from perdure.store.postgres.filter import Filter

_TEXT_START = 64
"""The length of the start of a text that stands in the index."""


def add_condition(where: Filter, condition: Where) -> None:
    """Have a list give only units that fit a condition."""
    kind, wanted = condition.operands
    values: list[Any] = list(wanted)
    column = "text_value"
    if kind != TEXT:
        column = "number_value"
        # Exact, also for a float.
        values = [Decimal(value) for value in wanted]
    rows = "SELECT FROM attributes AS a WHERE a.unit = units.id AND "
    of_kind = f"a.name = {where.mark(condition.name)} AND a.value_kind = {where.mark(kind)}"
    of_kind += f" AND a.{column} IS NOT NULL"
    if condition.op == "!=":
        # A list fits when none of its texts is the value, so this is no condition on one row.
        unwanted = where.mark(values[0])
        where.terms.append(f"EXISTS ({rows}{of_kind})")
        where.terms.append(f"NOT EXISTS ({rows}{of_kind} AND a.{column} = {unwanted})")
        return
    term = of_kind
    if condition.op in ("=", "in"):
        term += f" AND {_one_of(where, column, values)}"
    else:
        term += f" AND a.{column} {condition.op} {where.mark(values[0])}"
    # By the ids that the index gives, and not unit by unit: few units fit.
    found = f"SELECT a.unit FROM attributes AS a WHERE {term}"  # noqa: S608 - no input
    where.terms.append(f"units.id IN ({found})")


def _one_of(where: Filter, column: str, values: Sequence[Any]) -> str:
    if column == "number_value":
        return f"a.number_value = ANY ({where.mark(list(values))}::numeric[])"
    mark = where.mark(list(values))
    starts = where.mark([value[:_TEXT_START] for value in values])
    # The index has the start of each text.
    return (
        f"left(a.text_value, {_TEXT_START}) = ANY ({starts}::text[])"
        f" AND a.text_value = ANY ({mark}::text[])"
    )
