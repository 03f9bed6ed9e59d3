"""Limits of one instance: how much its code may write.

`App` gives them to each execution, which checks them where a command or a message is new. Each
error names the limit and the option that sets it. Replay does not check: what was accepted once
stays accepted (`kernel/execution/refusal.py`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

from perdure.errors import UsageError

DEDUPE_MS = 24 * 3600 * 1000
"""How long a client's message may come again and still be known, unless a store says otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one instance. Bytes are of encoded payloads.

    `executions_kept` is how many ended executions keep their history when one more ends by
    continue-as-new (0: all).
    """

    # duroxide allows 1,024 events per execution, which is too few for asyncio code: a race with a
    # timeout has four events. 50,000 events are 10,000 such races, and replay in under a second.
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
        """Check the numbers once, where they are written.

        Raises:
            UsageError: naming the limit.
        """
        for limit in fields(self):
            least = 1
            if limit.name == "executions_kept":
                least = 0
            check_count(f"Limits.{limit.name}", getattr(self, limit.name), least)


def check_count(what: str, value: object, least: int = 1) -> None:
    """Refuse a value that is not a whole number of at least `least`, which is 0 or 1.

    Raises:
        UsageError: naming `what`.
    """
    # A bool is an int, and True is not meant as 1.
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{what} must be a whole number, got {value!r}"
        raise UsageError(msg)
    if value < least:
        wanted = "must not be negative"
        if least:
            wanted = "must be positive"
        msg = f"{what} {wanted}, got {value}"
        raise UsageError(msg)


# `executions_kept` is no limit of this kind: 0 keeps all. This stands last, because it is checked.
NO_LIMITS = Limits(**{limit.name: sys.maxsize for limit in fields(Limits)} | {"executions_kept": 0})
"""Nothing is refused for its size. A replay without a store uses this."""
