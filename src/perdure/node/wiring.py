"""The wiring of a node: the parts of one life, each made of finished parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from perdure.node.activities.attempts import Attempts
from perdure.node.background import Background
from perdure.node.deploys import Deploys
from perdure.node.loop.turns import Turns
from perdure.node.ownership.arrivals import Arrivals
from perdure.node.ownership.handover import Handover
from perdure.node.ownership.owner import Owner
from perdure.node.ownership.pins import Pins
from perdure.node.queues.overdue import OverdueTasks
from perdure.node.queues.store_time import StoreTime
from perdure.node.queues.worker import TaskWorker
from perdure.node.upkeep.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from perdure.node.loop.ending import Ending
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.surroundings import Surroundings
    from perdure.ports.store import Hint


@dataclass(frozen=True, slots=True)
class Life:
    """The parts of a node from its start to its stop."""

    turns: Turns
    ending: Ending
    attempts: Attempts
    ownership: Ownership
    owner: Owner
    deploys: Deploys
    pins: Pins
    handover: Handover
    arrivals: Arrivals
    sweeper: Sweeper
    worker: TaskWorker
    overdue: OverdueTasks
    background: Background

    def listen(self, hints: AsyncIterator[Hint]) -> None:
        """Begin the work that goes on beside the turns."""
        self.background.spawn(self._follow(hints), "perdure-hints")
        self.background.spawn(self.arrivals.run(), "perdure-arrivals")
        self.background.spawn(self.sweeper.run(), "perdure-sweeper")
        self.background.spawn(self.owner.drop_lost(), "perdure-lost")
        self.background.spawn(self.overdue.run(), "perdure-overdue")

    async def _follow(self, hints: AsyncIterator[Hint]) -> None:
        async for hint in hints:
            # A store tells of all scopes. Messages for other nodes are not for this one.
            scope = self.ownership.find(hint.scope)
            if scope is None:
                self.pins.hear(hint.scope)
            elif scope.takes_messages:
                self.turns.memory.read_inbox(hint.unit)

    async def end_background(self) -> None:
        """End all work that neither turns nor activities need."""
        self.worker.drain()
        self.owner.stop()
        self.deploys.stop()
        self.handover.stop()
        await self.background.end()

    def leave_at_once(self) -> None:
        """End a stop that was cancelled, without waiting for anything."""
        self.owner.stop()
        self.deploys.stop()
        self.handover.stop()
        self.worker.leave_at_once()
        self.background.give_up()
        self.attempts.leave_at_once()
        self.ending.leave_at_once()


def wire(given: Surroundings) -> Life:
    """Make the parts of one life. Nothing runs yet."""
    clock = given.clock
    options = given.options
    ownership = given.ownership
    background = Background(given.node_name)
    # Turns start attempts, and attempts deliver their results to turns. So turns make them.
    turns = Turns(given, partial(Attempts, given))
    deploys = Deploys(turns, ownership, options, background)
    handover = Handover(turns, ownership, clock, options, background)
    if not ownership.is_alone:
        turns.place_by(handover)
    time = StoreTime(given.store, clock, is_shared=given.is_shared)
    worker = TaskWorker(given, turns.attempts, given.routes, time)
    return Life(
        turns,
        turns.ending,
        turns.attempts,
        ownership,
        Owner(turns, ownership, clock, options, background, deploys.changed),
        deploys,
        Pins(given.store),
        handover,
        Arrivals(turns, options, ownership, given.failed),
        Sweeper(turns, clock, options, ownership),
        worker,
        OverdueTasks(turns, ownership, options, worker, time),
        background,
    )
