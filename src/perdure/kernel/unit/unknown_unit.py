"""A unit of a kind that this release does not know, because a newer one has made it.

It is suspended with the reason, and its messages wait in the store. It goes on when a node that
knows its kind has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.limits import DEDUPE_MS
from perdure.kernel.unit import held
from perdure.kernel.unit.budget import Budget
from perdure.kernel.unit.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from logging import LogRecord

    from perdure.errors import Failure
    from perdure.kernel.data.commit import Commit, Fence, UnitRow
    from perdure.kernel.data.loaded import Loaded
    from perdure.kernel.unit.mailbox import Mailbox


class UnknownUnit:
    """A unit whose code is not there. Nothing of it is read but its row."""

    __slots__ = ("_changed", "held", "id", "kind", "row", "version")

    keeps_messages = False
    lacks = ""
    is_poison = False
    idle = True
    only_sleeps = False

    def __init__(self, unit: str, kind: str) -> None:
        """A unit of this kind."""
        self.id = unit
        self.version = 0
        self.row: UnitRow | None = None
        self.held: Failure | None = held.unknown_kind(unit, kind)
        self.kind = kind
        self._changed = False

    def load(self, found: Loaded, *, released: bool = False) -> None:
        """Take over the row. A retry changes nothing, because the code is not there."""
        self.version = found.version
        self.row = found.row

    def advance(
        self,
        mailbox: Mailbox,
        now: int,
        fence: Fence,
        commit_id: bytes,
        is_spent: Callable[[], bool],
    ) -> Turn:
        """Keep each message in the store, and say in the row why nothing goes on."""
        row = self.row
        # No budget and no shards count here: each message is kept, and none is sent.
        turn = Turn(self.id, now, Budget(len(mailbox) + 1, 1, is_spent), 1, fence.scope)
        for entry in mailbox.take_all():
            turn.keep(entry)
        # A copy that has followed a delete. It has nothing to write to.
        if row is None:
            return turn
        if row.status in CLOSED:
            turn.end()
        elif row.become("suspended", held.REASONS[held.NOT_REGISTERED], None, self.held):
            turn.touch()
            turn.reach(held=True)
        if self._changed:
            self._changed = False
            turn.touch()
        if turn.pack(row, self.version, fence, commit_id, DEDUPE_MS):
            self.version += 1
        return turn

    def follow(self, commit: Commit) -> None:
        """Take over the row of another owner's commit."""
        if commit.delete is not None:
            self.row = None
            self.version = 0
            return
        # A copy: the owner's row lives on, if both are in one process.
        self.row = msgspec.structs.replace(commit.row)
        self.version = commit.expect + 1

    def hold(self, why: Failure) -> None:
        """It is held already."""

    def suspect_of(self, crashes: int) -> None:
        """Note in the row how many crashes the unit may have caused."""
        assert self.row is not None
        self.row.suspect_of(crashes)
        self._changed = True

    def close_memory(self) -> None:
        """Nothing of it runs."""

    def take_logs(self) -> Sequence[LogRecord]:
        """Nothing of it logs."""
        return ()

    def where(self) -> str | None:
        """It has no code."""
        return None
