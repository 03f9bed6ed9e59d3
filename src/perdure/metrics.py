"""How much is in a store: for people, and for programs that watch one. (What a node does is in `node.metrics`.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from msgspec.structs import replace

from perdure.kernel.commit import CLOSED, Status
from perdure.ports.store import QueueDepth, Queues, Store, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMetrics:
    """What a store holds at one moment.

    `instances`: by status. `executions`: whose history is kept; the current one of each instance counts.
    `history_events`: in all these executions. `history_bytes`: in the current ones.

    `messages` wait and can be seen; `messages_delayed` cannot yet (delayed starts). Durable timers are no messages.
    `tasks` wait for a worker; `tasks_delayed` wait for their time (a retry), `tasks_leased` are with a worker,
    `tasks_expired` were, and it has not been heard of since.

    `dead_letters` are messages that nobody took, `tombstones` what is left of deleted instances, `answers` what was
    answered to messages, so that a repeated one gets the same; all three are swept away when they are old enough.
    """

    instances: Mapping[Status, int]
    executions: int
    history_events: int
    history_bytes: int
    messages: int
    messages_delayed: int
    tasks: int
    tasks_delayed: int
    tasks_leased: int
    tasks_expired: int
    dead_letters: int
    tombstones: int
    answers: int

    @property
    def total(self) -> int:
        """All instances."""
        return sum(self.instances.values())

    @property
    def open(self) -> int:
        """Instances that have not ended."""
        return sum(count for status, count in self.instances.items() if status not in CLOSED)


async def read_metrics(store: Store, at_ms: int) -> StoreMetrics:
    """What a store holds; at `at_ms` is what messages and tasks are visible at."""
    found = dict((await store.query(Totals(at=at_ms))).items)
    instances: dict[Status, int] = {status: found.pop(status) for status in get_args(Status)}
    return StoreMetrics(instances=instances, **found)


async def read_queues(store: Store, at_ms: int) -> dict[str, QueueDepth]:
    """The tasks of each queue that has some, by its name, in order."""
    query = Queues(at=at_ms)
    found: dict[str, QueueDepth] = {}
    while True:
        page = await store.query(query)
        found |= {depth.queue: depth for depth in page.items}
        if page.next is None:
            return found
        query = replace(query, after=page.next)
