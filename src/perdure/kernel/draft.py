"""A draft: what a turn has gathered so far for its Commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.commit import Answer, Commit, ExecutionRow, JournalChunk, KvEntry
from perdure.kernel.message import AnyBody, Message
from perdure.kernel.turn import Milestones

if TYPE_CHECKING:
    from perdure.kernel.call import Call
    from perdure.kernel.commit import Fence, UnitRow
    from perdure.kernel.turn import Outcome

DEDUPE_WINDOW_MS = 24 * 3600 * 1000
"""How long the answer to a posted message is kept."""


class Draft:
    """Filled while messages are taken, turned into a Commit at the end of the turn."""

    __slots__ = (
        "answers",
        "cancelled",
        "chunks",
        "consume",
        "delete",
        "ended",
        "kv",
        "milestones",
        "now",
        "post",
        "prune",
        "touched",
        "unit",
        "warning",
    )

    def __init__(self, unit: str, now: int) -> None:
        """An empty draft of a turn at `now` (ms)."""
        self.unit = unit
        self.now = now
        self.answers: dict[bytes, Outcome] = {}
        self.cancelled: list[Call] = []
        self.chunks: list[JournalChunk] = []
        self.consume: list[bytes] = []
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

    def consumed(self, message: Message, outcome: Outcome = "ok") -> None:
        """The message has had its effect; its inbox row, if it has one, goes."""
        self.answers.setdefault(message.id, outcome)
        if message.posted:
            self.consume.append(message.id)

    def keep(self, message: Message) -> None:
        """The message waits: it stands in the unit's inbox from this commit on."""
        self.answers.setdefault(message.id, "ok")
        if not message.posted:
            message.posted = True
            self.post.append(message)

    def send(self, target: str, body: AnyBody, message_id: bytes) -> None:
        """Send a message to another unit."""
        self.post.append(Message(message_id, target, body, self.now, 0, self.unit))

    def drop_kept(self, messages: list[Message]) -> None:
        """Messages that were kept are not wanted any more."""
        if not messages:
            return
        left = {m.id for m in messages}
        for message in messages:
            self.answers[message.id] = "closed"
        fresh = {m.id for m in self.post if m.to == self.unit}
        self.post = [m for m in self.post if m.to != self.unit or m.id not in left]
        self.consume.extend(sorted(left - fresh))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.chunks or self.touched or self.consume or self.post or self.kv)

    def commit(self, row: UnitRow, expect: int, fence: Fence, commit_id: bytes) -> Commit:
        """All of it as one Commit. The row is copied: the unit goes on with its own."""
        row.updated_at = self.now
        expires_at = self.now + DEDUPE_WINDOW_MS
        return Commit(
            commit_id,
            fence,
            self.now,
            self.unit,
            expect,
            msgspec.structs.replace(row),
            self.chunks,
            self.ended,
            self.kv,
            self.consume,
            [Answer(m, self.answers.get(m, "ok"), expires_at) for m in self.consume],
            self.post,
            prune=self.prune,
            delete=self.delete,
        )
