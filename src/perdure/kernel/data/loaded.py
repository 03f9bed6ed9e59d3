"""A unit as stored. Its owner begins with this.

The node reads it (`node/loop/loader.py`) when the unit comes into memory, and the unit's kind makes
a resident unit of it (`kernel/unit/kinds.py`).
"""

from __future__ import annotations

import msgspec

from perdure.kernel.data.commit import JournalChunk, KvEntry, RunRow, StatePart, Task, UnitRow
from perdure.kernel.data.message import Message


class Loaded(msgspec.Struct):
    """A unit as stored, in one snapshot.

    It has the unit's row and version, the journal of its current execution, its KV entries, its
    inbox in order, its tasks, the runs beside its own, and its state.

    `journal` has the events of the unit's own run first, then those of each of `runs`.

    `place` is the place behind the newest message of the inbox, from which `Store.inbox` goes on.
    None: the inbox was empty, and reading it from the beginning misses nothing.
    """

    id: str
    version: int = 0
    row: UnitRow | None = None
    journal: list[JournalChunk] = []
    kv: list[KvEntry] = []
    inbox: list[Message] = []
    tasks: list[Task] = []
    place: str | None = None
    runs: list[RunRow] = []
    state: list[StatePart] = []
