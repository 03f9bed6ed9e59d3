"""What the two lanes of a store write: commits, and posted messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from perdure.errors import StoreError
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.message import ActivityDone, Message
from perdure.ports.store import Hint, Posted
from perdure.store.derived import parts_of
from perdure.store.failure import failure_of
from perdure.store.limits import StoreLimits
from perdure.store.postgres.batch import (
    Batch,
    argument_types,
    message_values,
    row_arguments,
    verdict_of,
)
from perdure.store.postgres.connection import Connection, Values

logger = logging.getLogger("perdure.store")

Decided = tuple[Verdict, list[Hint]]
"""A verdict, and hints for other owners. The first commit of a part has those of the whole part."""

Accepted = tuple[Posted | StoreError, Hint]
"""The fate of a message, and the hint for its unit."""


async def write_commits(
    connection: Connection, batches: list[list[Commit]], limits: StoreLimits
) -> list[Decided]:
    """Decide the commits of several batches and write the accepted ones.

    Each part is a transaction. Where there are several, the earlier ones are durable already, and
    answer the same when they are submitted again.
    """
    decided: list[Decided] = []
    for part in parts_of(batches):
        statement, arguments = Batch(part, limits).call()
        row = await connection.fetchrow(statement, *arguments)
        assert row is not None, "a function without a set has one row"
        fates, units, scopes = row
        hints = [Hint(*one) for one in zip(units or (), scopes or (), strict=True)]
        for fate in fates:
            decided.append((verdict_of(fate), hints))
            hints = []
    return decided


def refuse_commit(commit: Commit, error: Exception) -> Decided:
    """The verdict on a commit that cannot be written."""
    # `flaw_of` has let it pass, so the store is wrong, or a text has a NUL in it.
    text = "a commit of %r cannot be written, which is a defect: %s: %s"
    row = commit.row
    ids = {
        "instance": row.id,
        "execution": row.execution,
        "workflow": row.type,
        "version": row.type_version,
    }
    logger.critical(text, commit.unit, type(error).__name__, error, extra=ids)
    return "invalid", []


# ---------------------------------------------------------------- posts

_POSTED = argument_types("format_1_before_3_posts")


@cache
def _post_call() -> str:
    (rows,) = row_arguments(_POSTED, tuple(_POSTED))
    number = sum(map(len, _POSTED.values())) + 1
    columns = "outcome, answer, data, failure, scope"
    return f"SELECT {columns} FROM post_batch({rows}, ${number})"  # noqa: S608 - no input


def _posted_values(message: Message) -> Values:
    body = message.body
    key: Values = (None, None, None, None, None)
    if isinstance(body, ActivityDone):
        key = (body.run, body.execution, body.seq, body.attempt, message.token)
    return (*message_values(message), *key)


async def write_posts(
    connection: Connection, batches: list[list[Message]], limits: StoreLimits
) -> list[Accepted]:
    """Put messages into inboxes, in order, and say what became of each."""
    messages = [message for batch in batches for message in batch]
    columns = zip(*map(_posted_values, messages), strict=True)
    rows = await connection.fetch(_post_call(), *columns, limits.inbox_messages)
    accepted: list[Accepted] = []
    for message, (outcome, answer, data, failure, scope) in zip(messages, rows, strict=True):
        posted = Posted(outcome, answer, data, failure_of(failure))
        accepted.append((posted, Hint(message.to, scope)))
    return accepted


def refuse_post(message: Message, error: Exception, name: str) -> Accepted:
    """The error for a message that cannot be stored."""
    refusal = StoreError(f"{name} refused a message to {message.to!r}: {error}")
    return refusal, Hint(message.to, message.scope)


def changes(commits: Sequence[Commit], decided: Sequence[Decided]) -> list[tuple[str, int]]:
    """The units that changed, each with its newest version."""
    changed: dict[str, int] = {}
    for commit, (verdict, _) in zip(commits, decided, strict=True):
        if verdict == "applied":
            # A unit that was deleted has no row, which is version 0.
            changed[commit.unit] = 0
            if commit.delete is None:
                changed[commit.unit] = commit.expect + 1
    return list(changed.items())
