"""The wiring of a node: one life is made of finished parts, each of which gets what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perdure.interceptor import overriding
from perdure.node.arrivals import Arrivals
from perdure.node.attempts import Attempts
from perdure.node.background import Background
from perdure.node.deploys import Deploys
from perdure.node.ownership.owner import Owner
from perdure.node.supervisor import Supervisor
from perdure.node.sweeper import Sweeper
from perdure.node.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from perdure.client import Client
    from perdure.interceptor import Interceptor
    from perdure.kernel.definition import Definitions
    from perdure.kernel.kinds import Kinds
    from perdure.kernel.message import Message
    from perdure.node.metrics import Metrics
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.tally import Tally
    from perdure.node.watchdog import Watchdog
    from perdure.ports.clock import Clock
    from perdure.ports.store import Hint, Incarnation, Store


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What one life of a node is given from outside."""

    store: Store
    definitions: Definitions
    kinds: Kinds
    clock: Clock
    options: NodeOptions
    incarnation: Incarnation
    ownership: Ownership
    watchdog: Watchdog
    interceptors: Sequence[Interceptor]
    resources: object
    client: Callable[[], Client]
    tally: Tally
    metrics: Metrics | None
    failed: Callable[[Exception], None]


@dataclass(frozen=True, slots=True)
class Life:
    """The parts of a node from its start to its stop."""

    turns: Turns
    attempts: Attempts
    ownership: Ownership
    owner: Owner
    deploys: Deploys
    arrivals: Arrivals
    sweeper: Sweeper
    background: Background

    def listen(self, hints: AsyncIterator[Hint]) -> None:
        """Do the work that goes on beside the turns, from now on."""
        self.background.spawn(self._follow(hints), "perdure-hints")
        self.background.spawn(self.arrivals.run(), "perdure-arrivals")
        self.background.spawn(self.sweeper.run(), "perdure-sweeper")
        self.background.spawn(self.owner.drop_lost(), "perdure-lost")

    async def _follow(self, hints: AsyncIterator[Hint]) -> None:
        async for hint in hints:
            scope = self.ownership.find(hint.scope)
            if scope is not None and scope.takes_messages:
                self.turns.mail(hint.unit)

    async def end_background(self) -> None:
        """Do only what turns and activities still need."""
        self.owner.stop()
        self.deploys.stop()
        await self.background.end()


def wire(given: Surroundings) -> Life:
    """Make the parts of one life. Nothing runs yet."""
    store, clock, options = given.store, given.clock, given.options
    name = given.incarnation.node
    background = Background(name)
    turn_interceptors = overriding(given.interceptors, "turn")
    supervisor = Supervisor(given.watchdog, clock, options, turn_interceptors, name)

    def make_attempts(deliver: Callable[[Message], None]) -> Attempts:
        return Attempts(
            deliver,
            given.definitions,
            clock,
            options,
            node=name,
            client=given.client,
            interceptors=overriding(given.interceptors, "activity"),
            resources=given.resources,
            tally=given.tally,
            metrics=given.metrics,
        )

    turns = Turns(
        store,
        given.kinds,
        clock,
        options,
        incarnation=given.incarnation,
        ownership=given.ownership,
        supervisor=supervisor,
        tally=given.tally,
        metrics=given.metrics,
        make_attempts=make_attempts,
        failed=given.failed,
    )
    owner = Owner(turns, given.ownership, clock, options, background)
    return Life(
        turns,
        turns.attempts,
        given.ownership,
        owner,
        Deploys(turns, given.ownership, options, background),
        Arrivals(turns, options, given.ownership),
        Sweeper(turns, clock, options, given.ownership),
        background,
    )
