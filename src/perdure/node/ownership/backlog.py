"""The backlog: what waits for a node in the store, and is found there by scans.

The first scan is at the start. Each takes up the instances that are due or have mail, and notes the deadlines of
those that come due within the horizon. What lies beyond it is left in the store: the next scan is half a horizon
before the earliest of that. So a sleeping instance costs no memory, and every deadline is known in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.node.loop.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.scope import Scope
    from perdure.node.ownership.suspects import Suspects
    from perdure.ports.clock import Alarm, Clock
    from perdure.ports.store import Wake

_PAGE = 1_000
"""Instances that are asked for at once."""


class Backlog:
    """Scans the store for what waits in a scope. At most one scan runs, and one more is planned."""

    def __init__(
        self,
        turns: Turns,
        scope: Scope,
        clock: Clock,
        options: NodeOptions,
        spawn: Callable[[Coroutine[None, None, None], str], None],
    ) -> None:
        """`spawn` runs a scan in the background."""
        self._turns = turns
        self._clock = clock
        self._horizon_ms = options.horizon_ms
        self._scopes = [scope.name]
        self._spawn = spawn
        self._patience = Patience(turns.node_name, options.store_retry_ms)
        self._scanning = False
        self._far: int | None = None
        self._alarm: Alarm | None = None

    async def scan(self, suspects: Suspects | None = None) -> None:
        """Take up what waits. Suspects are told what the scan finds, before that is loaded."""
        self._scanning, self._far = True, None
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            until = self._clock.now_ms() + self._horizon_ms
            await self._take_up(until, suspects)
            later = await self._patience.ask(self._turns.store.next_wake, self._scopes, until)
        finally:
            self._scanning = False
        far = [at for at in (self._far, later) if at is not None]
        if far:
            self._plan(min(far))

    async def _take_up(self, until: int, suspects: Suspects | None) -> None:
        after: str | None = None
        while True:
            page = await self._patience.ask(
                self._turns.store.wakes, self._scopes, until, after, _PAGE
            )
            due = [wake for wake in page.items if self._is_due(wake)]
            if suspects is not None:
                suspects.expect([wake.unit for wake in due])
            for wake in due:
                # A start may have brought the unit into memory meanwhile, without its mail.
                if wake.has_messages:
                    self._turns.memory.read_inbox(wake.unit)
                else:
                    self._turns.memory.wake(wake.unit)
            after = page.next
            if after is None:
                return
            await self._turns.memory.loader.room()

    def _is_due(self, wake: Wake) -> bool:
        """Whether it is to be taken up now. Otherwise its deadline is noted."""
        if wake.has_messages or wake.at <= self._clock.now_ms():
            return True
        if not self._turns.deadlines.set(wake.unit, wake.at):
            self.leave(wake.at)
        return False

    def leave(self, at: int) -> None:
        """A deadline at `at` (ms) is beyond the horizon, so it is not held in memory: a scan finds it."""
        if self._far is None or at < self._far:
            if self._scanning:
                self._far = (
                    at  # the scan may have missed it, and plans the next one when it is through
                )
            else:
                self._plan(at)

    def _plan(self, far: int) -> None:
        """Scan half a horizon before `far`."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._far = far
        at = far - self._horizon_ms // 2
        self._alarm = self._clock.call_at(at, lambda: self._spawn(self.scan(), "perdure-scan"))

    def stop(self) -> None:
        """Scan no more."""
        self._patience.stop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
