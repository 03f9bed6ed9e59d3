"""The latest time that anything can wait for.

The loop rounds all later times up to one of them, and an execution refuses that here.
"""

from __future__ import annotations

from perdure.errors import UsageError

LATEST_MS = 253_402_300_799_000
"""9999-12-31T23:59:59Z, in milliseconds since 1970: the last second that a datetime can show."""


def check_deadline(at_ms: int) -> None:
    """Refuse a time that is too far away to be stored and shown.

    Raises:
        UsageError: saying what to do.
    """
    if at_ms > LATEST_MS:
        msg = (
            "a timer cannot fire after the year 9999: give sleep() or timeout() a shorter delay, "
            "or leave the timeout out to wait for ever (asyncio.timeout(None))"
        )
        raise UsageError(msg)
