"""Routes: which calls of activities become tasks, and which queues a node works for.

A call without a queue runs on the node that owns its instance. A call of a queue that the app
declares becomes a task. A call of another queue is a line of slots on the owner, if the owner
serves that queue, and a task if it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data.queue import NO_RULES, QueueRules
from perdure.kernel.loop.call import ActivityCall
from perdure.node.activities.attempts import kind_of
from perdure.ports.tasks import TaskHint

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.kernel.data.definition import ActivityOptions
    from perdure.kernel.unit.turn import Turn
    from perdure.node.activities.job import Kind
    from perdure.node.options import NodeOptions


class Routes:
    """The routes of one node."""

    def __init__(self, app: App, options: NodeOptions) -> None:
        """The queues of the app, which may grow, and those that the node serves."""
        self._app = app
        self._serves = options.serves

    def is_queued(self, options: ActivityOptions) -> bool:
        """Whether calls with these options become tasks."""
        queue = options.queue
        if queue is None:
            return False
        # The limits of a declared queue hold over all nodes, which slots on one node could not
        # keep.
        return self._app.find_queue(queue) is not None or not self._serves_queue(queue)

    def _serves_queue(self, queue: str) -> bool:
        return self._serves is None or queue in self._serves

    def rules(self, queue: str) -> QueueRules:
        """The limits of a queue."""
        rules = self._app.find_queue(queue)
        if rules is None:
            return NO_RULES
        return rules

    def names(self) -> tuple[str, ...]:
        """The activities that this node can run."""
        return tuple(self._app.activities())

    def kinds(self, queue: str) -> set[Kind]:
        """Where activities of a queue may run: those that name it, or else any."""
        found: set[Kind] = set()
        others: set[Kind] = set()
        for name in self._app.activities():
            definition = self._app.find_activity(name)
            others.add(kind_of(definition))
            if definition is not None and definition.options.queue == queue:
                found.add(kind_of(definition))
        if not found:
            return others  # calls name the queue, and not the activities
        return found

    def queues(self) -> list[str]:
        """The queues whose tasks this node runs."""
        if self._serves is not None:
            return list(self._serves)
        return self._app.queues()


def hints_of(turn: Turn) -> list[TaskHint]:
    """What workers are told of a turn that has added or dropped tasks."""
    hints: dict[TaskHint, None] = {}
    for task in turn.tasks:
        hints[TaskHint(task.queue)] = None
    # A task that goes with its result was told by its worker.
    for call in turn.cancelled:
        if isinstance(call, ActivityCall) and call.options.queue is not None:
            hints[TaskHint(call.options.queue, is_drop=True)] = None
    # One for each queue, however many tasks of it the turn has added.
    return list(hints)
