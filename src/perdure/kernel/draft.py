"""A draft: what a turn has gathered so far for its Commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.commit import Answer, Commit, ExecutionRow, JournalChunk, KvEntry
from perdure.kernel.mailbox import Entry
from perdure.kernel.message import AnyBody, Message
from perdure.kernel.turn import Milestones

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.call import Call
    from perdure.kernel.commit import Fence, UnitRow
    from perdure.kernel.turn import Outcome

DEDUPE_WINDOW_MS = 24 * 3600 * 1000
"""How long the answer to a posted message is kept."""


class Budget:
    """What one turn may use. The rest waits for the unit's next turn, behind those of other units.

    `is_spent` looks at the owner's clock: the kernel has none.
    """

    __slots__ = ("_bytes", "_is_spent", "_messages", "_used")

    def __init__(self, messages: int, size: int, is_spent: Callable[[], bool]) -> None:
        """So many deliveries, with so many bytes in all."""
        self._messages = messages
        self._bytes = size
        self._is_spent = is_spent
        self._used = 0

    def has_room(self) -> bool:
        """Whether the turn may take another message. The first one it always may."""
        if not self._used:
            return True
        return self._used < self._messages and self._bytes > 0 and not self._is_spent()

    def use(self, size: int) -> None:
        """Count one delivery."""
        self._used += 1
        self._bytes -= size


class Draft:
    """Filled while messages are taken, turned into a Commit at the end of the turn."""

    __slots__ = (
        "answers",
        "budget",
        "cancelled",
        "chunks",
        "consume",
        "delete",
        "ended",
        "keeping",
        "kv",
        "milestones",
        "now",
        "post",
        "prune",
        "remembered",
        "touched",
        "unit",
        "warning",
    )

    def __init__(self, unit: str, now: int, budget: Budget) -> None:
        """An empty draft of a turn at `now` (ms)."""
        self.unit = unit
        self.now = now
        self.budget = budget
        self.answers: dict[bytes, Outcome] = {}
        self.cancelled: list[Call] = []
        self.chunks: list[JournalChunk] = []
        self.consume: list[bytes] = []
        self.remembered: list[bytes] = []
        self.keeping: dict[bytes, Message] = {}
        self.delete: int | None = None
        self.ended: list[ExecutionRow] = []
        self.kv: list[KvEntry] = []
        self.post: list[Message] = []
        self.prune: list[int] = []
        self.touched = False
        self.warning: str | None = None
        self.milestones: Milestones | None = None

    def reached(self) -> Milestones:
        """Where a milestone is noted."""
        if self.milestones is None:
            self.milestones = Milestones()
        return self.milestones

    # ------------------------------------------------------------ messages

    def consumed(self, entry: Entry, outcome: Outcome = "ok") -> None:
        """The message has had its effect. Its row in the inbox goes, if it has one."""
        message = entry.message
        self.answers.setdefault(message.id, outcome)
        if self.keeping.pop(message.id, None) is not None or not entry.stored:
            return  # this very turn would have stored it, or nothing has
        self.consume.append(message.id)
        if message.sender is None:
            self.remembered.append(message.id)  # a client may send it again

    def dropped(self, entry: Entry) -> None:
        """The message was kept and nobody will receive it any more."""
        self.answers[entry.message.id] = "closed"
        self.consumed(entry, "closed")

    def answer(self, entry: Entry, outcome: Outcome) -> None:
        """Tell the sender something without taking the message."""
        self.answers[entry.message.id] = outcome

    def keep(self, entry: Entry) -> Entry:
        """The message stands in the unit's inbox from this commit on. The entry that says so."""
        message = entry.message
        self.answers.setdefault(message.id, "ok")
        if entry.stored:
            return entry
        self.keeping[message.id] = message
        return Entry(message, True, entry.number)

    def send(self, target: str, body: AnyBody, message_id: bytes) -> None:
        """Send a message to another unit."""
        self.post.append(Message(message_id, target, body, self.now, 0, self.unit))

    # ------------------------------------------------------------ the commit

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (
            self.chunks or self.touched or self.consume or self.keeping or self.post or self.kv
        )

    def commit(self, row: UnitRow, expect: int, fence: Fence, commit_id: bytes) -> Commit:
        """All of it as one Commit. The row is copied: the unit goes on with its own."""
        row.updated_at = self.now
        # A unit that was loaded in between may have taken the same messages in another order.
        self.consume.sort()
        self.remembered.sort()
        expires_at = self.now + DEDUPE_WINDOW_MS
        return Commit(
            commit_id,
            fence,
            self.now,
            self.unit,
            expect,
            msgspec.structs.replace(row),
            self.chunks,
            self.ended or (),
            self.kv or (),
            self.consume or (),
            [Answer(m, self.answers.get(m, "ok"), expires_at) for m in self.remembered]
            if self.remembered
            else (),
            [*self.keeping.values(), *self.post] if self.keeping else self.post or (),
            prune=self.prune or (),
            delete=self.delete,
        )
