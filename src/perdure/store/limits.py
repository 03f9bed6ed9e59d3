"""Limits and periods of a store."""

from __future__ import annotations

import msgspec

from perdure.kernel.data.limits import DEDUPE_MS, check_count


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store keeps, and for how long."""

    inbox_messages: int = 10_000
    """Messages of a unit that may wait before `post` answers `full`."""
    undelivered_ms: int = 86_400_000
    """How long a message waits for a unit that does not exist before it becomes a dead letter."""
    dead_letter_ms: int = 30 * 86_400_000
    """How long a dead letter is kept."""
    dedupe_ms: int = DEDUPE_MS
    """How long after it was sent a client's message may come again and still be known.

    The same holds for the start of an instance that was deleted since.
    """
    # A commit whose outcome was unknown is submitted again at once, so minutes are enough.
    forgotten_ms: int = 600_000
    """How long the commit of a deletion can be submitted again and still be answered `applied`."""

    def __post_init__(self) -> None:
        """Check the numbers once.

        Raises:
            UsageError: naming the limit.
        """
        for limit in msgspec.structs.fields(StoreLimits):
            check_count(f"StoreLimits.{limit.name}", getattr(self, limit.name))


DEFAULT_LIMITS = StoreLimits()
