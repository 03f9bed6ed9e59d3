"""Values that every store derives from commits and requests by the same rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from operator import itemgetter

import msgspec

from perdure.errors import UsageError
from perdure.kernel.data.commit import Answer, Commit, Task
from perdure.kernel.data.message import Message
from perdure.ports.store import Overdue, Page, Tasks, Waiting
from perdure.store.limits import StoreLimits
from perdure.store.page import key_of, page_of

Rows = dict[str, list[tuple[object, ...]]]
"""The content of a store by table, as `dump` gives it to compare two stores."""


def token_of(task: Task, worker: str, at: int) -> bytes:
    """The token of a lease."""
    # A function of the row and the request, so that replicas mint the same one.
    key = msgspec.msgpack.encode(
        (task.unit, task.run, task.execution, task.seq, task.attempt, worker, at)
    )
    return blake2b(key, digest_size=16).digest()


def waiting_from(query: Waiting) -> str:
    """The name behind which the page of a query begins."""
    start = key_of(query.after, tuple[str])
    if start is None:
        return ""
    return start[0]


def waiting_page(query: Waiting, rows: Iterable[Sequence[str]]) -> Page[str]:
    """The page of a query. One more row than that says that there are others."""
    # Each name is its own place.
    names = list(map(itemgetter(0), rows))
    return page_of(list(zip(zip(names, strict=True), names, strict=True)), query.limit)


TaskPlace = tuple[int, int, bytes, int]
"""The place of a task in the list of those of its unit."""


def task_place(task: Task) -> TaskPlace:
    """The place of a task in the list of those of its unit."""
    return task.seq, task.attempt, task.run, task.execution


def tasks_from(query: Tasks) -> TaskPlace:
    """The place behind which the page of a query begins."""
    start = key_of(query.after, tuple[int, int, bytes, int])
    if start is None:
        return (-1, 0, b"", 0)
    return start


def tasks_page(query: Tasks, found: Iterable[Task]) -> Page[Task]:
    """The page of a query. One more task than that says that there are others."""
    tasks = list(found)
    return page_of(list(zip(map(task_place, tasks), tasks, strict=True)), query.limit)


OverdueKey = tuple[int, str, bytes, int, int, int]
"""The place of a task in the list of those that are overdue."""


def overdue_key(task: Task) -> OverdueKey:
    """The place of a task in the list of those that are overdue."""
    assert task.expires_at is not None
    return task.expires_at, task.unit, task.run, task.execution, task.seq, task.attempt


def overdue_from(query: Overdue) -> OverdueKey:
    """The place behind which the page of a query begins."""
    start = key_of(query.after, tuple[int, str, bytes, int, int, int])
    if start is None:
        return (-1, "", b"", 0, 0, 0)
    return start


def overdue_page(query: Overdue, found: Iterable[Task]) -> Page[Task]:
    """The page of a query. One more task than that says that there are others."""
    tasks = list(found)
    return page_of(list(zip(map(overdue_key, tasks), tasks, strict=True)), query.limit)


def messages_of(commit: Commit) -> Sequence[Message]:
    """The messages that a commit puts into inboxes: all that it posts and does not consume."""
    # A unit can send to itself and consume the message in the same turn.
    if not commit.consume or not commit.post:
        return commit.post
    consumed = set(commit.consume)

    def is_consumed(message: Message) -> bool:
        return message.to == commit.unit and message.id in consumed

    return [message for message in commit.post if not is_consumed(message)]


def home_of(commit: Commit) -> str:
    """The scope in which messages for the unit wait while it does not exist."""
    if commit.home is None:
        return commit.fence.scope
    return commit.home


def tombstone_until(commit: Commit, limits: StoreLimits) -> int | None:
    """Until when the start of a run that is deleted may come again. None: it cannot."""
    # A client may repeat its start. That of a child stands in a commit of its parent, which is
    # applied once.
    if commit.row.parent_unit is not None:
        return None
    until = min(commit.delete or 0, commit.row.created_at + limits.dedupe_ms)
    if until <= commit.at:
        return None
    return until


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

    A batch is one part, so that is what its order means. Several batches make one part while that
    is the same as one after the other: no unit has two commits in it, and none has a commit behind
    a message of an earlier batch to it. A batch with two commits of one unit is cut in front of the
    second.
    """
    part: list[Commit] = []
    written: set[str] = set()
    sent: set[str] = set()
    for batch in batches:
        if part and _touches(batch, written, sent):
            yield part
            part, written, sent = [], set(), set()
        for commit in batch:
            if commit.unit in written:
                yield part
                part, written, sent = [], set(), set()
            part.append(commit)
            written.add(commit.unit)
        # Messages of the same batch come behind its rows in any case.
        if len(batches) > 1:
            for commit in batch:
                sent.update([message.to for message in commit.post])
    if part:
        yield part


def _touches(batch: Sequence[Commit], written: set[str], sent: set[str]) -> bool:
    """Whether a batch commits to a unit that an earlier one has written or sent a message to."""
    touched = written | sent
    return any(commit.unit in touched for commit in batch)
