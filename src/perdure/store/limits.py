"""Limits and periods of a store, in one place."""

from __future__ import annotations

import msgspec

from perdure.kernel.data.limits import DEDUPE_MS, check_count


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a store keeps, and for how long.

    `inbox_messages`: messages of a unit that may wait before `post` answers `full`. `undelivered_ms`: how long a
    message waits for a unit that does not exist before it becomes a dead letter. `dead_letter_ms`: how long a dead
    letter is kept. `dedupe_ms`: how long after it was sent a client's message, or the start of an instance that was
    deleted since, may come again and still be known. `forgotten_ms`: how long the commit of a deletion can be submitted
    again and still be answered `applied`.
    """

    inbox_messages: int = 10_000
    undelivered_ms: int = 86_400_000
    dead_letter_ms: int = 30 * 86_400_000
    dedupe_ms: int = DEDUPE_MS
    forgotten_ms: int = 600_000

    def __post_init__(self) -> None:
        """Check the numbers once.

        Raises:
            UsageError: naming the limit.
        """
        for limit in msgspec.structs.fields(StoreLimits):
            check_count(f"StoreLimits.{limit.name}", getattr(self, limit.name))


DEFAULT_LIMITS = StoreLimits()
