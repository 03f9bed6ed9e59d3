"""The keeper of a worker's leases and sessions.

A lease is renewed when half of it has passed, and a longer one (15 s and more) 5 s before its end.
A heartbeat is handed on sooner, so that little of what it says is lost with the worker. A lease
that is lost ends the function: the task was cancelled, or another attempt counts.

A session is kept while one of its tasks runs, and for `session_idle_ms` after.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.errors import StoreError
from perdure.ports.tasks import SessionHold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.node.queues.held import Held
    from perdure.node.queues.store_time import StoreTime
    from perdure.node.surroundings import Surroundings

logger = logging.getLogger("perdure.worker")

_LONG_MS = 15_000
_MARGIN_MS = 5_000
_TICK_MAX_S = 5.0
_TICK_MIN_S = 0.02
_RENEWED_AT_ONCE = 1_000


def renew_after_ms(lease_ms: int) -> int:
    """How much of a lease passes before it is renewed."""
    if lease_ms >= _LONG_MS:
        return lease_ms - _MARGIN_MS
    return lease_ms // 2


class Keeper:
    """Keeps what a worker has leased."""

    def __init__(
        self, given: Surroundings, worker: str, time: StoreTime, lost: Callable[[Held], None]
    ) -> None:
        """`lost` is called with each task whose lease is gone."""
        self._store = given.store
        self._options = given.options
        self._worker = worker
        self._time = time
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._held: dict[bytes, Held] = {}
        # By queue and name: when a task of it was last there, of the event loop's time.
        self.sessions: dict[tuple[str, str], float] = {}
        self._sessions_held_s = self._loop.time()
        self._to_look_at: set[str] = set()
        self._news = asyncio.Event()

    def add(self, held: Held) -> None:
        """The worker has leased a task."""
        self._held[held.token] = held
        if held.task.session is not None:
            self.sessions[held.task.queue, held.task.session] = self._loop.time()

    def remove(self, held: Held) -> None:
        """The worker has the task no more."""
        if self._held.pop(held.token, None) is not None and held.task.session is not None:
            key = (held.task.queue, held.task.session)
            # From here on it is idle, if no other task of it runs.
            if key in self.sessions:
                self.sessions[key] = self._loop.time()

    def find(self, token: bytes | None) -> Held | None:
        """The task that is leased with this token."""
        if token is None:
            return None
        return self._held.get(token)

    def all(self) -> list[Held]:
        """All tasks that the worker has."""
        return list(self._held.values())

    def look_at(self, queue: str) -> None:
        """Tasks of this queue were dropped. Perhaps the worker has some of them."""
        for held in self._held.values():
            if held.task.queue == queue:
                self._to_look_at.add(queue)
                self._news.set()
                return

    # ------------------------------------------------------------ renewing

    async def run(self) -> None:
        """Renew leases and sessions in time."""
        after_s = renew_after_ms(self._options.task_lease_ms) / 1000
        tick_s = min(_TICK_MAX_S, max(_TICK_MIN_S, after_s / 4))
        while True:
            # Without news it is time to look all the same.
            with suppress(TimeoutError):
                async with asyncio.timeout(tick_s):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._renew(after_s - tick_s)
                await self._hold_sessions(after_s - tick_s)
            except StoreError as error:
                # The next tick tries again. Until then the functions go on.
                logger.debug("leases cannot be renewed now: %s", error)

    async def _renew(self, after_s: float) -> None:
        now_s = self._loop.time()
        queues = self._to_look_at
        self._to_look_at = set()
        due: list[Held] = []
        for held in self._held.values():
            is_near = now_s - held.renewed_at_s >= after_s
            # A task of such a queue may have been dropped, which only its renewal tells.
            if is_near or held.has_beaten or held.task.queue in queues:
                due.append(held)
        try:
            for first in range(0, len(due), _RENEWED_AT_ONCE):
                await self._renew_some(due[first : first + _RENEWED_AT_ONCE])
        except StoreError:
            self._to_look_at |= queues  # it is not known yet what was dropped
            raise

    async def _renew_some(self, due: Sequence[Held]) -> None:
        # From before the question: the store may take long to answer.
        now_s = self._loop.time()
        renewals = [held.renewal(self._options.task_lease_ms) for held in due]
        results = await self._store.renew(renewals, await self._time.look())
        for held, result in zip(due, results, strict=True):
            if result == "kept":
                held.was_renewed(now_s)
            elif self._held.get(held.token) is held and held.result is None:
                # With a result the store says the same to that, and the results go their way.
                del self._held[held.token]
                self._lost(held)

    async def _hold_sessions(self, after_s: float) -> None:
        now_s = self._loop.time()
        idle_s = self._options.session_idle_ms / 1000
        if not self.sessions or now_s - self._sessions_held_s < after_s:
            return
        running: set[tuple[str, str | None]] = set()
        for held in self._held.values():
            running.add((held.task.queue, held.task.session))
        asked = dict(self.sessions)
        holds: list[SessionHold] = []
        for queue, name in asked:
            lease_ms = self._options.task_lease_ms
            if (queue, name) not in running and now_s - self.sessions[queue, name] > idle_s:
                lease_ms = 0  # it is idle, and goes to whichever worker has the next task
            holds.append(SessionHold(queue, name, self._worker, lease_ms))
        kept = await self._store.hold_sessions(holds, await self._time.look())
        # Only now: a question that fails is asked again at the next tick, while the leases last.
        self._sessions_held_s = now_s
        for (key, used_s), hold, is_kept in zip(asked.items(), holds, kept, strict=True):
            is_over = not is_kept or not hold.lease_ms
            # A new task of it may have been leased meanwhile, which has opened it again.
            if is_over and self.sessions.get(key) == used_s:
                del self.sessions[key]
