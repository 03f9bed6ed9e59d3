"""What workers and stores say to each other about tasks (`ports/store.py` has the methods)."""

from __future__ import annotations

import msgspec

from perdure.kernel.data.commit import Task
from perdure.kernel.data.queue import NO_RULES, QueueRules


class TaskMatch(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks that a worker can take.

    `names` are its activities (None: any). It takes tasks without a tag, and those with one of
    `tags`. With `only_tagged` it takes no task without a tag. It has at most `sessions` sessions of
    the queue at once.
    """

    names: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    only_tagged: bool = False
    sessions: int = 10

    def fits(self, task: Task) -> bool:
        """Whether the worker can take a task."""
        # SQL stores say the same in their statements.
        if self.names is not None and task.name not in self.names:
            return False
        if task.tag is None:
            return not self.only_tagged
        return task.tag in self.tags


ANY_TASK = TaskMatch()


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's request for at most `limit` tasks of a queue, for `lease_ms` from `at` on (ms).

    `rules` are the limits of the queue. All workers of a queue give the same, or the strictest of
    those that are given counts for each request.
    """

    queue: str
    worker: str
    limit: int
    lease_ms: int
    at: int
    match: TaskMatch = ANY_TASK
    rules: QueueRules = NO_RULES


class Leased(msgspec.Struct, frozen=True):
    """Tasks that were leased.

    `again_at` is when it is worth asking again without having been told of new tasks (ms): a task
    becomes visible, or a limit may allow another one. None: there is no such time.
    """

    tasks: list[Task]
    again_at: int | None = None


class SessionHold(msgspec.Struct, frozen=True):
    """A worker's wish to keep a session for `lease_ms` more. With 0 it gives the session up."""

    queue: str
    session: str
    worker: str
    lease_ms: int


class TaskHint(msgspec.Struct, frozen=True):
    """A queue to which tasks were added, or of which leased ones were dropped (`is_drop`)."""

    queue: str
    is_drop: bool = False


class Renewal(msgspec.Struct, frozen=True):
    """A worker's sign of life for a leased task, with heartbeat details."""

    unit: str
    seq: int
    attempt: int
    # New with each lease: a worker that was believed dead must not renew the lease of another.
    token: bytes
    lease_ms: int
    details: bytes | None = None
