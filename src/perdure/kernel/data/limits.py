"""Limits of an instance. Each is enforced; each error names the limit and the option that sets it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

from perdure.errors import UsageError

DEDUPE_MS = 24 * 3600 * 1000
"""How long a client's message may come again and still be known, unless a store says otherwise."""


def check_count(what: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
        UsageError: naming `what`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{what} must be a whole number, got {value!r}"
        raise UsageError(msg)
    if value < least:
        msg = (
            f"{what} must be positive, got {value}"
            if least
            else f"{what} must not be negative, got {value}"
        )
        raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one instance may use. Bytes are of encoded payloads.

    duroxide's default of 1,024 events per execution is too small for asyncio code: a race with a timeout costs four
    events per step. 50,000 events replay in under a second and hold 10,000 steps.

    `executions_kept` is how many ended executions keep their history when one more ends by continue-as-new (0: all).
    """

    history_events: int = 50_000
    history_bytes: int = 50 * 1024 * 1024
    payload_bytes: int = 2 * 1024 * 1024
    commit_bytes: int = 16 * 1024 * 1024
    status_bytes: int = 256 * 1024
    kv_keys: int = 150
    kv_value_bytes: int = 64 * 1024
    kv_key_bytes: int = 512
    attributes: int = 32
    attribute_bytes: int = 4 * 1024
    turn_messages: int = 1_000
    inbox_messages: int = 10_000
    executions_kept: int = 0

    def __post_init__(self) -> None:
        """Check the numbers once.

        Raises:
            UsageError: naming the limit.
        """
        for limit in fields(self):
            least = 0 if limit.name == "executions_kept" else 1
            check_count(f"Limits.{limit.name}", getattr(self, limit.name), least)


NO_LIMITS = Limits(**{limit.name: sys.maxsize for limit in fields(Limits)} | {"executions_kept": 0})
"""For those who only look at what code does: nothing is refused for its size."""
