"""SQL in files: how they are read, and that they name the columns of the structs."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from perdure.kernel.data.commit import ExecutionRow, JournalChunk, KvEntry, RunRow, StatePart, Task
from perdure.store.sqlite.columns import COLD, UNIT_FIELDS
from perdure.store.statements import parse, statements

FILES = ("commits", "known", "messages", "loads", "tasks", "scopes", "sweeping", "counts")


def test_a_file_is_read_as_named_statements_without_comments() -> None:
    text = "-- About the file.\n\n-- name: one\n-- Why it is so.\nSELECT 1;\n\n-- name: two\nSELECT\n    2;\n"
    assert parse(text) == {"one": "SELECT 1", "two": "SELECT\n    2"}


@pytest.mark.parametrize("text", ["-- name: a\n-- nothing\n", "-- name: a\nX;\n-- name: a\nY;\n"])
def test_a_name_without_text_or_a_second_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'a' stands twice, or has no text"):
        parse(text)


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_statements(name: str) -> None:
    found = statements("perdure.store.sqlite", name)
    assert found
    assert all(";" not in sql for sql in found.values())


def fields_of(kind: type[Any]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    ("file", "name", "columns"),
    [
        ("commits", "insert_unit", [*UNIT_FIELDS, "version", "commit_id"]),
        ("commits", "insert_journal", [*fields_of(JournalChunk), "unit"]),
        ("commits", "insert_execution", [*fields_of(ExecutionRow), "unit"]),
        ("commits", "set_run", ["unit", *fields_of(RunRow)]),
        ("commits", "set_state", ["unit", *fields_of(StatePart)]),
        ("commits", "set_kv", ["unit", *fields_of(KvEntry)]),
        ("commits", "insert_task", fields_of(Task)),
        ("known", "read_units", ["version", "commit_id", "journal_events", *COLD]),
        ("loads", "load_units", [*UNIT_FIELDS, "version"]),
        ("loads", "load_runs", ["unit", *fields_of(RunRow)]),
        ("loads", "load_kv", ["unit", *fields_of(KvEntry)]),
        ("loads", "load_tasks", fields_of(Task)),
        ("tasks", "find_waiting", fields_of(Task)),
    ],
)
def test_columns_stand_in_the_order_of_the_fields(file: str, name: str, columns: list[str]) -> None:
    sql = statements("perdure.store.sqlite", file)[name]
    listed = re.search(r"^SELECT\s+(.+?)\s+FROM|\((.+?)\)", sql, re.DOTALL)
    assert listed is not None
    assert re.split(r",\s*", (listed[1] or listed[2]).strip()) == columns


def test_updates_bind_each_column_to_the_number_of_its_field() -> None:
    numbers = {name: n for n, name in enumerate((*UNIT_FIELDS, "version", "commit_id"), start=1)}
    commits = statements("perdure.store.sqlite", "commits")
    for name in ("update_all", "update_moving", "update_still"):
        pairs = re.findall(r"(\w+) = \?(\d+)", commits[name])
        assert len(pairs) > 20
        assert all(numbers[column] == int(number) for column, number in pairs), name
