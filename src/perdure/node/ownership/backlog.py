"""The backlog: the work that waits in the store for this node, and is found there by scans.

Scopes that were gained together have their first scan together. Each scan takes up the instances
that are due or have messages, and notes the deadlines of those that come due within the horizon.
Deadlines beyond it are left in the store: the next scan of all scopes is half a horizon before the
earliest of them. So a sleeping instance costs no memory, and every deadline is known in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.node.loop.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.ownership.suspects import Suspects
    from perdure.ports.clock import Alarm, Clock
    from perdure.ports.store import Wake

_PAGE = 1_000
"""Instances that are asked for at once."""


class Backlog:
    """Scans the store for the work of a node. At most one scan of all scopes is planned."""

    def __init__(
        self,
        turns: Turns,
        ownership: Ownership,
        clock: Clock,
        options: NodeOptions,
        spawn: Callable[[Coroutine[None, None, None], str], None],
    ) -> None:
        """`spawn` runs a scan in the background."""
        self._turns = turns
        self._ownership = ownership
        self._clock = clock
        self._horizon_ms = options.horizon_ms
        self._spawn = spawn
        self._patience = Patience(turns.node_name, options.store_retry_ms)
        self._is_scanning_all = False
        # The earliest deadline that is left in the store, as far as it is known.
        self._far: int | None = None
        self._alarm: Alarm | None = None

    async def scan(self, scopes: Sequence[str], suspects: Suspects) -> None:
        """Take up what waits in scopes that were gained. Suspects are told before it is loaded."""
        until = self._clock.now_ms() + self._horizon_ms
        await self._take_up(scopes, until, suspects)
        later = await self._patience.ask(self._turns.store.next_wake, scopes, until)
        if later is not None:
            self.leave(later)

    async def _scan_all(self) -> None:
        """Take up what comes due within the horizon in all scopes of the node."""
        self._begin()
        try:
            scopes = self._ownership.names()
            until = self._clock.now_ms() + self._horizon_ms
            await self._take_up(scopes, until, None)
            later = await self._patience.ask(self._turns.store.next_wake, scopes, until)
        finally:
            self._is_scanning_all = False
        # The one was set during the scan, and the other stood in the store at its end.
        far = self._far
        if later is not None and (far is None or later < far):
            far = later
        if far is not None:
            self._plan(far)

    def _begin(self) -> None:
        """No scan is planned while all scopes are scanned."""
        self._is_scanning_all = True
        self._far = None

    async def _take_up(self, scopes: Sequence[str], until: int, suspects: Suspects | None) -> None:
        after: str | None = None
        while True:
            page = await self._patience.ask(self._turns.store.wakes, scopes, until, after, _PAGE)
            due = [wake for wake in page.items if self._is_due(wake)]
            if suspects is not None:
                suspects.expect([wake.unit for wake in due])
            for wake in due:
                # A start may have brought the unit into memory meanwhile, without its inbox.
                if wake.has_messages:
                    self._turns.memory.read_inbox(wake.unit)
                else:
                    self._turns.memory.wake(wake.unit)
            after = page.next
            if after is None:
                return
            await self._turns.memory.loader.room()

    def _is_due(self, wake: Wake) -> bool:
        """Whether the instance is to be taken up now. Otherwise its deadline is noted."""
        if wake.has_messages or wake.at <= self._clock.now_ms():
            return True
        if not self._turns.deadlines.find(wake.unit, wake.at):
            self.leave(wake.at)
        return False

    def leave(self, at: int) -> None:
        """A deadline at `at` (ms) is beyond the horizon: a scan finds it in time."""
        if self._far is not None and at >= self._far:
            return  # the next scan is before it
        if self._is_scanning_all:
            self._far = at  # the scan may have missed it, and plans the next one at its end
        else:
            self._plan(at)

    def _plan(self, far: int) -> None:
        """Scan half a horizon before `far`: all that the scan leaves is farther away then."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._far = far
        at = far - self._horizon_ms // 2
        self._alarm = self._clock.call_at(at, self._begin_scan)

    def _begin_scan(self) -> None:
        self._alarm = None
        self._spawn(self._scan_all(), "perdure-scan")

    def stop(self) -> None:
        """Scan no more."""
        self._patience.stop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
