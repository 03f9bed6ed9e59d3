"""The columns that are written out by hand are those of their lists, and together they are all."""

from __future__ import annotations

from typing import Any

from perdure.kernel.data.commit import UnitRow
from perdure.store.sqlite.columns import COLD, HOT, UNIT_FIELDS, cold_values, hot_values


def test_written_out_columns_are_those_of_their_lists() -> None:
    names: Any = UNIT_FIELDS
    named = UnitRow(*names)  # each field holds its own name
    assert cold_values(named) == COLD
    assert hot_values(named, 7, b"commit") == (*HOT, 7, b"commit", "id")
    assert sorted(COLD + HOT) == sorted(UNIT_FIELDS)
