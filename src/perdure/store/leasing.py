"""Leasing tasks: one procedure for every store.

Theory of operation. `leasing` is a generator. It yields the steps that a store must carry out in
one transaction, and is sent what each step has found. So the decision is the same in every store,
whether its calls are awaited or not. Stores that serve several workers at once lock the queue in
`ReadQueue`, if the rules make the workers depend on each other.

A round asks for as many tasks as there is room for. Tasks whose key or session has no room are left
out of the next round. Each round leases a task or closes a key or all new sessions, so there are no
more rounds than tasks are asked for, and one more.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.kernel.data.commit import Task
from perdure.kernel.data.queue import Starts, encode_starts, recent_starts, with_starts
from perdure.ports.tasks import Leased, TaskRequest
from perdure.store.derived import token_of

BLOCKED_MS = 1_000
"""When to ask again for tasks that a limit holds back. Other workers may have finished some."""


class QueueState(msgspec.Struct, frozen=True):
    """How many tasks of a queue are with workers, by key, and its noted starts."""

    keys: Mapping[str | None, int]
    starts: bytes | None


class ReadQueue(msgspec.Struct, frozen=True):
    """Lock the queue and read its `QueueState`."""


class FindTasks(msgspec.Struct, frozen=True):
    """Find visible tasks without a worker, by rank.

    Those with one of `full_keys` are left out. So are those of the sessions of other workers, and
    without `may_open` those of sessions that have no worker.
    """

    limit: int
    full_keys: Sequence[str]
    may_open: bool


class ReadSessions(msgspec.Struct, frozen=True):
    """Read the living sessions of the queue, each with its worker."""


class OpenSessions(msgspec.Struct, frozen=True):
    """Give the worker these sessions until a time. Returns those that it has got."""

    sessions: Sequence[str]
    until: int


class GiveTasks(msgspec.Struct, frozen=True):
    """Write the worker, token, `expires_at` and `leased_at` of these tasks."""

    tasks: Sequence[Task]


class NoteStarts(msgspec.Struct, frozen=True):
    """Write the noted starts of the queue."""

    starts: bytes


class FindNext(msgspec.Struct, frozen=True):
    """The time at which the next task of the queue becomes visible (None: there is none)."""


Step = ReadQueue | FindTasks | ReadSessions | OpenSessions | GiveTasks | NoteStarts | FindNext


class _Room:
    """How many more tasks of which kind may be leased."""

    def __init__(self, request: TaskRequest, state: QueueState, starts: Starts) -> None:
        rules = request.rules
        # The strictest limit counts. It may be below 0, when a deploy has made it stricter.
        self.left = request.limit
        if rules.concurrency is not None:
            self.left = min(self.left, rules.concurrency - sum(state.keys.values()))
        if rules.rate is not None:
            self.left = min(self.left, rules.rate - sum(count for _, count in starts))
        self._per_key = rules.per_key
        self._keys = dict(state.keys)

    @property
    def full_keys(self) -> list[str]:
        """Keys of which no more tasks may be leased."""
        if self._per_key is None:
            return []
        full: list[str] = []
        for key, count in self._keys.items():
            if key is not None and count >= self._per_key:
                full.append(key)
        return full

    def take(self, key: str | None) -> bool:
        """Lease a task of this key. False: it has no room."""
        if self.left <= 0:
            return False
        if key is not None and self._per_key is not None:
            count = self._keys.get(key, 0)
            if count >= self._per_key:
                return False
            self._keys[key] = count + 1
        self.left -= 1
        return True


_NO_STATE = QueueState({}, None)


def leasing(request: TaskRequest) -> Generator[Step, Any, Leased]:
    """Lease tasks. Yields steps, and is sent what they have found."""
    rules, at = request.rules, request.at
    state = _NO_STATE
    if rules.are_shared:
        state = yield ReadQueue()
    starts = recent_starts(state.starts, rules.rate_ms, at)
    room = _Room(request, state, starts)
    leased: list[Task] = []
    may_open = request.match.sessions > 0
    is_blocked = room.left < request.limit
    while room.left > 0:
        asked = room.left
        found: Sequence[Task] = yield FindTasks(asked, room.full_keys, may_open)
        sessions = yield from _sessions(request, found)
        given: list[Task] = []
        for task in found:
            if task.session is not None and task.session not in sessions:
                may_open = False
            elif room.take(task.key):
                given.append(_given(task, request))
        # Before the next round, which would find them once more.
        if given:
            yield GiveTasks(given)
            leased += given
        # No more tasks are left that could be had.
        if len(found) < asked:
            break
    if leased and rules.rate is not None:
        starts = with_starts(starts, rules.rate_ms, at, len(leased))
        yield NoteStarts(encode_starts(starts))
    if len(leased) == request.limit:
        return Leased(leased, at)
    again_at: int | None = yield FindNext()
    if is_blocked or room.full_keys or not may_open:
        # No hint says that other workers have finished some, or that time has passed.
        soon = at + BLOCKED_MS
        if again_at is None or again_at > soon:
            again_at = soon
    return Leased(leased, again_at)


def _sessions(request: TaskRequest, found: Sequence[Task]) -> Generator[Step, Any, Collection[str]]:
    """The sessions of found tasks that the worker has. It gets as many more as it may have."""
    named = dict.fromkeys(task.session for task in found if task.session is not None)
    if not named:
        return ()
    workers: Mapping[str, str] = yield ReadSessions()
    own: list[str] = []
    for name, worker in workers.items():
        if worker == request.worker:
            own.append(name)
    free = [name for name in named if name not in workers]
    wanted = free[: max(0, request.match.sessions - len(own))]
    if not wanted:
        return own
    # Sorted, so that two workers that open the same ones do not wait for each other.
    opened: Sequence[str] = yield OpenSessions(sorted(wanted), request.at + request.lease_ms)
    return [*own, *opened]


def _given(task: Task, request: TaskRequest) -> Task:
    """The task as the worker has it."""
    return replace(
        task,
        worker=request.worker,
        token=token_of(task, request.worker, request.at),
        expires_at=request.at + request.lease_ms,
        leased_at=request.at,
    )
