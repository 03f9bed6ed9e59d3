"""Many starts in few batches, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from perdure.client.gateway import Began, Gateway
from perdure.errors import PerdureError, UsageError
from perdure.kernel.data.message import Message

_BATCH = 500
"""Starts that are under way together. Only their arguments are in memory."""


_REFUSALS = (PerdureError, TypeError)
"""Errors of one start. A call with a missing or an unknown argument is a TypeError in Python."""


class PreparedStart:
    """A start that is not sent yet: a handle with the arguments. `handle.prepare(...)` makes it."""

    __slots__ = ("encode", "id", "is_intercepted", "settle", "start")

    def __init__(
        self,
        id: str,
        encode: Callable[[], Message],
        settle: Callable[[Began], None],
        start: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_intercepted: bool,
    ) -> None:
        """Made by a handle.

        `encode` gives the message. `settle` notes what came of it, or raises why it was refused.
        `start` does all of it at once, inside the interceptors.
        """
        self.id = id
        self.encode = encode
        self.settle = settle
        self.start = start
        self.is_intercepted = is_intercepted

    def __repr__(self) -> str:
        """Name it."""
        return f"<PreparedStart {self.id!r}>"


@dataclass(frozen=True, slots=True)
class StartOutcome:
    """What came of one start of many.

    `started`: it is durable. `joined`: the same start was made before. `failed`: it was refused, or
    its outcome is not known. `error` says why then, as `handle.start` would raise it.
    """

    id: str
    outcome: Literal["started", "joined", "failed"]
    error: Exception | None = None


async def start_each(
    gateway: Gateway, starts: Iterable[PreparedStart]
) -> AsyncIterator[StartOutcome]:
    """Start all, batch by batch. The outcomes come in the order of the starts.

    Raises:
        UsageError: an item is no prepared start. The batches before it were started.
    """
    left = iter(starts)
    while batch := list(islice(left, _BATCH)):
        for start in batch:
            _check(start)
        for outcome in await _start_batch(gateway, batch):
            yield outcome


def _check(start: object) -> None:
    if not isinstance(start, PreparedStart):
        text = (
            f"many starts are made of prepared starts, got {start!r}; make each with "
            "client.workflow(definition, id=...).prepare(arguments)"
        )
        raise UsageError(text)


async def _start_batch(gateway: Gateway, batch: Sequence[PreparedStart]) -> list[StartOutcome]:
    if any(start.is_intercepted for start in batch):
        # Interceptors are called around each start, so each is a request of its own.
        return await asyncio.gather(*map(_start_one, batch))
    outcomes: dict[int, StartOutcome] = {}
    encoded: list[tuple[int, Message]] = []
    for place, start in enumerate(batch):
        try:
            encoded.append((place, start.encode()))
        except _REFUSALS as error:
            outcomes[place] = StartOutcome(start.id, "failed", error)
    began: Sequence[Began | PerdureError] = ()
    if encoded:
        began = await gateway.begin_all([message for _, message in encoded])
    for (place, _), one in zip(encoded, began, strict=True):
        outcomes[place] = _outcome_of(batch[place], one)
    return [outcomes[place] for place in range(len(batch))]


def _outcome_of(start: PreparedStart, began: Began | PerdureError) -> StartOutcome:
    if isinstance(began, PerdureError):
        return StartOutcome(start.id, "failed", began)
    try:
        start.settle(began)
    except PerdureError as error:
        return StartOutcome(start.id, "failed", error)
    if began[0] == "joined":
        return StartOutcome(start.id, "joined")
    return StartOutcome(start.id, "started")


async def _start_one(start: PreparedStart) -> StartOutcome:
    try:
        await start.start()
    except _REFUSALS as error:
        return StartOutcome(start.id, "failed", error)
    # An interceptor may have replaced the start, so more than that is not known.
    return StartOutcome(start.id, "started")
