"""Limits and periods of a store, in one place."""

from __future__ import annotations

import msgspec


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a store keeps, and for how long.

    `inbox_messages`: messages of a unit that may wait before `post` answers `full`. `undelivered_ms`: how long a
    message waits for a unit that does not exist before it becomes a dead letter. `dead_letter_ms`: how long a dead
    letter is kept. `forgotten_ms`: how long a deletion without tombstone can be submitted again and still be answered
    `applied`.
    """

    inbox_messages: int = 10_000
    undelivered_ms: int = 86_400_000
    dead_letter_ms: int = 30 * 86_400_000
    forgotten_ms: int = 3_600_000


DEFAULT_LIMITS = StoreLimits()
