"""The surroundings of a node's life: the parts that it gets from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from perdure.ports.clock import SystemClock
from perdure.ports.store import Units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.client.client import Client
    from perdure.guard.watchdog import Watchdog
    from perdure.interceptor import Interceptor
    from perdure.kernel.data.definition import Definitions
    from perdure.kernel.unit.kinds import Kinds
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.queues.routes import Routes
    from perdure.node.telemetry.metrics import Metrics
    from perdure.node.telemetry.tally import Tally
    from perdure.node.upkeep.elders import Elders
    from perdure.ports.clock import Clock
    from perdure.ports.store import Incarnation, Store


class Outside(Protocol):
    """What other nodes and clients should know of the turns of this node."""

    def hint(self, unit: str) -> None:
        """Messages wait in the store for a unit of another node."""
        ...

    def removed(self, unit: str) -> None:
        """A unit of this node is gone, with all it owned."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts that are there before a life begins, and those that outlast it.

    `is_shared`: other nodes have the store open, too. `routes` say which calls are tasks.
    `resources` are those that the app has opened for its activities. `client` makes the client for
    `activity.client()`. `failed` is called with an error after which the node cannot go on.
    `outside` is None for a node that does not listen.
    """

    store: Store
    is_shared: bool
    definitions: Definitions
    kinds: Kinds
    clock: Clock
    options: NodeOptions
    routes: Routes
    incarnation: Incarnation
    ownership: Ownership
    watchdog: Watchdog
    elders: Elders
    interceptors: Sequence[Interceptor]
    resources: object
    client: Callable[[], Client]
    tally: Tally
    metrics: Metrics | None
    failed: Callable[[Exception], None]
    outside: Outside | None = None

    @property
    def node_name(self) -> str:
        """The name of the node, for log records."""
        return self.incarnation.node


async def go_on_from_last(clock: Clock, store: Store) -> None:
    """Let time go on from that of the life before.

    A wall clock that was set back meanwhile must hold up no timer.
    """
    if isinstance(clock, SystemClock):
        # The one row that was written last.
        for view in (await store.query(Units(limit=1))).items:
            clock.go_on_from(view.row.updated_at)
