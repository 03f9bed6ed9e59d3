"""The arguments of `commit_batch`: a part of a batch as arrays, one for each column.

The verdict on a commit depends on what is stored, which only the server knows at the time of the
commit. So the server decides, by the same rule as `kernel.data.commit.verdict`. What makes a commit
impossible is decided in two halves. `flaw_of` is asked here, as if the stored journals ended just
where those of the commit go on. The server looks whether they do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import msgspec

from perdure.kernel.data.commit import (
    OWN_RUN,
    Commit,
    JournalChunk,
    Owned,
    RunRow,
    SqlRefused,
    Stored,
    Verdict,
    flaw_of,
)
from perdure.kernel.data.message import Message, Start, encode_body
from perdure.store.derived import answer_until, home_of, messages_of, tombstone_until
from perdure.store.failure import failure_bytes
from perdure.store.limits import StoreLimits
from perdure.store.postgres.columns import attribute_values, run_values, unit_values
from perdure.store.postgres.connection import Values
from perdure.store.statements import read_sql

_as_tuple = msgspec.structs.astuple
_PACKAGE = "perdure.store.postgres"


def argument_types(name: str) -> dict[str, list[str]]:
    """The types of arguments that a file of statements makes, each with those of its columns."""
    found: dict[str, list[str]] = {}
    for type_, columns in re.findall(
        r"^CREATE TYPE (\w+) AS \((.*?)\);", read_sql(_PACKAGE, name), re.MULTILINE | re.DOTALL
    ):
        found[type_] = [column.split()[1] for column in columns.split(",")]
    return found


TABLES = argument_types("format_1_before_2_commits")
"""The arguments of `commit_batch`, in order."""

_VERDICTS: dict[int, Verdict] = {
    -1: "fenced",
    -2: "stale",
    -3: "invalid",
    -4: SqlRefused(0, "this store runs no SQL of programs; use one that has the capability `sql`"),
}


def verdict_of(fate: int) -> Verdict:
    """The verdict that `commit_batch` has found."""
    return _VERDICTS.get(fate, "applied")


def row_arguments(types: dict[str, list[str]], present: Sequence[str]) -> list[str]:
    """The arguments of a call. Those that are not present are NULL."""
    number = 0
    arguments: list[str] = []
    for table, columns in types.items():
        if table not in present:
            arguments.append("NULL")
            continue
        marks: list[str] = []
        for column in columns:
            number += 1
            marks.append(f"${number}::{column}")
        arguments.append(f"ROW({', '.join(marks)})::{table}")
    return arguments


@cache
def _call(present: tuple[str, ...]) -> str:
    """The statement for batches that write these tables. There are few combinations in practice."""
    arguments = ", ".join(row_arguments(TABLES, present))
    return f"SELECT fates, hinted_units, hinted_scopes FROM commit_batch({arguments})"  # noqa: S608


class Batch:
    """The rows of a part by table."""

    def __init__(self, commits: Sequence[Commit], limits: StoreLimits) -> None:
        """Collect the rows of some commits, no two of them of one unit."""
        self._limits = limits
        self._rows: dict[str, list[Values]] = {name: [] for name in TABLES}
        for place, commit in enumerate(commits, 1):
            self._add(place, commit)

    def call(self) -> tuple[str, list[object]]:
        """The statement, and its arguments."""
        present = tuple(name for name, rows in self._rows.items() if rows)
        arguments: list[object] = []
        for name in present:
            arguments += zip(*self._rows[name], strict=True)
        return _call(present), arguments

    def _add(self, place: int, commit: Commit) -> None:
        rows = self._rows
        row = commit.row
        fence = commit.fence
        tombstone = forgotten_at = None
        if commit.delete is not None:
            tombstone = tombstone_until(commit, self._limits)
            forgotten_at = commit.at + self._limits.forgotten_ms
        own = [chunk for chunk in commit.journal if chunk.run == OWN_RUN]
        before = _before(own, (row.execution, row.journal_events))
        runs = {run.run: _before_run(commit, run) for run in commit.runs}
        stored = Stored(0, None, None, row.run, *before)
        is_flawed = flaw_of(commit, stored, Owned(runs)) is not None
        rows["commit_rows"].append(
            (
                commit.id,
                fence.scope,
                fence.epoch,
                fence.incarnation,
                commit.unit,
                commit.expect,
                home_of(commit),
                commit.delete is not None,
                tombstone,
                forgotten_at,
                is_flawed,
                bool(commit.sql),
                *before,
            )
        )
        rows["unit_rows"].append(unit_values(row))
        # Most commits have nothing in most of their parts, and this runs for each commit.
        if commit.consume:
            rows["consumed_rows"] += [(place, message) for message in commit.consume]
        if commit.answers:
            self._answer(place, commit)
        if commit.post:
            self._send(place, commit)
        # Nothing else of a deletion is written. What is flawed is not written at all, and may have
        # rows that the server could not even read.
        if commit.delete is None and not is_flawed:
            self._add_parts(place, commit, runs)

    def _add_parts(self, place: int, commit: Commit, runs: dict[bytes, tuple[int, int]]) -> None:
        rows = self._rows
        if commit.row.attributes is not None:
            values = attribute_values(commit.row.attributes)
            rows["attribute_rows"] += [(place, *one) for one in values]
        rows["journal_rows"] += [
            (place, chunk.execution, chunk.first, chunk.count, chunk.events, chunk.run)
            for chunk in commit.journal
        ]
        if commit.kv or commit.ended or commit.prune or commit.state:
            self._add_values(place, commit)
        rows["dropped_run_rows"] += [(place, run) for run in commit.runs_dropped]
        rows["run_rows"] += [(place, *run_values(run), *runs[run.run]) for run in commit.runs]
        rows["dropped_task_rows"] += [(place, *key) for key in commit.tasks_dropped]
        # The first field is the unit.
        rows["task_rows"] += [(place, *_as_tuple(task)[1:]) for task in commit.tasks_added]
        if commit.letters:
            self._bury(place, commit)

    def _add_values(self, place: int, commit: Commit) -> None:
        rows = self._rows
        # A key has one row, so of several entries of a key the last one counts.
        entries = {entry.key: entry for entry in commit.kv}
        rows["kv_rows"] += [(place, *_as_tuple(entry)) for entry in entries.values()]
        rows["execution_rows"] += [(place, *_as_tuple(ended)) for ended in commit.ended]
        for execution in commit.prune:
            # The journal of the current execution is what the unit is loaded from.
            if execution != commit.row.execution:
                rows["pruned_rows"].append((place, execution))
        rows["state_rows"] += [(place, *_as_tuple(part)) for part in commit.state]

    def _answer(self, place: int, commit: Commit) -> None:
        for one in commit.answers:
            until = answer_until(commit, one, self._limits)
            failure = failure_bytes(one.failure)
            self._rows["answer_rows"].append(
                (place, one.message, one.outcome, until, one.data, failure)
            )

    def _bury(self, place: int, commit: Commit) -> None:
        until = commit.at + self._limits.dead_letter_ms
        # One statement writes them all, and can write each row once.
        letters = {(one.message.to, one.message.id): one for one in commit.letters}
        for letter in letters.values():
            message = letter.message
            sent = (kind_of(message), encode_body(message.body), message.at, message.sender)
            self._rows["letter_rows"].append(
                (place, message.to, message.id, *sent, until, letter.reason)
            )

    def _send(self, place: int, commit: Commit) -> None:
        for message in messages_of(commit):
            self._rows["message_rows"].append(
                (place, *message_values(message), commit.fence.incarnation)
            )


def kind_of(message: Message) -> str:
    """The kind of a message's body."""
    return type(message.body).__name__


def message_values(message: Message) -> Values:
    """A message as a row of the inbox. The last value says whether it replaces a closed run."""
    body = message.body
    replaces = isinstance(body, Start) and body.replaces_closed
    return (
        message.to,
        message.id,
        message.scope,
        kind_of(message),
        encode_body(body),
        message.at,
        message.visible_at,
        message.sender,
        message.previous,
        replaces,
    )


def _before(chunks: Sequence[JournalChunk], after: tuple[int, int]) -> tuple[int, int]:
    """The execution and its number of events behind which a journal goes on."""
    if not chunks:
        return after
    return chunks[0].execution, chunks[0].first - 1


def _before_run(commit: Commit, run: RunRow) -> tuple[int, int]:
    chunks = [chunk for chunk in commit.journal if chunk.run == run.run]
    return _before(chunks, (run.execution, run.journal_events))
