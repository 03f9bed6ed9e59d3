"""The scopes of rows in a store with another number of shards.

The number is fixed when a store is created, and a unit's scope comes from it. So a move into a
store with another number gives each unit the scope that it would have been created in there.
"""

from __future__ import annotations

from typing import Any

from perdure.kernel.data.placement import PIN, scope_of, scopes_of
from perdure.ports.moving import RowPart


def rehomed(scope: str, unit: str | None, shards: int) -> str:
    """The scope of a row among so many shards. A row without a unit stays in its group."""
    group, _, number = scope.rpartition("/")
    # One that was placed by hand belongs to no group, whatever its id ends with.
    if scope.startswith(PIN) or not number.isdecimal():
        return scope
    if unit is None:
        return f"{group}/{int(number) % shards}"
    return scope_of(unit, shards, group)


class Homes:
    """Gives rows of one store the scopes of another."""

    def __init__(self, before: int, after: int) -> None:
        """`before` and `after` are numbers of shards."""
        self._shards = after
        self._is_same = before == after

    def part(self, table: str, part: RowPart) -> RowPart:
        """The rows of a table, each in its scope."""
        if self._is_same or "scope" not in part.columns:
            return part
        scope = part.columns.index("scope")
        unit: int | None = None
        name = "unit"
        if table == "units":
            name = "id"
        if name in part.columns:
            unit = part.columns.index(name)
        rows = [self._row(row, scope, unit) for row in part.rows]
        return RowPart(part.columns, rows, part.next)

    def _row(self, row: tuple[Any, ...], scope: int, unit: int | None) -> tuple[Any, ...]:
        owner: str | None = None
        if unit is not None:
            owner = row[unit]
        home = rehomed(row[scope], owner, self._shards)
        return (*row[:scope], home, *row[scope + 1 :])

    def scopes(self, part: RowPart) -> RowPart:
        """The rows of `scopes`, without owners.

        A scope whose last owner did not release it stays so. Its next owner then looks at what was
        at work at that time. With another number of shards this is true of the whole group.
        """
        if self._is_same:
            return _disowned(part)
        place = {name: number for number, name in enumerate(part.columns)}
        rows: list[tuple[Any, ...]] = []
        groups: dict[str, tuple[int, int]] = {}
        for row in _disowned(part).rows:
            scope, epoch, clean = row[place["scope"]], row[place["epoch"]], row[place["clean"]]
            group, _, number = scope.rpartition("/")
            # Nodes find pins by these rows, and a pin does not depend on the number of shards.
            if scope.startswith(PIN) or not number.isdecimal():
                rows.append(row)
                continue
            highest, all_clean = groups.get(group, (0, 1))
            groups[group] = (max(highest, epoch), min(all_clean, clean))
        # Each epoch is above all that the group has had, so that no fence of before fits.
        for group, (epoch, clean) in groups.items():
            for name in scopes_of(self._shards, group):
                values = {"scope": name, "epoch": epoch, "clean": clean}
                rows.append(tuple(values.get(column) for column in part.columns))
        return RowPart(part.columns, rows, part.next)


def _disowned(part: RowPart) -> RowPart:
    owner = {part.columns.index("node"), part.columns.index("incarnation")}
    rows: list[tuple[Any, ...]] = []
    for row in part.rows:
        values = list(row)
        # Their owners belong to the old store, and own nothing in this one.
        for place in owner:
            values[place] = None
        rows.append(tuple(values))
    return RowPart(part.columns, rows, part.next)
