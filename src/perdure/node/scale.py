"""The scale signal: how much waits for nodes, and how busy the nodes are that there are.

The backlog is read from the store, so it is the same whichever node is asked, and it is right when
nodes die. The slots are those that living members have said, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from perdure.ports.cluster import Load, Standing
from perdure.ports.store import Backlogs, QueueDepth, Queues, Store


class NodeScale(msgspec.Struct, frozen=True, kw_only=True):
    """One node: its slots for activities, and the attempts that run and that wait for a slot.

    `may_stop`: it runs nothing and holds nothing back, so that its end would delay nothing.
    """

    node: str
    state: Literal["serving", "leaving", "silent", "dead"]
    slots: int
    busy: int
    waiting: int
    may_stop: bool


class QueueScale(msgspec.Struct, frozen=True, kw_only=True):
    """One queue: tasks and attempts that wait, attempts that run, and the slots for them.

    `oldest_ms` is how long the oldest task has waited.
    """

    backlog: int = 0
    busy: int = 0
    slots: int = 0
    oldest_ms: int = 0


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """The signal for an autoscaler.

    `backlog` is what waits: instances that need a node (`instances`), tasks that wait for a worker
    (`tasks`), and attempts that wait for a slot (`attempts`). `oldest_ms` is how long the oldest
    instance or task has waited. `busy` of the `slots` of all living nodes are taken. `load` is
    what is wanted of them: `backlog` and `busy`. `living` nodes share the work.
    """

    at: int
    backlog: int
    instances: int
    tasks: int
    attempts: int
    oldest_ms: int
    busy: int
    slots: int
    load: int
    living: int
    nodes: list[NodeScale]
    queues: dict[str, QueueScale]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in a store: instances that need a node, and tasks. `leased` are with workers."""

    instances: int
    tasks: int
    leased: int
    oldest_ms: int
    depths: dict[str, QueueDepth]


async def read_waiting(store: Store, living: tuple[str, ...] | None, at_ms: int) -> Waiting:
    """What waits in a store at a time of the store. `living` as in `Backlogs`.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    (backlog,) = (await store.query(Backlogs(at=at_ms, living=living))).items
    depths = await _depths(store, at_ms)
    ages = [depth.oldest_ms for depth in depths.values()]
    if backlog.oldest_at is not None:
        ages.append(at_ms - backlog.oldest_at)
    return Waiting(
        instances=backlog.due + backlog.with_messages + backlog.orphaned,
        tasks=sum(depth.visible + depth.expired for depth in depths.values()),
        leased=sum(depth.leased for depth in depths.values()),
        oldest_ms=max([0, *ages]),
        depths=depths,
    )


async def read_scale(store: Store, standings: Sequence[Standing] | None, at_ms: int) -> Scale:
    """The scale signal of a store, at a time of the store.

    `standings` are the members of its cluster. None: it has none, and the owner of its scopes
    lives.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    living: tuple[str, ...] | None = None
    there: list[Standing] = []
    if standings is not None:
        there = [one for one in standings if one.state != "dead"]
        living = tuple(one.seen.member.incarnation.id for one in there)
    waiting = await read_waiting(store, living, at_ms)
    loads = [one.load for one in there if one.load is not None]
    attempts = sum(load.waiting for load in loads)
    busy = sum(load.busy for load in loads)
    backlog = waiting.instances + waiting.tasks + attempts
    return Scale(
        at=at_ms,
        backlog=backlog,
        instances=waiting.instances,
        tasks=waiting.tasks,
        attempts=attempts,
        oldest_ms=waiting.oldest_ms,
        busy=busy,
        slots=sum(load.slots for load in loads),
        load=backlog + busy,
        living=len(there),
        nodes=[_node(one) for one in standings or ()],
        queues=_queues(waiting.depths, loads),
    )


async def _depths(store: Store, at_ms: int) -> dict[str, QueueDepth]:
    """The tasks of each queue that has some."""
    found: dict[str, QueueDepth] = {}
    query = Queues(at=at_ms)
    while True:
        page = await store.query(query)
        found |= {depth.queue: depth for depth in page.items}
        if page.next is None:
            return found
        query = msgspec.structs.replace(query, after=page.next)


def _node(standing: Standing) -> NodeScale:
    load = standing.load
    name = standing.seen.member.incarnation.node
    if load is None:
        # It has just joined, and says what it does with its first renewal.
        return NodeScale(
            node=name, state=standing.state, slots=0, busy=0, waiting=0, may_stop=False
        )
    return NodeScale(
        node=name,
        state=standing.state,
        slots=load.slots,
        busy=load.busy,
        waiting=load.waiting,
        may_stop=not load.busy and not load.waiting,
    )


def _queues(depths: dict[str, QueueDepth], loads: Sequence[Load]) -> dict[str, QueueScale]:
    found: dict[str, QueueScale] = {}
    for queue in sorted({*depths, *(name for load in loads for name in load.queues)}):
        depth = depths.get(queue, QueueDepth(queue, 0, 0, 0, 0))
        ours = [load.queues[queue] for load in loads if queue in load.queues]
        found[queue] = QueueScale(
            backlog=depth.visible + depth.expired + sum(one.waiting for one in ours),
            busy=sum(one.busy for one in ours),
            slots=sum(one.slots for one in ours),
            oldest_ms=depth.oldest_ms,
        )
    return found
