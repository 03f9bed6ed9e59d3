"""How much is in a store, for people and for programs that watch it.

Metrics of a node's work are in `node.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from msgspec.structs import replace

from perdure.kernel.data.commit import CLOSED, Status
from perdure.ports.store import ClientStore, QueueDepth, Queues, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMetrics:
    """The contents of a store at one moment.

    `instances` are counted by status. `executions` are those whose history is kept, with the
    current one of each instance. `history_events` are in all these executions, `history_bytes` in
    the current ones.

    `messages` wait and are visible. `messages_delayed` are not visible yet (delayed starts).
    Durable timers are no messages. `tasks` wait for a worker. `tasks_delayed` wait for their time
    (a retry). `tasks_leased` are with a worker. `tasks_expired` have a lease that ran out.

    `starts` are ids for which a start was posted that no node has taken yet. They are no instances
    yet, and are listed as `pending` with the reason `posted`.

    `dead_letters` are messages that no instance took. `tombstones` are ids of deleted runs.
    `answers` are kept answers to messages, so that a repeated message gets the same. These three
    are swept away when they are old enough.
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
    starts: int

    @property
    def total(self) -> int:
        """All instances."""
        return sum(self.instances.values())

    @property
    def open(self) -> int:
        """Instances that have not ended."""
        return sum(count for status, count in self.instances.items() if status not in CLOSED)


async def read_metrics(store: ClientStore, at_ms: int) -> StoreMetrics:
    """The contents of a store. `at_ms` decides which messages and tasks are visible."""
    found = dict((await store.query(Totals(at=at_ms))).items)
    # The names of statuses stand among the other names, which are fields of the class.
    instances: dict[Status, int] = {status: found.pop(status) for status in get_args(Status)}
    return StoreMetrics(instances=instances, **found)


async def read_queues(store: ClientStore, at_ms: int) -> dict[str, QueueDepth]:
    """The tasks of each queue that has some, by its name, in order."""
    # By pages, because a program may have a queue for each of its customers.
    query = Queues(at=at_ms)
    found: dict[str, QueueDepth] = {}
    while True:
        page = await store.query(query)
        found |= {depth.queue: depth for depth in page.items}
        if page.next is None:
            return found
        query = replace(query, after=page.next)
