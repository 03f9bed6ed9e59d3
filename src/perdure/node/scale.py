"""The scale signal: how much waits for nodes, and how busy the nodes are that there are.

The backlog is read from the store, so it is the same whichever node is asked, and it is right when
nodes die. The slots are those that living members have said, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from perdure.ports.backlog import Backlogs
from perdure.ports.cluster import Load, QueueLoad, Standing
from perdure.ports.store import QueueDepth, Queues, Store

_NO_QUEUE = QueueLoad(0, 0, 0)
_NO_LOAD = Load(0, 0, 0)


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

    `oldest_ms` is how long the oldest task has waited. `load` is `backlog` and `busy`. The tasks of
    workers that are no members are in `busy`, and their slots are not known.
    """

    backlog: int = 0
    busy: int = 0
    slots: int = 0
    oldest_ms: int = 0
    load: int = 0


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
    tasks = leased = oldest_ms = 0
    for depth in depths.values():
        # The worker of an expired lease is lost, and the task is another worker's soon.
        tasks += depth.visible + depth.expired
        leased += depth.leased
        oldest_ms = max(oldest_ms, depth.oldest_ms)
    if backlog.oldest_at is not None:
        oldest_ms = max(oldest_ms, at_ms - backlog.oldest_at)
    instances = backlog.due + backlog.with_messages + backlog.orphaned
    return Waiting(instances, tasks, leased, oldest_ms, depths)


async def read_scale(store: Store, standings: Sequence[Standing] | None, at_ms: int) -> Scale:
    """The scale signal of a store, at a time of the store.

    `standings` are the members of its cluster. None: it has none, and the owner of its scopes
    lives.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    living: list[str] = []
    loads: list[Load] = []
    nodes: list[NodeScale] = []
    if standings is not None:
        for standing in standings:
            nodes.append(_node(standing))
            if standing.state != "dead":
                living.append(standing.seen.member.incarnation.id)
                # One that has just joined says what it does with its first renewal.
                loads.append(standing.load or _NO_LOAD)
        waiting = await read_waiting(store, tuple(living), at_ms)
    else:
        waiting = await read_waiting(store, None, at_ms)
    load = _sum(loads)
    queues = _queues(waiting.depths, load.queues)
    backlog = waiting.instances + waiting.tasks + load.waiting
    # A worker that owns no instances is no member, so it is not in the loads.
    elsewhere = sum(one.busy - _of(load.queues, name).busy for name, one in queues.items())
    busy = load.busy + elsewhere
    return Scale(
        at=at_ms,
        backlog=backlog,
        instances=waiting.instances,
        tasks=waiting.tasks,
        attempts=load.waiting,
        oldest_ms=waiting.oldest_ms,
        busy=busy,
        slots=load.slots,
        load=backlog + busy,
        living=len(living),
        nodes=nodes,
        queues=queues,
    )


def _sum(loads: Sequence[Load]) -> Load:
    """The load of all nodes together."""
    slots = busy = waiting = 0
    queues: dict[str, QueueLoad] = {}
    for load in loads:
        slots += load.slots
        busy += load.busy
        waiting += load.waiting
        for queue, one in load.queues.items():
            before = queues.get(queue, _NO_QUEUE)
            queues[queue] = QueueLoad(
                before.slots + one.slots, before.busy + one.busy, before.waiting + one.waiting
            )
    return Load(slots, busy, waiting, queues)


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
    load = standing.load or _NO_LOAD
    return NodeScale(
        node=standing.seen.member.incarnation.node,
        state=standing.state,
        slots=load.slots,
        busy=load.busy,
        waiting=load.waiting,
        # Of a node that has not said what it does nothing is known.
        may_stop=load.slots > 0 and load.busy + load.waiting == 0,
    )


def _queues(depths: dict[str, QueueDepth], loads: dict[str, QueueLoad]) -> dict[str, QueueScale]:
    found: dict[str, QueueScale] = {}
    for queue in sorted(depths.keys() | loads.keys()):
        depth = depths.get(queue, QueueDepth(queue, 0, 0, 0, 0))
        load = _of(loads, queue)
        backlog = depth.visible + depth.expired + load.waiting
        # The store knows the tasks of all workers, and the members know their attempts of no task.
        busy = max(load.busy, depth.leased)
        found[queue] = QueueScale(
            backlog=backlog,
            busy=busy,
            slots=load.slots,
            oldest_ms=depth.oldest_ms,
            load=backlog + busy,
        )
    return found


def _of(loads: dict[str, QueueLoad], queue: str) -> QueueLoad:
    return loads.get(queue, _NO_QUEUE)
