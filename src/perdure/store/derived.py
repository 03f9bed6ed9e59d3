"""What every store derives from a commit or a request in the same way, whatever holds its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import msgspec

from perdure.errors import UsageError
from perdure.kernel.data.commit import Answer, Commit, Task
from perdure.kernel.data.message import Message
from perdure.store.limits import StoreLimits

Rows = dict[str, list[tuple[object, ...]]]
"""The content of a store by table, as `dump` gives it to compare two stores."""


def token_of(task: Task, worker: str, at: int) -> bytes:
    """The token of a lease: a function of the row and the request, so that replicas mint the same one."""
    key = msgspec.msgpack.encode(
        (task.unit, task.run, task.execution, task.seq, task.attempt, worker, at)
    )
    return blake2b(key, digest_size=16).digest()


def messages_of(commit: Commit) -> Sequence[Message]:
    """The messages that a commit puts into inboxes: all that it posts but those that it has consumed itself."""
    if not commit.consume or not commit.post:
        return commit.post
    gone = set(commit.consume)
    return [
        message for message in commit.post if message.to != commit.unit or message.id not in gone
    ]


def tombstone_until(commit: Commit, limits: StoreLimits) -> int | None:
    """Until when the start of a run that is deleted may come again; None if it cannot.

    A client may repeat its start. That of a child stands in a commit of its parent, which is applied once.
    """
    if commit.row.parent_unit is not None:
        return None
    until = min(commit.delete or 0, commit.row.created_at + limits.dedupe_ms)
    return until if until > commit.at else None


def answer_until(commit: Commit, answer: Answer, limits: StoreLimits) -> int:
    """Until when an answer is kept."""
    return min(answer.expires_at, commit.at + limits.dedupe_ms)


def check_scopes(batch: Sequence[Message]) -> None:
    """Refuse messages that do not say where they wait while their unit does not exist.

    Raises:
        UsageError: naming the target of the first one.
    """
    for message in batch:
        if not message.scope:
            msg = (
                f"a message to {message.to!r} names no scope; set `Message.scope` to that of a new "
                "unit with this id (`perdure.kernel.data.placement.scope_of`)"
            )
            raise UsageError(msg)


def parts_of(batches: Sequence[Sequence[Commit]]) -> Iterator[list[Commit]]:
    """Commits in parts. The rows of a part are written first, then its messages.

    A batch is one part, so that is what its order means. Several batches make one part while that is
    the same as one after the other: no unit has two commits in it, and none has a commit behind a
    message of an earlier batch to it. A batch with two commits of one unit is cut in front of the second.
    """
    part: list[Commit] = []
    written: set[str] = set()
    sent: set[str] = set()
    for batch in batches:
        if part and any(commit.unit in written or commit.unit in sent for commit in batch):
            yield part
            part, written, sent = [], set(), set()
        for commit in batch:
            if commit.unit in written:
                yield part
                part, written, sent = [], set(), set()
            part.append(commit)
            written.add(commit.unit)
        if len(batches) > 1:
            sent.update(message.to for commit in batch for message in commit.post)
    if part:
        yield part
