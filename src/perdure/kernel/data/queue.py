"""Queues: the place of a task in its queue, and the limits that all workers of a queue keep to.

A store leases tasks by these rules (`store/leasing.py`). All of it is arithmetic on what the store
has and on the time of the request, so that every store decides alike.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.errors import DefinitionError
from perdure.kernel.data.retry import Seconds, to_ms

PRIORITIES = range(10)
"""0 is the most urgent."""
DEFAULT_PRIORITY = 5

STEP_MS = 3_600_000
"""A step of priority counts as much as an hour of waiting.

So urgent tasks go ahead of a long line, and no task waits for ever behind more urgent ones.
"""

_SLICES = 20
"""The start of a task counts from the end of its slice of the period on.

So the limit is never exceeded, and the list of starts stays short.
"""


class QueueRules(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a queue. None: there is none.

    `concurrency` tasks are with workers at once, `per_key` of them for one key, and `per_node` of
    them on one node. At most `rate` tasks begin within any `rate_ms`.
    """

    concurrency: int | None = None
    per_key: int | None = None
    per_node: int | None = None
    rate: int | None = None
    rate_ms: int = 1_000

    @property
    def are_shared(self) -> bool:
        """Whether the workers of the queue depend on each other."""
        return (self.concurrency, self.per_key, self.rate) != (None, None, None)


NO_RULES = QueueRules()


def rules_of(
    queue: str,
    concurrency: int | None,
    per_key: int | None,
    per_node: int | None,
    rate: int | None,
    period: Seconds,
) -> QueueRules:
    """The limits of a queue as an app declares them. `period` is that of the rate.

    Raises:
        DefinitionError: one of them is no number of at least 1.
    """
    counts = {"concurrency": concurrency, "per_key": per_key, "per_node": per_node, "rate": rate}
    for name, count in counts.items():
        if count is not None and (type(count) is not int or count < 1):
            msg = f"{name} of queue {queue!r} must be a whole number of at least 1, got {count!r}"
            raise DefinitionError(msg)
    rate_ms = to_ms(period, f"period of queue {queue!r}")
    if rate_ms < 1:
        msg = f"period of queue {queue!r} must be at least a millisecond, got {period!r}"
        raise DefinitionError(msg)
    return QueueRules(
        concurrency=concurrency, per_key=per_key, per_node=per_node, rate=rate, rate_ms=rate_ms
    )


def check_priority(priority: Any, what: str) -> int:
    """A priority, if it is one.

    Raises:
        DefinitionError: naming it and the rule.
    """
    if type(priority) is not int or priority not in PRIORITIES:
        msg = f"priority of {what} must be 0 (the most urgent) to 9, got {priority!r}"
        raise DefinitionError(msg)
    return priority


def rank_of(visible_at: int, priority: int) -> int:
    """The place in a queue of a task that is visible from a time on (ms)."""
    return visible_at + priority * STEP_MS


# ---------------------------------------------------------------- rates

Starts = list[tuple[int, int]]
"""The ends of slices of time (ms), in order, and how many tasks began in each."""

_decode_starts = msgspec.msgpack.Decoder(Starts).decode
encode_starts = msgspec.msgpack.Encoder().encode


def recent_starts(data: bytes | None, rate_ms: int, at: int) -> Starts:
    """The starts that count at a time (ms), of those that were noted."""
    if data is None:
        return []
    return [(end, count) for end, count in _decode_starts(data) if end + rate_ms > at]


def with_starts(starts: Starts, rate_ms: int, at: int, count: int) -> Starts:
    """The starts, and `count` more at a time (ms)."""
    if not count:
        return starts
    # Not of the exact time: a list of starts that grows with them would be read at each lease.
    width_ms = max(1, rate_ms // _SLICES)
    end = at - at % width_ms + width_ms - 1
    if starts and starts[-1][0] >= end:
        # Also when the time of the request is older than that of the one before.
        last, known = starts[-1]
        return [*starts[:-1], (last, known + count)]
    return [*starts, (end, count)]


# ---------------------------------------------------------------- calls


class TaskCall(msgspec.Struct, array_like=True, frozen=True):
    """What a worker must know of a call beside its input.

    `options` are those of the activity as data, `scheduled_at` is the time of the call (ms).
    """

    workflow: str
    workflow_version: str
    scheduled_at: int
    options: dict[str, Any]


encode_call = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(TaskCall).decode
